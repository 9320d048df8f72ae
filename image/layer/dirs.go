package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// maxOpenDirs bounds the descriptors that one layer holds.
const maxOpenDirs = 64

// dirCache keeps directories open by their real names, so that the many files
// of one directory cost one lookup. The least recently used one goes first.
type dirCache struct {
	open   map[string]*openDir
	clock  int64
	pinned int // a descriptor that must stay open; -1 for none
}

type openDir struct {
	fd   int
	used int64
}

func newDirCache() *dirCache { return &dirCache{open: map[string]*openDir{}, pinned: -1} }

func (c *dirCache) get(name string) (fd int, ok bool) {
	d, ok := c.open[name]
	if !ok {
		return -1, false
	}
	c.clock++
	d.used = c.clock
	return d.fd, true
}

// put takes over the descriptor. It may close another one.
func (c *dirCache) put(name string, fd int) {
	if old, ok := c.open[name]; ok {
		_ = sys.CloseFd(old.fd) // a directory: nothing is lost
		delete(c.open, name)
	}
	if len(c.open) >= maxOpenDirs {
		var oldest string
		for n, d := range c.open {
			if d.fd != c.pinned && (oldest == "" || d.used < c.open[oldest].used) {
				oldest = n
			}
		}
		c.drop(oldest)
	}
	c.clock++
	c.open[name] = &openDir{fd, c.clock}
}

// pin keeps one descriptor open until unpin.
func (c *dirCache) pin(fd int) { c.pinned = fd }
func (c *dirCache) unpin()     { c.pinned = -1 }

func (c *dirCache) drop(name string) {
	if d, ok := c.open[name]; ok {
		_ = sys.CloseFd(d.fd)
		delete(c.open, name)
	}
}

func (c *dirCache) clear() {
	for n := range c.open {
		c.drop(n)
	}
}

// existingDir opens a directory of the layer and gives its real name: symbolic
// links on the way are followed within the layer, as an unpacker in a chroot
// does. The descriptor is good until the next lookup.
func (w *writer) existingDir(name string) (fd int, real string, err error) {
	if name == "" {
		return w.root, "", nil
	}
	if fd, ok := w.dirs.get(name); ok {
		return fd, name, nil
	}
	fd, err = sys.OpenDirBelow(w.root, name)
	if err == nil {
		w.dirs.put(name, fd)
		return fd, name, nil
	}
	if !errors.Is(err, syscall.ELOOP) {
		return -1, "", err
	}
	if fd, err = sys.OpenDirInRoot(w.root, name); err != nil {
		return -1, "", err
	}
	if real, err = w.realName(fd); err == nil && real == "" {
		_ = sys.CloseFd(fd)
		return w.root, "", nil
	}
	if err != nil {
		_ = sys.CloseFd(fd)
		return -1, "", err
	}
	w.dirs.put(real, fd)
	return fd, real, nil
}

// realName is the path of an open directory below the layer's root.
func (w *writer) realName(fd int) (string, error) {
	p, err := sys.FdPath(fd)
	if err != nil {
		return "", err
	}
	root, err := sys.FdPath(w.root)
	if err != nil {
		return "", err
	}
	if p == root {
		return "", nil
	}
	name, ok := strings.CutPrefix(p, root+"/")
	if !ok {
		return "", fmt.Errorf("%w: %q is not below %q", ErrInvalid, p, root)
	}
	return name, nil
}

// dir is existingDir that makes what is missing: directories that the tar
// implies without listing them.
func (w *writer) dir(name string) (fd int, real string, err error) {
	fd, real, err = w.existingDir(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return fd, real, err
	}
	parentName, base := path.Split(name)
	parent, parentName, err := w.dir(strings.TrimSuffix(parentName, "/"))
	if err != nil {
		return -1, "", err
	}
	real = path.Join(parentName, base)
	if len(real) > maxPath || strings.Count(real, "/") > maxDepth {
		return -1, "", fmt.Errorf("%w: links lead to a name of %d bytes", ErrInvalid, len(real))
	}
	opaque, err := w.makeDir(parent, parentName, base, impliedMode)
	if err != nil {
		return -1, "", err
	}
	if len(w.implied) >= maxImplied {
		return -1, "", fmt.Errorf("%w: more than %d directories without an entry", ErrLimit, maxImplied)
	}
	w.implied[real] = true
	if fd, err = sys.OpenDirAt(parent, base); err != nil {
		return -1, "", err
	}
	w.dirs.put(real, fd)
	if err := sys.ChmodFd(fd, impliedMode); err != nil { // whatever the umask
		return -1, "", err
	}
	if opaque {
		return fd, real, sys.SetXattrFd(fd, w.form.opaque(), []byte("y"))
	}
	return fd, real, nil
}

// makeDir makes a directory where nothing is but perhaps a whiteout of this
// layer, over which it is opaque: the lower one stays hidden.
func (w *writer) makeDir(parent int, parentName, base string, mode uint32) (opaque bool, err error) {
	err = sys.MkdirAt(parent, base, mode)
	if errors.Is(err, fs.ErrExist) {
		st, err := sys.StatAt(parent, base)
		if err != nil {
			return false, err
		}
		if !st.IsWhiteout() {
			return false, fmt.Errorf("%w: %q is in the way of a directory", ErrInvalid, path.Join(parentName, base))
		}
		if err := w.remove(parent, parentName, base); err != nil {
			return false, err
		}
		err = sys.MkdirAt(parent, base, mode)
		w.count(err, blockSize)
		return true, err
	}
	w.count(err, blockSize)
	return false, err
}

// replacing runs create, and once more after removing what is in its way.
func (w *writer) replacing(parent int, dirName, base string, create func() error) error {
	err := create()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := w.remove(parent, dirName, base); err != nil {
		return err
	}
	return create()
}

// remove takes away an entry that an earlier one of the same tar made.
func (w *writer) remove(parent int, dirName, base string) error {
	return w.removeTree(parent, base, path.Join(dirName, base))
}

// removeTree removes base in parent with all below it, and takes it off the
// account. Its depth is bounded by maxDepth, its work by what was made.
func (w *writer) removeTree(parent int, base, name string) error {
	st, err := sys.StatAt(parent, base)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		w.stream.lost = w.stream.lost || st.IsRegular()
		if st.Nlink == 1 {
			w.result.Inodes--
			if st.IsRegular() {
				w.result.Bytes -= onDisk(st.Size)
			}
		}
		return sys.UnlinkAt(parent, base)
	}
	fd, err := sys.OpenDirAt(parent, base)
	if err != nil {
		return err
	}
	defer func() { _ = sys.CloseFd(fd) }()
	names, err := sys.ReadDirNames(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := w.removeTree(fd, n, name+"/"+n); err != nil {
			return err
		}
	}
	w.dirs.drop(name)
	delete(w.implied, name)
	delete(w.dirTimes, name)
	w.result.Inodes--
	w.result.Bytes -= blockSize
	return sys.RmdirAt(parent, base)
}
