package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/pb"
)

// Handler answers one method: decode fills the request, the answer is a pointer
// to a message.
type Handler func(ctx context.Context, decode func(message any) error) (any, error)

// Method makes a Handler of a function on messages.
func Method[Req, Resp any](fn func(context.Context, *Req) (*Resp, error)) Handler {
	return func(ctx context.Context, decode func(any) error) (any, error) {
		var req Req
		if err := decode(&req); err != nil {
			return nil, err
		}
		return fn(ctx, &req)
	}
}

// Server serves methods to any number of connections. Each call runs in its own
// goroutine, with a context that ends with its timeout or its connection.
type Server struct {
	methods map[string]Handler // "service/method"

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	closed   bool
	calls    sync.WaitGroup
	alone    func()
}

// NewServer makes a server without methods.
func NewServer() *Server {
	return &Server{methods: map[string]Handler{}, conns: map[net.Conn]struct{}{}}
}

// Handle registers a method; all are registered before Serve.
func (s *Server) Handle(service, method string, h Handler) { s.methods[service+"/"+method] = h }

// WhenAlone has fn be called whenever a connection has ended and there is no other. It is
// set before Serve.
func (s *Server) WhenAlone(fn func()) { s.alone = fn }

// Serve accepts connections until Shutdown, and then returns nil. The server
// closes the listener.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return l.Close()
	}
	for {
		c, err := Accept(l.Accept)
		if err != nil {
			if s.isClosed() {
				return nil
			}
			return fmt.Errorf("ttrpc: accept: %w", err)
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		go s.serve(c)
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Shutdown stops accepting, ends the calls in flight by their contexts, lets
// their answers out and closes the connections. It must not be called by a
// handler, which it would wait for.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	l := s.listener
	s.mu.Unlock()
	var err error
	if l != nil {
		err = l.Close()
	}
	done := make(chan struct{})
	go func() { s.calls.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close() // the peer's end of it is what counts
	}
	return err
}

// serve reads the requests of one connection until it ends.
func (s *Server) serve(c net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		alone := len(s.conns) == 0 && !s.closed
		s.mu.Unlock()
		if alone && s.alone != nil {
			s.alone()
		}
	}()
	var writing sync.Mutex
	// Small: requests are, and the buffer lives as long as the connection.
	for r := bufio.NewReaderSize(c, 1024); ; {
		h, payload, err := readFrame(r)
		if err != nil {
			return
		}
		if h.kind != kindRequest {
			continue // streams: nothing that we offer has any
		}
		s.calls.Add(1)
		go func() {
			defer s.calls.Done()
			out, err := frame(h.stream, kindResponse, s.answer(ctx, payload))
			if err != nil {
				out, err = frame(h.stream, kindResponse, failure(err))
			}
			writing.Lock()
			defer writing.Unlock()
			if err == nil {
				_, err = c.Write(out)
			}
			if err != nil {
				_ = c.Close() // half a frame may be out: nothing after it makes sense
			}
		}()
	}
}

// answer runs the method that a request names.
func (s *Server) answer(ctx context.Context, payload []byte) *response {
	var req request
	if err := pb.Unmarshal(payload, &req); err != nil {
		return failure(Errorf(InvalidArgument, "ttrpc: %w", err))
	}
	h, ok := s.methods[req.Service+"/"+req.Method]
	if !ok {
		return failure(Errorf(Unimplemented, "method %s of %s is not implemented", req.Method, req.Service))
	}
	if req.TimeoutNano > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutNano))
		defer cancel()
	}
	decode := func(message any) error {
		if err := pb.Unmarshal(req.Payload, message); err != nil {
			return Errorf(InvalidArgument, "%s: %w", strings.ToLower(req.Method), err)
		}
		return nil
	}
	answer, err := h(ctx, decode)
	if err != nil {
		return failure(err)
	}
	out, err := pb.Marshal(answer)
	if err != nil {
		return failure(err)
	}
	return &response{Payload: out}
}

func failure(err error) *response {
	code := Unknown
	var e *Error
	switch {
	case errors.As(err, &e):
		code = e.Code
	case errors.Is(err, context.DeadlineExceeded):
		code = DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = Canceled
	}
	return &response{Status: &status{Code: int32(code), Message: err.Error()}}
}
