package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Tee duplicates what is in the pipe or FIFO from into the pipe to, at most n
// bytes, without taking it away, and never waits. EAGAIN when there is nothing;
// 0 when there is nothing and no writer. Both are bare descriptors.
func Tee(from, to, n int) (int, error) {
	for {
		got, err := unix.Tee(from, to, n, unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(got), err
		}
	}
}

// Move moves what can be read from one descriptor into a pipe, at most n bytes,
// and never waits: EAGAIN when there is nothing to read or no room. A process
// that is killed meanwhile loses nothing: a byte is on the one side or the other.
func Move(from, to, n int) (int, error) {
	for {
		got, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(got), err
		}
	}
}

// ReadInto reads into several buffers, in order.
func ReadInto(fd int, bufs ...[]byte) (int, error) {
	for {
		n, err := unix.Readv(fd, bufs)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// Buffered is how many bytes a pipe or FIFO holds.
func Buffered(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }

// Unread says whether a pipe, whose end for writing fd is, holds what somebody may still
// read.
func Unread(fd int) bool {
	if n, err := Buffered(fd); n == 0 || err != nil {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(fd)}}
	_, err := unix.Poll(fds, 0)
	return err != nil || fds[0].Revents&unix.POLLERR == 0 // which says that there is no reader
}

// Room reports whether a pipe takes at least a page at once.
func Room(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// PipeSize is how much a pipe or FIFO can hold.
func PipeSize(f *os.File) (n int, err error) {
	ctlErr := control(f, func(fd uintptr) error {
		n, err = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
		return nil
	})
	return n, errors.Join(ctlErr, os.NewSyscallError("fcntl(F_GETPIPE_SZ)", err))
}

// Widen makes a pipe, a bare descriptor, hold size bytes.
func Widen(fd, size int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
	return os.NewSyscallError("fcntl(F_SETPIPE_SZ)", err)
}

// MapShared maps the first size bytes of a file, which is made that long, to be
// read and written; what is in the mapping outlives the process. The caller
// keeps f.
func MapShared(f *os.File, size int) (page []byte, err error) {
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	ctlErr := control(f, func(fd uintptr) error {
		page, err = unix.Mmap(int(fd), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return nil
	})
	return page, errors.Join(ctlErr, os.NewSyscallError("mmap", err))
}

// Unmap ends a mapping of MapShared.
func Unmap(page []byte) error { return os.NewSyscallError("munmap", unix.Munmap(page)) }
