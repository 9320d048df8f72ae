// Package stream serves exec, attach and port-forward to people: the kubelet's
// streaming protocols (SPDY and websocket, by the kubelet's own library; what that
// lacks, v5 and tunnelled SPDY, is here) over HTTP.
//
// A front asks for a URL over its own, protected socket; the URL carries a
// random token that works once and for a minute, and whoever has it gets the
// stream. That is CRI's design: without TLS, the server must therefore listen on
// loopback, where only a kubelet or crictl proxies to it. It knows nothing of pods: the
// Runtime does the work, and only bytes and sizes cross between them.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
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
	rt       Runtime
	tokens   *tokens
	http     *http.Server
	listener net.Listener
	scheme   string
	log      *slog.Logger
	life     context.Context // ends with Close
	end      context.CancelFunc
}

// New listens on address (IP:PORT; port 0 picks one): with TLS, which must be for
// http/1.1, or without if secure is nil.
func New(address string, secure *tls.Config, rt Runtime) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("stream server: listen on stream.address %q: %w", address, err)
	}
	s := &Server{rt: rt, tokens: newTokens(), listener: l, scheme: "http", log: slog.Default()}
	if secure != nil {
		s.listener, s.scheme = tls.NewListener(l, secure), "https"
	}
	s.life, s.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("/{verb}/{token}", s.serve)
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s, nil
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
	s.end()
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
	if err := checkStreams(r.ContainerId, options(r)); err != nil {
		return nil, err
	}
	u, err := s.url("exec", r)
	return &runtimeapi.ExecResponse{Url: u}, err
}

// Attach returns a URL that attaches once.
func (s *Server) Attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(r.ContainerId, options(r)); err != nil {
		return nil, err
	}
	u, err := s.url("attach", r)
	return &runtimeapi.AttachResponse{Url: u}, err
}

// PortForward returns a URL that forwards once.
func (s *Server) PortForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if r.PodSandboxId == "" {
		return nil, status.Error(codes.InvalidArgument, "pod_sandbox_id: is empty")
	}
	u, err := s.url("portforward", r)
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

func checkStreams(id string, o remotecommand.Options) error {
	switch {
	case id == "":
		return status.Error(codes.InvalidArgument, "container_id: is empty")
	case o.TTY && o.Stderr:
		return status.Error(codes.InvalidArgument, "stderr: a terminal has but one output: leave it out with tty")
	case !o.Stdin && !o.Stdout && !o.Stderr:
		return status.Error(codes.InvalidArgument, "stdin, stdout, stderr: one of them has to be asked for")
	}
	return nil
}

// options are the streams that an exec or attach request asks for.
func options(r interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}) remotecommand.Options {
	return remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
}

func (s *Server) url(verb string, request any) (string, error) {
	token, err := s.tokens.put(request)
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: s.scheme, Host: s.Address(), Path: "/" + verb + "/" + token}).String(), nil
}

// serve has the session of a URL, whatever becomes of it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	a := adapter{s.rt, s.life}
	const creation = remotecommand.DefaultStreamCreationTimeout
	request := s.tokens.take(r.PathValue("token"))
	switch q := request.(type) {
	case *runtimeapi.ExecRequest:
		o := options(q)
		if newest(r) {
			s.serveV5(w, r, o, func(ctx context.Context, to Streams) error { return a.exec(ctx, q.ContainerId, q.Cmd, o.TTY, to) })
			return
		}
		remotecommand.ServeExec(w, r, a, "", "", q.ContainerId, q.Cmd, &o, idleTimeout, creation, remotecommand.SupportedStreamingProtocols)
	case *runtimeapi.AttachRequest:
		o := options(q)
		if newest(r) {
			s.serveV5(w, r, o, func(ctx context.Context, to Streams) error { return s.rt.Attach(ctx, q.ContainerId, o.TTY, to) })
			return
		}
		remotecommand.ServeAttach(w, r, a, "", "", q.ContainerId, &o, idleTimeout, creation, remotecommand.SupportedStreamingProtocols)
	case *runtimeapi.PortForwardRequest:
		forward := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			portforward.ServePortForward(w, r, a, q.PodSandboxId, "", &portforward.V4Options{Ports: q.Port}, idleTimeout, creation, portforward.SupportedProtocols)
		})
		if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
			s.serveTunnel(w, r, forward)
			return
		}
		forward(w, r)
	default: // used, or too old, or never given
		http.NotFound(w, r)
	}
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

// The library's interfaces have a kubelet's names and ids, which a runtime has no
// use for, and a timeout that is never given.

func (a adapter) ExecInContainer(ctx context.Context, _, _, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	ctx, end := a.session(ctx)
	defer end()
	return a.exec(ctx, id, cmd, tty, streams(ctx, in, out, errOut, resize))
}

func (a adapter) exec(ctx context.Context, id string, cmd []string, tty bool, to Streams) error {
	code, err := a.rt.Exec(ctx, id, cmd, tty, to)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

func (a adapter) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, end := a.session(ctx)
	defer end()
	return a.rt.Attach(ctx, id, tty, streams(ctx, in, out, errOut, resize))
}

func (a adapter) PortForward(ctx context.Context, id, _ string, port int32, conn io.ReadWriteCloser) error {
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
