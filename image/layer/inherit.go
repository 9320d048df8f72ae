package layer

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// Inherit gives the directories that a layer implied the owner, mode, times and
// attributes that they have in the layers below, lowers, topmost first: a tar
// with "tmp/x" and no "tmp" must not change the mode of /tmp.
func Inherit(dir string, implied, lowers []string, form Form) error {
	root, err := sys.OpenDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = sys.CloseFd(root) }()
	for _, name := range implied {
		if err := inherit(root, name, lowers, form); err != nil {
			return &fs.PathError{Op: "attributes of the directory below", Path: filepath.Join(dir, name), Err: err}
		}
	}
	return nil
}

func inherit(root int, name string, lowers []string, form Form) error {
	for _, lower := range lowers {
		from, hidden, err := findBelow(lower, name, form)
		if err != nil {
			return err
		}
		if from >= 0 {
			defer func() { _ = sys.CloseFd(from) }()
			to, err := sys.OpenDirBelow(root, name)
			if err != nil {
				return err
			}
			defer func() { _ = sys.CloseFd(to) }()
			return copyAttributes(from, to)
		}
		if hidden {
			return nil // this layer deletes it: what is further below does not count
		}
	}
	return nil
}

// findBelow opens directory name of a layer, or returns -1 and whether this
// layer hides the name from those below it.
func findBelow(layer, name string, form Form) (fd int, hidden bool, err error) {
	dir, err := sys.OpenDir(layer)
	if err != nil {
		return -1, false, err
	}
	for component := range strings.SplitSeq(name, "/") {
		next, err := sys.OpenDirAt(dir, component)
		_ = sys.CloseFd(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return -1, hidden, nil
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP): // a whiteout, a file, a link
			return -1, true, nil
		case err != nil:
			return -1, false, err
		}
		dir = next
		value, err := sys.GetXattrFd(dir, form.opaque())
		if err != nil {
			_ = sys.CloseFd(dir)
			return -1, false, err
		}
		hidden = hidden || string(value) == "y"
	}
	return dir, false, nil
}

func copyAttributes(from, to int) error {
	st, err := sys.StatAt(from, "")
	if err != nil {
		return err
	}
	if err := attributes(from, to, st); err != nil {
		return err
	}
	return sys.SetTimesFd(to, st.Mtime, st.Mtime)
}
