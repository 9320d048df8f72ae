package client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/strake-containers/strake/shim/wire"
)

// Attachment is a connection to a container's streams, beside any others. One
// goroutine reads; the other methods may be called concurrently. A client that
// falls behind by more than some megabytes is cut off by the monitor, so that the
// container never waits for it.
type Attachment struct {
	conn net.Conn
	r    *bufio.Reader

	mu sync.Mutex // of writing
}

// Attach connects to the attach socket of a container that was created with a
// cri:// log. Once it has returned nothing of the output is missed: the first Read
// is empty and says just that.
func Attach(ctx context.Context, bundle string) (*Attachment, error) {
	conn, err := wire.Dial(ctx, filepath.Join(bundle, wire.AttachSocket))
	if err != nil {
		return nil, fmt.Errorf("attach: %w: %w", ErrUnavailable, err)
	}
	a := &Attachment{conn: conn, r: bufio.NewReaderSize(conn, wire.MaxAttach)}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the wait
	defer stop()
	if _, err := a.r.Peek(1); err != nil {
		_ = conn.Close() // nothing came
		return nil, fmt.Errorf("attach: %w: %w", ErrUnavailable, errors.Join(context.Cause(ctx), err))
	}
	return a, nil
}

// Read returns the next piece of output, and whether it is stderr's. The error is
// io.EOF once the output is complete, io.ErrUnexpectedEOF if the monitor cut the
// connection before.
func (a *Attachment) Read() (data []byte, stderr bool, err error) {
	for {
		kind, payload, err := wire.ReadAttach(a.r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
			return nil, false, io.ErrUnexpectedEOF
		case err != nil:
			return nil, false, fmt.Errorf("attach: %w", err)
		case kind == wire.AttachEnd:
			return nil, false, io.EOF
		case kind == wire.AttachStdout || kind == wire.AttachStderr:
			return payload, kind == wire.AttachStderr, nil
		}
	}
}

// Write sends input.
func (a *Attachment) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), wire.MaxAttach)]
		if err := a.send(wire.AttachStdin, piece); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

// CloseStdin closes the container's stdin, for everybody. Output goes on.
func (a *Attachment) CloseStdin() error { return a.send(wire.AttachStdin, nil) }

// Resize sets the size of the container's terminal, in characters.
func (a *Attachment) Resize(width, height uint16) error {
	size := binary.BigEndian.AppendUint16(nil, width)
	return a.send(wire.AttachResize, binary.BigEndian.AppendUint16(size, height))
}

func (a *Attachment) send(kind byte, payload []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.conn.Write(wire.AppendAttach(nil, kind, payload)); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// Close detaches.
func (a *Attachment) Close() error { return a.conn.Close() }
