package stdio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/strake-containers/strake/internal/logdriver"
)

// makeRoom puts another file in the log's place if n more bytes would make this one
// larger than it may be. The older ones are path.1, path.2 and so on.
//
// It may be killed between any two steps: then no file is lost that would not have
// been, and the cells find theirs by its inode.
func (l *fileLog) makeRoom(n int) error {
	if l.fileSize == 0 {
		return nil
	}
	if size := l.stat().Size; size == 0 || size+int64(n) <= l.fileSize {
		return nil
	}
	// First what may fail for want of space.
	next, err := os.OpenFile(l.path+".next", os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, logPerm)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err = shift(l.path, l.files); err == nil {
		err = os.Rename(next.Name(), l.path)
	}
	if err != nil {
		_ = next.Close() // nothing was written
		return fmt.Errorf("rotate log: %w", err)
	}
	l.replace(next)
	return nil
}

// shift renames each file to the next older one's name, of files at most. Only up to
// the first name that is free: after a shift that was cut short, there is one; and not
// at all if it is path.
func shift(path string, files int) error {
	if _, err := os.Lstat(path); files < 2 || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	free := 1
	for ; free < files-1; free++ {
		if _, err := os.Lstat(logdriver.Older(path, free)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for i := free; i > 0; i-- {
		if err := os.Rename(logdriver.Older(path, i-1), logdriver.Older(path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
