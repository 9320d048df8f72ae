package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// ended is how a process ended.
type ended struct {
	status syscall.WaitStatus
	err    error
}

// wait waits for the end of a process that is a child of ours, passes signals on
// to it and collects whatever else ends meanwhile. It returns the exit code and
// closes the process's pidfd.
func wait(p *container.Process, s *signals, t *tty) (code int, err error) {
	defer func() { err = errors.Join(err, p.PidFD.Close()) }()
	s.catchRest()
	end := make(chan ended, 1)
	go func() { end <- reap(p.Pid) }()
	for {
		select {
		case sig := <-s.c:
			if sig == syscall.SIGWINCH && t != nil {
				t.resize()
				continue
			}
			err := sys.SignalPidFD(sys.Fd(p.PidFD), sig.(syscall.Signal))
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return 0, fmt.Errorf("pass %v on to process %d: %w", sig, p.Pid, err)
			}
		case e := <-end:
			switch {
			case e.err != nil:
				return 0, fmt.Errorf("wait for process %d: %w", p.Pid, e.err)
			case e.status.Signaled():
				return 128 + int(e.status.Signal()), nil
			}
			return e.status.ExitStatus(), nil
		}
	}
}

// reap collects every child that ends, up to the one with the given pid: a
// subreaper gets the orphans of its containers. It blocks a thread, which is
// cheaper than to be told by SIGCHLD.
func reap(pid int) ended {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return ended{err: err}
		case got == pid:
			return ended{status: status}
		}
	}
}
