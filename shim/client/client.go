// Package client is straked's side of a monitor: it starts one, connects to one
// that is there already, and calls its services over ttrpc (containerd's Task v3
// and Sandbox v1, and strake.monitor.v1).
//
// It knows no container runtime and keeps no state: the monitor is the truth, a
// Monitor here is one connection to it. All methods may be used concurrently;
// each call is one rpc. Every error belongs to one of the classes below, tested
// with errors.Is, or is the monitor's own description of what failed. When the
// connection is lost, all calls in flight end with ErrUnavailable and so do all
// later ones; Connect makes a new Monitor.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/shim/api"
)

// The classes of errors. ErrUnavailable says that the monitor is gone or was not
// reached; the container may be alive.
var (
	ErrNotFound      = errors.New("not found")
	ErrNotRunning    = errors.New("not running")
	ErrAlreadyExists = errors.New("already exists")
	ErrUnavailable   = errors.New("monitor is unavailable")
	ErrTimeout       = errors.New("timed out")
	ErrNotStarted    = errors.New("the program could not be executed") // Start has left nothing
)

// Monitor is a connection to a monitor.
type Monitor struct {
	address string
	conn    *ttrpc.Client
	task    taskapi.TTRPCTaskService
	sandbox sandboxapi.TTRPCSandboxService
	monitor api.MonitorService
}

// Connect connects to the monitor that listens at address ("unix:///path").
func Connect(ctx context.Context, address string) (*Monitor, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor %s: %w: %w", address, ErrUnavailable, err)
	}
	return newMonitor(address, conn), nil
}

func newMonitor(address string, conn net.Conn) *Monitor {
	c := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(traced))
	return &Monitor{
		address: address,
		conn:    c,
		task:    taskapi.NewTTRPCTaskClient(c),
		sandbox: sandboxapi.NewTTRPCSandboxClient(c),
		monitor: api.NewMonitorClient(c),
	}
}

// traced makes a span of a call, if it is part of a trace. The monitor is told nothing.
func traced(ctx context.Context, request *ttrpc.Request, response *ttrpc.Response, info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	ctx, calling := span.Start(ctx, strings.TrimPrefix(info.FullMethod, "/"))
	err := invoke(ctx, request, response)
	failed := err
	if err == nil {
		failed = status.ErrorProto(response.Status)
	}
	calling.End(failed)
	return err
}

// Address is where the monitor listens, for Connect after a restart.
func (m *Monitor) Address() string { return m.address }

// Close ends the connection; the monitor and its containers stay.
func (m *Monitor) Close() error { return m.conn.Close() }

// call gives err its class. The monitor's own words are passed on as they are,
// since the caller says what it is about; what comes from the connection says
// which call failed.
func call(verb, id, execID string, err error) error {
	if err == nil {
		return nil
	}
	class, text := classOf(err), message(err)
	if _, answered := status.FromError(err); !answered || errors.Is(class, ErrUnavailable) || errors.Is(class, ErrTimeout) || errors.Is(class, context.Canceled) {
		what := "monitor: " + verb
		if id != "" {
			what += " " + id
		}
		if execID != "" {
			what += " exec " + execID
		}
		text = what + ": " + text
	}
	if class != nil {
		return &classified{class, err, text}
	}
	return errors.New(text)
}

// classOf returns the class of an error of a ttrpc call, nil if it has none.
func classOf(err error) error {
	switch {
	case errors.Is(err, ttrpc.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return ErrUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	switch status.Code(err) {
	case codes.NotFound:
		return ErrNotFound
	case codes.FailedPrecondition:
		return ErrNotRunning
	case codes.AlreadyExists:
		return ErrAlreadyExists
	case codes.Unavailable:
		return ErrUnavailable
	case codes.DeadlineExceeded:
		return ErrTimeout
	case codes.Canceled:
		return context.Canceled
	}
	return nil
}

// classified has its own words for an error, and its class.
type classified struct {
	class, err error
	text       string
}

func (c *classified) Error() string   { return c.text }
func (c *classified) Unwrap() []error { return []error{c.class, c.err} }

// message is the monitor's text without gRPC's prefix.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
