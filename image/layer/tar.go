package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // aufs's own files, which mean nothing to others

	xattrPrefix = "SCHILY.xattr."
	xattrACL    = "system.posix_acl_default"
	maxPath     = 4000 // below PATH_MAX, with room for a prefix
	blockSize   = 4096
	impliedMode = 0o755
	specialBits = 0o7000 // setuid, setgid, sticky
	permBits    = 0o7777
	maxID       = 1<<32 - 2
	copyBuffer  = 128 << 10
	maxImplied  = 100_000 // remembered in layer.json
	maxDepth    = 512     // of directories: removing a tree holds a descriptor for each
)

// writeTar is the last stage: it makes the files of a tar stream below root.
// Its recipe goes to recipe, unless that is nil.
func writeTar(root int, in io.Reader, recipe io.Writer, limits Limits, form Form) (Result, error) {
	w, err := newWriter(root, limits, form)
	if err != nil {
		return Result{}, err
	}
	defer w.close()
	w.stream = newRecorder(in, recipe)
	tr := tar.NewReader(w.stream)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Result{}, tarError(err)
		}
		if w.entries++; w.entries > limits.Entries {
			return Result{}, fmt.Errorf("%w: more than %d entries", ErrLimit, limits.Entries)
		}
		if err := w.entry(hdr, tr); err != nil {
			return Result{}, fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
	}
	// What follows the end mark belongs to the diffID.
	if _, err := io.Copy(io.Discard, w.stream); err != nil {
		return Result{}, err
	}
	return w.finish()
}

func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%w: tar: %w", ErrInvalid, err)
	}
	return err
}

// writer makes files below a directory it has a handle of.
type writer struct {
	root    int
	dirs    *dirCache
	umask   uint32
	limits  Limits
	form    Form
	buf     []byte
	entries int64
	content int64 // bytes of file content announced so far
	written int64 // and of it, what was written
	stream  *recorder

	// exactModes and exactOwners say that a new file's mode and owner are not
	// just what open made them: some directory has a default ACL, or is setgid.
	exactModes, exactOwners bool

	dirTimes map[string][2]time.Time // set at the end, when the contents are there
	implied  map[string]bool
	result   Result
}

func newWriter(root int, limits Limits, form Form) (*writer, error) {
	umask, err := sys.Umask()
	if err != nil {
		return nil, err
	}
	return &writer{
		root: root, dirs: newDirCache(), umask: umask, limits: limits, form: form, buf: make([]byte, copyBuffer),
		dirTimes: map[string][2]time.Time{}, implied: map[string]bool{},
	}, nil
}

func (w *writer) close() { w.dirs.clear() }

// cleanName makes an entry's name relative to the layer's root; "" is the root.
func cleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%w: a NUL byte in the name", ErrInvalid)
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("%w: the name leads out of the layer", ErrInvalid)
	}
	if len(p) > maxPath || strings.Count(p, "/") > maxDepth {
		return "", fmt.Errorf("%w: a name of %d bytes, %d deep", ErrInvalid, len(p), strings.Count(p, "/"))
	}
	if p == "." {
		return "", nil
	}
	return p, nil
}

// entry makes one entry of the tar.
func (w *writer) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return fmt.Errorf("%w: owner %d:%d", ErrInvalid, hdr.Uid, hdr.Gid)
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the root is not a directory", ErrInvalid)
		}
		return w.setDir(w.root, "", hdr)
	}
	dirName, base := path.Split(name)
	// From here on the directory has its real name, without links on the way.
	parent, dirName, err := w.dir(strings.TrimSuffix(dirName, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return w.whiteout(parent, dirName, base)
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return w.directory(parent, dirName, base, hdr)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return w.file(parent, dirName, base, hdr, content)
	case tar.TypeSymlink:
		return w.symlink(parent, dirName, base, hdr)
	case tar.TypeLink:
		return w.hardLink(parent, dirName, base, hdr)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return w.device(parent, dirName, base, hdr)
	}
	return fmt.Errorf("%w: entry type %q", ErrInvalid, hdr.Typeflag)
}

// whiteout records a deletion in the layers below. It never deletes what this
// layer itself brings: where both are there, only the lower one is hidden.
func (w *writer) whiteout(parent int, dirName, base string) error {
	if base == whiteoutOpaque {
		if dirName == "" {
			w.result.OpaqueRoot = true
			return nil
		}
		return sys.SetXattrFd(parent, w.form.opaque(), []byte("y"))
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return fmt.Errorf("%w: whiteout of nothing", ErrInvalid)
	}
	err := sys.MknodAt(parent, hidden, syscall.S_IFCHR, 0, 0)
	if !errors.Is(err, fs.ErrExist) {
		w.count(err, 0)
		return err
	}
	st, err := sys.StatAt(parent, hidden)
	if err != nil || !st.IsDir() {
		return err // a file of this layer hides the lower one by itself
	}
	fd, err := sys.OpenDirAt(parent, hidden)
	if err != nil {
		return err
	}
	defer func() { _ = sys.CloseFd(fd) }()
	return sys.SetXattrFd(fd, w.form.opaque(), []byte("y"))
}

func (w *writer) directory(parent int, dirName, base string, hdr *tar.Header) error {
	name := path.Join(dirName, base)
	opaque := false
	st, err := sys.StatAt(parent, base)
	switch {
	case err == nil && st.IsDir(): // again, or implied before: its attributes come now
	case err == nil && !st.IsWhiteout():
		if err := w.remove(parent, dirName, base); err != nil {
			return err
		}
		fallthrough
	default:
		if opaque, err = w.makeDir(parent, dirName, base, mode(hdr)&0o777); err != nil {
			return err
		}
	}
	fd, err := sys.OpenDirAt(parent, base)
	if err != nil {
		return err
	}
	w.dirs.put(name, fd)
	delete(w.implied, name)
	if opaque {
		if err := sys.SetXattrFd(fd, w.form.opaque(), []byte("y")); err != nil {
			return err
		}
	}
	return w.setDir(fd, name, hdr)
}

// setDir gives an open directory its attributes; the times wait for the end.
func (w *writer) setDir(fd int, name string, hdr *tar.Header) error {
	// Always, as the directory may have been there with other ones.
	if err := sys.ChownFd(fd, hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if err := sys.ChmodFd(fd, mode(hdr)); err != nil {
		return err
	}
	if mode(hdr)&syscall.S_ISGID != 0 {
		w.exactOwners = true
	}
	w.dirTimes[name] = [2]time.Time{atime(hdr), hdr.ModTime}
	return w.setXattrs(hdr, func(attr string, value []byte) error { return sys.SetXattrFd(fd, attr, value) })
}

func (w *writer) file(parent int, dirName, base string, hdr *tar.Header, content io.Reader) error {
	if hdr.Size < 0 || hdr.Size > w.limits.Bytes-w.content {
		return fmt.Errorf("%w: more than %d bytes of content", ErrLimit, w.limits.Bytes)
	}
	w.content += hdr.Size
	m := mode(hdr)
	fd, err := sys.CreateAt(parent, base, m&0o777)
	if errors.Is(err, fs.ErrExist) {
		if err = w.remove(parent, dirName, base); err == nil {
			fd, err = sys.CreateAt(parent, base, m&0o777)
		}
	}
	if err != nil {
		return err
	}
	w.count(nil, hdr.Size)
	if !IsSparse(hdr) {
		err = w.stream.file(path.Join(dirName, base), hdr.Size)
	}
	if err == nil {
		err = w.fillFile(fd, m, hdr, content)
	}
	w.stream.end()
	if err != nil {
		_ = sys.CloseFd(fd)
		return err
	}
	return sys.CloseFd(fd)
}

func (w *writer) fillFile(fd int, m uint32, hdr *tar.Header, content io.Reader) error {
	for left := hdr.Size; left > 0; {
		n, err := content.Read(w.buf[:min(left, copyBuffer)])
		if n > 0 {
			if err := sys.WriteFd(fd, w.buf[:n]); err != nil {
				return err
			}
			left -= int64(n)
			// The ratio of the compression does not see what sparse files add.
			if w.written += int64(n); w.written > w.stream.read+w.limits.Holes {
				return fmt.Errorf("%w: sparse files have holes of more than %d bytes", ErrLimit, w.limits.Holes)
			}
		}
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return tarError(err)
		}
	}
	// In this order: chown drops setuid and capabilities.
	if w.exactOwners || hdr.Uid != 0 || hdr.Gid != 0 {
		if err := sys.ChownFd(fd, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	if w.exactModes || m&(w.umask|specialBits) != 0 {
		if err := sys.ChmodFd(fd, m); err != nil {
			return err
		}
	}
	if err := w.setXattrs(hdr, func(attr string, value []byte) error { return sys.SetXattrFd(fd, attr, value) }); err != nil {
		return err
	}
	return sys.SetTimesFd(fd, atime(hdr), hdr.ModTime)
}

func (w *writer) symlink(parent int, dirName, base string, hdr *tar.Header) error {
	err := w.replacing(parent, dirName, base, func() error { return sys.SymlinkAt(hdr.Linkname, parent, base) })
	w.count(err, 0)
	if err != nil {
		return err
	}
	if w.exactOwners || hdr.Uid != 0 || hdr.Gid != 0 {
		if err := sys.LchownAt(parent, base, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	if err := w.setXattrs(hdr, func(attr string, value []byte) error { return sys.SetXattrAt(parent, base, attr, value) }); err != nil {
		return err
	}
	return sys.SetTimesAt(parent, base, atime(hdr), hdr.ModTime)
}

// hardLink makes another name of a file of this layer. The link's name in the
// tar is a path from the root.
func (w *writer) hardLink(parent int, dirName, base string, hdr *tar.Header) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", hdr.Linkname, err)
	}
	targetDir, targetBase := path.Split(target)
	w.dirs.pin(parent) // looking up the target must not close it
	defer w.dirs.unpin()
	fd, targetDir, err := w.existingDir(strings.TrimSuffix(targetDir, "/"))
	if err == nil {
		// Looked at first, so that a broken link removes nothing.
		var st sys.Stat
		if st, err = sys.StatAt(fd, targetBase); err == nil && st.IsDir() {
			err = syscall.EISDIR
		}
	}
	if err != nil {
		return fmt.Errorf("%w: hard link to %q, which this layer does not have: %w", ErrInvalid, hdr.Linkname, err)
	}
	name, target := path.Join(dirName, base), path.Join(targetDir, targetBase)
	if name == target {
		return nil // to itself: replacing it would lose it
	}
	if strings.HasPrefix(target, name+"/") {
		return fmt.Errorf("%w: hard link into the directory that it replaces", ErrInvalid)
	}
	return w.replacing(parent, dirName, base, func() error { return sys.LinkAt(fd, targetBase, parent, base) })
}

func (w *writer) device(parent int, dirName, base string, hdr *tar.Header) error {
	kind := map[byte]uint32{tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK, tar.TypeFifo: syscall.S_IFIFO}[hdr.Typeflag]
	major, minor := hdr.Devmajor, hdr.Devminor
	if hdr.Typeflag == tar.TypeFifo {
		major, minor = 0, 0
	}
	if major < 0 || major > 1<<12-1 || minor < 0 || minor > 1<<20-1 {
		return fmt.Errorf("%w: device %d:%d", ErrInvalid, major, minor)
	}
	m := mode(hdr)
	err := w.replacing(parent, dirName, base, func() error {
		return sys.MknodAt(parent, base, kind|m&0o777, uint32(major), uint32(minor))
	})
	if errors.Is(err, fs.ErrPermission) && w.form == User && hdr.Typeflag != tar.TypeFifo {
		w.result.Devices++ // nobody but the host's root makes one
		return nil
	}
	w.count(err, 0)
	if err != nil {
		return err
	}
	if err := sys.LchownAt(parent, base, hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if err := sys.ChmodAt(parent, base, m); err != nil {
		return err
	}
	return sys.SetTimesAt(parent, base, atime(hdr), hdr.ModTime)
}

// setXattrs sets what an image may bring: user attributes, file capabilities
// and ACLs. Overlay's own attributes would let a layer redirect into others;
// the trusted and the remaining security classes are the host's to set.
func (w *writer) setXattrs(hdr *tar.Header, set func(attr string, value []byte) error) error {
	for key, value := range hdr.PAXRecords {
		attr, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok {
			continue
		}
		capability := attr == "security.capability"
		user := strings.HasPrefix(attr, "user.") && !own(attr)
		if !user && !capability && !strings.HasPrefix(attr, "system.posix_acl_") {
			continue
		}
		if attr == xattrACL {
			w.exactModes = true
		}
		err := set(attr, []byte(value))
		if err != nil && !capability && (errors.Is(err, syscall.ENOTSUP) || errors.Is(err, fs.ErrPermission)) {
			continue // this file system has none, or not on this kind of file
		}
		if err != nil {
			return fmt.Errorf("xattr %q: %w", attr, err)
		}
	}
	return nil
}

// finish sets the directories' times and reports.
func (w *writer) finish() (Result, error) {
	for _, name := range slices.Sorted(maps.Keys(w.dirTimes)) {
		times := w.dirTimes[name]
		fd, err := w.root, error(nil)
		if name != "" {
			fd, _, err = w.existingDir(name)
		}
		if err == nil {
			err = sys.SetTimesFd(fd, times[0], times[1])
		}
		if err != nil {
			return Result{}, fmt.Errorf("times of %q: %w", name, err)
		}
	}
	w.result.Implied = slices.Sorted(maps.Keys(w.implied))
	w.result.Tar = w.stream.read
	var err error
	w.result.Recipe, err = w.stream.finish()
	return w.result, err
}

// count adds a new inode of size bytes, unless making it failed.
func (w *writer) count(err error, size int64) {
	if err == nil {
		w.result.Inodes++
		w.result.Bytes += onDisk(size)
	}
}

func onDisk(size int64) int64 { return (size + blockSize - 1) &^ (blockSize - 1) }

func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & permBits }

func atime(hdr *tar.Header) time.Time {
	if hdr.AccessTime.IsZero() {
		return hdr.ModTime
	}
	return hdr.AccessTime
}
