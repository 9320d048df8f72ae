package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// wait waits for the end of a process that is a child of ours, passes signals on
// to it and collects whatever else ends meanwhile. It returns the exit code and
// closes the process's pidfd.
func wait(p *container.Process, signals *sys.Signals, t *tty) (code int, err error) {
	defer func() { err = errors.Join(err, p.PidFD.Close()) }()
	for {
		sig, err := signals.Next()
		if err != nil {
			return 0, fmt.Errorf("wait for signals: %w", err)
		}
		switch {
		case sig == syscall.SIGCHLD:
			status, ended, err := reap(p.Pid)
			switch {
			case err != nil:
				return 0, fmt.Errorf("wait for process %d: %w", p.Pid, err)
			case ended && status.Signaled():
				return 128 + int(status.Signal()), nil
			case ended:
				return status.ExitStatus(), nil
			}
		case sig == syscall.SIGWINCH && t != nil:
			t.resize()
		default:
			err := sys.SignalPidFD(sys.Fd(p.PidFD), sig)
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return 0, fmt.Errorf("pass %v on to process %d: %w", sig, p.Pid, err)
			}
		}
	}
}

// reap collects the children that have ended, up to the one with the given pid:
// a subreaper gets the orphans of its containers.
func reap(pid int) (status syscall.WaitStatus, ended bool, err error) {
	for {
		switch got, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil); {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, false, err
		case got == pid:
			return status, true, nil
		case got == 0:
			return 0, false, nil
		}
	}
}
