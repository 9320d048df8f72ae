// Package stream serves exec, attach and port-forward to people: the kubelet's
// streaming protocols (SPDY and websocket, by the kubelet's own library) over
// HTTP.
//
// A front asks for a URL over its own, protected socket; the URL carries a
// random token that works once and for a minute, and whoever has it gets the
// stream. That is CRI's design: the server must therefore listen on loopback,
// where only a kubelet or crictl proxies to it. It knows nothing of pods: the
// Runtime does the work, and only bytes and sizes cross between them.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Streams are the ends of one session. Stdin is nil if the client has none;
// Stdout and Stderr are nil if it does not want them. Resize is nil without a
// terminal and closed when the client goes.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan Size
}

// Runtime does what the sessions ask for. Each call lasts as long as its
// session; ctx ends when the server closes or the client's connection does.
type Runtime interface {
	// Exec runs cmd and returns its exit code; an error means that it did not
	// run to its end.
	Exec(ctx context.Context, containerID string, cmd []string, tty bool, s Streams) (exitCode int, err error)
	Attach(ctx context.Context, containerID string, tty bool, s Streams) error
	// PortForward connects conn to a port on the pod's loopback and closes it.
	PortForward(ctx context.Context, podID string, port int32, conn io.ReadWriteCloser) error
}

// idleTimeout ends a session that has been silent for so long; the kubelet uses
// the same.
const idleTimeout = 4 * time.Hour

// Server is the streaming server. It listens from New on; Serve answers.
type Server struct {
	lib      streaming.Server
	http     *http.Server
	listener net.Listener
	cancel   context.CancelFunc
}

// New listens on address (IP:PORT; port 0 picks one).
func New(address string, rt Runtime) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("stream server: listen on stream.address %q: %w", address, err)
	}
	config := streaming.DefaultConfig
	config.StreamIdleTimeout = idleTimeout
	config.Addr = l.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	lib, err := streaming.NewServer(config, adapter{rt, ctx})
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("stream server: %w", err), l.Close())
	}
	return &Server{
		lib:      lib,
		listener: l,
		cancel:   cancel,
		http:     &http.Server{Handler: lib, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)},
	}, nil
}

// Address is the IP:PORT listened on.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve answers until Close; it returns nil then.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("stream server on %s: %w", s.Address(), err)
	}
	return nil
}

// Close ends every session, also those whose connection HTTP has handed over,
// and stops listening. What runs in containers is not touched.
func (s *Server) Close() error {
	s.cancel()
	return errors.Join(s.http.Close(), s.closeListener())
}

// closeListener closes it also if Serve was never called.
func (s *Server) closeListener() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Exec returns a URL that runs the request once. Errors are gRPC statuses.
func (s *Server) Exec(r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return s.lib.GetExec(r)
}

// Attach returns a URL that attaches once.
func (s *Server) Attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return s.lib.GetAttach(r)
}

// PortForward returns a URL that forwards once.
func (s *Server) PortForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return s.lib.GetPortForward(r)
}

// adapter is the Runtime as the library wants it.
type adapter struct {
	rt     Runtime
	server context.Context // ends with the server: a hijacked connection's own context does not
}

// session is a context that ends with the request's or the server's.
func (a adapter) session(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(a.server, cancel)
	return ctx, func() { stop(); cancel() }
}

func (a adapter) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, end := a.session(ctx)
	defer end()
	code, err := a.rt.Exec(ctx, id, cmd, tty, streams(ctx, in, out, errOut, resize))
	if err != nil {
		return err
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

func (a adapter) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, end := a.session(ctx)
	defer end()
	return a.rt.Attach(ctx, id, tty, streams(ctx, in, out, errOut, resize))
}

func (a adapter) PortForward(ctx context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	ctx, end := a.session(ctx)
	defer end()
	return a.rt.PortForward(ctx, id, port, conn)
}

// streams converts the ends of a session. The sizes are relayed until ctx ends,
// so that the library's sender never blocks on a session that is over.
func streams(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) Streams {
	s := Streams{Stdin: in, Stdout: out, Stderr: errOut}
	if resize == nil {
		return s
	}
	sizes := make(chan Size)
	s.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-resize:
				if !ok {
					return
				}
				select {
				case sizes <- Size{size.Width, size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return s
}

// exitError carries an exit code in the form the library looks for
// (k8s.io/utils/exec.ExitError).
type exitError int

func (e exitError) Error() string   { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }
