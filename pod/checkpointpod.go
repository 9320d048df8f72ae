package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const verbCheckpointPod = "checkpoint pod"

// archiveName is the file of a container's archive in the checkpoint of its pod.
func archiveName(container string) string { return url.PathEscape(container) + ".tar" }

// CheckpointPod writes a checkpoint of containers of a pod, by their ids, into the
// empty directory out: all of one moment, an archive for each. They are frozen
// meanwhile, and go on. After an error out is empty.
func (m *Manager) CheckpointPod(ctx context.Context, id, out string, ids []string) error {
	p, err := m.findPod(id)
	if err != nil {
		return err
	}
	// 1. What is asked for.
	if err := cleanPath("output_path", out); err != nil {
		return fmt.Errorf("checkpoint pod %s: %w", p.what, err)
	}
	if there, err := os.ReadDir(out); err != nil || len(there) > 0 {
		return errors.Join(err, errorf(ErrInvalid, "checkpoint pod %s: output_path: %s is to be an empty directory", p.what, out))
	}
	if len(ids) == 0 {
		return errorf(ErrInvalid, "checkpoint pod %s: container_ids: is empty", p.what)
	}
	var containers []*container
	var locations []string
	for i, id := range ids {
		p.mu.Lock()
		c := p.containers[id]
		p.mu.Unlock()
		if c == nil || slices.Contains(containers, c) || slices.Contains(locations, filepath.Join(out, archiveName(c.key.name))) {
			return errorf(ErrInvalid, "checkpoint pod %s: container_ids[%d]: %q is none of the pod's, or is there twice", p.what, i, id)
		}
		if err := c.canCheckpoint(); err != nil {
			return err
		}
		containers, locations = append(containers, c), append(locations, filepath.Join(out, archiveName(c.key.name)))
	}

	// 2. The archives, or none.
	p.mu.Lock()
	if slices.ContainsFunc(containers, (*container).checkpointing) {
		p.mu.Unlock()
		return errorf(ErrState, "checkpoint pod %s: another checkpoint of it or of its containers is being made", p.what)
	}
	w := m.join(ctx, &p.mu, p.lane, verbCheckpointPod, p.what, verbTimeout, func(ctx context.Context, w *work) error {
		ctx, cancel := m.untilStopping(ctx, p)
		defer cancel()
		err := m.checkpoint(ctx, w, containers, locations)
		if err != nil {
			for _, l := range locations {
				err = errors.Join(err, os.RemoveAll(l))
			}
		}
		return err
	})
	p.mu.Unlock()
	return w.wait(ctx)
}

// RestorePod runs a pod with a container for each of configs, which go on from the
// checkpoint of a pod in the directory from once they are started. It returns the ids
// of the pod and, by their names, of the containers; after an error nothing of it is
// left.
func (m *Manager) RestorePod(ctx context.Context, from string, config PodConfig, runtime string, configs []ContainerConfig) (id string, containers map[string]string, err error) {
	// 1. The checkpoint is of these containers.
	if err := cleanPath("checkpoint_path", from); err != nil {
		return "", nil, fmt.Errorf("restore pod %s: %w", config.Name, err)
	}
	if configs, err = m.archives(from, configs); err != nil {
		return "", nil, fmt.Errorf("restore pod %s: %w", config.Name, err)
	}
	m.mu.Lock()
	_, exists := m.names[keyOf(&config)]
	m.mu.Unlock()
	if exists {
		return "", nil, errorf(ErrExists, "restore pod %s: a pod of that name, namespace, uid and attempt is there: remove it first", config.Name)
	}

	// 2. The pod, and its containers in order.
	if id, err = m.RunPod(ctx, config, runtime); err != nil {
		return "", nil, err
	}
	containers = map[string]string{}
	for _, c := range configs {
		if containers[c.Name], err = m.CreateContainer(ctx, id, c); err != nil {
			ctx, cancel := undoContext(ctx)
			defer cancel()
			return "", nil, errors.Join(err, m.StopPod(ctx, id), m.RemovePod(ctx, id))
		}
	}
	return id, containers, nil
}

// archives are configs with the archives in from in the place of their images: there
// is exactly one for each of them, and it is of what the config says.
func (m *Manager) archives(from string, configs []ContainerConfig) ([]ContainerConfig, error) {
	files, err := os.ReadDir(from)
	if err != nil {
		return nil, fmt.Errorf("checkpoint_path: %w", err)
	}
	unused := map[string]bool{}
	for _, f := range files {
		unused[f.Name()] = true
	}
	if len(configs) == 0 {
		return nil, errorf(ErrInvalid, "container_configs: is empty")
	}
	configs = slices.Clone(configs)
	for i := range configs {
		c := &configs[i]
		file := archiveName(c.Name)
		if c.Name == "" || !unused[file] {
			return nil, errorf(ErrInvalid, "container_configs[%d].metadata.name: the checkpoint has no container %q, or it is there twice", i, c.Name)
		}
		delete(unused, file)
		u, err := glance(filepath.Join(from, file))
		if err == nil {
			err = u.isOf(c, m.o.Images)
		}
		if err != nil {
			return nil, fmt.Errorf("container_configs[%d]: %w", i, err)
		}
		c.Image, c.UserImage = filepath.Join(from, file), ""
	}
	if len(unused) > 0 {
		return nil, errorf(ErrInvalid, "container_configs: the checkpoint has %s, too", strings.Join(slices.Sorted(maps.Keys(unused)), ", "))
	}
	return configs, nil
}

// isOf refuses a config that is another container's than the archive: what would run is
// what did, whatever the config says.
func (u *unpacked) isOf(c *ContainerConfig, images Images) error {
	img, err := images.Get(c.Image)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if u.config.ImageID != img.ID {
		return errorf(ErrInvalid, "image: the checkpoint is of %s (%s), not of %s", u.config.ImageName, u.config.ImageID, c.Image)
	}
	p := u.spec.Process
	if p == nil {
		return errorf(ErrInvalid, "the checkpoint's config has no process")
	}
	args := slices.Concat(c.Command, c.Args)
	if len(c.Command) > 0 && !slices.Equal(p.Args, args) || len(args) > len(p.Args) || !slices.Equal(p.Args[len(p.Args)-len(args):], args) {
		return errorf(ErrInvalid, "command, args: %q was checkpointed, not %q", p.Args, args)
	}
	if c.WorkingDir != "" && filepath.Clean(c.WorkingDir) != p.Cwd {
		return errorf(ErrInvalid, "working_dir: %q was checkpointed", p.Cwd)
	}
	for i, e := range c.Env {
		if !slices.Contains(p.Env, e.Key+"="+e.Value) {
			return errorf(ErrInvalid, "envs[%d]: %s was another in what was checkpointed", i, e.Key)
		}
	}
	if u := c.Security.RunAsUser; u != nil && *u != int64(p.User.UID) {
		return errorf(ErrInvalid, "linux.security_context.run_as_user: %d was checkpointed", p.User.UID)
	}
	if g := c.Security.RunAsGroup; g != nil && *g != int64(p.User.GID) {
		return errorf(ErrInvalid, "linux.security_context.run_as_group: %d was checkpointed", p.User.GID)
	}
	return nil
}
