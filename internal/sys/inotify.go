package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What an Inotify can watch for.
const (
	InAccess    = unix.IN_ACCESS     // read
	InClose     = unix.IN_CLOSE      // closed
	InModify    = unix.IN_MODIFY     // written to
	InCreate    = unix.IN_CREATE     // made in the watched directory
	InMovedTo   = unix.IN_MOVED_TO   // renamed into it
	InMovedFrom = unix.IN_MOVED_FROM // renamed out of it
	InDelete    = unix.IN_DELETE     // removed from the watched directory
)

// Inotify tells of changes to files and directories (inotify(7)). Wait may run
// in one goroutine while another closes it.
type Inotify struct {
	file *os.File
	buf  [4096]byte
}

// NewInotify returns one that watches nothing yet; the caller closes it.
func NewInotify() (*Inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &Inotify{file: os.NewFile(uintptr(fd), "inotify")}, nil
}

// Add watches path for the changes in mask.
func (i *Inotify) Add(path string, mask uint32) error {
	var err error
	conn, err := i.file.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := conn.Control(func(fd uintptr) { _, err = unix.InotifyAddWatch(int(fd), path, mask) })
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("inotify: watch %s: %w", path, err)
	}
	return nil
}

// Wait blocks until something has changed since the last Wait, and does not say
// what. It fails once i is closed.
func (i *Inotify) Wait() error {
	_, err := i.file.Read(i.buf[:])
	return err
}

// Close ends a Wait under way.
func (i *Inotify) Close() error { return i.file.Close() }
