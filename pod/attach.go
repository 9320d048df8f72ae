package pod

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// The frames of BUNDLE/attach.sock: a type, a big-endian length, a payload.
const (
	frameStdin  = 0 // to the monitor; empty: the input ends
	frameStdout = 1
	frameStderr = 2
	frameResize = 3 // to the monitor: width, height
	frameEnd    = 4 // the container's output is finished

	frameHeader = 5
	maxFrame    = 64 << 10
)

// maxSocketPath is sockaddr_un's limit for a path with its final NUL.
const maxSocketPath = 107

// Attach connects the caller's streams to a running container's, until its
// output ends or ctx does. The end of Stdin ends the container's only if that is
// StdinOnce.
func (m *Manager) Attach(ctx context.Context, id string, s Streams) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	c.pod.mu.Lock()
	state, config := c.record.State, c.record.Config
	c.pod.mu.Unlock()
	// A created one may be attached to, so that nothing of its output is missed.
	if state == ContainerExited {
		return fmt.Errorf("attach to container %s: it is %s: %w", c.what, state, ErrState)
	}
	if !config.Stdin {
		s.Stdin = nil
	}
	conn, err := dialUnix(ctx, filepath.Join(m.containerState(c.pod.id, c.id), "attach.sock"))
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.what, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()

	out := &frameWriter{w: conn}
	done := make(chan struct{})
	defer close(done)
	go resize(ctx, s.Resize, done, func(z Size) { _ = out.resize(z) }) // a broken connection shows in reading
	if s.Stdin != nil {
		go func() {
			_, err := io.Copy(out, readerOnly{s.Stdin})
			if err == nil && config.StdinOnce {
				_ = out.frame(frameStdin, nil)
			}
		}()
	}
	if err := receive(conn, s); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("attach to container %s: %w", c.what, err)
	}
	return nil
}

// receive writes out the container's output until it ends.
func receive(conn io.Reader, s Streams) error {
	r := bufio.NewReaderSize(conn, maxFrame+frameHeader)
	header, payload := make([]byte, frameHeader), make([]byte, maxFrame)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return fmt.Errorf("the output broke off before its end: %w", err) // too slow a client is dropped
		}
		if s.Connected != nil {
			s.Connected() // the first frame says that we are attached
			s.Connected = nil
		}
		n := binary.BigEndian.Uint32(header[1:])
		if n > maxFrame {
			return fmt.Errorf("the monitor sent a frame of %d bytes", n)
		}
		if _, err := io.ReadFull(r, payload[:n]); err != nil {
			return err
		}
		var w io.Writer
		switch header[0] {
		case frameStdout:
			w = s.Stdout
		case frameStderr:
			w = s.Stderr
		case frameEnd:
			return nil
		}
		if w == nil || n == 0 {
			continue
		}
		if _, err := w.Write(payload[:n]); err != nil {
			return nil // the client has gone
		}
	}
}

// frameWriter writes frames, of stdin through Write.
type frameWriter struct {
	mu sync.Mutex // held while one frame is written
	w  io.Writer
}

func (f *frameWriter) frame(kind byte, payload []byte) error {
	buf := make([]byte, frameHeader, frameHeader+len(payload))
	buf[0] = kind
	binary.BigEndian.PutUint32(buf[1:], uint32(len(payload)))
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(buf, payload...))
	return err
}

func (f *frameWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		chunk := p[n:min(len(p), n+maxFrame)]
		if err := f.frame(frameStdin, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

func (f *frameWriter) resize(z Size) error {
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], z.Width)
	binary.BigEndian.PutUint16(b[2:], z.Height)
	return f.frame(frameResize, b[:])
}

// dialUnix connects to a socket whose path may be too long for an address: then
// through a handle on its directory.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= maxSocketPath {
		return d.DialContext(ctx, "unix", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
