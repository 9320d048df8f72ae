package server

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestListen(t *testing.T) {
	address := filepath.Join(t.TempDir(), "run", "s.sock")
	s, err := Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{address: 0o600 | os.ModeSocket, filepath.Dir(address): 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := s.Listener.Accept()
		if err == nil {
			err = conn.Close()
		}
		accepted <- err
	}()
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), address); !errors.Is(err, ErrInUse) {
		t.Errorf("second daemon: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(address); err == nil {
		t.Error("Close left the socket")
	}
}

func TestListenReplacesStale(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	s, err := Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestListenLost has another daemon put its socket in the place of ours, without a
// look at whether somebody answers there, as containerd does.
func TestListenLost(t *testing.T) {
	address := filepath.Join(t.TempDir(), "s.sock")
	s, err := Listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() { lost <- s.AwaitLoss(t.Context()) }()
	if err := os.WriteFile(address+".beside", nil, 0o600); err != nil { // no loss
		t.Fatal(err)
	}
	if err := os.Remove(address); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := <-lost; !errors.Is(err, ErrLost) {
		t.Errorf("the loss: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatalf("Close removed what is another's: %v", err)
	}
	conn.Close()
}

// A socket that is ours until Close is no loss.
func TestListenNotLost(t *testing.T) {
	s, err := Listen(t.Context(), filepath.Join(t.TempDir(), "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.AwaitLoss(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("lost: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenKeepsWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live.sock")
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(t.Context(), live); !errors.Is(err, ErrInUse) {
		t.Errorf("a live socket without our lock: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), file); err == nil {
		t.Error("a plain file was taken for a socket")
	}
	link := filepath.Join(dir, "link.sock")
	if err := os.Symlink(file, link+".lock"); err != nil { // as anybody can in /tmp
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), link); err == nil {
		t.Error("a link was taken for a lock")
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file is now %q", data)
	}
}

// TestListenAfterKill starts right after a daemon was killed, which may still
// hold its lock. The daemon is this test's own program.
func TestListenAfterKill(t *testing.T) {
	if address := os.Getenv("STRAKE_TEST_ADDRESS"); address != "" {
		s, err := Listen(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		// Much memory, so that dying takes time.
		ballast := make([]byte, 256<<20)
		for i := 0; i < len(ballast); i += 4096 {
			ballast[i] = 1
		}
		// A child that has not executed its program yet has all files, too.
		child := exec.Command("sh", "-c", "read line")
		socket, err := s.Listener.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		child.Stdin, child.ExtraFiles = os.Stdin, []*os.File{s.lock, socket}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("ready\n")
		_, _ = s.Listener.Accept() // nobody comes
		runtime.KeepAlive(s)       // and its lock
		return
	}
	address := filepath.Join(t.TempDir(), "s.sock")
	for range 5 {
		daemon := exec.Command(os.Args[0], "-test.run=^TestListenAfterKill$")
		daemon.Env = append(os.Environ(), "STRAKE_TEST_ADDRESS="+address)
		out, err := daemon.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		child, err := daemon.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if err := daemon.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Millisecond, func() { _ = child.Close() }) // in the end it does
		s, err := Listen(t.Context(), address)
		_ = daemon.Wait() // killed
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
