package sys

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// PacketPair makes a connection of packets between two processes: ours is for
// the runtime's poller, theirs is to be inherited. The caller closes both.
func PacketPair(name string) (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(pair[0]), unix.Close(pair[1]))
	}
	return os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name), nil
}

// ErrPacketTooLarge is a packet that does not fit into the buffer.
var ErrPacketTooLarge = errors.New("packet is too large")

// ReceivePacket waits for a packet on PacketPair's first end and returns its
// length and the descriptor that came with it, if any, which the caller closes.
// The error is io.EOF when the other end has been closed.
func ReceivePacket(conn *os.File, buf []byte) (n int, file *os.File, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4)) // one descriptor; the kernel closes more
	var oobn, flags int
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, recvErr = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(recvErr, unix.EAGAIN) && !errors.Is(recvErr, unix.EINTR)
	})
	if err = errors.Join(err, recvErr); err != nil {
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			file = os.NewFile(uintptr(fds[0]), "received")
		}
	}
	switch {
	case flags&unix.MSG_TRUNC != 0:
		err = ErrPacketTooLarge
	case n == 0:
		err = io.EOF
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close())
		file = nil
	}
	return n, file, err
}
