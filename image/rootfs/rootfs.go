// Package rootfs makes the root of a container from the layers of its image: by
// overlayfs, by a snapshot of btrfs, or by a copy. Each is a Driver; contract_test.go
// says what all of them hold to.
//
// A driver names mounts and makes the directories that they need; who runs the
// container mounts. It keeps nothing in memory and nothing on disk but those
// directories, which are removed as any tree is.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/internal/sys"
)

// Names of the drivers, for the configuration.
const (
	Auto             = "auto" // Overlay, or OverlayUserXattr where only that works
	Overlay          = "overlay"
	OverlayUserXattr = "overlay-userxattr"
	Btrfs            = "btrfs"
	Copy             = "copy"
)

// Names are all that Open takes.
var Names = []string{Auto, Overlay, OverlayUserXattr, Btrfs, Copy}

// Directories of a container's root, in the directory that Prepare is given.
const (
	upperDir = "upper" // overlay's: what the container has written
	workDir  = "work"
	rootDir  = "root" // the others': the whole root
)

// Mount is how a root is mounted; options are as in fstab.
type Mount struct {
	Type, Source string
	Options      []string
}

// Driver makes roots.
type Driver interface {
	// Name is its name in the configuration.
	Name() string
	// Form is how the layers have to be written.
	Form() layer.Form
	// Flat says that Prepare wants one lower directory: one that MakeDir has made
	// and layer.Flatten has filled with all the layers of the image.
	Flat() bool
	// MakeDir makes that directory, empty.
	MakeDir(path string) error
	// Prepare makes in the directory dir what a container's own root needs, and
	// says how that root is mounted. Lowers are the image's directories, topmost
	// first: they are never written to. Removing dir undoes it, also after an error.
	Prepare(lowers []string, dir string) (Mount, error)
}

// Open is the driver of a name, for images and containers below the directory
// root, which is made if need be. One that does not work there is an error.
func Open(name, root string) (Driver, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	switch name {
	case Auto:
		d := Driver(overlay{layer.Trusted})
		err := probe(d, root)
		if err == nil {
			return d, nil
		}
		if noRoom(err) {
			return overlay{formIn(root)}, nil
		}
		d = overlay{layer.User}
		if e := probe(d, root); e != nil {
			return nil, fmt.Errorf("no overlay can be mounted in %s: %w; driver %q needs btrfs, and %q nothing but room", root, errors.Join(err, e), Btrfs, Copy)
		}
		return d, nil
	case Overlay, OverlayUserXattr:
		d := overlay{layer.Trusted}
		if name == OverlayUserXattr {
			d.form = layer.User
		}
		if err := probe(d, root); err != nil && !noRoom(err) {
			return nil, fmt.Errorf("driver %q does not work in %s: %w", name, root, err)
		}
		return d, nil
	case Btrfs:
		ok, err := sys.IsBtrfs(root)
		if err == nil && !ok {
			err = errors.New("it is on another file system")
		}
		if err != nil {
			return nil, fmt.Errorf("driver %q does not work in %s: %w", name, root, err)
		}
		return snapshots{plain{formIn(root)}}, nil
	case Copy:
		return plain{formIn(root)}, nil
	}
	return nil, fmt.Errorf("%q is no driver: there are %q", name, Names)
}

// Default is the overlay driver, without a look at whether it works.
func Default() Driver { return overlay{layer.Trusted} }

// formIn is the form that can be written in a directory, for drivers to which it
// does not matter.
func formIn(root string) layer.Form {
	const attr = "trusted.overlay.probe"
	fd, err := sys.OpenDir(root)
	if err != nil {
		return layer.Trusted // whoever writes there will say why it does not work
	}
	defer func() { _ = sys.CloseFd(fd) }()
	if err := sys.SetXattrFd(fd, attr, nil); err != nil && !noRoom(err) {
		return layer.User
	}
	_ = sys.RemoveXattrFd(fd, attr) // it says nothing to anybody
	return layer.Trusted
}

// noRoom says that a probe could not be made, for want of room: a daemon that did
// not start then could remove nothing either.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// probe mounts what a container would have, in a directory of its own.
func probe(d Driver, root string) (err error) {
	dir := filepath.Join(root, ".strake-probe")
	if err := os.RemoveAll(dir); err != nil { // of a daemon that was killed
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lower := filepath.Join(dir, "lower")
	if err := os.Mkdir(lower, 0o700); err != nil {
		return err
	}
	m, err := d.Prepare([]string{lower}, dir)
	if err != nil {
		return err
	}
	// In a user namespace such a mount is made, and hides nothing.
	if d.Form() == layer.Trusted && formIn(lower) != layer.Trusted {
		return errors.New("trusted.* attributes cannot be set here")
	}
	mount, err := m.Open()
	if err != nil {
		return err
	}
	return mount.Close()
}

// Open makes the mount, attached nowhere; it lasts while the file is open.
func (m Mount) Open() (*os.File, error) {
	if m.Type == "bind" {
		mount, err := sys.CloneMount(m.Source, false)
		if err == nil && slices.Contains(m.Options, "ro") {
			if err = sys.SetReadOnly(mount); err != nil {
				_ = mount.Close()
			}
		}
		return mount, err
	}
	return sys.NewOverlay(m.overlayOptions())
}

// overlayOptions are the options of an overlay as sys.NewOverlay takes them.
func (m Mount) overlayOptions() []string {
	var options []string
	for _, o := range m.Options {
		list, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			options = append(options, o)
			continue
		}
		lowers := splitLowers(list)
		if len(lowers) == 1 {
			options = append(options, o) // which kernels before 6.8 know too
			continue
		}
		for _, l := range lowers { // an option holds 256 bytes
			options = append(options, "lowerdir+="+l)
		}
	}
	return options
}

// splitLowers undoes lowerOptions.
func splitLowers(list string) []string {
	var lowers []string
	var cur strings.Builder
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			cur.WriteByte(list[i])
		case list[i] == ':':
			lowers = append(lowers, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(list[i])
		}
	}
	return append(lowers, cur.String())
}

// View is a read-only mount of directories over each other, topmost first, which
// layers of the form are.
func View(lowers []string, form layer.Form) Mount {
	if len(lowers) == 1 { // overlayfs wants two
		return Mount{Type: "bind", Source: lowers[0], Options: []string{"bind", "ro"}}
	}
	return Mount{Type: "overlay", Source: "overlay", Options: append(lowerOptions(lowers, form), "ro")}
}

// Dirs are the directories that make up a container's root, topmost first: what
// Prepare made in dir of lowers, whichever driver it was.
func Dirs(lowers []string, dir string) []string {
	own := Written(dir)
	if filepath.Base(own) == rootDir {
		return []string{own}
	}
	return append([]string{own}, lowers...)
}

// Written is the directory with what a container has written; if it is Whole,
// among all the rest of its root.
func Written(dir string) string {
	if whole := filepath.Join(dir, rootDir); exists(whole) {
		return whole
	}
	return filepath.Join(dir, upperDir)
}

// Whole reports whether the directory of Written has the image in it too.
func Whole(dir string) bool { return exists(filepath.Join(dir, rootDir)) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
