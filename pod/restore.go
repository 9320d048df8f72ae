package pod

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/shim/client"
)

// A container whose image is the absolute path of a checkpoint archive goes on from
// that. It is made as others are, of the image that the archive is of and of the
// request, which says what is mounted in it and what limits it has; its root gets what
// the other one had written. Only its process is made with its start, as CRIU cannot
// hold it back: until then its monitor knows nothing of it.

// restoring is what a restored process is made of.
type restoring struct {
	Images string       `json:"images"` // CRIU's, a directory
	Root   client.Mount `json:"root"`
	Log    string       `json:"log"` // URI
}

// waits says that the container's process is yet to be restored; the pod's mu is held.
func (c *container) waits() bool {
	return c.record.Restore != nil && c.record.State == ContainerCreated && c.record.Pid == 0
}

// openArchive unpacks the archive that the container is to be made of into its
// directory.
func (m *Manager) openArchive(ctx context.Context, c *container, dir string) (*unpacked, error) {
	if c.pod.record.Config.UserNS() != nil {
		return nil, errorf(ErrInvalid, "image.image: a checkpoint cannot be restored into a pod with a user namespace of its own")
	}
	if !m.native(c.pod) {
		return nil, errorf(ErrInvalid, "image.image: a checkpoint cannot be restored by the runtime handler %q, only by the monitor itself", c.pod.record.Runtime)
	}
	to := filepath.Join(dir, "checkpoint")
	if err := os.Mkdir(to, 0o700); err != nil {
		return nil, err
	}
	if err := readArchive(ctx, c.record.Config.Image, to); err != nil {
		return nil, err
	}
	return lookAt(to)
}

// image is a name of the image that the archive is of: one that is here or, if none
// is, the one to pull.
func (u *unpacked) image(images Images) string {
	names := []string{u.config.ImageRef, u.config.ImageID, u.config.ImageName}
	for _, name := range names {
		if name == "" {
			continue
		}
		if _, err := images.Get(name); err == nil {
			return name
		}
	}
	return cmp.Or(names...)
}

// apply gives the root of a lease what the archive's container had written.
func (u *unpacked) apply(ctx context.Context, lease image.Rootfs, dir string) error {
	changes, err := u.changes(ctx, u.dir)
	if err != nil || changes == nil {
		return err
	}
	defer func() { _ = changes.Close() }() // it has no name any more
	return lease.ApplyChanges(ctx, dir, changes)
}

// fits refuses a spec that mounts something else than the archive's did: the processes
// have their mounts from the archive, and of these the places.
func (u *unpacked) fits(s *specs.Spec) error {
	was, is := bindPlaces(&u.spec), bindPlaces(s)
	for place := range was {
		if !is[place] {
			return errorf(ErrInvalid, "mounts: the checkpointed container has one on %q: give it one there", place)
		}
	}
	for place := range is {
		if !was[place] {
			return errorf(ErrInvalid, "mounts: the checkpointed container has none on %q, and cannot get it", place)
		}
	}
	return nil
}

func bindPlaces(s *specs.Spec) map[string]bool {
	places := map[string]bool{}
	for _, m := range s.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			places[filepath.Clean(m.Destination)] = true
		}
	}
	return places
}

// restore makes the process of a container that waits for it. If that fails the
// container has ended.
func (m *Manager) restore(ctx context.Context, w *work, c *container) error {
	p := c.pod
	p.mu.Lock()
	waits, cancelled := c.waits(), c.cancelled
	p.mu.Unlock()
	if !waits {
		return nil
	}
	if cancelled {
		return errorf(ErrState, "start container %s: it is being stopped", c.what)
	}
	w.enter("restore")
	monitor, err := p.live()
	if err != nil {
		return err
	}
	o := m.createOptions(&c.record, m.containerState(p.id, c.id), c.record.Restore.Root, c.record.Restore.Log)
	o.Checkpoint = c.record.Restore.Images
	pid, err := m.createProcess(ctx, monitor, o)
	if err != nil {
		m.suspect(p, monitor, err)
		if e := m.destroy(ctx, p, c.id); e != nil {
			m.o.Log.Error("delete container that was not restored", "container", c.id, "error", e)
		}
		m.finish(c, false, func(r *containerRecord) {
			r.ended(client.Exit{Status: exitStartError})
			r.Reason, r.Message = ReasonStartError, err.Error()
		})
		c.forgotten()
		return err
	}
	m.hold(c)
	err = m.updateContainer(c, false, func(r *containerRecord) { r.Pid = pid })
	// The monitor may be another by now, whose coming has not had the container watched.
	if now, e := p.live(); e == nil {
		go m.watch(c, now)
	}
	return err
}

// cancelRestore ends a container that waits for its start, and says whether that was
// so. A start under way comes first.
func (m *Manager) cancelRestore(ctx context.Context, c *container) (bool, error) {
	for {
		c.pod.mu.Lock()
		waits, starting := c.waits(), c.lane[verbStart]
		c.cancelled = c.cancelled || waits && starting == nil
		c.pod.mu.Unlock()
		switch {
		case !waits:
			return false, nil
		case starting == nil:
			m.finish(c, false, func(r *containerRecord) { r.ended(client.Exit{Status: exitLost}) })
			c.forgotten()
			return true, nil
		}
		if err := settle(ctx, []*work{starting}); err != nil {
			return false, err
		}
	}
}
