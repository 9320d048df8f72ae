package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/span"
)

const verbCheckpoint = "checkpoint container"

// CheckpointContainer writes an archive of a running container to location, from which
// CreateContainer makes another one. The container is frozen meanwhile, and goes on.
// Location is a file in a directory that is there; it is replaced. A timeout of 0 is
// that of every verb. CRIU has to be there.
func (m *Manager) CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	if err := cleanPath("location", location); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.what, err)
	}
	if err := c.canCheckpoint(); err != nil {
		return err
	}
	if timeout == 0 {
		timeout = verbTimeout
	}
	c.pod.mu.Lock()
	if c.checkpointing() {
		c.pod.mu.Unlock()
		return errorf(ErrState, "checkpoint container %s: another checkpoint of it is being made", c.what)
	}
	w := m.join(ctx, &c.pod.mu, c.lane, verbCheckpoint, c.what, timeout, func(ctx context.Context, w *work) error {
		return m.checkpoint(ctx, w, []*container{c}, []string{location})
	})
	c.pod.mu.Unlock()
	return w.wait(ctx)
}

// checkpointing says whether a checkpoint of the container or of its pod is being made:
// two would let it go on in the middle of each other. The pod's mu is held.
func (c *container) checkpointing() bool {
	return c.lane[verbCheckpoint] != nil || c.pod.lane[verbCheckpointPod] != nil
}

func cleanPath(field, p string) error {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p {
		return errorf(ErrInvalid, "%s: %q is not a clean absolute path", field, p)
	}
	return nil
}

func (c *container) canCheckpoint() error {
	if c.pod.record.Config.UserNS() != nil {
		return errorf(ErrInvalid, "checkpoint container %s: a pod with a user namespace of its own cannot be checkpointed", c.what)
	}
	if _, err := c.running(); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// checkpoint writes archives of containers that run, which are frozen together, each to
// its location.
func (m *Manager) checkpoint(ctx context.Context, w *work, containers []*container, locations []string) (err error) {
	span.Describe(ctx, containers[0].pod.attributes()...)

	// 1. A place for each, on the disk: it has the container's memory.
	w.enter("directory")
	dirs := make([]string, len(containers))
	defer func() {
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for i, c := range containers {
		dirs[i] = filepath.Join(m.store.ContainerDir(c.pod.id, c.id), "checkpoint-out")
		if err := os.RemoveAll(dirs[i]); err != nil { // of a daemon that was killed
			return err
		}
		if err := os.MkdirAll(filepath.Join(dirs[i], archiveImages), 0o700); err != nil {
			return err
		}
	}

	// 2. Their processes and their files, of the same moment.
	if err := m.dump(ctx, w, containers, dirs); err != nil {
		return err
	}

	// 3. What they were.
	w.enter("archive")
	for i, c := range containers {
		if err := m.describe(c, dirs[i]); err != nil {
			return err
		}
		if err := writeArchive(ctx, dirs[i], locations[i]); err != nil {
			return err
		}
	}
	return nil
}

// dump freezes containers, saves the processes and the files of each in its directory,
// and lets them go on.
func (m *Manager) dump(ctx context.Context, w *work, containers []*container, dirs []string) (err error) {
	w.enter("freeze")
	defer func() {
		ctx, cancel := undoContext(ctx)
		defer cancel()
		for _, c := range containers {
			thaw := m.onMonitor(ctx, c.pod, func(monitor Monitor) error { return monitor.Resume(ctx, c.id) })
			if !ended(thaw) {
				err = errors.Join(err, thaw)
			}
		}
	}()
	for _, c := range containers {
		monitor, err := c.running()
		if err != nil {
			return err
		}
		if err := monitor.Pause(ctx, c.id); err != nil {
			return m.class(c, err)
		}
	}
	for i, c := range containers {
		w.enter("processes")
		monitor, err := c.running()
		if err != nil {
			return err
		}
		if err := monitor.Checkpoint(ctx, c.id, filepath.Join(dirs[i], archiveImages), dirs[i]); err != nil {
			return m.class(c, err)
		}
		w.enter("files")
		lease, err := m.o.Images.Rootfs(c.record.ImageID, c.id) // the one it has
		if err != nil {
			return err
		}
		if err := writeChanges(ctx, lease, m.store.ContainerDir(c.pod.id, c.id), dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

func writeChanges(ctx context.Context, lease image.Rootfs, root, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, archiveChanges), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	deleted, err := lease.ExportChanges(ctx, root, f)
	if err = errors.Join(err, f.Close()); err != nil || len(deleted) == 0 {
		return err
	}
	data, err := json.Marshal(deleted)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(filepath.Join(dir, archiveDeleted), data, 0o600)
}

// describe writes what a container is into an archive's directory.
func (m *Manager) describe(c *container, dir string) error {
	spec, err := readSpec(m.containerState(c.pod.id, c.id))
	if err != nil {
		return err
	}
	c.pod.mu.Lock()
	r := c.record
	c.pod.mu.Unlock()
	for name, v := range map[string]any{archiveSpecFile: spec, archiveConfigFile: archiveConfig{
		ID: r.ID, Name: r.Config.Name, ImageName: r.ImageName, ImageRef: r.ImageRef, ImageID: r.ImageID,
		Runtime: c.pod.record.Runtime, CreatedAt: r.CreatedAt, CheckpointedAt: now(),
	}} {
		data, err := json.Marshal(v)
		if err == nil {
			err = atomicfile.WriteVolatile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
