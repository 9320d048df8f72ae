package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSendFileToNobody: who has a socket and does not accept, or does not read, is not waited
// for for ever: that would be a console socket's or a seccomp agent's, and hold a create.
func TestSendFileToNobody(t *testing.T) {
	defer func(was int64) { connectTimeout = was }(connectTimeout)
	connectTimeout = 1

	socket := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	const most = 4 // the queue has one place, and messages stay in it
	for n := range most {
		err = SendFile(socket, []byte("message"), os.Stdin)
		if err != nil {
			break
		}
		if n == most-1 {
			t.Fatal("there is room for all")
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nobody accepts: %v", err)
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(conn)
	if err := SendFile(socket, make([]byte, 8<<20), os.Stdin); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nobody reads: %v", err)
	}
}
