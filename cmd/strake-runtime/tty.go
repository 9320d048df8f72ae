package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// tty connects our terminal with that of a process in the foreground. A nil tty
// does nothing: the process has no terminal of its own.
type tty struct {
	master  *os.File
	restore func() error
	output  sync.WaitGroup
	outErr  error // of the copy to standard output; read after output.Wait
}

// openTTY takes the master over. Nil without one.
func openTTY(console *os.File) (*tty, error) {
	if console == nil {
		return nil, nil
	}
	// A copy for the poller: reads of it end when it is closed.
	master, err := sys.DupPollable(console)
	if err := errors.Join(err, console.Close()); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	sys.Concurrent()
	t := &tty{master: master, restore: func() error { return nil }}
	if !sys.IsTerminal(os.Stdout) { // who reads a pipe or a file wants lines as they were written
		if err := sys.PlainNewlines(master); err != nil {
			return nil, errors.Join(fmt.Errorf("terminal: %w", err), master.Close())
		}
	}
	if sys.IsTerminal(os.Stdin) {
		t.resize()
		if t.restore, err = sys.RawTerminal(os.Stdin); err != nil {
			return nil, errors.Join(fmt.Errorf("terminal: %w", err), master.Close())
		}
	}
	t.output.Go(func() { t.outErr = copyOutput(master) })
	go func() { _, _ = io.Copy(master, os.Stdin) }() // ends with the program, at the latest
	return t, nil
}

// copyOutput copies until the other end has been closed by everybody, which
// reads as EIO.
func copyOutput(master *os.File) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := master.Read(buf)
		if n > 0 {
			if _, err := os.Stdout.Write(buf[:n]); err != nil {
				return fmt.Errorf("standard output: %w", err)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// resize gives the process's terminal the size of ours.
func (t *tty) resize() {
	if t == nil {
		return
	}
	if width, height, err := sys.Winsize(os.Stdin); err == nil {
		_ = sys.SetWinsize(t.master, width, height) // a terminal that has gone needs no size
	}
}

// close writes what the process has left in its terminal, which others of its
// session may hold open still, and puts ours in order.
func (t *tty) close() error {
	if t == nil {
		return nil
	}
	deadlineErr := t.master.SetReadDeadline(time.Unix(1, 0)) // ends copyOutput's read
	t.output.Wait()
	drainErr := sys.DrainTerminal(t.master, func(data []byte) error {
		_, err := os.Stdout.Write(data)
		return err
	})
	return errors.Join(deadlineErr, t.outErr, drainErr, t.restore(), t.master.Close())
}
