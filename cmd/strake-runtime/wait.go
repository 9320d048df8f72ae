package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// signals are those that this process gets and passes on.
type signals struct{ c chan os.Signal }

// catchSignals takes all signals. SIGURG is left to Go's scheduler, which uses
// it, and SIGPIPE to whoever writes.
func catchSignals() signals {
	s := signals{make(chan os.Signal, 128)}
	var all []os.Signal
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case syscall.SIGURG, syscall.SIGPIPE, syscall.SIGKILL, syscall.SIGSTOP:
		default:
			all = append(all, n)
		}
	}
	signal.Notify(s.c, all...)
	return s
}

func (s signals) stop() { signal.Stop(s.c) }

// wait waits for the end of a process that is a child of ours, passes signals on
// to it and collects whatever else ends meanwhile. It returns the exit code and
// closes the process's pidfd.
func wait(p *container.Process, signals signals, t *tty) (code int, err error) {
	defer func() { err = errors.Join(err, p.PidFD.Close()) }()
	// The child may have ended before its signal was asked for.
	for first := true; ; first = false {
		if !first {
			switch sig := <-signals.c; sig {
			case syscall.SIGCHLD:
			case syscall.SIGWINCH:
				t.resize()
				continue
			default:
				if err := sys.SignalPidFD(sys.Fd(p.PidFD), sig.(syscall.Signal)); err != nil && !errors.Is(err, syscall.ESRCH) {
					return 0, fmt.Errorf("pass %v on to process %d: %w", sig, p.Pid, err)
				}
				continue
			}
		}
		exit, ok, err := reap(p.Pid)
		if err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", p.Pid, err)
		}
		if ok && exit.Signaled {
			return 128 + exit.Status, nil
		}
		if ok {
			return exit.Status, nil
		}
	}
}

// reap collects every child that has ended, up to the one with the given pid. A
// subreaper gets the orphans of its containers.
func reap(pid int) (sys.ChildExit, bool, error) {
	for {
		exit, ok, err := sys.PeekChild()
		if err != nil || !ok {
			return sys.ChildExit{}, false, err
		}
		if _, _, err := sys.WaitPid(exit.Pid); err != nil {
			return sys.ChildExit{}, false, err
		}
		if exit.Pid == pid {
			return exit, true, nil
		}
	}
}
