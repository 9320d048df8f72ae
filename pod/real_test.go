package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/pod/bundle"
)

// The tests here run real monitors and real containers, of one image that is a
// directory with busybox in it.

const busybox = "/bin/busybox"

// monitorBinary is built once for all tests, unless STRAKE_TEST_MONITOR names one
// (in a machine without Go).
var monitorBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("STRAKE_TEST_MONITOR"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "strake-pod-test-*")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "containerd-shim-strake-v2")
	build := exec.Command("go", "build", "-o", path, "../cmd/containerd-shim-strake-v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := monitorBinary(); err == nil && path != os.Getenv("STRAKE_TEST_MONITOR") {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// realNode has everything real but images and network.
type realNode struct {
	t           *testing.T
	root, state string
	cgroup      string
	monitorPods int
	change      func(*Options) // before it is opened
	m           *Manager       // the last one opened
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	testutil.RequireRoot(t, "containers need namespaces, mounts and cgroups")
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs the package busybox-static")
	}
	n := &realNode{t: t, root: t.TempDir(), cgroup: "/strake-pod-test-" + newID()[:8]}
	state, err := os.MkdirTemp("/run", "strake-pod-")
	if err != nil {
		t.Fatal(err)
	}
	n.state = state
	testutil.CheckLeaks(t, state, n.root)
	t.Cleanup(func() {
		for _, p := range n.m.Pods(PodFilter{}) {
			if err := n.m.RemovePod(context.Background(), p.ID); err != nil {
				t.Error(err)
			}
		}
		if err := n.m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
		_ = os.RemoveAll(state)
	})
	n.makeLayer()
	return n
}

func (n *realNode) makeLayer() {
	n.t.Helper()
	layer := n.layer()
	for _, dir := range []string{"bin", "etc", "tmp", "root", "mnt", "home/user"} {
		if err := os.MkdirAll(filepath.Join(layer, dir), 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		n.t.Fatal(err)
	}
	files := map[string][]byte{
		"bin/busybox": data,
		"etc/passwd":  []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n"),
		"etc/group":   []byte("root:x:0:\nuser:x:1001:\nextra:x:1002:user\n"),
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(layer, name), data, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, applet := range []string{"sh", "sleep", "id", "cat", "echo", "env", "hostname", "ls", "nc", "ps", "stty", "true", "wc", "mount", "touch", "df", "stat"} {
		if err := os.Symlink("busybox", filepath.Join(layer, "bin", applet)); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *realNode) layer() string { return filepath.Join(n.root, "layer") }

func (n *realNode) open() *Manager {
	n.t.Helper()
	monitor, err := monitorBinary()
	if err != nil {
		n.t.Fatal(err)
	}
	o := Options{
		Root: n.root, State: n.state, Images: &oneImage{layer: n.layer(), leases: map[string]bool{}}, Network: noNetwork{},
		Settings: Settings{
			Runtimes: map[string]Runtime{"strake": {Monitor: monitor}}, DefaultRuntime: "strake", MonitorPods: n.monitorPods,
		},
	}
	if n.change != nil {
		n.change(&o)
	}
	m, err := Open(n.t.Context(), o)
	if err != nil {
		n.t.Fatal(err)
	}
	n.m = m
	return m
}

// checkEmpty looks for processes, cgroups and files of ours.
func (n *realNode) checkEmpty() {
	// A monitor answers that it ends, and does so a moment later.
	for end := time.Now().Add(time.Minute); len(n.processes()) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for c, cmdline := range n.processes() {
		n.t.Errorf("left behind: process %s: %q", c, cmdline)
	}
	for _, pattern := range []string{"/sys/fs/cgroup" + n.cgroup, "/sys/fs/cgroup/*" + n.cgroup} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			below, _ := filepath.Glob(d + "/*/cgroup.procs")
			if len(below) > 0 {
				n.t.Errorf("left behind: cgroups %q", below)
			}
			_ = os.Remove(d) // the parent is the caller's, as the kubelet's is
		}
	}
	for _, dir := range []string{"pods", "netns", "runtime", "monitors"} {
		for _, name := range names(filepath.Join(n.state, dir)) {
			n.t.Errorf("left behind: %s/%s/%s", n.state, dir, name)
		}
	}
	for _, name := range names(filepath.Join(n.root, "pods")) {
		n.t.Errorf("left behind: %s/pods/%s", n.root, name)
	}
}

// processes are those whose command line names the state directory.
func (n *realNode) processes() map[string]string {
	found := map[string]string{}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		data, err := os.ReadFile(c)
		if err == nil && bytes.Contains(data, []byte(n.state)) {
			found[c] = string(data)
		}
	}
	return found
}

func (n *realNode) pod(name string) PodConfig {
	c := podConfig(name)
	c.CgroupParent = n.cgroup
	c.Annotations = map[string]string{bundle.NetworkAnnotation: bundle.NetworkNone}
	c.Namespaces.PID = bundle.NamespaceContainer
	c.LogDirectory = filepath.Join(n.root, "logs", name)
	return c
}

type oneImage struct {
	mu     sync.Mutex
	layer  string
	leases map[string]bool
}

func (o *oneImage) Get(ref string) (image.Image, error) {
	if ref == "data" {
		return image.Image{ID: "sha256:data"}, nil
	}
	return image.Image{ID: "sha256:1", RepoTags: []string{ref}, Config: v1.ImageConfig{
		Cmd: []string{"/bin/sh"}, Env: []string{"FROM=image", "PATH=/bin"},
	}}, nil
}

func (o *oneImage) Permit(string, string, string) error { return nil }

func (o *oneImage) PrepareRoot(r image.Rootfs, dir string) (rootfs.Mount, error) {
	return rootfs.Default().Prepare(r.Layers, dir)
}

func (o *oneImage) Rootfs(id, holder string) (image.Rootfs, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leases[holder] = true
	if id == "sha256:data" {
		return image.Rootfs{Layers: []string{o.layer + "-2", o.layer + "-1"}}, nil
	}
	return image.Rootfs{Layers: []string{o.layer}}, nil
}

func (o *oneImage) Release(holder string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.leases, holder)
	return nil
}

func (o *oneImage) Holders() []image.Lease { return nil }

type noNetwork struct{}

func (noNetwork) Name() string                                { return "none" }
func (noNetwork) NeedsMount() bool                            { return false }
func (noNetwork) Status(context.Context) error                { return nil }
func (noNetwork) Teardown(context.Context, network.Pod) error { return nil }
func (noNetwork) Check(context.Context, network.Pod) error    { return nil }
func (noNetwork) GC(context.Context, []string) error          { return nil }
func (noNetwork) Setup(context.Context, network.Pod) (network.Result, error) {
	return network.Result{}, nil
}

// start runs a container in the pod.
func (n *realNode) start(m *Manager, pod string, c ContainerConfig) string {
	n.t.Helper()
	c.Image = "busybox"
	if c.LogPath == "" {
		c.LogPath = c.Name + ".log"
	}
	id, err := m.CreateContainer(n.t.Context(), pod, c)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := m.StartContainer(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *realNode) run(m *Manager, c PodConfig) string {
	n.t.Helper()
	pod, err := m.RunPod(n.t.Context(), c, "")
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}

func (n *realNode) sh(m *Manager, id, script string) string {
	n.t.Helper()
	r, err := m.ExecSync(n.t.Context(), id, []string{"/bin/sh", "-c", script}, time.Minute)
	if err != nil {
		n.t.Fatalf("%s: %v", script, err)
	}
	return string(r.Stdout)
}

const sleeper = `trap "exit 5" TERM; echo started; while :; do sleep 0.1; done`

func TestRealLife(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	pod := n.run(m, n.pod("web"))
	id := n.start(m, pod, ContainerConfig{
		Name: "main", Command: []string{"/bin/sh", "-c", "echo out; echo err >&2; " + sleeper},
		Env: []bundle.KeyValue{{Key: "ASKED", Value: "yes"}}, WorkingDir: "/tmp", Security: bundle.Security{RunAsUsername: "user"},
		Resources: &Resources{MemoryLimit: 64 << 20, CPUShares: 512},
	})
	want := "uid=1000(user) gid=1001(user) groups=1001(user),1002(extra)\n/tmp yes image /home/user web\n"
	if got := n.sh(m, id, "id; echo $PWD $ASKED $FROM $HOME $(hostname)"); got != want {
		t.Errorf("inside: %q, want %q", got, want)
	}
	r, err := m.ExecSync(t.Context(), id, []string{"/bin/sh", "-c", "echo a; echo b >&2; exit 3"}, 0)
	if err != nil || string(r.Stdout) != "a\n" || string(r.Stderr) != "b\n" || r.ExitCode != 3 {
		t.Errorf("exec: %+v, %v", r, err)
	}
	if _, err := m.ExecSync(t.Context(), id, []string{"/bin/sleep", "100"}, 100*time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("exec past its time: %v", err)
	}
	var stdout, stderr bytes.Buffer
	code, err := m.Exec(t.Context(), id, ExecConfig{Cmd: []string{"/bin/sh", "-c", "cat; echo e >&2; exit 4"}}, Streams{
		Stdin: strings.NewReader(strings.Repeat("0123456789", 20000)), Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil || code != 4 || stdout.Len() != 200000 || stderr.String() != "e\n" {
		t.Errorf("exec with streams: %d, %v, %d bytes, %q", code, err, stdout.Len(), stderr.String())
	}
	s, err := m.ContainerStats(t.Context(), id)
	if err != nil || s.Cgroup == nil || s.Cgroup.Memory.Usage == 0 || s.Cgroup.Memory.Limit != 64<<20 || s.WritableLayer.Inodes == 0 {
		t.Errorf("stats: %+v, %v", s, err)
	}

	// Another daemon finds everything as it was.
	before := m.Containers(ContainerFilter{})
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = n.open()
	if after := m.Containers(ContainerFilter{}); !reflect.DeepEqual(before, after) {
		t.Errorf("after restart\nbefore %+v\nafter  %+v", before, after)
	}
	if got := n.sh(m, id, "echo still here"); got != "still here\n" {
		t.Errorf("exec after restart: %q", got)
	}
	if err := m.StopContainer(t.Context(), id, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	c := mustContainer(t, m, id)
	if c.ExitCode != 5 || c.Reason != ReasonError {
		t.Errorf("stopped: %+v", c)
	}
	log, err := os.ReadFile(c.LogPath)
	if err != nil || !strings.Contains(string(log), " stdout F out\n") || !strings.Contains(string(log), " stderr F err\n") {
		t.Errorf("log %s: %q, %v", c.LogPath, log, err)
	}
}

func TestRealPodShares(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	config := n.pod("shared")
	config.Namespaces.PID = bundle.NamespacePod
	config.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "20000 30000"}
	pod := n.run(m, config)
	a := n.start(m, pod, ContainerConfig{Name: "a", Command: []string{"/bin/sh", "-c", sleeper}})
	b := n.start(m, pod, ContainerConfig{Name: "b", Command: []string{"/bin/sleep", "1234"}})
	n.sh(m, a, "echo hello > /dev/shm/x")
	size := " 65536 "
	if p, err := m.findPod(pod); err != nil || !strings.HasPrefix(p.shared.Shm, "/proc/") {
		size = "" // a directory, before Linux 6.15
	}
	if got := n.sh(m, b, "cat /dev/shm/x; df -k /dev/shm | tail -1"); !strings.HasPrefix(got, "hello\n") || !strings.Contains(got, size) {
		t.Errorf("/dev/shm: %q", got)
	}
	if got := n.sh(m, a, "ps"); !strings.Contains(got, "1234") {
		t.Errorf("processes: %q", got)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		if x, y := n.sh(m, a, "ls -l /proc/self/ns/"+ns), n.sh(m, b, "ls -l /proc/self/ns/"+ns); x[strings.LastIndex(x, "->"):] != y[strings.LastIndex(y, "->"):] {
			t.Errorf("%s namespace: %q and %q", ns, x, y)
		}
	}
	if got := n.sh(m, a, "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range"); got != "1\n20000\t30000\n" {
		t.Errorf("sysctls: %q", got)
	}
	s, err := m.PodStats(t.Context(), pod)
	if err != nil || len(s.Containers) != 2 || s.Containers[0].Cgroup == nil {
		t.Errorf("stats: %+v, %v", s, err)
	}
}

// A list has each pod's own figures, though one call reads them all.
func TestRealStatsOfMany(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 50
	m := n.open()
	limits := map[string]uint64{}
	var last string
	for i := range 3 {
		pod := n.run(m, n.pod(fmt.Sprint("many", i)))
		limit := int64(16+i) << 20
		limits[n.start(m, pod, ContainerConfig{Name: "a", Command: []string{"/bin/sleep", "1234"}, Resources: &Resources{MemoryLimit: limit}})] = uint64(limit)
		last = pod
	}
	ended := n.start(m, last, ContainerConfig{Name: "b", Command: []string{"/bin/sleep", "1234"}})
	if err := m.StopContainer(t.Context(), ended, 0); err != nil {
		t.Fatal(err)
	}
	n.run(m, n.pod("empty"))

	s, err := m.PodsStats(t.Context(), PodFilter{})
	if err != nil || len(s) != 4 {
		t.Fatalf("%d pods, %v", len(s), err)
	}
	of := map[string]ContainerStats{}
	for _, p := range s {
		if len(p.Containers) > 0 && (p.Cgroup == nil || p.Cgroup.CPU.Usage == 0 || p.Cgroup.Pids.Current == 0) {
			t.Errorf("pod %s: %+v", p.Pod.Config.Name, p.Cgroup)
		}
		for _, c := range p.Containers {
			if of[c.Container.ID] = c; c.Container.PodID != p.Pod.ID {
				t.Errorf("%+v is among %+v", c, p)
			}
		}
	}
	containers, err := m.ContainersStats(t.Context(), ContainerFilter{})
	if err != nil || len(containers) != 4 || len(of) != 4 {
		t.Fatalf("%d containers, %d of pods, %v", len(containers), len(of), err)
	}
	for _, c := range containers {
		id, p := c.Container.ID, of[c.Container.ID]
		if id == ended {
			if c.Cgroup != nil || p.Cgroup != nil {
				t.Errorf("it has ended: %+v, %+v", c.Cgroup, p.Cgroup)
			}
			continue
		}
		if c.Cgroup.Memory.Limit != limits[id] || p.Cgroup.Memory.Limit != limits[id] || c.Cgroup.CPU.Usage < p.Cgroup.CPU.Usage ||
			c.WritableLayer.Inodes == 0 || p.WritableLayer.Inodes == 0 {
			t.Errorf("container %s: %+v, %+v; want a limit of %d", id, c, p, limits[id])
		}
	}
}

// The limits of a pod as a whole are those of the cgroup that it was given.
func TestRealPodResources(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	pod := n.run(m, n.pod("limited"))
	n.start(m, pod, ContainerConfig{Name: "a", Command: []string{"/bin/sleep", "1234"}, Resources: &Resources{MemoryLimit: 16 << 20}})
	err := m.UpdatePod(t.Context(), pod, &Resources{MemoryLimit: 4 << 20}, &Resources{MemoryLimit: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.PodStats(t.Context(), pod)
	if err != nil || s.Cgroup == nil || s.Cgroup.Memory.Limit != 36<<20 {
		t.Errorf("%+v, %v", s.Cgroup, err)
	}
	if err := m.UpdatePod(t.Context(), pod, nil, &Resources{MemoryLimit: -5}); !errors.Is(err, bundle.ErrInvalid) {
		t.Errorf("a negative limit: %v", err)
	}
	config := n.pod("shares")
	config.CgroupParent = ""
	if err := m.UpdatePod(t.Context(), n.run(m, config), nil, &Resources{MemoryLimit: 1 << 30}); !errors.Is(err, ErrState) {
		t.Errorf("a pod without a cgroup: %v", err)
	}
}

func TestRealImageVolumes(t *testing.T) {
	n := newRealNode(t)
	for path, content := range map[string]string{"-1/a/old": "1", "-1/a/same": "1", "-2/a/same": "2", "-2/top": "2"} {
		path = n.layer() + path
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	m := n.open()
	if !m.host.Layered {
		t.Skip("needs Linux 6.8: overlays of any number of layers")
	}
	pod := n.run(m, n.pod("volumes"))
	id := n.start(m, pod, ContainerConfig{Name: "main", Command: []string{"/bin/sleep", "100"}, Mounts: []bundle.Mount{
		{ContainerPath: "/all", Image: "data", Readonly: true},
		{ContainerPath: "/sub", Image: "data", ImageSubPath: "a", Readonly: true},
		{ContainerPath: "/file", Image: "data", ImageSubPath: "a/same", Readonly: true},
	}})
	if got := n.sh(m, id, "cat /all/top /all/a/old /all/a/same /sub/old /sub/same /file; touch /all/x /sub/x; echo $?"); got != "2121221\n" {
		t.Errorf("%q", got)
	}
	if s := mustContainer(t, m, id); s.MountImages[1] != "sha256:data" {
		t.Errorf("%+v", s.MountImages)
	}
}

func TestRealEnds(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	pod := n.run(m, n.pod("ends"))
	for _, c := range []struct {
		name, script, reason string
		code                 int32
	}{
		{"ok", "exit 0", ReasonCompleted, 0},
		{"fails", "exit 7", ReasonError, 7},
		{"signal", "kill -9 $$", ReasonError, 137},
	} {
		id := n.start(m, pod, ContainerConfig{Name: c.name, Command: []string{"/bin/sh", "-c", c.script}, Namespaces: bundle.Namespaces{PID: bundle.NamespaceNode}})
		if s := mustExit(t, m, id); s.ExitCode != c.code || s.Reason != c.reason {
			t.Errorf("%s: %d %s, want %d %s", c.name, s.ExitCode, s.Reason, c.code, c.reason)
		}
	}
	for _, tty := range []bool{false, true} {
		config := ContainerConfig{Name: fmt.Sprint("missing-", tty), Image: "busybox", Command: []string{"/no/such/command"}, TTY: tty}
		id, err := m.CreateContainer(t.Context(), pod, config)
		if err == nil {
			err = m.StartContainer(t.Context(), id)
		}
		if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
			t.Errorf("missing command, tty %v: %v", tty, err)
		}
	}
}

// A handler whose program is not there refuses a pod and leaves nothing of it, in a monitor
// for many pods or for one.
func TestHandlerWithoutProgram(t *testing.T) {
	for _, pods := range []int{1, 50} {
		t.Run(fmt.Sprint(pods), func(t *testing.T) {
			n := newRealNode(t)
			n.monitorPods = pods
			n.change = func(o *Options) { o.Runtimes["gone"] = Runtime{Monitor: filepath.Join(n.root, "none")} }
			_, err := n.open().RunPod(t.Context(), n.pod("a"), "gone")
			if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), n.root+"/none") {
				t.Error(err)
			}
		})
	}
}

func TestRealTerminal(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	pod := n.run(m, n.pod("tty"))
	id := n.start(m, pod, ContainerConfig{Name: "main", Command: []string{"/bin/sh"}, TTY: true, Stdin: true})
	in, feed := io.Pipe()
	sizes := make(chan Size, 1)
	sizes <- Size{Width: 91, Height: 33}
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- m.Attach(t.Context(), id, Streams{Stdin: in, Stdout: &out, Resize: sizes}) }()
	_, _ = io.WriteString(feed, "while [ \"$(stty size)\" != '33 91' ]; do :; done; echo size is $(stty size)\nexit 6\n")
	if s := mustExit(t, m, id); s.ExitCode != 6 {
		t.Errorf("%+v", s)
	}
	if err := <-done; err != nil || !strings.Contains(out.String(), "size is 33 91\r\n") {
		t.Errorf("attached: %q, %v", out.String(), err)
	}
	_ = feed.Close()
	if err := m.Attach(t.Context(), id, Streams{}); !errors.Is(err, ErrState) {
		t.Errorf("attach to an exited container: %v", err)
	}
}

func TestRealPortForward(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	pod := n.run(m, n.pod("port"))
	id := n.start(m, pod, ContainerConfig{Name: "main", Command: []string{"/bin/nc", "-ll", "-p", "8080", "-e", "/bin/cat"}})
	for !strings.Contains(n.sh(m, id, "cat /proc/net/tcp /proc/net/tcp6"), ":1F90 ") {
		t.Log("not listening yet")
	}
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- m.PortForward(t.Context(), pod, 8080, theirs) }()
	if _, err := io.WriteString(ours, "ping\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != "ping\n" {
		t.Errorf("forwarded: %q, %v", got, err)
	}
	_ = ours.Close()
	<-done // an error or none: the client has gone
	if err := m.PortForward(t.Context(), pod, 8081, nopConn{}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: %v", err)
	}
}

type nopConn struct{ io.ReadWriter }

func (nopConn) Close() error { return nil }
