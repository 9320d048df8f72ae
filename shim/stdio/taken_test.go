package stdio

import (
	"io"
	"syscall"
	"testing"
	"time"
)

// A caller whose open of the output's FIFO comes back late, as on a busy machine, has
// read nothing when a short process ends; and containerd, told of the end by then, never
// does.
func TestLateReader(t *testing.T) {
	path := t.TempDir() + "/fifo"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := openFIFO(path, syscall.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Config{Stdout: path})
		if err != nil {
			t.Fatal(err)
		}
		cmd := start(t, s, "echo", "last words")
		ended := make(chan struct{})
		go func() {
			finish(t, s, cmd)
			close(ended)
		}()
		select {
		case <-ended:
			t.Error("the exit is told before the output has been read")
		case <-time.After(100 * time.Millisecond):
		}
		if got, err := io.ReadAll(r); string(got) != "last words\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		<-ended
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who goes away without reading is not waited for.
func TestReaderGone(t *testing.T) {
	path := t.TempDir() + "/fifo"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openFIFO(path, syscall.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openFIFO(path, syscall.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("last words\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		awaitTaken(t.Context(), path)
		close(ended)
	}()
	select {
	case <-ended:
		t.Error("nobody waited")
	case <-time.After(100 * time.Millisecond):
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-ended
	awaitTaken(t.Context(), path)
}
