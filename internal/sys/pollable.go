package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// DupPollable duplicates a descriptor, close-on-exec and for the runtime's
// poller: reads and waits on the copy park a goroutine, not a thread. The
// original's mode is the copy's too (it becomes non-blocking), so this is for
// pidfds, eventfds and pipes that this process reads itself.
func DupPollable(f *os.File) (*os.File, error) {
	var dup int
	err := control(f, func(fd uintptr) (err error) {
		dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	})
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		_ = unix.Close(dup)
		return nil, os.NewSyscallError("fcntl(O_NONBLOCK)", err)
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}
