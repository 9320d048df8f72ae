package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	text := strings.Repeat("x", 5000)
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(file, len(text)); err != nil || string(data) != text {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if _, err := ReadFile(file, len(text)-1); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), file) {
		t.Errorf("too large: %v", err)
	}
	if _, err := ReadFile(filepath.Join(dir, "none"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if data, err := ReadFile(fifo, 1); err != nil || len(data) > 0 { // nobody writes, and nobody waits
		t.Errorf("a FIFO: %q, %v", data, err)
	}
}
