package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/strake-containers/strake/cli/stream"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// checkTerminal refuses -it where there is no terminal to type at.
func (a *app) checkTerminal(interactive bool) error {
	if interactive && !isTerminal(a.stdin) {
		return errors.New("-it: standard input is not a terminal: leave -t out")
	}
	return nil
}

// rawTerminal passes every key on as it is typed, if there is a terminal.
// Restore, which is never nil, gives it back as it was.
func (a *app) rawTerminal() (restore func(), err error) {
	if !isTerminal(a.stdin) {
		return func() {}, nil
	}
	fd := int(a.stdin.Fd())
	was, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	return func() { _ = term.Restore(fd, was) }, nil // it fails when the terminal has gone
}

// detached ends a session whose detach keys were typed: the shell's prompt comes
// on a line of its own. The terminal may still be raw.
func (a *app) detached() error {
	fmt.Fprint(a.stderr, "\r\n")
	return nil
}

// terminalSize is the terminal's; ok is false where there is none.
func (a *app) terminalSize() (s stream.Size, ok bool) {
	for _, f := range []*os.File{a.stdout, a.stdin} {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			return stream.Size{Width: w, Height: h}, true
		}
	}
	return s, false
}

// terminalSizes gives the terminal's size, now and when it changes, until ctx ends.
func (a *app) terminalSizes(ctx context.Context) <-chan stream.Size {
	sizes := make(chan stream.Size, 1)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			if s, ok := a.terminalSize(); ok {
				select {
				case sizes <- s:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
