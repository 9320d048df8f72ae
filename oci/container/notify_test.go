package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestListenNotifyTwice: who begins to start a container finds that somebody else does,
// and a socket that a killed start has left is not in the way. The path is longer than
// an address of a unix socket.
func TestListenNotifyTwice(t *testing.T) {
	c := &Container{id: "a", dir: filepath.Join(t.TempDir(), strings.Repeat("d", 150))}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r := &record{Version: recordVersion, ID: c.id, Pid: os.Getpid(), StartTime: start, Created: time.Now().UTC(), Notify: true}
	if err := c.save(r); err != nil {
		t.Fatal(err)
	}
	if err := c.makeNotifyDir(); err != nil {
		t.Fatal(err)
	}
	first, err := c.ListenNotify()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := c.ListenNotify(); err == nil || !strings.Contains(err.Error(), "somebody else is starting it") {
		t.Errorf("while the first listens: %v, %v", second, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := c.ListenNotify()
	if err != nil {
		t.Fatalf("after the first was killed: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
}
