package sys

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ChildExit is how a child ended: by exit with Status, or by signal Status.
type ChildExit struct {
	Pid      int
	Status   int
	Signaled bool
}

// childInfo is siginfo_t as waitid(2) fills it in on 64-bit Linux.
type childInfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [100]byte
}

// The values of si_code for a child that has ended (sigaction(2)).
const cldExited = 1

// waitChild is waitid(2), never blocking. ok is false if no such child has ended
// yet.
func waitChild(idType, id, options int) (exit ChildExit, ok bool, err error) {
	var info childInfo
	for {
		err := unix.Waitid(idType, id, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|options, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return ChildExit{}, false, err
		}
		break
	}
	if info.pid == 0 {
		return ChildExit{}, false, nil
	}
	return ChildExit{Pid: int(info.pid), Status: int(info.status), Signaled: info.code != cldExited}, true, nil
}

// WaitPidFD collects the child behind a pidfd if it has ended.
func WaitPidFD(fd int) (exit ChildExit, ok bool, err error) {
	return waitChild(unix.P_PIDFD, fd, 0)
}

// WaitPid collects a child by its number if it has ended.
func WaitPid(pid int) (exit ChildExit, ok bool, err error) {
	return waitChild(unix.P_PID, pid, 0)
}

// PeekChild finds any child that has ended, without collecting it. ok is false if
// there is none, or no child at all.
func PeekChild() (exit ChildExit, ok bool, err error) {
	exit, ok, err = waitChild(unix.P_ALL, 0, unix.WNOWAIT)
	if errors.Is(err, unix.ECHILD) {
		return ChildExit{}, false, nil
	}
	return exit, ok, err
}

// SignalPidFD sends a signal to the process behind a pidfd, which cannot be
// another one with the same number. ESRCH once it has been collected.
func SignalPidFD(fd int, sig unix.Signal) error {
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// SetSubreaper makes the orphans among this process's descendants its children.
func SetSubreaper() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}
