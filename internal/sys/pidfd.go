package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

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

// WaitHangup is WaitReadable for the end of a pipe whose other ends are closed.
func WaitHangup(ctx context.Context, f *os.File) error { return waitFor(ctx, f, 0) }

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

// pidfdInfo is struct pidfd_info (linux/pidfd.h) as far as Linux 6.15 knows it.
type pidfdInfo struct {
	mask, cgroup                                                      uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                                          int32
}

const (
	pidfdGetInfo  = 0xC000_FF0B | unsafe.Sizeof(pidfdInfo{})<<16 // _IOWR(0xFF, 11, struct pidfd_info)
	pidfdInfoExit = 1 << 3
)

// PidFDExit tells whether the process behind a pidfd has ended, whoever its parent
// is, and how, if that can be known: since Linux 6.15, once its parent has
// collected it, of a process of which somebody has had a pidfd ever since.
func PidFDExit(fd int) (exit ChildExit, known, ended bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	switch {
	case errno == unix.ESRCH:
		return ChildExit{}, false, true
	case errno != 0: // an older kernel
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return ChildExit{}, false, err == nil && n > 0
	case info.mask&pidfdInfoExit == 0:
		return ChildExit{}, false, false
	}
	return exitOf(unix.WaitStatus(info.exitCode)), true, true
}

func exitOf(status unix.WaitStatus) ChildExit {
	if status.Signaled() {
		return ChildExit{Status: int(status.Signal()), Signaled: true}
	}
	return ChildExit{Status: status.ExitStatus()}
}

// ZombieExit tells how the process behind a pidfd, whose number is pid, has ended
// if its parent has not collected it yet, on any kernel.
func ZombieExit(fd, pid int) (exit ChildExit, ok bool) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return ChildExit{}, false
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ChildExit{}, false
	}
	// pid (name) state …; the name may hold anything. exit_code is field 52.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 50 || fields[0] != "Z" {
		return ChildExit{}, false
	}
	status, err := strconv.ParseUint(fields[49], 10, 32)
	if err != nil || SignalPidFD(fd, 0) != nil { // another process by now, perhaps
		return ChildExit{}, false
	}
	return exitOf(unix.WaitStatus(status)), true
}
