package main

import (
	"context"
	"fmt"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// catchSignals has every signal come to us that can be passed on, and SIGCHLD.
// Left out are those that nobody can catch, that are about this process (broken
// pipes, faults) and SIGURG, which Go's scheduler uses.
func catchSignals() (*sys.Signals, error) {
	list := make([]syscall.Signal, 0, 64)
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPIPE, syscall.SIGURG,
			syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS,
			32, 33: // the C library's
		default:
			list = append(list, n)
		}
	}
	signals, err := sys.CatchSignals(list...)
	if err != nil {
		return nil, fmt.Errorf("catch signals: %w", err)
	}
	return signals, nil
}

// untilTerminated returns a context that ends when somebody terminates us, so
// that a verb that waits can undo what it has begun.
func untilTerminated() (context.Context, error) {
	signals, err := sys.CatchSignals(syscall.SIGTERM, syscall.SIGINT)
	if err != nil {
		return nil, fmt.Errorf("catch signals: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = signals.Next()
		cancel()
	}()
	return ctx, nil
}
