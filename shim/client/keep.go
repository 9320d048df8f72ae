package client

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/strake-containers/strake/shim/wire"
)

// Kept is what straked keeps for a monitor that may be killed: descriptors that
// the monitor sends it, for the next one. It outlives the connections.
type Kept struct {
	mu       sync.Mutex
	files    map[string]*os.File
	conn     *net.UnixConn
	received chan struct{} // closed when nothing more comes over conn
}

// Connect gives a monitor, whose directory is dir, what there is for it, and
// keeps from then on what it sends. When it returns, the monitor has all of it.
// The monitor before, if there was one, is gone.
func (k *Kept) Connect(ctx context.Context, dir string) error {
	k.mu.Lock()
	received := k.received
	k.mu.Unlock()
	if received != nil { // its last words
		select {
		case <-received:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c, err := wire.Dial(ctx, filepath.Join(dir, wire.KeepSocket))
	if err != nil {
		return fmt.Errorf("keep descriptors: %w: %w", ErrUnavailable, err)
	}
	conn := c.(*net.UnixConn) // by its address
	if err := k.offer(ctx, conn); err != nil {
		_ = conn.Close() // of no use
		return fmt.Errorf("keep descriptors: %w: %w", ErrUnavailable, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		_ = k.conn.Close() // of the monitor before
	}
	k.conn, k.received = conn, make(chan struct{})
	go k.receive(conn, k.received)
	return nil
}

func (k *Kept) offer(ctx context.Context, conn *net.UnixConn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends the wait
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, f := range k.files {
		if err := wire.SendKept(conn, wire.KeepFile, name, f); err != nil {
			return err
		}
	}
	if err := wire.SendKept(conn, wire.KeepEnd, "", nil); err != nil {
		return err
	}
	kind, _, f, err := wire.ReceiveKept(conn)
	if f != nil {
		_ = f.Close() // comes too early
	}
	if err == nil && kind != wire.KeepEnd {
		err = fmt.Errorf("the monitor answered with a frame %q", kind)
	}
	return err
}

// receive takes what the monitor sends until it goes.
func (k *Kept) receive(conn *net.UnixConn, done chan<- struct{}) {
	defer close(done)
	for {
		kind, name, f, err := wire.ReceiveKept(conn)
		if err != nil {
			return // what is kept stays, for the next
		}
		k.mu.Lock()
		if kind == wire.KeepFile || kind == wire.KeepDrop {
			if old := k.files[name]; old != nil {
				_ = old.Close() // only held
			}
			delete(k.files, name)
		}
		if kind == wire.KeepFile {
			if k.files == nil {
				k.files = map[string]*os.File{}
			}
			k.files[name] = f
		}
		k.mu.Unlock()
	}
}

// Close lets everything go.
func (k *Kept) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		_ = k.conn.Close() // only listened to
	}
	for _, f := range k.files {
		_ = f.Close() // only held
	}
	k.conn, k.files = nil, nil
}

// Held keeps the FIFOs of a container open, so that what it has written stays in
// them, and its input is not at its end, while its monitor is being replaced.
type Held struct {
	mu    sync.Mutex
	outs  []int
	stdin int
}

// Hold opens the FIFOs of a container that was created with a cri:// log; stdin
// says that it has an input that is attached to.
func Hold(bundle string, stdin bool) *Held {
	h := &Held{stdin: -1}
	for _, name := range []string{"stdout", "stderr"} {
		// With a terminal there is no stderr. Bare descriptors: nobody reads them.
		if fd, err := syscall.Open(filepath.Join(bundle, name), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0); err == nil {
			h.outs = append(h.outs, fd)
		}
	}
	if stdin {
		if _, err := os.Lstat(filepath.Join(bundle, "stdin.shut")); err == nil {
			return h
		}
		if fd, err := syscall.Open(filepath.Join(bundle, "stdin"), syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0); err == nil {
			h.stdin = fd
		}
	}
	return h
}

// EndStdin lets go of the input, which is to end. A nil Held holds nothing.
func (h *Held) EndStdin() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stdin >= 0 {
		_ = syscall.Close(h.stdin) // nothing was written
		h.stdin = -1
	}
}

// Close lets go of everything.
func (h *Held) Close() {
	if h == nil {
		return
	}
	h.EndStdin()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.outs {
		_ = syscall.Close(fd) // likewise
	}
	h.outs = nil
}
