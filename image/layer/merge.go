package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// Form is how a layer says what it hides of those below: which extended
// attributes are overlayfs's. Whiteouts are devices 0/0 in both.
type Form string

// The forms.
const (
	Trusted Form = "trusted" // trusted.overlay.*, which needs CAP_SYS_ADMIN of the host
	User    Form = "user"    // user.overlay.*, for overlay's option userxattr
)

// opaque is the attribute of a directory that hides the lower ones.
func (f Form) opaque() string {
	if f == User {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}

// own reports whether an attribute is overlayfs's.
func own(attr string) bool {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if len(attr) > len(prefix) && attr[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// Entry is one entry of directories that lie over each other.
type Entry struct {
	Path  string // below the root; "" is the root itself
	Stat  sys.Stat
	Layer int // the directory of Walk that it is in, from 0, the topmost
	// Dir and Name are how it is reached: a descriptor that is good during visit,
	// and one component, "" for the root.
	Dir  int
	Name string
}

// Walk tells what overlayfs shows of dirs, topmost first: each directory before
// what is in it, names in order. What vanishes meanwhile is left out, so that the
// topmost may be one that a container writes to. Only its own names and the
// handles of dirs are followed, never a symbolic link.
func Walk(dirs []string, form Form, visit func(Entry) error) error {
	w, err := newWalker(dirs, form)
	defer w.close()
	if err != nil {
		return err
	}
	st, err := sys.StatAt(w.roots[0], "")
	if err != nil {
		return err
	}
	if err := visit(Entry{Stat: st, Dir: w.roots[0]}); err != nil {
		return err
	}
	return w.directory("", w.all(), 0, visit)
}

// walker reads directories over each other.
type walker struct {
	roots []int
	form  Form
}

// newWalker opens the directories; the caller closes it also after an error.
func newWalker(dirs []string, form Form) (*walker, error) {
	w := &walker{form: form}
	for _, dir := range dirs {
		fd, err := sys.OpenDir(dir)
		if err != nil {
			return w, err
		}
		w.roots = append(w.roots, fd)
	}
	return w, nil
}

func (w *walker) close() {
	for _, fd := range w.roots {
		_ = sys.CloseFd(fd)
	}
}

// all are the layers that have a part of the root.
func (w *walker) all() []int {
	within := make([]int, len(w.roots))
	for i := range within {
		within[i] = i
	}
	return within
}

// child is a directory in another, and the layers that have a part of it.
type child struct {
	name   string
	layers []int
}

// directory walks one directory, which the roots within have. Its descriptors are
// closed before those below it are opened: neither depth nor the number of layers
// multiplies them.
func (w *walker) directory(name string, within []int, depth int, visit func(Entry) error) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d directories in each other", ErrLimit, maxDepth)
	}
	var children []child
	err := w.list(name, within, func(e Entry, layers []int) error {
		if len(layers) > 0 {
			children = append(children, child{e.Name, layers})
		}
		return visit(e)
	})
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	for _, c := range children {
		if err := w.directory(path.Join(name, c.name), c.layers, depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}

// list tells the entries of one directory, and of those that are directories the
// layers that have a part of them.
func (w *walker) list(name string, within []int, tell func(e Entry, layers []int) error) error {
	fds := make([]int, 0, len(within))
	defer func() {
		for _, fd := range fds {
			_ = sys.CloseFd(fd)
		}
	}()
	seen := map[string]bool{}
	var names []string
	for _, layer := range within {
		at := name
		if at == "" {
			at = "."
		}
		fd, err := sys.OpenDirBelow(w.roots[layer], at)
		if gone(err) {
			fds = append(fds, -1)
			continue
		}
		if err != nil {
			return err
		}
		fds = append(fds, fd)
		list, err := sys.ReadDirNames(fd)
		if err != nil {
			return err
		}
		for _, n := range list {
			if !seen[n] {
				seen[n] = true
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	for _, n := range names {
		e, layers, err := w.lookup(name, n, within, fds)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if err := tell(*e, layers); err != nil {
			return err
		}
	}
	return nil
}

// lookup finds what one name means: nothing, if the topmost that has it has a
// whiteout. For a directory it also says which have a part of it.
func (w *walker) lookup(dir, name string, within, fds []int) (found *Entry, layers []int, err error) {
	for i, layer := range within {
		if fds[i] < 0 {
			continue
		}
		st, err := sys.StatAt(fds[i], name)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if st.IsWhiteout() {
			break
		}
		if found == nil {
			found = &Entry{Path: path.Join(dir, name), Stat: st, Layer: layer, Dir: fds[i], Name: name}
		}
		if !st.IsDir() {
			break // by itself it hides what is below it
		}
		layers = append(layers, layer)
		hides, err := w.opaque(fds[i], name)
		if err != nil {
			return nil, nil, err
		}
		if hides {
			break
		}
	}
	return found, layers, nil
}

func (w *walker) opaque(dir int, name string) (bool, error) {
	fd, err := sys.OpenDirAt(dir, name)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = sys.CloseFd(fd) }()
	value, err := sys.GetXattrFd(fd, w.form.opaque())
	return string(value) == "y", err
}

// gone: not there, or something else by now.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// Flatten copies what overlayfs shows of dirs, topmost first, into the empty
// directory to: owners, modes, times, attributes and hard links too. Blocks are
// shared where the file system can, and then not counted in the result.
func Flatten(to string, dirs []string, form Form) (Result, error) {
	root, err := sys.OpenDir(to)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = sys.CloseFd(root) }()
	f := &flattener{
		w:     writer{root: root, dirs: newDirCache()},
		links: map[linkKey]string{}, dirTimes: map[string]time.Time{},
	}
	defer f.w.close()
	if err := Walk(dirs, form, f.entry); err != nil {
		return Result{}, err
	}
	return f.w.result, f.setTimes()
}

// flattener makes each entry of a Walk again.
type flattener struct {
	w        writer // of it the directories and the account
	links    map[linkKey]string
	dirTimes map[string]time.Time
}

// linkKey is a file that has several names.
type linkKey struct {
	layer int
	ino   uint64
}

func (f *flattener) entry(e Entry) error {
	if err := f.copy(e); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	return nil
}

func (f *flattener) copy(e Entry) error {
	if e.Path == "" {
		f.dirTimes[""] = e.Stat.Mtime
		return f.directory(f.w.root, e)
	}
	parent, _, err := f.w.existingDir(trimDir(e.Path))
	if err != nil {
		return err
	}
	key := linkKey{e.Layer, e.Stat.Ino}
	if !e.Stat.IsDir() && e.Stat.Nlink > 1 {
		if first, ok := f.links[key]; ok {
			return sys.LinkAt(f.w.root, first, parent, e.Name)
		}
		f.links[key] = e.Path
	}
	switch kind := e.Stat.Mode & syscall.S_IFMT; kind {
	case syscall.S_IFDIR:
		if err := sys.MkdirAt(parent, e.Name, 0o700); err != nil {
			return err
		}
		f.w.count(nil, blockSize)
		fd, err := sys.OpenDirAt(parent, e.Name)
		if err != nil {
			return err
		}
		f.w.dirs.put(e.Path, fd)
		f.dirTimes[e.Path] = e.Stat.Mtime
		return f.directory(fd, e)
	case syscall.S_IFREG:
		return f.file(parent, e)
	case syscall.S_IFLNK:
		target, err := sys.ReadlinkAt(e.Dir, e.Name)
		if err != nil {
			return err
		}
		f.w.count(nil, 0)
		if err := sys.SymlinkAt(target, parent, e.Name); err != nil {
			return err
		}
	case syscall.S_IFSOCK: // of a process that is not there
		return nil
	default:
		f.w.count(nil, 0)
		if err := sys.MknodAt(parent, e.Name, kind|0o600, e.Stat.Major, e.Stat.Minor); err != nil {
			return err
		}
	}
	return f.node(parent, e)
}

// directory gives a directory its attributes; its times wait for the end.
func (f *flattener) directory(fd int, e Entry) error {
	from, err := sys.OpenDirAt(e.Dir, orSelf(e.Name))
	if err != nil {
		return err
	}
	defer func() { _ = sys.CloseFd(from) }()
	return attributes(from, fd, e.Stat)
}

// attributes copies owner, mode and extended attributes, but overlayfs's own, in
// this order: chown drops setuid and capabilities.
func attributes(from, to int, st sys.Stat) error {
	if err := sys.ChownFd(to, int(st.UID), int(st.GID)); err != nil {
		return err
	}
	if err := sys.ChmodFd(to, st.Mode&permBits); err != nil {
		return err
	}
	attrs, err := sys.XattrsFd(from)
	if err != nil {
		return err
	}
	for attr, value := range attrs {
		if own(attr) {
			continue
		}
		if err := sys.SetXattrFd(to, attr, value); err != nil {
			return fmt.Errorf("xattr %q: %w", attr, err)
		}
	}
	return nil
}

func (f *flattener) file(parent int, e Entry) error {
	from, err := sys.OpenFileAt(e.Dir, e.Name)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // only read from
	fd, err := sys.CreateAt(parent, e.Name, 0o600)
	if err != nil {
		return err
	}
	shared, err := sys.CopyFile(fd, from)
	if err == nil {
		err = attributes(sys.Fd(from), fd, e.Stat)
	}
	if err == nil {
		err = sys.SetTimesFd(fd, e.Stat.Mtime, e.Stat.Mtime)
	}
	size := e.Stat.Size
	if shared {
		size = 0
	}
	f.w.count(err, size)
	return errors.Join(err, sys.CloseFd(fd))
}

// node gives a link, device or FIFO its attributes.
func (f *flattener) node(parent int, e Entry) error {
	if err := sys.LchownAt(parent, e.Name, int(e.Stat.UID), int(e.Stat.GID)); err != nil {
		return err
	}
	if !e.Stat.IsSymlink() {
		if err := sys.ChmodAt(parent, e.Name, e.Stat.Mode&permBits); err != nil {
			return err
		}
	}
	attrs, err := sys.XattrsAt(e.Dir, e.Name)
	if err != nil {
		return err
	}
	for attr, value := range attrs {
		if own(attr) {
			continue
		}
		if err := sys.SetXattrAt(parent, e.Name, attr, value); err != nil {
			return fmt.Errorf("xattr %q: %w", attr, err)
		}
	}
	return sys.SetTimesAt(parent, e.Name, e.Stat.Mtime, e.Stat.Mtime)
}

// setTimes gives the directories theirs, now that nothing is written any more.
func (f *flattener) setTimes() error {
	for name, mtime := range f.dirTimes {
		fd, _, err := f.w.existingDir(name)
		if err == nil {
			err = sys.SetTimesFd(fd, mtime, mtime)
		}
		if err != nil {
			return fmt.Errorf("times of %q: %w", name, err)
		}
	}
	return nil
}

// Same reports, as ErrDigestMismatch, the first difference between what overlayfs
// shows of dirs and what is in the directory flat, which Flatten made of them.
func Same(flat string, dirs []string, form Form) error {
	root, err := sys.OpenDir(flat)
	if err != nil {
		return err
	}
	defer func() { _ = sys.CloseFd(root) }()
	w := &writer{root: root, dirs: newDirCache()}
	defer w.close()
	want := map[string]bool{}
	err = Walk(dirs, form, func(e Entry) error {
		if e.Path == "" || e.Stat.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
			return nil
		}
		want[e.Path] = true
		parent, _, err := w.existingDir(trimDir(e.Path))
		if err == nil {
			err = sameEntry(parent, e)
		}
		if err != nil {
			return fmt.Errorf("%w: %q: %w", ErrDigestMismatch, e.Path, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return Walk([]string{flat}, form, func(e Entry) error {
		if e.Path != "" && !want[e.Path] {
			return fmt.Errorf("%w: %q is in no layer", ErrDigestMismatch, e.Path)
		}
		return nil
	})
}

// sameEntry compares an entry with that of its name in another directory.
func sameEntry(dir int, e Entry) error {
	st, err := sys.StatAt(dir, e.Name)
	switch {
	case err != nil:
		return err
	case st.Mode != e.Stat.Mode || st.UID != e.Stat.UID || st.GID != e.Stat.GID:
		return fmt.Errorf("it is %o of %d:%d, not %o of %d:%d", st.Mode, st.UID, st.GID, e.Stat.Mode, e.Stat.UID, e.Stat.GID)
	case st.IsSymlink():
		have, err := sys.ReadlinkAt(dir, e.Name)
		want, wantErr := sys.ReadlinkAt(e.Dir, e.Name)
		if err == nil && wantErr == nil && have != want {
			err = fmt.Errorf("it links to %q, not %q", have, want)
		}
		return errors.Join(err, wantErr)
	case !st.IsRegular():
		return nil
	case st.Size != e.Stat.Size:
		return fmt.Errorf("it has %d bytes, not %d", st.Size, e.Stat.Size)
	}
	have, err := sys.OpenFileAt(dir, e.Name)
	if err != nil {
		return err
	}
	defer func() { _ = have.Close() }() // only read from
	want, err := sys.OpenFileAt(e.Dir, e.Name)
	if err != nil {
		return err
	}
	defer func() { _ = want.Close() }()
	var a, b [64 << 10]byte
	for {
		n, err := io.ReadFull(have, a[:])
		m, wantErr := io.ReadFull(want, b[:])
		if !bytes.Equal(a[:n], b[:m]) {
			return errors.New("its content differs")
		}
		for _, err := range []error{err, wantErr} {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// trimDir is the directory of a path, "" for the root.
func trimDir(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

func orSelf(name string) string {
	if name == "" {
		return "."
	}
	return name
}
