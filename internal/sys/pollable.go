package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// DupPollable duplicates a descriptor, close-on-exec and for the runtime's
// poller: reads and waits on the copy park a goroutine, not a thread. The
// original's mode is the copy's too (it becomes non-blocking), so this is for
// pidfds, eventfds and pipes that this process reads itself.
func DupPollable(f *os.File) (dup *os.File, err error) {
	ctlErr := control(f, func(fd uintptr) error {
		dup, err = DupPollableFD(int(fd), f.Name())
		return nil
	})
	if ctlErr != nil {
		return nil, ctlErr
	}
	return dup, err
}

// Dup duplicates a descriptor, close-on-exec.
func Dup(f *os.File) (dup *os.File, err error) {
	ctlErr := control(f, func(fd uintptr) error {
		n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			dup = os.NewFile(uintptr(n), f.Name())
		}
		return os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	})
	return dup, ctlErr
}

// DupPollableFD is DupPollable for a bare descriptor.
func DupPollableFD(fd int, name string) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		_ = unix.Close(dup) // unused
		return nil, os.NewSyscallError("fcntl(O_NONBLOCK)", err)
	}
	return os.NewFile(uintptr(dup), name), nil
}
