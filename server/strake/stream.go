package strake

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

type bidi = grpc.BidiStreamingServer[strakev1.Input, strakev1.Output]

func (s *service) Exec(stream bidi) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetExec()
	if start == nil {
		return status.Error(codes.InvalidArgument, "exec: the first message does not say what to run")
	}
	if len(start.Command) == 0 {
		return status.Error(codes.InvalidArgument, "exec: no command")
	}
	c := pod.ExecConfig{Cmd: start.Command, TTY: start.Tty, WorkingDir: start.WorkingDir, User: start.User}
	for _, e := range start.Env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return status.Errorf(codes.InvalidArgument, "exec: env %q: not NAME=VALUE", e)
		}
		c.Env = append(c.Env, pod.KeyValue{Key: name, Value: value})
	}
	conn := newConnection(stream, start.Stdin)
	conn.resize(start.Size)
	streams := conn.streams()
	streams.Stdout = conn.stdout()
	conn.ready() // what comes before the process is there waits for it
	if !start.Tty {
		streams.Stderr = conn.stderr()
	}
	if !start.Stdin {
		streams.Stdin = nil
	}
	go conn.receive()
	ctx, end := s.untilEnd(stream.Context())
	defer end()
	code, err := s.Pods.Exec(ctx, start.ContainerId, c, streams)
	conn.close()
	if err != nil {
		return callError(ctx, err)
	}
	return conn.send(&strakev1.Output{Event: &strakev1.Output_Exit{Exit: &strakev1.Exit{Code: int32(code)}}})
}

func (s *service) Attach(stream bidi) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetAttach()
	if start == nil {
		return status.Error(codes.InvalidArgument, "attach: the first message does not say to what")
	}
	conn := newConnection(stream, start.Stdin)
	streams := conn.streams()
	conn.resize(start.Size) // it is the terminal's before the client starts its program
	streams.Connected = conn.ready
	if start.Output {
		streams.Stdout, streams.Stderr = conn.stdout(), conn.stderr()
	}
	if !start.Stdin {
		streams.Stdin = nil
	}
	go conn.receive()
	ctx, end := s.untilEnd(stream.Context())
	defer end()
	err = s.Pods.Attach(ctx, start.ContainerId, streams)
	conn.close()
	if err != nil {
		return callError(ctx, err)
	}
	return nil
}

// connection is one Exec or Attach: messages on the client's side, an io.Reader
// and two io.Writers on the pod's.
type connection struct {
	stream bidi
	// stdin goes from receive to the pod. Closing the reader ends receive even
	// while nobody reads.
	stdinR *io.PipeReader
	stdinW *io.PipeWriter
	sizes  chan pod.Size // holds the newest only

	mu sync.Mutex // a gRPC stream takes one Send at a time
}

func newConnection(stream bidi, stdin bool) *connection {
	c := &connection{stream: stream, sizes: make(chan pod.Size, 1)}
	c.stdinR, c.stdinW = io.Pipe()
	if !stdin {
		c.close()
	}
	return c
}

func (c *connection) streams() pod.Streams {
	return pod.Streams{Stdin: c.stdinR, Resize: c.sizes}
}

// ready tells the client that nothing is missed from now on. If it cannot be
// told it has gone, and the stream's context says so to the pod.
func (c *connection) ready() {
	_ = c.send(&strakev1.Output{Event: &strakev1.Output_Ready{Ready: &strakev1.Ready{}}})
}

// receive takes what the client sends until the client or the connection ends.
func (c *connection) receive() {
	for {
		in, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			_ = c.stdinW.Close() // it cannot fail, see io.Pipe
			return
		}
		if err != nil {
			// Not an end of the input that somebody chose: the process's standard
			// input stays open for the next who attaches.
			c.stdinW.CloseWithError(context.Canceled)
			return
		}
		switch e := in.Event.(type) {
		case *strakev1.Input_Stdin:
			// After close, or without standard input, this fails at once: what
			// nobody reads is dropped.
			_, _ = c.stdinW.Write(e.Stdin)
		case *strakev1.Input_CloseStdin:
			_ = c.stdinW.Close() // it cannot fail, see io.Pipe
		case *strakev1.Input_Resize:
			c.resize(e.Resize)
		}
	}
}

// resize replaces a size that has not been taken yet.
func (c *connection) resize(s *strakev1.Size) {
	if s == nil || s.Width == 0 || s.Height == 0 || s.Width > 1<<16-1 || s.Height > 1<<16-1 {
		return
	}
	select {
	case <-c.sizes:
	default:
	}
	c.sizes <- pod.Size{Width: uint16(s.Width), Height: uint16(s.Height)}
}

// close ends the input, for receive too. It cannot fail, see io.Pipe.
func (c *connection) close() { _ = c.stdinR.Close() }

func (c *connection) send(out *strakev1.Output) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.Send(out)
}

type writerFunc func([]byte) error

func (f writerFunc) Write(p []byte) (int, error) {
	if err := f(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *connection) stdout() io.Writer {
	return writerFunc(func(p []byte) error {
		return c.send(&strakev1.Output{Event: &strakev1.Output_Stdout{Stdout: p}})
	})
}

func (c *connection) stderr() io.Writer {
	return writerFunc(func(p []byte) error {
		return c.send(&strakev1.Output{Event: &strakev1.Output_Stderr{Stderr: p}})
	})
}
