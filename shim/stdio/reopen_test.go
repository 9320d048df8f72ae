package stdio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
)

// Who follows a log goes on to the new file as soon as that is there (the kubelet's
// log handler does): by then the old one has to have all it will ever have.
func TestReopenEndsTheOldFileFirst(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	log := newLog(t, path, 0)
	w := newFed(t, log)
	go w.pump.run()
	var enough atomic.Bool
	wrote := make(chan error, 1)
	go func() {
		var err error
		for !enough.Load() && err == nil {
			_, err = w.in.WriteString("a line\n")
		}
		wrote <- err
	}()
	defer func() {
		enough.Store(true)
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		w.pump.stop()
		<-w.pump.done
	}()

	events := watch(t, dir)
	for i := range 300 {
		old := fmt.Sprintf("log.%d", i)
		if err := os.Rename(path, filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
		if err := log.reopen(); err != nil {
			t.Fatal(err)
		}
		begun := false
		for _, e := range events() {
			begun = begun || e.mask&syscall.IN_CREATE != 0
			if begun && e.name == old && e.mask&syscall.IN_MODIFY != 0 {
				t.Fatalf("%s was written to after the new file was made, at rotation %d", old, i)
			}
		}
		if err := os.Remove(filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
	}
}

type fileEvent struct {
	mask uint32
	name string
}

// watch returns a function that tells what was made and written in a directory since
// it was called last.
func watch(t *testing.T, dir string) func() []fileEvent {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // only read from
	if _, err := syscall.InotifyAddWatch(fd, dir, syscall.IN_CREATE|syscall.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	return func() []fileEvent {
		t.Helper()
		var events []fileEvent
		for {
			b := make([]byte, 64<<10)
			n, err := syscall.Read(fd, b)
			if errors.Is(err, syscall.EAGAIN) {
				return events
			}
			if err != nil {
				t.Fatal(err)
			}
			for b = b[:n]; len(b) > 0; {
				// struct inotify_event, inotify(7): wd, mask, cookie, len, name.
				mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
				name, _, _ := bytes.Cut(b[syscall.SizeofInotifyEvent:syscall.SizeofInotifyEvent+length], []byte{0})
				events = append(events, fileEvent{mask, string(name)})
				b = b[syscall.SizeofInotifyEvent+length:]
			}
		}
	}
}
