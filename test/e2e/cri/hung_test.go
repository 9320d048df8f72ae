package cri

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// hung is a pod with a container that hangs.
type hung struct {
	*pod
	main     string
	removing bool // by verbs that nobody waits for any more
}

// TestHungContainerHoldsUpNobody has containers hang in each way that the kernel
// knows, all at once. Their own verbs say where they hang, those of another pod, in
// the same monitor, go on, and once they are free nothing is left of them.
func TestHungContainerHoldsUpNobody(t *testing.T) {
	n := start(t)
	live := newLive(t, n)
	each := func(name string, do func(t *testing.T, h *hung, config *cri.ContainerConfig)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := n.PodConfig(name, false)
			config.Linux.CgroupParent = n.Parent + "/" + name // to be frozen without the other
			id, err := n.RunPod(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			do(t, &hung{pod: &pod{n, t, id, config}}, n.ContainerConfig("main", "sleep", "1000"))
			live.goesOn(t)
		})
	}

	each("frozen", func(t *testing.T, h *hung, config *cri.ContainerConfig) {
		h.main = h.run(config)
		thaw := freeze(t, freezer(t, h.initPid(h.main)))
		defer thaw()
		live.goesOn(t)
		h.execHangs("exec in container test/frozen/main: ")
		// Whoever stops it thaws it to die.
		h.ends(137)
	})

	each("frozen-above", func(t *testing.T, h *hung, config *cri.ContainerConfig) {
		h.main = h.run(config)
		thaw := freeze(t, filepath.Dir(freezer(t, h.initPid(h.main))))
		defer thaw()
		live.goesOn(t)
		h.stopHangs(n, "test/frozen-above/main", "frozen")
		thaw()
		h.ends(137)
	})

	each("traced", func(t *testing.T, h *hung, config *cri.ContainerConfig) {
		h.main = h.run(config)
		release := traceStop(t, h.initPid(h.main))
		defer release()
		live.goesOn(t)
		if r := h.exec(h.main, "echo", "beside it"); string(r.Stdout) != "beside it\n" {
			t.Errorf("exec beside a traced process: %v", r)
		}
		// Its tracer could keep it a zombie for ever.
		h.ends(137)
	})

	uninterruptible := func(name string, command ...string) {
		each(name, func(t *testing.T, h *hung, config *cri.ContainerConfig) {
			still := node.NewStillFS(t)
			config.Command = command
			config.Mounts = []*cri.Mount{{HostPath: still.Dir, ContainerPath: "/still"}}
			h.main = h.run(config)
			within(t, still.Asked, "the container to ask for a file")
			live.goesOn(t)
			if r := h.exec(h.main, "echo", "beside it"); string(r.Stdout) != "beside it\n" {
				t.Errorf("exec beside a hanging process: %v", r)
			}
			h.stopHangs(n, "test/"+name+"/main", "uninterruptible")
			live.goesOn(t)
			still.Free()
			h.ends(137)
		})
	}
	uninterruptible("waits-for-disk", "cat", "/still/file")
	each("exec-waits-for-disk", func(t *testing.T, h *hung, config *cri.ContainerConfig) {
		still := node.NewStillFS(t)
		config.Mounts = []*cri.Mount{{HostPath: still.Dir, ContainerPath: "/still"}}
		h.main = h.run(config)
		h.killedExecHangs("cat", "/still/file")
		live.goesOn(t)
		still.Free()
		h.ends(137)
	})
	uninterruptible("child-waits-for-disk", "sh", "-c", "cat /still/file; sleep 1000")
	// time(1) of busybox forks with vfork(2): it waits for a child that waits in execve(2).
	uninterruptible("vfork", "busybox", "time", "/still/program")

	each("volume", func(t *testing.T, h *hung, config *cri.ContainerConfig) {
		still := node.NewStillFS(t)
		config.Mounts = []*cri.Mount{{HostPath: still.Dir + "/volume", ContainerPath: "/still"}}
		late(t, "create container test/volume/main: still at ", func(ctx context.Context) error {
			_, err := n.RunContainer(ctx, h.id, h.config, config)
			return err
		})
		within(t, still.Asked, "the volume to be asked for")
		live.goesOn(t)
		shown(t, n, "create container test/volume/main: ")
		still.Free()
	})
}

// live is a pod that does not hang, with a container that answers.
type live struct {
	*node.Node
	id, cat string
	config  *cri.PodSandboxConfig
	cycles  atomic.Int32
}

func newLive(t *testing.T, n *node.Node) *live {
	t.Helper()
	p := runPod(t, n, "live", false)
	config := n.ContainerConfig("cat", "cat")
	config.Stdin = true
	return &live{Node: n, id: p.id, cat: p.run(config), config: p.config}
}

// goesOn asks for everything that a kubelet does.
func (l *live) goesOn(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	check := func(verb string, err error) {
		t.Helper()
		if err != nil && status.Code(err) != codes.NotFound { // of another test, and removed meanwhile
			t.Errorf("beside a container that hangs: %s: %v", verb, err)
		}
	}
	// 1. Of all, those that hang too.
	pods, err := l.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	check("list pods", err)
	for _, p := range pods.GetItems() {
		_, err := l.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.Id, Verbose: true})
		check("pod status", err)
		_, err = l.Runtime.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.Id})
		check("pod stats", err)
	}
	containers, err := l.Runtime.ListContainers(ctx, &cri.ListContainersRequest{})
	check("list containers", err)
	for _, c := range containers.GetContainers() {
		_, err := l.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id, Verbose: true})
		check("status", err)
		_, err = l.Runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: c.Id})
		check("stats", err)
	}
	_, err = l.Runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
	check("list stats", err)
	stats, err := l.Runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	check("list pod stats", err)
	if !slices.ContainsFunc(stats.GetStats(), func(s *cri.PodSandboxStats) bool { return s.Attributes.Id == l.id }) {
		t.Error("beside a container that hangs: stats are missing")
	}
	_, err = l.Runtime.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{})
	check("list pod metrics", err)

	// 2. Of a container that runs.
	if r, err := l.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: l.cat, Cmd: []string{"echo", "here"}}); err != nil || string(r.Stdout) != "here\n" {
		t.Errorf("beside a container that hangs: exec: %v, %v", r, err)
	}
	var out bytes.Buffer
	r, err := l.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: l.cat, Cmd: []string{"echo", "streamed"}, Stdout: true})
	check("exec", err)
	check("exec", stream(ctx, r.GetUrl(), remotecommand.StreamOptions{Stdout: &out}))
	if out.String() != "streamed\n" {
		t.Errorf("beside a container that hangs: exec: %q", &out)
	}
	a, err := l.Runtime.Attach(ctx, &cri.AttachRequest{ContainerId: l.cat, Stdin: true, Stdout: true})
	check("attach", err)
	attached, detach := context.WithCancel(ctx)
	defer detach()
	echoed, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- stream(attached, a.GetUrl(), remotecommand.StreamOptions{
			Stdin: io.MultiReader(strings.NewReader("ping\n"), eternal{attached}), Stdout: lineWriter(echoed),
		})
	}()
	select {
	case <-echoed:
		detach()
		<-ended
	case err := <-ended:
		t.Errorf("beside a container that hangs: attach: %v", err)
	}
	_, err = l.Runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: l.cat, Linux: &cri.LinuxContainerResources{CpuShares: 512}})
	check("update", err)
	_, err = l.Runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: l.cat})
	check("reopen log", err)

	// 3. A whole life.
	config := l.PodConfig(fmt.Sprintf("life-%d", l.cycles.Add(1)), false)
	id, err := l.RunPod(ctx, config)
	check("run pod", err)
	c, err := l.RunContainer(ctx, id, config, l.ContainerConfig("main", "sleep", "1000"))
	check("run container", err)
	_, err = l.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c})
	check("stop", err)
	_, err = l.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c})
	check("remove", err)
	_, err = l.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	check("stop pod", err)
	_, err = l.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	check("remove pod", err)
}

// stream connects to a URL that Exec or Attach gave.
func stream(ctx context.Context, url string, o remotecommand.StreamOptions) error {
	e, err := executors["websocket"](url)
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, o)
}

// ends stops and removes the pod, whose container ends with that code.
func (h *hung) ends(code int32) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	if _, err := h.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: h.main}); err != nil {
		h.t.Fatalf("stop: %v", err)
	}
	s, err := h.Status(ctx, h.main)
	if gone := h.removing && status.Code(err) == codes.NotFound; !gone && (err != nil || s.ExitCode != code) {
		h.t.Errorf("it ended with %d (%s: %s), %v; want %d", s.GetExitCode(), s.GetReason(), s.GetMessage(), err, code)
	}
	if _, err := h.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: h.main}); err != nil {
		h.t.Errorf("remove: %v", err)
	}
	if _, err := h.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: h.id}); err != nil {
		h.t.Errorf("stop pod: %v", err)
	}
	if _, err := h.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: h.id}); err != nil {
		h.t.Errorf("remove pod: %v", err)
	}
}

// execHangs: an exec, for a caller and for a terminal, does not come back, and says
// where it is.
func (h *hung) execHangs(words string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: h.main, Cmd: []string{"true"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), words) {
		h.t.Errorf("exec: %v; want DeadlineExceeded and %q", err, words)
	}

	ctx, cancel = context.WithCancel(h.t.Context())
	defer cancel()
	r, err := h.Runtime.Exec(ctx, &cri.ExecRequest{ContainerId: h.main, Cmd: []string{"true"}, Stdout: true})
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- stream(ctx, r.Url, remotecommand.StreamOptions{Stdout: io.Discard}) }()
	waitFor(h.t, "the exec to be shown", func() bool { return strings.Contains(strake(h.t, h.Node, "system", "dump"), words) })
	cancel()
	if err := <-done; err == nil {
		h.t.Error("exec with streams: no error")
	}
}

// killedExecHangs: an exec that cannot be killed when its time is up says so.
func (h *hung) killedExecHangs(cmd ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	defer cancel()
	_, err := h.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: h.main, Cmd: cmd, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "was killed and has not ended") {
		h.t.Errorf("exec of what cannot be killed: %v", err)
	}
}

// stopHangs: stops do not come back, and say where they are and what the matter is,
// as does straked to whoever asks.
func (h *hung) stopHangs(n *node.Node, what, why string) {
	h.t.Helper()
	verbs := map[string]func(context.Context) error{
		"stop container " + what: func(ctx context.Context) error {
			_, err := h.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: h.main})
			return err
		},
		"remove container " + what: func(ctx context.Context) error {
			_, err := h.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: h.main})
			return err
		},
		"stop pod test/" + h.config.Metadata.Name: func(ctx context.Context) error {
			_, err := h.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: h.id})
			return err
		},
		"remove pod test/" + h.config.Metadata.Name: func(ctx context.Context) error {
			_, err := h.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: h.id})
			return err
		},
	}
	h.removing = true
	var all sync.WaitGroup
	for name, verb := range verbs {
		all.Go(func() { late(h.t, name+": ", verb) })
	}
	all.Wait()
	for name := range verbs {
		shown(h.t, n, name+": ")
	}
	shown(h.t, n, "stop container "+what+": kill: ")
	waitFor(h.t, "what the matter is", func() bool { return strings.Contains(strake(h.t, n, "system", "status"), why) })
}

// late calls a verb that hangs until its caller's patience ends, and checks what it
// says. On a busy machine the answer may come when the caller has gone: it gets more
// time.
func late(t *testing.T, words string, verb func(context.Context) error) {
	t.Helper()
	for _, patience := range []time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := verb(ctx)
		cancel()
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%v; want DeadlineExceeded and %q", err, words)
			return
		}
		if strings.Contains(err.Error(), words) {
			return
		}
		t.Logf("after %s: %v", patience, err)
	}
	t.Errorf("nothing about %q", words)
}

// shown waits until `strake system status` and `dump` have a line with words.
func shown(t *testing.T, n *node.Node, words string) {
	t.Helper()
	for _, verb := range []string{"status", "dump"} {
		waitFor(t, words, func() bool { return strings.Contains(strake(t, n, "system", verb), words) })
	}
}

// strake runs the command line tool.
func strake(t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(n.Bin, "strake"), append([]string{"--address", n.Address}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("strake %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// within waits for a channel that closes.
func within(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("waited in vain for %s", what)
	}
}

// freezer is the directory of the freezer's cgroup that a process is in.
func freezer(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	dir := ""
	for line := range strings.Lines(string(data)) {
		switch parts := strings.SplitN(strings.TrimSpace(line), ":", 3); {
		case parts[1] == "freezer":
			return "/sys/fs/cgroup/freezer" + parts[2]
		case parts[0] == "0":
			dir = "/sys/fs/cgroup" + parts[2]
		}
	}
	return dir
}

// freeze freezes a cgroup, by hand.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	file, frozen, thawed := dir+"/freezer.state", "FROZEN", "THAWED" // cgroup v1
	if _, err := os.Stat(file); err != nil {
		file, frozen, thawed = dir+"/cgroup.freeze", "1", "0"
	}
	if err := os.WriteFile(file, []byte(frozen), 0); err != nil {
		t.Fatal(err)
	}
	return func() { _ = os.WriteFile(file, []byte(thawed), 0) } // it may be gone
}

// traceStop stops a process as a debugger does, until release.
func traceStop(t *testing.T, pid int) (release func()) {
	t.Helper()
	stopped, done, released := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		runtime.LockOSThread() // a tracer is a thread, and ends with it: the goroutine does not unlock it
		err := unix.PtraceSeize(pid)
		if err == nil {
			err = unix.PtraceInterrupt(pid)
		}
		if err == nil {
			_, err = unix.Wait4(pid, nil, unix.WALL, nil)
		}
		stopped <- err
		<-done
	}()
	if err := <-stopped; err != nil {
		t.Fatalf("trace %d: %v", pid, err)
	}
	once := false
	return func() {
		if !once {
			once = true
			close(done)
			<-released
		}
	}
}
