package crash

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/test/node"
)

// TestUpgrade replaces all programs on the disk while containers log at full speed,
// clients are attached and processes were added, and then kills first straked, so that
// a new one meets an old monitor, and then the monitor, so that a new one takes over
// from an old one. A container ends while no straked is there.
func TestUpgrade(t *testing.T) {
	bin := t.TempDir()
	install(t, node.Bin(t), bin)
	t.Setenv("STRAKE_BIN", bin)
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	config := n.PodConfig("upgrade", false)
	pod := must1(n.RunPod(ctx, config))(t)
	counts := must1(n.RunContainer(ctx, pod, config, n.ContainerConfig("counts", "/bin/sh", "-c",
		"trap 'exit 42' TERM; i=0; while :; do i=$((i+1)); echo $i; done")))(t)
	cat := n.ContainerConfig("cat", "/bin/cat")
	cat.Stdin = true
	catID := must1(n.RunContainer(ctx, pod, config, cat))(t)

	for _, restarted := range []string{"straked", "monitor"} {
		gate := filepath.Join(n.Logs, "gate-"+restarted)
		must(t, syscall.Mkfifo(gate, 0o600))
		gated := n.ContainerConfig("gated-"+restarted, "/bin/sh", "-c", "read line < /gate; exit 43")
		gated.Mounts = []*cri.Mount{{HostPath: gate, ContainerPath: "/gate"}}
		gatedID := must1(n.RunContainer(ctx, pod, config, gated))(t)
		attached := attach(ctx, t, n, catID)
		attached.say("before " + restarted)
		added := addProcess(ctx, t, n, counts)

		install(t, node.Bin(t), bin)
		switch restarted {
		case "straked":
			n.Kill()
			must(t, os.WriteFile(gate, []byte("go\n"), 0)) // blocks until the container reads
			n.StartDaemon()
			attached.gone()
			attached = attach(ctx, t, n, catID)
		case "monitor":
			for _, pid := range n.Monitors() {
				must(t, syscall.Kill(pid, syscall.SIGKILL))
			}
			must(t, os.WriteFile(gate, []byte("go\n"), 0))
		}
		r := untilThere(ctx, t, n, counts, "/bin/kill", "-0", added)
		if r.ExitCode != 0 && restarted == "monitor" { // with straked its client has gone
			t.Errorf("%s: the process that was added is not there any more: %s", restarted, r.Stderr)
		}
		attached.say("after " + restarted)
		s := must1(n.WaitExit(ctx, gatedID))(t)
		if s.ExitCode != 43 && (restarted == "straked" || testutil.ExitsAreKept()) {
			t.Errorf("%s: exit code %d, %s: %s", restarted, s.ExitCode, s.Reason, s.Message)
		}
		attached.end()
	}
	for _, pid := range n.Monitors() {
		if exe := must1(os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)))(t); strings.HasSuffix(exe, "(deleted)") {
			t.Errorf("monitor %d is still %s", pid, exe)
		}
	}
	next := n.PodConfig("next", false)
	nextPod := must1(n.RunPod(ctx, next))(t)
	id := must1(n.RunContainer(ctx, nextPod, next, n.ContainerConfig("c", "/bin/sh", "-c", "exit 3")))(t)
	if s := must1(n.WaitExit(ctx, id))(t); s.ExitCode != 3 {
		t.Errorf("a new container: exit code %d, %s: %s", s.ExitCode, s.Reason, s.Message)
	}
	must1(n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: counts, Timeout: 60}))(t)
	if s := must1(n.Status(ctx, counts))(t); s.ExitCode != 42 && testutil.ExitsAreKept() {
		t.Errorf("counts: exit code %d, %s: %s", s.ExitCode, s.Reason, s.Message)
	}
	checkCounter(t, filepath.Join(n.Logs, "upgrade", "counts.log"))
}

// install puts the programs of a directory in the place of those in another, as a
// package manager does: by rename, and with other bytes, which their end does not mind.
func install(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{"straked", "containerd-shim-strake-v2", "strake-runtime"} {
		data := must1(os.ReadFile(filepath.Join(from, name)))(t)
		next := filepath.Join(to, name+".next")
		must(t, os.WriteFile(next, append(data, "another build"...), 0o700))
		must(t, os.Rename(next, filepath.Join(to, name)))
	}
}

// untilThere runs a command in a container, again while its monitor is being replaced.
func untilThere(ctx context.Context, t *testing.T, n *node.Node, id string, command ...string) *cri.ExecSyncResponse {
	t.Helper()
	for {
		r, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command})
		if err == nil {
			return r
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "monitor") {
			t.Fatal(err)
		}
	}
}

// attachment is a client that is attached to a cat.
type attachment struct {
	t      *testing.T
	in     *io.PipeWriter
	out    *bufio.Reader
	detach context.CancelFunc
	ended  chan error
}

func attach(ctx context.Context, t *testing.T, n *node.Node, id string) *attachment {
	t.Helper()
	r := must1(n.Runtime.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true}))(t)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	a := &attachment{t: t, in: inW, out: bufio.NewReader(outR), ended: make(chan error, 1)}
	ctx, a.detach = context.WithCancel(ctx)
	go func() {
		err := stream(ctx, r.Url, remotecommand.StreamOptions{Stdin: inR, Stdout: outW})
		_, _ = inR.CloseWithError(io.ErrClosedPipe), outW.CloseWithError(io.ErrUnexpectedEOF)
		a.ended <- err
	}()
	return a
}

// stream connects to a URL that Exec or Attach gave.
func stream(ctx context.Context, at string, o remotecommand.StreamOptions) error {
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, u)
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, o)
}

// say sends a line and waits until it comes back.
func (a *attachment) say(line string) {
	a.t.Helper()
	_, err := fmt.Fprintln(a.in, line)
	must(a.t, err)
	if back, err := a.out.ReadString('\n'); err != nil || back != line+"\n" {
		a.t.Fatalf("said %q, heard %q: %v", line, back, err)
	}
}

// gone waits until the client knows that it is not attached any more.
func (a *attachment) gone() {
	a.t.Helper()
	<-a.ended
	a.detach()
}

// end detaches.
func (a *attachment) end() {
	a.t.Helper()
	a.detach()
	<-a.ended // by that
}

// addProcess adds a process to a container, with a client, and returns its pid there.
func addProcess(ctx context.Context, t *testing.T, n *node.Node, id string) string {
	t.Helper()
	r := must1(n.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: id, Stdout: true, Cmd: []string{"/bin/sh", "-c", "echo $$; exec sleep 100000"}}))(t)
	outR, outW := io.Pipe()
	go func() {
		// It ends with its container, or straked.
		_ = outW.CloseWithError(stream(ctx, r.Url, remotecommand.StreamOptions{Stdout: outW}))
	}()
	line := must1(bufio.NewReader(outR).ReadString('\n'))(t)
	return strings.TrimSpace(line)
}
