package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/pb"
)

// ErrClosed is what every call ends with when the connection is lost.
var ErrClosed = errors.New("the connection is closed")

// Mux makes calls over one connection, any number at the same time: the monitor's
// side of a foreign shim. Mu is a leaf.
type Mux struct {
	conn net.Conn
	done chan struct{}

	writing sync.Mutex

	mu      sync.Mutex
	stream  uint32
	pending map[uint32]chan []byte
	closed  bool
}

// NewMux takes over conn.
func NewMux(conn net.Conn) *Mux {
	m := &Mux{conn: conn, done: make(chan struct{}), stream: 1, pending: map[uint32]chan []byte{}}
	go m.receive()
	return m
}

// Done is closed when the connection is lost.
func (m *Mux) Done() <-chan struct{} { return m.done }

// Close ends the connection and all calls.
func (m *Mux) Close() error { return m.conn.Close() }

func (m *Mux) receive() {
	defer close(m.done)
	for r := bufio.NewReaderSize(m.conn, 512); ; {
		h, data, err := readFrame(r)
		if err != nil {
			break
		}
		m.mu.Lock()
		answer := m.pending[h.stream]
		delete(m.pending, h.stream)
		m.mu.Unlock()
		if answer != nil && h.kind == kindResponse {
			answer <- data
		}
	}
	_ = m.conn.Close() // broken, or closed already
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, answer := range m.pending {
		close(answer)
	}
	m.pending = nil
}

// Call calls a method and waits for its answer, or until ctx ends. Metadata are as
// with Client.
func (m *Mux) Call(ctx context.Context, service, method string, req, answer any, metadata ...string) error {
	r, err := newRequest(service, method, req, metadata)
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.TimeoutNano = int64(time.Until(deadline))
	}
	wait := make(chan []byte, 1)
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return fmt.Errorf("ttrpc: call %s: %w", method, ErrClosed)
	}
	stream := m.stream
	m.stream += 2 // a client's streams are odd
	m.pending[stream] = wait
	m.mu.Unlock()
	out, err := frame(stream, kindRequest, r)
	if err == nil {
		m.writing.Lock()
		_, err = m.conn.Write(out)
		m.writing.Unlock()
		if err != nil {
			_ = m.conn.Close() // half a frame may be out: nothing after it makes sense
		}
	}
	if err != nil {
		m.giveUp(stream)
		return fmt.Errorf("ttrpc: call %s: %w", method, err)
	}
	select {
	case data, ok := <-wait:
		if !ok {
			return fmt.Errorf("ttrpc: call %s: %w", method, ErrClosed)
		}
		return decodeResponse(method, data, answer)
	case <-ctx.Done():
		m.giveUp(stream)
		return fmt.Errorf("ttrpc: call %s: %w", method, context.Cause(ctx))
	}
}

func (m *Mux) giveUp(stream uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pending, stream)
}

func newRequest(service, method string, req any, metadata []string) (*request, error) {
	payload, err := pb.Marshal(req)
	if err != nil {
		return nil, err
	}
	r := &request{Service: service, Method: method, Payload: payload}
	for i := 0; i+1 < len(metadata); i += 2 {
		r.Metadata = append(r.Metadata, &keyValue{metadata[i], metadata[i+1]})
	}
	return r, nil
}

func decodeResponse(method string, data []byte, answer any) error {
	var resp response
	if err := pb.Unmarshal(data, &resp); err != nil {
		return fmt.Errorf("ttrpc: call %s: %w", method, err)
	}
	if resp.Status != nil && resp.Status.Code != 0 {
		return &Error{Code: Code(resp.Status.Code), Message: resp.Status.Message}
	}
	return pb.Unmarshal(resp.Payload, answer)
}
