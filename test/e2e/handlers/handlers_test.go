// Package handlers runs pods whose containers somebody else's program makes, with a
// real straked over CRI: OCI runtimes (type "oci") and containerd shims (type "shim").
// One story is told with each of them.
package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/test/node"
)

// handler is a [runtimes.NAME] and what is special about it.
type handler struct {
	name, config string
	needs        string // a program
	shim         string // name of its process, if it is a shim
	// ownKernel: its containers share no memory by a mount of the host's, and no OOM
	// killer of the host's knows them.
	ownKernel bool
	// fragile: its shim dies of an event that nobody takes, and its delete command leaves
	// cgroups.
	fragile bool
}

func handlers(tb testing.TB) []handler {
	own := filepath.Join(node.Bin(tb), "containerd-shim-strake-v2")
	return []handler{
		{name: "crun", config: fmt.Sprintf("type = \"oci\"\npath = %q\n", crun(tb)), needs: "/usr/bin/crun"},
		{name: "runc", config: "type = \"oci\"\npath = \"/usr/sbin/runc\"\n", needs: "/usr/sbin/runc"},
		{name: "shim-runc", config: "type = \"shim\"\nruntime_type = \"io.containerd.runc.v2\"\n", needs: "/usr/bin/containerd-shim-runc-v2", shim: "containerd-shim-runc-v2"},
		{name: "sandbox-api", config: fmt.Sprintf("type = \"shim\"\npath = %q\nsandboxer = \"shim\"\n", own), needs: own, shim: "containerd-shim-strake-v2"},
	}
}

// crun is a program that calls crun. On a hybrid host that has controllers on v2 it
// refuses to run, as long as it sees them.
func crun(tb testing.TB) string {
	const real = "/usr/bin/crun"
	if data, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); err != nil || len(bytes.TrimSpace(data)) == 0 {
		return real
	}
	path := filepath.Join(tb.TempDir(), "crun")
	script := "#!/bin/sh\nexec unshare -m sh -c 'umount /sys/fs/cgroup/unified && exec " + real + " \"$@\"' crun \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		tb.Fatal(err)
	}
	return path
}

// pod is a running pod of a node.
type pod struct {
	*node.Node
	t      *testing.T
	id     string
	config *cri.PodSandboxConfig
}

func start(t *testing.T, configs ...handler) *node.Node {
	t.Helper()
	testutil.RequireRoot(t, "straked makes namespaces, mounts and cgroups")
	var toml strings.Builder
	for _, h := range configs {
		if _, err := os.Stat(h.needs); err != nil {
			t.Skipf("needs %s", h.needs)
		}
		fmt.Fprintf(&toml, "[runtimes.%s]\n%s", h.name, h.config)
	}
	n := node.Start(t, node.Options{Config: toml.String()})
	if err := n.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func run(t *testing.T, n *node.Node, name, handler string, change func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	config := n.PodConfig(name, false)
	if change != nil {
		change(config)
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		t.Fatal(err)
	}
	return &pod{n, t, r.PodSandboxId, config}
}

func (p *pod) container(c *cri.ContainerConfig) string {
	p.t.Helper()
	id, err := p.RunContainer(p.t.Context(), p.id, p.config, c)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *pod) exec(id string, cmd ...string) *cri.ExecSyncResponse {
	p.t.Helper()
	r, err := p.Runtime.ExecSync(p.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: 20})
	if err != nil {
		p.t.Fatalf("exec %q: %v", cmd, err)
	}
	return r
}

// out is what a command prints, which must succeed.
func (p *pod) out(id string, cmd ...string) string {
	p.t.Helper()
	r := p.exec(id, cmd...)
	if r.ExitCode != 0 {
		p.t.Fatalf("exec %q: exit code %d: %s%s", cmd, r.ExitCode, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func (p *pod) exit(id string) *cri.ContainerStatus {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	s, err := p.WaitExit(ctx, id)
	if err != nil {
		p.t.Fatalf("wait for the exit: %v (%v)", err, s)
	}
	return s
}

// log is a container's output as its log has it.
func (p *pod) log(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.config.LogDirectory, name+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			text.WriteString(f[3])
		}
	}
	return text.String()
}

// until asks again until something is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not so after a minute", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// processes are the processes of the node whose program's name that is.
func processes(t *testing.T, n *node.Node, program string) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, d := range dirs {
		data, err := os.ReadFile(d)
		if err != nil || !bytes.Contains(data, []byte(filepath.Dir(n.Root))) {
			continue
		}
		argv0, _, _ := bytes.Cut(data, []byte{0})
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(d))); err == nil && filepath.Base(string(argv0)) == program {
			pids = append(pids, pid)
		}
	}
	return pids
}

// monitors are the node's own monitors, which know where their socket is.
func monitors(t *testing.T, n *node.Node) []int {
	t.Helper()
	var own []int
	for _, pid := range processes(t, n, "containerd-shim-strake-v2") {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(data, []byte("monitor.sock")) {
			own = append(own, pid)
		}
	}
	return own
}

func TestHandlers(t *testing.T) {
	for _, h := range handlers(t) {
		t.Run(h.name, func(t *testing.T) { story(t, h) })
	}
}

// story is a pod's life.
func story(t *testing.T, h handler) {
	n := start(t, h)
	p := run(t, n, "pod", h.name, nil)
	ctx := t.Context()

	// A service that logs, and says good-bye.
	main := p.container(n.ContainerConfig("main", "sh", "-c", `trap 'echo bye; exit 7' TERM; echo hello; echo oops >&2; while :; do sleep 0.2; done`))
	until(t, "its first output is in the log", func() bool {
		return strings.Contains(p.log("main"), "hello\n") && strings.Contains(p.log("main"), "oops\n")
	})

	t.Run("exec", func(t *testing.T) {
		r := p.exec(main, "sh", "-c", "echo out; echo err >&2; exit 5")
		if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 5 {
			t.Errorf("%q %q %d", r.Stdout, r.Stderr, r.ExitCode)
		}
		if r := p.exec(main, "sh", "-c", "dd if=/dev/zero bs=1000 count=300 2>/dev/null"); len(r.Stdout) != 300000 {
			t.Errorf("%d bytes of output, want 300000", len(r.Stdout))
		}
		_, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: main, Cmd: []string{"sleep", "100"}, Timeout: 1})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("an exec that takes too long: %v", err)
		}
		_, err = n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: main, Cmd: []string{"/no/such"}, Timeout: 20})
		if err == nil || !strings.Contains(err.Error(), "/no/such") {
			t.Errorf("exec of a missing program: %v", err)
		}
	})

	t.Run("streams", func(t *testing.T) { streams(t, p, main) })

	t.Run("a second container", func(t *testing.T) {
		second := p.container(n.ContainerConfig("second", "sleep", "1000"))
		for _, cmd := range []string{"hostname", "ip -o -4 addr show dev eth0 | sed 's/ *scope.*//; s/.*inet //'"} {
			if a, b := p.out(main, "sh", "-c", cmd), p.out(second, "sh", "-c", cmd); a != b || a == "" {
				t.Errorf("%s: %q in one and %q in the other", cmd, a, b)
			}
		}
		if !h.ownKernel {
			p.out(main, "sh", "-c", "echo shared > /dev/shm/x")
			if got := p.out(second, "cat", "/dev/shm/x"); got != "shared" {
				t.Errorf("/dev/shm: %q", got)
			}
		}
		if _, err := n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: second}); err != nil {
			t.Fatal(err)
		}
		if s := p.exit(second); s.ExitCode != 137 {
			t.Errorf("exit code %d, want 137", s.ExitCode)
		}
	})

	t.Run("stats and update", func(t *testing.T) {
		_, err := n.Runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: main, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 512 << 20},
		})
		if h.ownKernel && err == nil || !h.ownKernel && err != nil { // gVisor's shim has no update
			t.Errorf("update: %v", err)
		}
		r, err := n.Runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: main})
		if err != nil || r.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 || r.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("%v, %v", r, err)
		}
	})

	t.Run("exits", func(t *testing.T) {
		if s := p.exit(p.container(n.ContainerConfig("three", "sh", "-c", "echo last; exit 3"))); s.ExitCode != 3 || s.Reason != "Error" {
			t.Errorf("exit code %d, reason %s", s.ExitCode, s.Reason)
		}
		if got := p.log("three"); got != "last\n" {
			t.Errorf("log %q", got)
		}
		created, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: n.ContainerConfig("never", "true"), SandboxConfig: p.config})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: created.ContainerId}); err != nil {
			t.Errorf("remove a container that was never started: %v", err)
		}
		_, err = p.RunContainer(ctx, p.id, p.config, n.ContainerConfig("missing", "/no/such"))
		if err == nil || !strings.Contains(err.Error(), "/no/such") {
			t.Errorf("start of a missing program: %v", err)
		}
		if h.ownKernel {
			return
		}
		oom := n.ContainerConfig("oom", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
		oom.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20}
		if s := p.exit(p.container(oom)); s.ExitCode != 137 || s.Reason != "OOMKilled" {
			t.Errorf("out of memory: exit code %d, reason %s", s.ExitCode, s.Reason)
		}
	})

	// A daemon that is killed, and one of its containers ends meanwhile.
	counter := p.container(n.ContainerConfig("counter", "sh", "-c", `i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo $i; done; echo end $i; exit 9`))
	until(t, "it counts", func() bool { return strings.Contains(p.log("counter"), "100\n") })
	n.Kill()
	n.StartDaemon()
	if s, err := n.Status(ctx, counter); err != nil || s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("after a restart: %v, %v", s, err)
	}

	// A monitor that is killed under it.
	killed := monitors(t, n)
	for _, pid := range killed {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "another monitor has the pod", func() bool {
		r, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: counter, Cmd: []string{"true"}, Timeout: 20})
		return err == nil && r.ExitCode == 0
	})
	p.exec(counter, "touch", "/tmp/end") // the container's end may be this command's
	s := p.exit(counter)
	text := p.log("counter")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	want := fmt.Sprintf("end %d", len(lines)-1)
	if s.ExitCode != 9 || lines[len(lines)-1] != want {
		t.Errorf("exit code %d, want 9; last line %q, want %q", s.ExitCode, lines[len(lines)-1], want)
	}
	for i, line := range lines[:len(lines)-1] {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
	if !h.fragile {
		exitUnseen(t, p)
	}

	if _, err := n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: main, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if s := p.exit(main); s.ExitCode != 7 || !strings.HasSuffix(p.log("main"), "bye\n") {
		t.Errorf("stopped: exit code %d, log %q", s.ExitCode, p.log("main"))
	}
	if h.shim != "" && !h.fragile {
		killShim(t, p, h)
	}
}

// exitUnseen kills daemon and monitor at once, and a container ends meanwhile.
func exitUnseen(t *testing.T, p *pod) {
	t.Helper()
	n := p.Node
	late := p.container(n.ContainerConfig("late", "sh", "-c", "until [ -e /tmp/end ]; do sleep 0.1; done; exit 11 # "+n.Root))
	p.out(late, "sh", "-c", "(sleep 0.5; touch /tmp/end) >/dev/null 2>&1 &")
	n.Kill()
	for _, pid := range monitors(t, n) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) { // the spare ends with straked
			t.Fatal(err)
		}
	}
	until(t, "it has ended", func() bool { return len(processes(t, n, "sh")) == 0 })
	n.StartDaemon()
	if s := p.exit(late); s.ExitCode != 11 {
		t.Errorf("exit while nobody looked: %d, want 11", s.ExitCode)
	}

}

// killShim kills a pod's shim, which takes the pod along and nobody else.
func killShim(t *testing.T, p *pod, h handler) {
	t.Helper()
	n := p.Node
	doomed := p.container(n.ContainerConfig("doomed", "sleep", "1000"))
	for _, pid := range shims(t, n, h.shim) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.exit(doomed); s.ExitCode != 137 {
		t.Errorf("exit code %d after its shim was killed, want 137", s.ExitCode)
	}
	until(t, "the pod is not ready", func() bool {
		r, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		return err == nil && r.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
}

// shims are the foreign shims of a node: they publish to its monitors.
func shims(t *testing.T, n *node.Node, program string) []int {
	t.Helper()
	var found []int
	own := monitors(t, n)
	for _, pid := range processes(t, n, program) {
		isOwn := false
		for _, m := range own {
			isOwn = isOwn || m == pid
		}
		if !isOwn {
			found = append(found, pid)
		}
	}
	if len(found) == 0 {
		t.Fatal("no shim runs")
	}
	return found
}

// streams are exec and attach with the kubelet's client.
func streams(t *testing.T, p *pod, main string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	input := strings.Repeat("0123456789abcde\n", 20000) // more than any pipe holds
	r, err := p.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: main, Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 4"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	stream := func(u string, o remotecommand.StreamOptions) error {
		parsed, err := url.Parse(u)
		if err != nil {
			return err
		}
		e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, http.MethodPost, parsed)
		if err != nil {
			return err
		}
		return e.StreamWithContext(ctx, o)
	}
	var out, errs bytes.Buffer
	err = stream(r.Url, remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
	if err == nil || !strings.Contains(err.Error(), "exit code 4") || out.String() != input || errs.String() != "err\n" {
		t.Errorf("exec: %d of %d bytes came back, stderr %q, %v", out.Len(), len(input), errs.String(), err)
	}
	r, err = p.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: main, Cmd: []string{"sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal"}, Stdin: true, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	stdin, stdinEnd, err := os.Pipe() // stays open: the terminal's end is the command's
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = stdin.Close(), stdinEnd.Close() }()
	err = stream(r.Url, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Tty: true})
	if err != nil || out.String() != "terminal\r\n" {
		t.Errorf("exec with a terminal: %q, %v", out.String(), err)
	}

	cat := p.ContainerConfig("cat", "cat")
	cat.Stdin, cat.StdinOnce = true, true
	id := p.container(cat)
	a, err := p.Runtime.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := stream(a.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("to the cat\n"), Stdout: &out, Stderr: &errs}); err != nil || out.String() != "to the cat\n" {
		t.Errorf("attach: %q, %v", out.String(), err)
	}
	if s := p.exit(id); s.ExitCode != 0 || p.log("cat") != "to the cat\n" {
		t.Errorf("the cat ended with %d, its log is %q", s.ExitCode, p.log("cat"))
	}

	tty := p.ContainerConfig("tty", "sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal; exit 6")
	tty.Tty = true
	if s := p.exit(p.container(tty)); s.ExitCode != 6 || p.log("tty") != "terminal\r\n" {
		t.Errorf("a container with a terminal ended with %d, its log is %q", s.ExitCode, p.log("tty"))
	}
}
