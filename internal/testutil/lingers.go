package testutil

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Lingers is the text of a shell script that runs what is given and leaves a process behind
// that has its output open, until the end of the test.
func Lingers(tb testing.TB, script string) string {
	tb.Helper()
	fifo := filepath.Join(tb.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = f.Close() // its end is read
		}
		if err != nil && !errors.Is(err, syscall.ENXIO) { // nobody is there
			tb.Error(err)
		}
	})
	return "#!/bin/sh\n(read end <" + fifo + ") &\n" + script + "\n"
}
