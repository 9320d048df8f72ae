// Package atomicfile replaces a file whole or not at all.
//
// A reader, a crash or a power cut sees the old content or the new, never a
// mixture: the content goes to a temporary file in the same directory, which is
// then renamed. It takes no lock; two writers of one path leave one's content.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/internal/sys"
)

// tempPrefix marks the temporary files that a crash can leave behind. No file
// of ours has a name that starts with it.
const tempPrefix = ".strake-tmp-"

// Write replaces path with data and survives a power cut once it has returned:
// the file is fsynced before the rename and its directory after.
func Write(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, true)
}

// WriteVolatile replaces path with data without any fsync. It is for what dies
// with the boot anyway (below /run) or can be made again.
func WriteVolatile(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, false)
}

// WriteNew is Write for a path that is not there yet: if it is, the error is
// fs.ErrExist and the file stays as it is.
func WriteNew(path string, data []byte, perm os.FileMode) error {
	temp, err := fill(path, data, perm, true)
	if err != nil {
		return err
	}
	err = os.Link(temp, path)
	if e := os.Remove(temp); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// Stage does all of WriteVolatile but its last step, which puts the content in
// place. A staged file that is not wanted any more is a leftover.
func Stage(path string, data []byte, perm os.FileMode) (place func() error, err error) {
	temp, err := fill(path, data, perm, false)
	if err != nil {
		return nil, err
	}
	return func() error { return os.Rename(temp, path) }, nil
}

func write(path string, data []byte, perm os.FileMode, durable bool) error {
	temp, err := fill(path, data, perm, durable)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp) // or RemoveLeftovers at the next start
		return fmt.Errorf("write %s: %w", path, err)
	}
	if !durable {
		return nil
	}
	return SyncDir(filepath.Dir(path))
}

// fill writes data to a temporary file that is to become path.
func fill(path string, data []byte, perm os.FileMode, durable bool) (temp string, err error) {
	f, err := create(path)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // closed twice at worst; the first error counts
			_ = os.Remove(f.Name()) // or RemoveLeftovers at the next start
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return "", err
		}
	}
	return f.Name(), f.Close()
}

// create makes the temporary file for path, which nobody may open yet.
// (os.CreateTemp would have Go set up its poller for it: ten system calls.)
func create(path string) (f *os.File, err error) {
	const tries = 10000 // as many leftovers may be in the way
	prefix := filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-"+strconv.Itoa(os.Getpid())+"-")
	for n := range tries {
		f, err = sys.Open(prefix+strconv.Itoa(n), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return f, err
}

// SyncDir makes the creations, renames and removals in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// IsTemp says whether a file's name is that of a temporary file of ours.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// RemoveLeftovers removes the temporary files that a crash left in dir. The
// caller knows that nobody is writing there.
func RemoveLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if IsTemp(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
