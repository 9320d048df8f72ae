// Package cri drives a real straked over CRI as a kubelet does, and checks the
// effects on the host and in the containers.
package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/strake-containers/strake/test/node"
)

// pod is a running pod of a node.
type pod struct {
	*node.Node
	t      *testing.T
	id     string
	config *cri.PodSandboxConfig
}

func start(t *testing.T) *node.Node {
	t.Helper()
	n := node.Start(t, node.Options{})
	if err := n.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func runPod(t *testing.T, n *node.Node, name string, hostNetwork bool) *pod {
	t.Helper()
	config := n.PodConfig(name, hostNetwork)
	id, err := n.RunPod(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return &pod{n, t, id, config}
}

func (p *pod) run(c *cri.ContainerConfig) string {
	p.t.Helper()
	id, err := p.RunContainer(p.t.Context(), p.id, p.config, c)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *pod) exec(id string, cmd ...string) *cri.ExecSyncResponse {
	p.t.Helper()
	r, err := p.Runtime.ExecSync(p.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: 10})
	if err != nil {
		p.t.Fatalf("exec %q: %v", cmd, err)
	}
	return r
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

func TestExitReasons(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "exits", true)
	for _, c := range []struct {
		name, reason string
		code         int32
		change       func(*cri.ContainerConfig)
		command      []string
	}{
		{"ok", "Completed", 0, nil, []string{"true"}},
		{"three", "Error", 3, nil, []string{"sh", "-c", "exit 3"}},
		{"tty", "Error", 4, func(c *cri.ContainerConfig) { c.Tty = true }, []string{"sh", "-c", "exit 4"}},
		{"oom", "OOMKilled", 137, func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
		}, []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := n.ContainerConfig(c.name, c.command...)
			if c.change != nil {
				c.change(config)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := n.WaitExit(ctx, p.run(config))
			if err != nil {
				t.Fatal(err)
			}
			if s.ExitCode != c.code || s.Reason != c.reason {
				t.Errorf("exit code %d, reason %q; want %d, %q", s.ExitCode, s.Reason, c.code, c.reason)
			}
			if s.CreatedAt == 0 || s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt {
				t.Errorf("created %d, started %d, finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
			}
		})
	}
	t.Run("killed", func(t *testing.T) {
		id := p.run(n.ContainerConfig("killed", "sleep", "1000"))
		if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if s, err := n.Status(t.Context(), id); err != nil || s.ExitCode != 137 || s.Reason != "Error" {
			t.Errorf("%v, %v", s, err)
		}
	})
	t.Run("no such command", func(t *testing.T) {
		_, err := p.RunContainer(t.Context(), p.id, p.config, n.ContainerConfig("missing", "/no/such/program"))
		if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
			t.Errorf("error %v does not name the program", err)
		}
	})
}

func TestStatusAndLists(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "lists", false)
	config := n.ContainerConfig("main", "sleep", "1000")
	config.Labels = map[string]string{"app": "web"}
	config.Annotations = map[string]string{"note": "kept"}
	host := filepath.Join(n.Logs, "volume")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	config.Mounts = []*cri.Mount{{ContainerPath: "/data", HostPath: host, Readonly: true}}
	id := p.run(config)

	ctx := t.Context()
	ps, err := n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if ip := ps.Status.Network.Ip; !strings.HasPrefix(ip, strings.TrimSuffix(n.Subnet.Addr().String(), "0")) {
		t.Errorf("pod IP %q is not of %s", ip, n.Subnet)
	}
	if len(ps.ContainersStatuses) != 1 || ps.Timestamp == 0 || !json.Valid([]byte(ps.Info["info"])) {
		t.Errorf("pod status %v", ps)
	}
	cs, err := n.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	s := cs.Status
	if s.State != cri.ContainerState_CONTAINER_RUNNING || s.Labels["app"] != "web" || s.Annotations["note"] != "kept" ||
		s.LogPath != filepath.Join(p.config.LogDirectory, "main.log") || s.Image.Image != n.Image ||
		!strings.HasPrefix(s.ImageId, "sha256:") || len(s.Mounts) != 1 || !s.Mounts[0].Readonly {
		t.Errorf("container status %v", s)
	}
	var info struct {
		Pid         int
		RuntimeSpec struct{ Process struct{ Args []string } }
	}
	if err := json.Unmarshal([]byte(cs.Info["info"]), &info); err != nil || info.Pid == 0 || !slices.Equal(info.RuntimeSpec.Process.Args, []string{"sleep", "1000"}) {
		t.Errorf("verbose info: %v, %v", cs.Info, err)
	}

	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	exited := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}
	for _, c := range []struct {
		filter *cri.ContainerFilter
		want   int
	}{
		{nil, 1}, {&cri.ContainerFilter{Id: id}, 1}, {&cri.ContainerFilter{Id: id[:12]}, 1}, {&cri.ContainerFilter{Id: "ffffffffffff"}, 0},
		{&cri.ContainerFilter{State: running}, 1}, {&cri.ContainerFilter{State: exited}, 0},
		{&cri.ContainerFilter{PodSandboxId: p.id, LabelSelector: map[string]string{"app": "web"}}, 1},
		{&cri.ContainerFilter{LabelSelector: map[string]string{"app": "db"}}, 0},
	} {
		list, err := n.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: c.filter})
		if err != nil || len(list.Containers) != c.want {
			t.Errorf("filter %v: %d containers, %v; want %d", c.filter, len(list.GetContainers()), err, c.want)
		}
	}
	stream, err := n.Runtime.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	part, err := stream.Recv()
	if err != nil || len(part.PodSandboxes) != 1 || part.PodSandboxes[0].Id != p.id {
		t.Errorf("stream of pods: %v, %v", part, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
}

// TestIdempotence is what the kubelet relies on when it retries and cleans up.
func TestIdempotence(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	for range 2 {
		_, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: "unknown"})
		wantCode(t, "stop unknown pod", err, codes.OK)
		_, err = n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: "unknown"})
		wantCode(t, "remove unknown pod", err, codes.OK)
		_, err = n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: "unknown"})
		wantCode(t, "stop unknown container", err, codes.OK)
		_, err = n.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: "unknown"})
		wantCode(t, "remove unknown container", err, codes.OK)
	}
	_, err := n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: "unknown"})
	wantCode(t, "status of unknown pod", err, codes.NotFound)
	_, err = n.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: "unknown"})
	wantCode(t, "status of unknown container", err, codes.NotFound)
	_, err = n.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: "unknown"})
	wantCode(t, "start unknown container", err, codes.NotFound)
	_, err = n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: "unknown", Config: n.ContainerConfig("c", "true")})
	wantCode(t, "create in unknown pod", err, codes.NotFound)

	p := runPod(t, n, "again", true)
	again, err := n.RunPod(ctx, p.config)
	if err != nil || again != p.id {
		t.Errorf("a retried RunPodSandbox: %s, %v; want %s", again, err, p.id)
	}
	c := n.ContainerConfig("c", "sleep", "1000")
	create := &cri.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config}
	first, err := n.Runtime.CreateContainer(ctx, create)
	if err != nil {
		t.Fatal(err)
	}
	second, err := n.Runtime.CreateContainer(ctx, create)
	if err != nil || second.ContainerId != first.ContainerId {
		t.Errorf("a retried CreateContainer: %v, %v; want %s", second, err, first.ContainerId)
	}
	for range 2 {
		_, err := n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: first.ContainerId, Timeout: 1})
		wantCode(t, "stop container", err, codes.OK)
	}
	for range 2 {
		_, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		wantCode(t, "stop pod", err, codes.OK)
	}
	st, err := n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil || st.Status.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("stopped pod: %v, %v", st, err)
	}
}

func TestExecSync(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "exec", true)
	id := p.run(n.ContainerConfig("main", "sleep", "1000"))
	r := p.exec(id, "sh", "-c", "echo out; echo err >&2; exit 5")
	if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 5 {
		t.Errorf("exec: %v", r)
	}
	started := time.Now()
	_, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "100"}, Timeout: 1})
	wantCode(t, "exec that takes too long", err, codes.DeadlineExceeded)
	if took := time.Since(started); took < time.Second {
		t.Errorf("the timeout of a second took %s", took)
	}
	if left := p.exec(id, "sh", "-c", "ps | grep -c '[s]leep 100$'"); strings.TrimSpace(string(left.Stdout)) != "0" {
		t.Errorf("%s processes are left of it", left.Stdout)
	}
	_, err = n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such"}, Timeout: 1})
	if err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("exec of a missing program: %v", err)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	_, err = n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	wantCode(t, "exec in a stopped container", err, codes.FailedPrecondition)
}

// executor makes a streaming client of each kind.
var executors = map[string]func(u string) (remotecommand.Executor, error){
	"spdy": func(u string) (remotecommand.Executor, error) {
		parsed, err := url.Parse(u)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, parsed)
	},
	"websocket": func(u string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(&rest.Config{}, http.MethodGet, u, "v4.channel.k8s.io")
	},
}

type oneSize struct{ size *remotecommand.TerminalSize }

func (o *oneSize) Next() *remotecommand.TerminalSize {
	size := o.size
	o.size = nil
	return size
}

func TestStreams(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "streams", false)
	main := p.run(n.ContainerConfig("main", "sleep", "1000"))
	cat := n.ContainerConfig("cat", "cat")
	cat.Stdin = true
	catID := p.run(cat)
	for name, executor := range executors {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			stream := func(u string, o remotecommand.StreamOptions) error {
				e, err := executor(u)
				if err != nil {
					return err
				}
				return e.StreamWithContext(ctx, o)
			}
			execURL := func(r *cri.ExecRequest) string {
				r.ContainerId = main
				resp, err := n.Runtime.Exec(ctx, r)
				if err != nil {
					t.Fatal(err)
				}
				return resp.Url
			}
			var out, errOut bytes.Buffer
			err := stream(execURL(&cri.ExecRequest{Cmd: []string{"sh", "-c", "read x; echo got $x; echo err >&2; exit 9"}, Stdin: true, Stdout: true, Stderr: true}),
				remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: &errOut})
			var exit utilexec.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 9 || out.String() != "got hello\n" || errOut.String() != "err\n" {
				t.Errorf("exec: %q, %q, %v", &out, &errOut, err)
			}
			out.Reset()
			err = stream(execURL(&cri.ExecRequest{Cmd: []string{"sh", "-c", "until [ \"$(stty size 2>/dev/null)\" = '31 97' ]; do :; done; echo resized"}, Tty: true, Stdin: true, Stdout: true}),
				remotecommand.StreamOptions{Stdin: eternal{ctx}, Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{&remotecommand.TerminalSize{Width: 97, Height: 31}}})
			if err != nil || out.String() != "resized\r\n" {
				t.Errorf("tty: %q, %v", &out, err)
			}
			a, err := n.Runtime.Attach(ctx, &cri.AttachRequest{ContainerId: catID, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			attached, done := context.WithCancel(ctx)
			echoed := make(chan string, 1)
			e, err := executor(a.Url)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_ = e.StreamWithContext(attached, remotecommand.StreamOptions{ // its error is our own cancellation
					Stdin: io.MultiReader(strings.NewReader("ping "+name+"\n"), eternal{attached}), Stdout: lineWriter(echoed), Stderr: io.Discard})
			}()
			select {
			case line := <-echoed:
				if line != "ping "+name+"\n" {
					t.Errorf("attach: %q", line)
				}
			case <-ctx.Done():
				t.Error("attach: nothing came back")
			}
			done()
		})
	}
	if s, err := n.Status(t.Context(), catID); err != nil || s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after the clients have gone, cat is %v, %v", s.GetState(), err)
	}
}

// eternal is a stdin on which nothing comes until ctx ends.
type eternal struct{ ctx context.Context }

func (e eternal) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, io.EOF
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default:
	}
	return len(p), nil
}

func TestPortForward(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "forward", false)
	web := p.run(n.ContainerConfig("web", "sh", "-c", "mkdir /www && echo forwarded >/www/index.html && exec httpd -f -h /www -p 127.0.0.1:8080"))
	// A refused connection ends the client's whole session, as kubectl's.
	waitFor(t, "the server", func() bool { return p.exec(web, "wget", "-q", "-O-", "http://127.0.0.1:8080/").ExitCode == 0 })
	r, err := n.Runtime.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var out, errOut bytes.Buffer
	fw, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), []string{"0:8080"}, stop, ready, &out, &errOut)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fw.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", itoa(ports[0].Local))
	body, err := get("http://" + address + "/")
	if err != nil || body != "forwarded\n" {
		t.Errorf("got %q, %v; %s", body, err, &errOut)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLogs(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "logs", true)
	id := p.run(n.ContainerConfig("main", "sh", "-c", "echo one; echo two >&2; read x </dev/null; sleep 1000"))
	path := filepath.Join(p.config.LogDirectory, "main.log")
	waitFor(t, "two lines in the log", func() bool { return len(readLog(t, path)) == 2 })
	lines := readLog(t, path)
	slices.SortFunc(lines, func(a, b [4]string) int { return strings.Compare(a[3], b[3]) }) // two streams have no order
	for i, want := range [][3]string{{"stdout", "F", "one"}, {"stderr", "F", "two"}} {
		if _, err := time.Parse(time.RFC3339Nano, lines[i][0]); err != nil || lines[i][1] != want[0] || lines[i][2] != want[1] || lines[i][3] != want[2] {
			t.Errorf("line %q, want %q", lines[i], want)
		}
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err == nil {
		t.Error("the log of a stopped container was opened again")
	}
}

func TestEvents(t *testing.T) {
	n := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events, err := n.Runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil { // subscribed
		t.Fatal(err)
	}
	p := runPod(t, n, "events", true)
	id := p.run(n.ContainerConfig("main", "true"))
	if _, err := n.WaitExit(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	want := []cri.ContainerEventType{cri.ContainerEventType_CONTAINER_CREATED_EVENT, cri.ContainerEventType_CONTAINER_STARTED_EVENT,
		cri.ContainerEventType_CONTAINER_STOPPED_EVENT, cri.ContainerEventType_CONTAINER_DELETED_EVENT}
	var got []cri.ContainerEventType
	for len(got) < len(want) {
		e, err := events.Recv()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if e.ContainerId != id {
			continue // the sandbox's own
		}
		if e.PodSandboxStatus.GetId() != p.id || e.CreatedAt == 0 {
			t.Errorf("event %v", e)
		}
		got = append(got, e.ContainerEventType)
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// A client that follows events comes back after straked was killed, and is told how a
// container ended that nobody watched; and again of what it may have heard already.
func TestEventsOverRestart(t *testing.T) {
	n := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := runPod(t, n, "events", true)
	before := p.run(n.ContainerConfig("before", "true"))
	if _, err := n.WaitExit(ctx, before); err != nil {
		t.Fatal(err)
	}
	lives := p.run(n.ContainerConfig("lives", "sleep", "100"))
	end := filepath.Join(t.TempDir(), "end")
	config := n.ContainerConfig("meanwhile", "sh", "-c", "until [ -e /end/now ]; do sleep 0.05; done; exit 7")
	if err := os.Mkdir(end, 0o755); err != nil {
		t.Fatal(err)
	}
	config.Mounts = []*cri.Mount{{HostPath: end, ContainerPath: "/end"}}
	meanwhile := p.run(config)
	n.Kill()
	if err := os.WriteFile(filepath.Join(end, "now"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exit := filepath.Join(n.State, "pods", p.id, meanwhile, "exit.json")
	waitFor(t, exit, func() bool { _, err := os.Stat(exit); return err == nil })
	n.StartDaemon()

	events, err := n.Runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]cri.ContainerEventType{
		before:    cri.ContainerEventType_CONTAINER_STOPPED_EVENT,
		lives:     cri.ContainerEventType_CONTAINER_STARTED_EVENT,
		meanwhile: cri.ContainerEventType_CONTAINER_STOPPED_EVENT,
	}
	last := int64(0)
	for len(want) > 0 {
		e, err := events.Recv()
		if err != nil {
			t.Fatalf("still expected %v: %v", want, err)
		}
		if e.CreatedAt > time.Now().UnixNano() || e.CreatedAt < last || e.PodSandboxStatus.GetId() != p.id || len(e.ContainersStatuses) != 3 {
			t.Errorf("event %v", e)
		}
		last = e.CreatedAt
		if e.ContainerEventType == want[e.ContainerId] {
			delete(want, e.ContainerId)
		}
	}
	if s, err := n.Status(ctx, meanwhile); err != nil || s.ExitCode != 7 || s.FinishedAt > last {
		t.Errorf("%v, %v", s, err)
	}
}

// Every method of the two services is there: an empty request is carried out, or
// refused for what it lacks, but is not unknown.
func TestEveryMethod(t *testing.T) {
	n := start(t)
	services := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			err := n.Call(ctx, m)
			cancel()
			if status.Code(err) == codes.Unimplemented {
				t.Errorf("%s: %v", m.FullName(), err)
			}
		}
	}
}

func TestStatsAndUpdate(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "stats", false)
	config := n.ContainerConfig("busy", "sh", "-c", "while :; do :; done")
	config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512}
	id := p.run(config)
	ctx := t.Context()
	sample := func() *cri.ContainerStats {
		r, err := n.Runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
		if err != nil {
			t.Fatal(err)
		}
		return r.Stats
	}
	first := sample()
	var second *cri.ContainerStats
	waitFor(t, "a busy loop to use the CPU", func() bool {
		second = sample()
		return second.Cpu.UsageCoreNanoSeconds.Value > first.Cpu.UsageCoreNanoSeconds.Value && second.Cpu.GetUsageNanoCores().GetValue() > 0
	})
	if m := second.Memory; m.WorkingSetBytes.Value == 0 || m.AvailableBytes.GetValue() > 64<<20 || second.WritableLayer == nil {
		t.Errorf("memory %v, writable layer %v", m, second.WritableLayer)
	}
	ps, err := n.Runtime.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	if err != nil || len(ps.Stats.Linux.Containers) != 1 || ps.Stats.Linux.Network.GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("pod stats %v, %v", ps, err)
	}
	metrics, err := n.Runtime.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
	if err != nil || len(metrics.PodMetrics) != 1 || len(metrics.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("metrics %v, %v", metrics, err)
	}
	read := map[string]uint64{}
	for _, m := range metrics.PodMetrics[0].ContainerMetrics[0].Metrics {
		read[m.Name] = m.Value.Value
	}
	if read["container_processes"] != 1 || read["container_threads"] != 1 || read["container_file_descriptors"] < 3 ||
		read["container_ulimits_soft"] == 0 || read["container_spec_memory_limit_bytes"] != 64<<20 || read["container_fs_limit_bytes"] == 0 {
		t.Errorf("metrics %v", read)
	}
	if _, err := n.Runtime.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: p.id,
		Overhead: &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}}); err != nil {
		t.Fatal(err)
	}
	if ps, err = n.Runtime.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id}); err != nil || ps.Stats.Linux.Memory.AvailableBytes.GetValue() > 80<<20 {
		t.Errorf("after the pod's update: %v, %v", ps.GetStats().GetLinux().GetMemory(), err)
	}
	if _, err := n.Runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 256}}); err != nil {
		t.Fatal(err)
	}
	s, err := n.Status(ctx, id)
	if l := s.GetResources().GetLinux(); err != nil || l.MemoryLimitInBytes != 32<<20 || l.CpuShares != 256 {
		t.Errorf("after the update: %v, %v", l, err)
	}
	if got := sample().Memory.AvailableBytes.GetValue(); got > 32<<20 {
		t.Errorf("%d bytes available of a limit of %d", got, 32<<20)
	}
}

func TestRuntime(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	s, err := n.Runtime.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Status.Conditions {
		if !c.Status {
			t.Errorf("%s: %s: %s", c.Type, c.Reason, c.Message)
		}
	}
	if !json.Valid([]byte(s.Info["info"])) || len(s.RuntimeHandlers) != 2 {
		t.Errorf("status %v", s)
	}
	c, err := n.Runtime.RuntimeConfig(ctx, &cri.RuntimeConfigRequest{})
	if err != nil || c.Linux.CgroupDriver != cri.CgroupDriver_CGROUPFS {
		t.Errorf("runtime config %v, %v", c, err)
	}
	fs, err := n.Images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(fs.ImageFilesystems) != 1 || fs.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("image file systems %v, %v", fs, err)
	}
	i, err := n.Images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: n.Image}, Verbose: true})
	if err != nil || i.Image == nil || i.Image.Size == 0 || !json.Valid([]byte(i.Info["info"])) {
		t.Errorf("image status %v, %v", i, err)
	}
}

// A pod with a user namespace of its own is connected by CNI plugins, which know
// nothing of that, and its addresses are given back.
func TestUserNamespaceOnCNI(t *testing.T) {
	const bins = "/usr/lib/cni"
	if _, err := os.Stat(filepath.Join(bins, "bridge")); err != nil {
		t.Skip("needs Debian's containernetworking-plugins: ", err)
	}
	dir := t.TempDir()
	conf, leases := filepath.Join(dir, "net.d"), filepath.Join(dir, "leases")
	link := fmt.Sprintf("cniu%x", os.Getpid())
	list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"userns","plugins":[{"type":"bridge","bridge":%q,"isGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.186.201.0/29"}]]}}]}`, link, leases)
	if err := errors.Join(os.Mkdir(conf, 0o755), os.WriteFile(filepath.Join(conf, "1.conflist"), []byte(list), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the node's own
		_ = exec.Command("ip", "link", "del", link).Run() // the plugin leaves it, if it made it
	})
	n := node.Start(t, node.Options{CNIConfDir: conf, CNIBinDir: bins})
	if err := n.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !s.RuntimeHandlers[0].Features.UserNamespaces {
		t.Skip("needs Linux 6.8")
	}
	ids := []*cri.IDMapping{{HostId: 1_610_000_000, Length: 65536}}
	user := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	config := n.PodConfig("userns", false)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = user
	id, err := n.RunPod(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{n, t, id, config}
	c := n.ContainerConfig("main", "sleep", "1000")
	c.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
		NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: user},
	}}
	ctr := p.run(c)
	ps, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil || !strings.HasPrefix(ps.Status.Network.GetIp(), "10.186.201.") {
		t.Fatalf("%v, %v", ps.GetStatus().GetNetwork(), err)
	}
	out := p.exec(ctr, "sh", "-c", "cat /proc/self/uid_map && ip addr show eth0 && ping -c1 -W5 10.186.201.1").Stdout
	for _, want := range []string{"1610000000", "inet " + ps.Status.Network.Ip, "1 packets received"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	n.RemoveAll(t.Context())
	if left, err := filepath.Glob(filepath.Join(leases, "userns", "10.*")); err != nil || len(left) > 0 {
		t.Errorf("addresses left: %q, %v", left, err)
	}
}

// A pod with a user namespace, as the kubelet asks for it, has a network of its
// own, and another without is not touched by it.
func TestUserNamespace(t *testing.T) {
	n := start(t)
	s, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !s.RuntimeHandlers[0].Features.UserNamespaces {
		t.Skip("needs Linux 6.8")
	}
	ids := []*cri.IDMapping{{HostId: 1_600_000_000, Length: 65536}}
	user := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	config := n.PodConfig("userns", false)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = user
	id, err := n.RunPod(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{n, t, id, config}
	volume := filepath.Join(n.Logs, "volume")
	if err := os.Mkdir(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	c := n.ContainerConfig("web", "sleep", "1000")
	c.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
		NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: user},
	}}
	c.Mounts = []*cri.Mount{{ContainerPath: "/volume", HostPath: volume, UidMappings: ids, GidMappings: ids}}
	ctr := p.run(c)
	if out := p.exec(ctr, "sh", "-c", "cat /proc/self/uid_map; touch /volume/x && stat -c %u /volume/x /bin /etc/hosts").Stdout; strings.Join(strings.Fields(string(out)), " ") != "0 1600000000 65536 0 0 0" {
		t.Errorf("%q", out)
	}
	ps, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil || ps.Status.Linux.Namespaces.Options.UsernsOptions.GetUids()[0].HostId != ids[0].HostId {
		t.Errorf("%v, %v", ps.GetStatus(), err)
	}
	other := runPod(t, n, "plain", false)
	out := other.exec(other.run(n.ContainerConfig("main", "sleep", "1000")), "ping", "-c1", "-W5", ps.Status.Network.Ip)
	if out.ExitCode != 0 {
		t.Errorf("ping to the pod: %s", out.Stdout)
	}
	config = n.PodConfig("refused", false)
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD}
	_, err = n.RunPod(t.Context(), config)
	wantCode(t, "no mappings", err, codes.InvalidArgument)
}
