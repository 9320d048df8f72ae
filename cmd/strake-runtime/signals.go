package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Asking Go for a signal costs two switches of threads, and there are sixty of
// them: a millisecond and more, a third of the life of a short container. So
// signals are asked for beside the work, the usual ones first, and nobody gives
// them back at the end: the process is about to go.

// usual are the signals that people and programs send to what they have started.
var usual = [...]os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGTSTP,
}

// signals are those that this process gets and passes on.
type signals struct {
	c     chan os.Signal
	ready chan struct{} // closed once the usual ones come here
}

// catchSignals begins to take signals.
func catchSignals() *signals {
	s := &signals{make(chan os.Signal, 128), make(chan struct{})}
	go func() {
		signal.Notify(s.c, usual[:]...)
		close(s.ready)
	}()
	return s
}

// catchRest takes the other signals too, once there is somebody to pass them on
// to. Left out are those that nobody can catch, that are about this process
// (children, broken pipes, faults) and SIGURG, which Go's scheduler uses.
func (s *signals) catchRest() {
	<-s.ready
	go func() {
		for n := syscall.Signal(1); n <= 64; n++ {
			switch n {
			case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG,
				syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS,
				32, 33: // the C library's
			default:
				signal.Notify(s.c, n)
			}
		}
	}()
}

// untilTerminated returns a context that ends when somebody terminates us, so
// that a verb that waits can undo what it has begun.
func untilTerminated() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 1)
	go func() {
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
		<-c
		cancel()
	}()
	return ctx
}
