package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxSocketPath is sockaddr_un's limit for a path without its final NUL. A
// bundle of a container, two 64-digit ids deep, is beyond it.
const maxSocketPath = 107

// short returns a path that fits into a socket address and means the same until
// done is called: a long one goes through a handle on its directory.
func short(path string) (name string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.OpenFile(filepath.Dir(path), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	// Only read; its close cannot fail in a way that matters.
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

// Listen makes a unix socket at path, 0600, which is free. It stays there when
// the listener is closed: the directory's owner removes it.
func Listen(path string) (*net.UnixListener, error) {
	name, done, err := short(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(name, 0o600); err != nil {
		_ = l.Close() // never used
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Dial connects to the unix socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	name, done, err := short(path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return c, nil
}

// How long Accept waits for descriptors, at first and at most.
const (
	firstPatience = 5 * time.Millisecond
	lastPatience  = time.Second
)

// Accept takes the next connection. Where this process or the host has no descriptors left,
// which others may have taken, it waits for some: nothing tells when there are.
func Accept[C net.Conn](accept func() (C, error)) (C, error) {
	for patience := firstPatience; ; patience = min(2*patience, lastPatience) {
		c, err := accept()
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.ENOMEM) {
			return c, err
		}
		<-time.After(patience)
	}
}
