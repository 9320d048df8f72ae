package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/sys"
)

// mountHolder is the prefix of the holders of mounts; an image's hex digits follow.
const mountHolder = "mount-"

// Mounted is an image that Mount shows.
type Mounted struct {
	ImageID string
	Dir     string
}

// Mount shows the files of an image, read-only, and returns the directory: below
// Options.MountDir, until Unmount or the end of the boot, whatever becomes of this
// process. An image that is mounted already is there.
func (s *Store) Mount(ref string) (dir string, err error) {
	if s.options.MountDir == "" {
		return "", fmt.Errorf("mount image %q: %w: this store has no directory for mounts", ref, ErrUnsupported)
	}
	s.mountMu.Lock()
	defer s.mountMu.Unlock()
	img, err := s.Get(ref)
	if err != nil {
		return "", err
	}
	hex := digest.Digest(img.ID).Encoded()
	dir = filepath.Join(s.options.MountDir, hex)
	if s.isMounted(dir) {
		return dir, nil
	}
	// 1. The layers, held.
	lease, err := s.Rootfs(img.ID, mountHolder+hex)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("mount image %q: %w", ref, err), s.Release(mountHolder+hex))
		}
	}()
	// 2. The mount.
	mount, err := rootfs.View(lease.Layers, s.layers.Form()).Open()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.options.MountDir, 0o700); err != nil {
		return "", errors.Join(err, mount.Close())
	}
	return dir, sys.MountOn(mount, dir)
}

// Unmount takes away what Mount made, also of an image that was removed meanwhile,
// by its id then. One that is not mounted is ErrNotFound.
func (s *Store) Unmount(ref string) error {
	s.mountMu.Lock()
	defer s.mountMu.Unlock()
	hex := strings.TrimPrefix(ref, "sha256:")
	if img, err := s.Get(ref); err == nil {
		hex = digest.Digest(img.ID).Encoded()
	}
	for _, m := range s.Mounts() {
		if len(hex) < minIDPrefix || !strings.HasPrefix(filepath.Base(m.Dir), hex) {
			continue
		}
		if err := sys.Unmount(m.Dir); err != nil {
			return fmt.Errorf("unmount image %q: %w", ref, err)
		}
		if err := os.Remove(m.Dir); err != nil {
			return fmt.Errorf("unmount image %q: %w", ref, err)
		}
		return s.Release(mountHolder + filepath.Base(m.Dir))
	}
	return fmt.Errorf("unmount image %q: %w: it is not mounted", ref, ErrNotFound)
}

// Mounts lists what is mounted, by id.
func (s *Store) Mounts() []Mounted {
	var list []Mounted
	for _, l := range s.Holders() {
		if hex, ok := strings.CutPrefix(l.Holder, mountHolder); ok {
			list = append(list, Mounted{ImageID: l.ImageID, Dir: filepath.Join(s.options.MountDir, hex)})
		}
	}
	slices.SortFunc(list, func(a, b Mounted) int { return strings.Compare(a.ImageID, b.ImageID) })
	return list
}

// forgetMounts drops the leases of mounts that the end of a boot, or a crash
// before there was one, has left.
func (s *Store) forgetMounts() error {
	for _, m := range s.Mounts() {
		if s.isMounted(m.Dir) {
			continue
		}
		holder := mountHolder + filepath.Base(m.Dir)
		if err := os.Remove(s.leasePath(holder)); err != nil {
			return err
		}
		delete(s.leases, holder)
	}
	return nil
}

func (s *Store) isMounted(dir string) bool {
	at, err := sys.MountPoint(dir)
	return err == nil && at == dir
}
