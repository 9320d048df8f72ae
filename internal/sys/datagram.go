package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// DialDatagram connects to a unix socket that takes datagrams: each Write is one. A
// path that begins with @ is an abstract name.
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

// DialDatagramIn connects to a socket of ListenDatagram.
func DialDatagramIn(dir, name string) (*os.File, error) {
	return socketIn(dir, name, unix.SOCK_DGRAM, func(fd int, addr *unix.SockaddrUnix) error { return unix.Connect(fd, addr) })
}

// ListenDatagram makes a unix socket in a directory that takes datagrams; it is for
// the runtime's poller. The path is resolved as ListenPacket's.
func ListenDatagram(dir, name string) (*os.File, error) {
	return socketIn(dir, name, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, func(fd int, addr *unix.SockaddrUnix) error { return unix.Bind(fd, addr) })
}

// ReceiveDatagram reads a datagram, or as much of it as there is room for, and never
// waits: EAGAIN when there is none. Descriptors that come with it are closed.
func ReceiveDatagram(f *os.File, buf []byte) (n int, err error) {
	ctlErr := control(f, func(fd uintptr) error {
		for {
			if n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT); !errors.Is(err, unix.EINTR) {
				return nil
			}
		}
	})
	return n, errors.Join(ctlErr, err)
}

// SendDatagram sends a datagram with a descriptor by a connected socket, and waits for
// room.
func SendDatagram(to *os.File, data []byte, with *os.File) error {
	for {
		err := unix.Sendmsg(Fd(to), data, unix.UnixRights(Fd(with)), nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendmsg", err)
		}
	}
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
