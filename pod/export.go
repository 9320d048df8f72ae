package pod

import (
	"context"
	"fmt"
	"io"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod/bundle"
)

// ExportContainer writes the tar of a container's root to out, whatever its state;
// what is mounted in it is not in it.
func (m *Manager) ExportContainer(ctx context.Context, id string, out io.Writer) error {
	c, lease, err := m.rootOf(id)
	if err == nil {
		err = lease.Export(ctx, m.store.ContainerDir(c.pod.id, c.id), ownerIn(c.pod.record.Config.UserNS()), out)
	}
	if err != nil {
		return fmt.Errorf("export container %s: %w", id, err)
	}
	return nil
}

// DiffContainer tells what a container has changed in its root, by name.
func (m *Manager) DiffContainer(ctx context.Context, id string) ([]image.Change, error) {
	c, lease, err := m.rootOf(id)
	if err != nil {
		return nil, fmt.Errorf("diff container %s: %w", id, err)
	}
	changes, err := lease.Diff(ctx, m.store.ContainerDir(c.pod.id, c.id), ownerIn(c.pod.record.Config.UserNS()))
	if err != nil {
		return nil, fmt.Errorf("diff container %s: %w", id, err)
	}
	return changes, nil
}

func (m *Manager) rootOf(id string) (*container, image.Rootfs, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return nil, image.Rootfs{}, err
	}
	lease, err := m.o.Images.Rootfs(c.record.ImageID, c.id) // the one it has
	return c, lease, err
}

// ownerIn turns the host's owners into those of a user namespace; nil is the host's.
func ownerIn(user *bundle.UserNamespace) image.Owner {
	if user == nil {
		return nil
	}
	inside := func(table []bundle.IDMapping, id uint32) uint32 {
		for _, m := range table {
			if id >= m.HostID && id-m.HostID < m.Length {
				return id - m.HostID + m.ContainerID
			}
		}
		return id
	}
	return func(uid, gid uint32) (uint32, uint32) { return inside(user.UIDs, uid), inside(user.GIDs, gid) }
}
