package stdio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/strake-containers/strake/shim/wire"
)

const (
	// maxBacklog is how far a client may be behind before it is dropped.
	maxBacklog = 8 << 20
	// lastWords is how long a client may take to read the rest after the end.
	lastWords = 10 * time.Second
)

// hub passes a container's output to any number of attached clients and their
// input to the container. It never waits for a client: each has a queue, and one
// whose queue is full is dropped. mu is a leaf lock.
type hub struct {
	listener *net.UnixListener
	input    *input // nil: input is dropped
	resize   func(width, height uint16) error

	mu      sync.Mutex
	clients map[*client]struct{}
	ended   bool
}

// newHub listens on path, which may be there from a monitor that has died.
func newHub(path string, in *input, resize func(width, height uint16) error) (*hub, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("attach socket: %w", err)
	}
	l, err := wire.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("attach socket: %w", err)
	}
	h := &hub{listener: l, input: in, resize: resize, clients: map[*client]struct{}{}}
	go func() {
		for {
			conn, err := wire.Accept(l.Accept)
			if err != nil {
				return // closed
			}
			h.add(conn)
		}
	}()
	return h, nil
}

func (h *hub) add(conn net.Conn) {
	c := &client{conn: conn}
	c.changed.L = &c.mu
	h.mu.Lock()
	// An empty frame first says that from here on nothing is missed.
	c.queue = wire.AppendAttach(nil, wire.AttachStdout, nil)
	if h.ended {
		c.queue, c.ended = wire.AppendAttach(c.queue, wire.AttachEnd, nil), true
	} else {
		h.clients[c] = struct{}{}
	}
	h.mu.Unlock()
	go func() { c.send(); h.remove(c) }()
	go h.receive(c)
}

func (h *hub) remove(c *client) {
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
}

// write passes output of a stream to all clients.
func (h *hub) write(stream byte, p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		if !c.enqueue(stream, p) {
			delete(h.clients, c)
		}
	}
}

// end tells all clients, and those that come later, that the output is complete.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.ended = true
	for c := range h.clients {
		c.finish()
	}
	clear(h.clients)
}

// close ends the hub. Clients still get what is queued for them, if they take it
// within lastWords.
func (h *hub) close() {
	_ = h.listener.Close() // nothing is buffered in it
	h.end()
}

// receive acts on a client's frames until it goes.
func (h *hub) receive(c *client) {
	sentInput := false
	defer func() {
		c.drop()
		if sentInput && h.input != nil {
			h.input.detached()
		}
	}()
	r := bufio.NewReaderSize(c.conn, 4096)
	for {
		kind, payload, err := wire.ReadAttach(r)
		if err != nil {
			return
		}
		switch {
		case kind == wire.AttachResize && len(payload) == 4:
			// A container that has no terminal has no size; the client need not know.
			_ = h.resize(binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:]))
		case kind == wire.AttachStdin && h.input != nil:
			sentInput = true
			if len(payload) == 0 {
				h.input.close()
			} else {
				h.input.write(payload)
			}
		}
	}
}

// client is one attached connection and what it is still to be sent.
type client struct {
	conn net.Conn

	mu      sync.Mutex
	changed sync.Cond
	queue   []byte // frames
	ended   bool   // nothing will be added
	gone    bool
}

// enqueue adds output, in frames of at most wire.MaxAttach; false drops the client.
func (c *client) enqueue(kind byte, p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return false
	}
	if len(c.queue)+len(p) > maxBacklog {
		c.dropLocked()
		return false
	}
	for len(p) > 0 {
		n := min(len(p), wire.MaxAttach)
		c.queue = wire.AppendAttach(c.queue, kind, p[:n])
		p = p[n:]
	}
	c.changed.Signal()
	return true
}

// finish lets the client have what is queued, and the end.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = wire.AppendAttach(c.queue, wire.AttachEnd, nil)
	c.ended = true
	_ = c.conn.SetWriteDeadline(time.Now().Add(lastWords)) // fails only if closed
	c.changed.Signal()
}

// send writes the queue out, batch by batch, until the end or the client goes.
func (c *client) send() {
	defer c.drop()
	var batch []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.ended && !c.gone {
			c.changed.Wait()
		}
		if c.gone || len(c.queue) == 0 {
			c.mu.Unlock()
			return
		}
		batch, c.queue = c.queue, batch[:0]
		c.mu.Unlock()
		if _, err := c.conn.Write(batch); err != nil {
			return
		}
		if cap(batch) > 4*wire.MaxAttach {
			batch = nil // an idle client keeps no large buffer
		}
	}
}

func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked()
}

func (c *client) dropLocked() {
	if !c.gone {
		c.gone = true
		_ = c.conn.Close() // the client notices
		c.changed.Signal()
	}
}
