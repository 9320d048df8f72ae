package container

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/strake-containers/strake/internal/sys"
)

// ownDir is a container's state directory as long as it is somebody's to undo or remove. By
// its name it may be another's meanwhile: others delete containers, and make the next one of an
// id. It is held open, since many file systems give the number of an inode that has gone to the
// next one at once.
type ownDir struct {
	name string
	file *os.File
	is   os.FileInfo
}

// open finds the directory that has the name now.
func (d *ownDir) open(name string) (err error) {
	file, err := sys.Open(name, sys.OPath|os.O_RDONLY)
	if err != nil {
		return err
	}
	d.name, d.file = name, file
	d.is, err = file.Stat()
	return err
}

// there says whether it still has its name.
func (d *ownDir) there() bool {
	now, err := os.Lstat(d.name)
	return err == nil && os.SameFile(d.is, now)
}

// unlink removes a file of the directory, if it is there.
func (d *ownDir) unlink(file string) error {
	if err := sys.UnlinkAt(sys.Fd(d.file), file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return &os.PathError{Op: "unlink", Path: filepath.Join(d.name, file), Err: err}
	}
	return nil
}

func (d *ownDir) close() {
	if d.file != nil {
		_ = d.file.Close() // there is nothing to flush
	}
}
