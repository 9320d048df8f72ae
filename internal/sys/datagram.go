package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// DialDatagram connects to a unix socket that takes datagrams: each Write is one.
func DialDatagram(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Send sends a datagram by a connected socket, with rights as control data, and never
// waits: EAGAIN when there is no room.
func Send(fd int, data, rights []byte) error {
	for {
		if err := unix.Sendmsg(fd, data, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
