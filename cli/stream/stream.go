// Package stream connects a person's streams to a process's: strake.v1's Exec
// and Attach from the client's side.
package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// ErrDetached is the end of a session whose detach keys were typed. The process
// goes on.
var ErrDetached = errors.New("detached")

// detachKeys are Ctrl-P Ctrl-Q.
var detachKeys = []byte{16, 17}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height int }

// Streams are the client's ends; a nil one is not connected. Stdin is read in
// the background and may stay blocked in a Read when the session is over.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Size           Size        // of the terminal to begin with, for Attach; zero: unknown
	Resize         <-chan Size // nil: never
	DetachKeys     bool        // Ctrl-P Ctrl-Q on Stdin end the session
	Ready          func()      // nil, or called once the process's streams are connected
}

type bidi = grpc.BidiStreamingClient[strakev1.Input, strakev1.Output]

// Exec runs a process and returns its exit code when it has ended and all its
// output is written.
func Exec(ctx context.Context, c strakev1.StrakeClient, start *strakev1.ExecStart, s Streams) (int, error) {
	start.Stdin = s.Stdin != nil
	return run(ctx, c.Exec, &strakev1.Input{Event: &strakev1.Input_Exec{Exec: start}}, s)
}

// Attach connects to a container's streams and returns when they have ended.
func Attach(ctx context.Context, c strakev1.StrakeClient, containerID string, s Streams) error {
	start := &strakev1.AttachStart{
		ContainerId: containerID,
		Stdin:       s.Stdin != nil,
		Output:      s.Stdout != nil || s.Stderr != nil,
	}
	if s.Size != (Size{}) {
		start.Size = &strakev1.Size{Width: uint32(s.Size.Width), Height: uint32(s.Size.Height)}
	}
	_, err := run(ctx, c.Attach, &strakev1.Input{Event: &strakev1.Input_Attach{Attach: start}}, s)
	return err
}

func run(ctx context.Context, open func(context.Context, ...grpc.CallOption) (bidi, error), first *strakev1.Input, s Streams) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := open(ctx)
	if err != nil {
		return 0, err
	}
	x := &session{stream: conn}
	if err := x.send(first); err != nil {
		return 0, firstError(conn, err)
	}
	ready := false
	for {
		out, err := conn.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return 0, nil
		case errors.Is(context.Cause(ctx), ErrDetached):
			return 0, ErrDetached
		case err != nil:
			return 0, err
		}
		switch e := out.Event.(type) {
		case *strakev1.Output_Ready:
			if ready {
				continue
			}
			ready = true
			if s.Ready != nil {
				s.Ready()
			}
			if s.Stdin != nil {
				go x.copyStdin(s, cancel)
			}
			if s.Resize != nil {
				go x.copySizes(ctx, s.Resize)
			}
		case *strakev1.Output_Stdout:
			err = write(s.Stdout, e.Stdout, "standard output")
		case *strakev1.Output_Stderr:
			err = write(s.Stderr, e.Stderr, "standard error")
		case *strakev1.Output_Exit:
			return int(e.Exit.Code), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// firstError prefers what the daemon said over the io.EOF that a Send gets when
// the daemon has refused.
func firstError(conn bidi, err error) error {
	if errors.Is(err, io.EOF) {
		if _, refused := conn.Recv(); refused != nil {
			return refused
		}
	}
	return err
}

func write(w io.Writer, p []byte, what string) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// session is the sending half of an open stream.
type session struct {
	mu     sync.Mutex // a gRPC stream takes one Send at a time
	stream bidi
}

func (x *session) send(in *strakev1.Input) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stream.Send(in)
}

// copyStdin sends what is typed until its end, which closes the process's
// standard input, or until the detach keys, which end the session.
func (x *session) copyStdin(s Streams, end context.CancelCauseFunc) {
	var keys detector
	buf := make([]byte, 32<<10)
	for {
		n, err := s.Stdin.Read(buf)
		typed := buf[:n]
		detached := false
		if s.DetachKeys {
			typed, detached = keys.filter(typed)
		}
		if len(typed) > 0 && x.send(&strakev1.Input{Event: &strakev1.Input_Stdin{Stdin: typed}}) != nil {
			return // the session is over, and Recv says why
		}
		if detached {
			end(ErrDetached)
			return
		}
		if err != nil {
			_ = x.send(&strakev1.Input{Event: &strakev1.Input_CloseStdin{CloseStdin: &strakev1.CloseStdin{}}})
			return
		}
	}
}

func (x *session) copySizes(ctx context.Context, sizes <-chan Size) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			size := &strakev1.Size{Width: uint32(s.Width), Height: uint32(s.Height)}
			if x.send(&strakev1.Input{Event: &strakev1.Input_Resize{Resize: size}}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// detector finds the detach keys in what is typed. It holds back a part of them
// until the next key shows what it was.
type detector struct{ held int }

func (d *detector) filter(p []byte) (typed []byte, detached bool) {
	// The common case copies nothing.
	if d.held == 0 && !bytes.Contains(p, detachKeys[:1]) {
		return p, false
	}
	for _, b := range p {
		if b == detachKeys[d.held] {
			if d.held++; d.held == len(detachKeys) {
				d.held = 0
				return typed, true
			}
			continue
		}
		typed = append(typed, detachKeys[:d.held]...)
		if d.held = 0; b == detachKeys[0] {
			d.held = 1
			continue
		}
		typed = append(typed, b)
	}
	return typed, false
}
