package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OpenPidFD opens a descriptor of a process, for WaitReadable (it is readable
// once the process has ended) and SignalPidFD. The caller closes it. ESRCH if
// there is no such process.
func OpenPidFD(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd %d", pid)), nil
}

// WaitReadable waits until f, which must be for the runtime's poller (see
// DupPollable), is readable, or ctx ends. It reads nothing.
func WaitReadable(ctx context.Context, f *os.File) error {
	return waitFor(ctx, f, unix.POLLIN)
}

// WaitUrgent is WaitReadable for what a file tells by POLLPRI: that a pseudo file
// has changed since it was last read (cgroup-v2.rst, "Populated notification").
func WaitUrgent(ctx context.Context, f *os.File) error {
	return waitFor(ctx, f, unix.POLLPRI)
}

func waitFor(ctx context.Context, f *os.File, events int16) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pollErr error
	err = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		var n int
		n, pollErr = unix.Poll(fds, 0)
		return n > 0 || pollErr != nil && !errors.Is(pollErr, unix.EINTR)
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return errors.Join(err, pollErr)
}

// NewEventFD returns a counter that the kernel can add to (eventfd(2)), readable
// once it is not zero. The caller closes it.
func NewEventFD() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}
