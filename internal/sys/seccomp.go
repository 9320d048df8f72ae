package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SeccompCall is a system call that waits for the answer of a seccomp listener, or
// for its process to be killed (seccomp_unotify(2), struct seccomp_notif).
type SeccompCall struct {
	ID       uint64
	Nr, Arch uint32 // as in struct seccomp_data
	Args     [6]uint64
}

// SeccompCallSize is how much room ReceiveSeccomp needs.
const SeccompCallSize = 80

// ReceiveSeccomp has the kernel write the next call that waits at a listener into buf,
// which is of SeccompCallSize and all zeros: LastSeccomp reads it there. Where no call
// waits ok is false, and alive says whether there is any process left that has the filter.
//
// Only one may receive at a time, or it may block.
func ReceiveSeccomp(fd int, buf []byte) (ok, alive bool, err error) {
	if len(buf) != SeccompCallSize {
		return false, false, errors.New("receive a system call: no room")
	}
	for {
		wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(wait, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, false, os.NewSyscallError("poll", err)
		case n == 0 || wait[0].Revents&unix.POLLIN == 0:
			return false, wait[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) == 0, nil
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&buf[0])))
		switch errno {
		case 0:
			return true, true, nil
		case unix.EINTR, unix.ENOENT: // a signal; or the call's process was killed, or interrupted
		default:
			return false, false, os.NewSyscallError("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", errno)
		}
	}
}

// LastSeccomp is the call that ReceiveSeccomp has left in buf.
func LastSeccomp(buf []byte) SeccompCall {
	order := binary.NativeEndian
	c := SeccompCall{ID: order.Uint64(buf), Nr: order.Uint32(buf[16:]), Arch: order.Uint32(buf[20:])}
	for i := range c.Args {
		c.Args[i] = order.Uint64(buf[32+8*i:])
	}
	return c
}

// FailSeccomp lets a call fail with an errno. Waited is false if none with that id
// waits at the listener any more.
func FailSeccomp(fd int, id uint64, errno int) (waited bool, err error) {
	answer := struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}{id: id, error: -int32(errno)}
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
		switch e {
		case 0:
			return true, nil
		case unix.EINTR:
		case unix.ENOENT, unix.EINPROGRESS: // gone; or answered
			return false, nil
		default:
			return false, os.NewSyscallError("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", e)
		}
	}
}
