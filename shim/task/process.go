package task

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// process is a container's init or an exec. Its task's mu guards what is below.
type process struct {
	execID                string // "" is init
	silent                bool   // of ExecSync: nobody hears of it
	terminal              bool
	stdin, stdout, stderr string

	// done is closed when exit is final.
	done chan struct{}

	// Guarded by task.mu, but constant once the process has been started.
	spec  *specs.Process // of an exec, until it is started
	io    *stdio.IO
	pid   int
	pidfd *os.File
	// shim has the process, if it is a foreign one's: there is no pidfd.
	shim *foreignContainer

	phase     phase
	busy      bool       // a verb is starting it: keep its exit back
	held      *reap.Exit // the exit that was kept back
	giveUp    func()     // ends the start of an exec that is under way
	ending    bool       // its exit has come
	startedAt time.Time
	exit      reap.Exit
	lost      bool // nobody has seen how it ended: exit is a guess
}

// phase is how far a process is in its life.
type phase int

const (
	created phase = iota + 1
	running
	stopped
)

func (p phase) String() string {
	switch p {
	case created:
		return "created"
	case running:
		return "running"
	default:
		return "stopped"
	}
}

// errFinished is for a signal to a process that has ended. The words are those
// that containerd's own shim uses.
func errFinished(t *task, p *process) error {
	return wire.Errorf(wire.NotFound, "%s: process already finished", t.name(p))
}

// exists: it has been made, and its exit comes.
func (p *process) exists() bool { return p.pidfd != nil || p.shim != nil }

// signal sends a signal to exactly this process.
func (t *task) signal(p *process, sig syscall.Signal) error {
	t.mu.Lock()
	over, exists, shim, giveUp := p.phase == stopped, p.exists(), p.shim, p.giveUp
	var err error
	if !over && exists && shim == nil {
		err = signalFD(p.pidfd, sig)
	}
	t.mu.Unlock()
	switch {
	case over:
		return errFinished(t, p)
	case !exists && giveUp != nil && sig == syscall.SIGKILL:
		giveUp() // a container that is frozen lets none in
		return nil
	case !exists:
		return wire.Errorf(wire.FailedPrecondition, "%s has not been started", t.name(p))
	case shim != nil:
		err = shim.kill(context.Background(), p.execID, sig, false)
	}
	if errors.Is(err, container.ErrNotRunning) {
		return errFinished(t, p)
	}
	if errors.Is(err, syscall.ESRCH) {
		return errFinished(t, p)
	}
	if err != nil {
		return wire.Errorf(wire.Unknown, "%s: signal %d: %w", t.name(p), int(sig), err)
	}
	return nil
}

// signalFD signals the process behind a pidfd.
func signalFD(pidfd *os.File, sig syscall.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sigErr error
	if err := raw.Control(func(fd uintptr) { sigErr = sys.SignalPidFD(int(fd), sig) }); err != nil {
		return err
	}
	return sigErr
}

// close releases what a process that has ended, or never began, still holds.
func (p *process) close() {
	if p.io != nil {
		_ = p.io.Close() // it has no error that anybody could act on
	}
	if p.pidfd != nil {
		_ = p.pidfd.Close() // only waited on
	}
}
