package pod

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/pod/bundle"
)

const (
	// maxAccounts bounds /etc/passwd and /etc/group of an image.
	maxAccounts = 4 << 20
	maxLinks    = 40 // as the kernel's
)

// readAccounts reads the passwd and group files of an image, or of a container
// with its upper directory as the topmost layer.
func readAccounts(layers []string) (bundle.Accounts, error) {
	roots, err := openLayers(layers)
	defer closeLayers(roots)
	if err != nil {
		return bundle.Accounts{}, err
	}
	var a bundle.Accounts
	if a.Passwd, err = readLayered(roots, "/etc/passwd"); err == nil {
		a.Group, err = readLayered(roots, "/etc/group")
	}
	if err != nil {
		return bundle.Accounts{}, fmt.Errorf("image: %w", err)
	}
	return a, nil
}

// openLayers opens as many as it can; the caller closes them also on an error.
func openLayers(layers []string) ([]*os.Root, error) {
	roots := make([]*os.Root, 0, len(layers))
	for _, l := range layers {
		r, err := os.OpenRoot(l)
		if err != nil {
			return roots, err
		}
		roots = append(roots, r)
	}
	return roots, nil
}

func closeLayers(roots []*os.Root) {
	for _, r := range roots {
		_ = r.Close() // read from only
	}
}

// containerAccounts are those of a running container, which may have added some.
func (m *Manager) containerAccounts(c *container) (bundle.Accounts, error) {
	lease, err := m.o.Images.Rootfs(c.record.ImageID, c.id) // the lease it has
	if err != nil {
		return bundle.Accounts{}, err
	}
	return readAccounts(rootfs.Dirs(lease.Layers, m.store.ContainerDir(c.pod.id, c.id)))
}

// readLayered reads a file as overlayfs would show it, without mounting: nil if
// it is not there or no regular file. Layers are topmost first. Nothing outside
// them is ever reached: each step is a lookup of one name below an os.Root.
func readLayered(layers []*os.Root, name string) ([]byte, error) {
	rest := strings.Split(strings.Trim(name, "/"), "/")
	var dir []string // where we are
	within := layers // that have a directory there
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			dir = dir[:max(len(dir)-1, 0)]
			within = merged(layers, dir)
			continue
		}
		full := path.Join(append(dir[:len(dir):len(dir)], part)...)
		layer, info := topmost(within, full)
		switch {
		case layer == nil:
			return nil, nil
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: too many symbolic links", name)
			}
			target, err := layer.Readlink(full)
			if err != nil {
				return nil, err
			}
			if path.IsAbs(target) {
				dir, within = nil, layers
			}
			rest = append(strings.Split(target, "/"), rest...)
		case info.IsDir():
			dir = append(dir[:len(dir):len(dir)], part)
			within = merged(layers, dir)
		case info.Mode().IsRegular() && len(rest) == 0:
			return readSmall(layer, full)
		default:
			return nil, nil
		}
	}
	return nil, nil // a directory
}

// topmost is the layer whose entry is seen; a whiteout hides all below it.
func topmost(layers []*os.Root, name string) (*os.Root, fs.FileInfo) {
	for _, l := range layers {
		info, err := l.Lstat(name)
		if err != nil {
			continue // not in this one
		}
		if whiteout(info) {
			return nil, nil
		}
		return l, info
	}
	return nil, nil
}

// merged are the layers whose directory dir is seen, down to an opaque one.
func merged(layers []*os.Root, dir []string) []*os.Root {
	within := layers
	for i := range dir {
		name := path.Join(dir[:i+1]...)
		var next []*os.Root
		for _, l := range within {
			info, err := l.Lstat(name)
			if err != nil {
				continue
			}
			if !info.IsDir() {
				break // hides what is below it
			}
			next = append(next, l)
			if opaque(l, name) {
				break
			}
		}
		within = next
	}
	return within
}

// whiteout: a character device 0/0 (kernel, filesystems/overlayfs).
func whiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func opaque(root *os.Root, name string) bool {
	d, err := root.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = d.Close() }()
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value, err := sys.Fgetxattr(d, attr)
		if err == nil && string(value) == "y" {
			return true
		}
	}
	return false
}

func readSmall(root *os.Root, name string) ([]byte, error) {
	// Not blocking: it was a regular file when we looked, in a directory that a
	// container may be writing to.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if err == nil && len(data) > maxAccounts {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxAccounts)
	}
	return data, err
}

// subPath is what of an image is seen at a path inside it: the directories that
// overlay each other there, topmost first, or one file. A symbolic link on the
// way is refused: where it leads is for who mounts it to say.
func subPath(layers []string, sub string) ([]string, error) {
	sub = strings.Trim(path.Clean("/"+sub), "/")
	if sub == "" {
		return layers, nil
	}
	roots, err := openLayers(layers)
	defer closeLayers(roots)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(sub, "/")
	for i := range parts {
		at := path.Join(parts[:i+1]...)
		layer, info := topmost(merged(roots, parts[:i]), at)
		switch {
		case layer == nil:
			return nil, errorf(ErrInvalid, "%q is not in the image", sub)
		case info.Mode()&fs.ModeSymlink != 0:
			return nil, errorf(ErrInvalid, "%q is a symbolic link in the image", at)
		case info.IsDir():
		case info.Mode().IsRegular() && i == len(parts)-1:
			return []string{filepath.Join(layer.Name(), at)}, nil
		default:
			return nil, errorf(ErrInvalid, "%q is neither a directory nor a file in the image", at)
		}
	}
	var dirs []string
	for _, r := range merged(roots, parts) {
		dirs = append(dirs, filepath.Join(r.Name(), sub))
	}
	return dirs, nil
}
