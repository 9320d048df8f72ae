package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SetPipeSize asks for a pipe or FIFO of at least size bytes. The kernel refuses
// where the user has too many pipe pages already; the pipe then stays as it was.
func SetPipeSize(f *os.File, size int) error {
	return control(f, func(fd uintptr) error { return Widen(int(fd), size) })
}

// SetWinsize sets the size of a terminal, in characters, by either of its ends.
func SetWinsize(f *os.File, width, height uint16) error {
	return control(f, func(fd uintptr) error {
		return os.NewSyscallError("ioctl(TIOCSWINSZ)",
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
	})
}

// MakeFIFO makes a FIFO with exactly perm, or leaves the one that is there.
func MakeFIFO(path string, perm uint32) error {
	if err := unix.Mkfifo(path, perm); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return fmt.Errorf("make FIFO %s: there is something else at that path: remove it", path)
	}
	return os.Chmod(path, os.FileMode(perm)) // whatever the umask was
}

// control runs fn on a file's descriptor without changing the file's mode, which
// os.File.Fd would.
func control(f *os.File, fn func(fd uintptr) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := raw.Control(func(fd uintptr) { fnErr = fn(fd) }); err != nil {
		return err
	}
	return fnErr
}

// SetBlocking puts a file into blocking mode, for another process to use; this
// one must not read or write it any more.
func SetBlocking(f *os.File) error {
	return control(f, func(fd uintptr) error {
		return os.NewSyscallError("fcntl(O_NONBLOCK)", unix.SetNonblock(int(fd), false))
	})
}
