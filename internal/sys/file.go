package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Files that nobody ever waits for: those of kernel file systems, and ours on
// /run. The os package would offer each to the poller, five system calls more,
// and be woken by those of cgroupfs whenever they change.

// Open opens a file, close-on-exec, beside the poller.
func Open(path string, flags int) (*os.File, error) {
	fd, err := open(path, flags, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func open(path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		default:
			return fd, nil
		}
	}
}

// ErrTooLarge is a file with more content than is taken.
var ErrTooLarge = errors.New("file is too large")

// ReadFile reads a file of at most limit bytes. A FIFO that somebody has put in its
// place is an empty file or an error: nobody is waited for.
func ReadFile(path string, limit int) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return readAll(fd, path, make([]byte, 0, min(limit+1, 4096)), limit)
}

// readAll reads at most limit bytes to the end, into data as far as that has room.
func readAll(fd int, path string, data []byte, limit int) ([]byte, error) {
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return data, nil
		}
		data = data[:len(data)+n]
		if len(data) > limit {
			return nil, &os.PathError{Op: "read", Path: path, Err: ErrTooLarge}
		}
		if len(data) == cap(data) {
			data = append(make([]byte, 0, 4*cap(data)), data...)
		}
	}
}

// OpenInPlace opens a file to be written, made if need be. What is written over a part of
// it takes no space, on btrfs neither if it was made here (FS_NOCOW_FL, ioctl_iflags(2)).
func OpenInPlace(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	const noCopyOnWrite = 0x800000 // FS_NOCOW_FL of linux/fs.h
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && flags&noCopyOnWrite == 0 {
		// Refused by file systems that have no such flag, and for a file with content.
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCopyOnWrite)
	}
	return f, nil
}

// SetBlocksAside gives a file blocks for its first n bytes, whatever its size: writing them
// takes no space (fallocate(2)). On a file system that cannot do that, nothing happens.
func SetBlocksAside(f *os.File, n int64) error {
	const blockSize = 512 // of st_blocks (stat(2))
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Blocks*blockSize >= n {
		return nil
	}
	for {
		switch err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, n); err {
		case nil, unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		case unix.EINTR:
		default:
			return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
	}
}

// WriteNewFile makes a file of data. It fails if path is there already.
func WriteNewFile(path string, data []byte, perm uint32) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return errors.Join(&os.PathError{Op: "write", Path: path, Err: err}, unix.Close(fd))
		}
		data = data[max(n, 0):]
	}
	return os.NewSyscallError("close", unix.Close(fd))
}
