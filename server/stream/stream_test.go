package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/strake-containers/strake/internal/certs"
	"github.com/strake-containers/strake/internal/testutil"
)

// fake answers each session as its command says.
type fake struct{ closed chan struct{} }

func (f fake) Exec(ctx context.Context, id string, cmd []string, tty bool, s Streams) (int, error) {
	switch cmd[0] {
	case "cat":
		_, _ = io.CopyN(s.Stdout, s.Stdin, 5) // websocket, up to v4, cannot close a stdin
		return 0, nil
	case "wc": // to the end of its input
		n, _ := io.Copy(io.Discard, s.Stdin)
		_, _ = fmt.Fprint(s.Stdout, n)
		return 0, nil
	case "split":
		_, _ = io.WriteString(s.Stdout, "out of "+id)
		_, _ = io.WriteString(s.Stderr, "err")
		return 42, nil
	case "size":
		size := <-s.Resize
		_, _ = io.WriteString(s.Stdout, strings.Repeat("x", int(size.Width)))
		return 0, nil
	case "hang":
		_, _ = io.WriteString(s.Stdout, "hanging")
		<-ctx.Done()
		close(f.closed)
		return 0, ctx.Err()
	}
	return 0, errors.New("no such command")
}

func (f fake) Attach(_ context.Context, id string, _ bool, s Streams) error {
	_, _ = io.WriteString(s.Stdout, "attached to "+id)
	return nil
}

// PortForward answers with what it gets, in brackets.
func (f fake) PortForward(_ context.Context, id string, port int32, conn io.ReadWriteCloser) error {
	data := make([]byte, 5)
	_, err := io.ReadFull(conn, data)
	_, _ = fmt.Fprintf(conn, "[%s of %s:%d]", data, id, port)
	return errors.Join(err, conn.Close())
}

func start(t *testing.T) (*Server, fake) {
	t.Helper()
	f := fake{closed: make(chan struct{})}
	return serve(t, nil, f), f
}

func serve(t *testing.T, secure *tls.Config, f fake) *Server {
	t.Helper()
	s, err := New("127.0.0.1:0", secure, f)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return s
}

// With TLS, URLs are https, and only who has a certificate of the authority gets a
// session. A kubelet verifies nothing, for the URL came over its own socket.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files := certs.Files{Cert: dir + "/cert.pem", Key: dir + "/key.pem"}
	ca := testutil.NewCA(t)
	ca.Issue("streams", files.Cert, files.Key)
	client := certs.Files{Cert: dir + "/client.pem", Key: dir + "/client-key.pem"}
	ca.Issue("client", client.Cert, client.Key)
	for _, files.ClientCA = range []string{"", ca.File} {
		secure, err := certs.Server(files, "http/1.1", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, secure, fake{})
		for name, executor := range map[string]func(c *rest.Config, u string) (remotecommand.Executor, error){
			"spdy": func(c *rest.Config, u string) (remotecommand.Executor, error) {
				parsed, err := url.Parse(u)
				if err != nil {
					return nil, err
				}
				return remotecommand.NewSPDYExecutor(c, http.MethodPost, parsed)
			},
			"websocket": func(c *rest.Config, u string) (remotecommand.Executor, error) {
				return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u, "v5.channel.k8s.io")
			},
		} {
			for _, known := range []bool{false, true} {
				config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
				if known {
					config.CertFile, config.KeyFile = client.Cert, client.Key
				}
				resp, err := s.Exec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"wc"}, Stdin: true, Stdout: true})
				if err != nil || !strings.HasPrefix(resp.Url, "https://127.0.0.1:") {
					t.Fatalf("%v, %v", resp, err)
				}
				e, err := executor(config, resp.Url)
				if err != nil {
					t.Fatal(err)
				}
				var out bytes.Buffer
				err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
				if served := known || files.ClientCA == ""; served != (err == nil && out.String() == "5") {
					t.Errorf("%s, authority %q, certificate %v: %q, %v", name, files.ClientCA, known, out.String(), err)
				}
			}
		}
	}
}

type fixedSize remotecommand.TerminalSize

func (f *fixedSize) Next() *remotecommand.TerminalSize {
	if f.Width == 0 {
		return nil
	}
	size := remotecommand.TerminalSize(*f)
	f.Width = 0
	return &size
}

func TestSessions(t *testing.T) {
	executors := map[string]func(u string) (remotecommand.Executor, error){
		"spdy": func(u string) (remotecommand.Executor, error) {
			parsed, err := url.Parse(u)
			if err != nil {
				return nil, err
			}
			return remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, parsed)
		},
		"websocket v5": func(u string) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, u, "v5.channel.k8s.io")
		},
		"websocket v4": func(u string) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, u, "v4.channel.k8s.io")
		},
	}
	for name, executor := range executors {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t)
			run := func(r *runtimeapi.ExecRequest, in string, o remotecommand.StreamOptions) (string, string, error) {
				r.ContainerId = "c1"
				resp, err := s.Exec(r)
				if err != nil {
					return "", "", err
				}
				e, err := executor(resp.Url)
				if err != nil {
					return "", "", err
				}
				var out, errOut bytes.Buffer
				o.Stdout = &out
				if r.Stderr {
					o.Stderr = &errOut
				}
				if r.Stdin {
					o.Stdin = strings.NewReader(in)
				}
				o.Tty = r.Tty
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err = e.StreamWithContext(ctx, o)
				return out.String(), errOut.String(), err
			}

			out, _, err := run(&runtimeapi.ExecRequest{Cmd: []string{"cat"}, Stdin: true, Stdout: true}, "hello", remotecommand.StreamOptions{})
			if err != nil || out != "hello" {
				t.Errorf("cat: %q, %v", out, err)
			}

			if name != "websocket v4" { // which cannot close a stdin
				out, _, err = run(&runtimeapi.ExecRequest{Cmd: []string{"wc"}, Stdin: true, Stdout: true}, strings.Repeat("x", 100000), remotecommand.StreamOptions{})
				if err != nil || out != "100000" {
					t.Errorf("wc: %q, %v", out, err)
				}
			}

			out, errOut, err := run(&runtimeapi.ExecRequest{Cmd: []string{"split"}, Stdout: true, Stderr: true}, "", remotecommand.StreamOptions{})
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 42 || out != "out of c1" || errOut != "err" {
				t.Errorf("split: %q, %q, %v", out, errOut, err)
			}

			out, _, err = run(&runtimeapi.ExecRequest{Cmd: []string{"size"}, Stdout: true, Tty: true}, "",
				remotecommand.StreamOptions{TerminalSizeQueue: &fixedSize{Width: 7, Height: 3}})
			if err != nil || out != "xxxxxxx" {
				t.Errorf("size: %q, %v", out, err)
			}

			_, _, err = run(&runtimeapi.ExecRequest{Cmd: []string{"nope"}, Stdout: true}, "", remotecommand.StreamOptions{})
			if err == nil || !strings.Contains(err.Error(), "no such command") {
				t.Errorf("nope: %v", err)
			}
		})
	}
}

func TestSingleUse(t *testing.T) {
	s, _ := start(t)
	resp, err := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c1", Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{http.StatusBadRequest, http.StatusNotFound} { // a plain POST is no upgrade, yet uses the token up
		r, err := http.Post(resp.Url, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("request %d: status %d, want %d", i+1, r.StatusCode, want)
		}
	}
	if !strings.HasPrefix(resp.Url, "http://127.0.0.1:") {
		t.Errorf("url %s", resp.Url)
	}
}

func TestRequestsRefused(t *testing.T) {
	s, _ := start(t)
	for name, r := range map[string]*runtimeapi.ExecRequest{
		"no container":   {Stdout: true},
		"no stream":      {ContainerId: "c1"},
		"tty and stderr": {ContainerId: "c1", Tty: true, Stderr: true},
	} {
		if _, err := s.Exec(r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTokens(t *testing.T) {
	now := time.Unix(0, 0)
	k := newTokens()
	k.now = func() time.Time { return now }
	put := func() string {
		t.Helper()
		token, err := k.put("request")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first, used := put(), put()
	if k.take(used) == nil || k.take(used) != nil || k.take("none") != nil {
		t.Error("a token works other than once")
	}
	now = now.Add(tokenLife)
	if k.take(first) != nil {
		t.Error("a token works after its time")
	}
	for range maxTokens {
		put()
	}
	if _, err := k.put(1); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	now = now.Add(tokenLife)
	put()
	if len(k.all) != 1 || len(k.line) != 1 {
		t.Errorf("%d of %d old tokens are kept", len(k.all), len(k.line))
	}
}

func TestPortForward(t *testing.T) {
	forwarders := map[string]func(u *url.URL, stop, ready chan struct{}) (*portforward.PortForwarder, error){
		"spdy": func(u *url.URL, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
			transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
			if err != nil {
				return nil, err
			}
			d := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
			return portforward.NewOnAddresses(d, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
		},
		"websocket": func(u *url.URL, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
			d, err := portforward.NewSPDYOverWebsocketDialer(u, &rest.Config{})
			if err != nil {
				return nil, err
			}
			return portforward.NewOnAddresses(d, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
		},
	}
	for name, forwarder := range forwarders {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t)
			resp, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p1", Port: []int32{80}})
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(resp.Url)
			if err != nil {
				t.Fatal(err)
			}
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := forwarder(u, stop, ready)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, "hello")
				got, err := io.ReadAll(c)
				if string(got) != "[hello of p1:80]" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				c.Close()
			}
			close(stop)
			<-done
		})
	}
}

// TestClientGone ends a session by v5 whose client has gone.
func TestClientGone(t *testing.T) {
	s, f := start(t)
	resp, err := s.Exec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"hang"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewWebSocketExecutor(&rest.Config{}, http.MethodGet, resp.Url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &firstWrite{done: make(chan struct{})}
	go func() { _ = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out}) }()
	<-out.done
	cancel()
	select {
	case <-f.closed:
	case <-time.After(time.Minute):
		t.Error("the session outlived its client")
	}
}

// TestClose ends a session that nothing else would end.
func TestClose(t *testing.T) {
	f := fake{closed: make(chan struct{})}
	s, err := New("127.0.0.1:0", nil, f)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve() }()
	resp, err := s.Exec(&runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"hang"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	e, err := remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, resp.Url, "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	out := &firstWrite{done: make(chan struct{})}
	go func() { _ = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: out}) }()
	<-out.done
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.closed:
	case <-time.After(time.Minute):
		t.Error("the session outlived the server")
	}
}

type firstWrite struct{ done chan struct{} }

func (w *firstWrite) Write(p []byte) (int, error) {
	select {
	case <-w.done:
	default:
		close(w.done)
	}
	return len(p), nil
}

// A connection on which nothing is asked any more is not kept for ever: whoever reaches the
// port, without a token, could take all descriptors.
func TestIdleConnectionsEnd(t *testing.T) {
	s, _ := start(t)
	if s.http.IdleTimeout <= 0 && s.http.ReadTimeout <= 0 {
		t.Error("an idle connection has no limit")
	}
}
