package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// fake answers each session as its command says.
type fake struct{ closed chan struct{} }

func (f fake) Exec(ctx context.Context, id string, cmd []string, tty bool, s Streams) (int, error) {
	switch cmd[0] {
	case "cat":
		_, _ = io.CopyN(s.Stdout, s.Stdin, 5) // websocket, up to v4, cannot close a stdin
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

func (f fake) PortForward(context.Context, string, int32, io.ReadWriteCloser) error { return nil }

func start(t *testing.T) (*Server, fake) {
	t.Helper()
	f := fake{closed: make(chan struct{})}
	s, err := New("127.0.0.1:0", f)
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
	return s, f
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
		"websocket": func(u string) (remotecommand.Executor, error) {
			// the newest protocol of the kubelet's library; its clients know a v5
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
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err = e.StreamWithContext(ctx, o)
				return out.String(), errOut.String(), err
			}

			out, _, err := run(&runtimeapi.ExecRequest{Cmd: []string{"cat"}, Stdin: true, Stdout: true}, "hello", remotecommand.StreamOptions{})
			if err != nil || out != "hello" {
				t.Errorf("cat: %q, %v", out, err)
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

// TestClose ends a session that nothing else would end.
func TestClose(t *testing.T) {
	f := fake{closed: make(chan struct{})}
	s, err := New("127.0.0.1:0", f)
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
	case <-time.After(10 * time.Second):
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
