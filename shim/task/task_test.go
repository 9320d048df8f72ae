package task_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/client"
)

// monitorBinary is built once, by TestMain, unless $STRAKE_BIN has the built programs.
var monitorBinary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if bin := os.Getenv("STRAKE_BIN"); bin != "" {
		monitorBinary = filepath.Join(bin, "containerd-shim-strake-v2")
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "strake-shim-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	monitorBinary = filepath.Join(dir, "containerd-shim-strake-v2")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", monitorBinary, "../../cmd/containerd-shim-strake-v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("build the monitor: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// pod is a monitor with its directories, below /run since bundles belong on a
// tmpfs, and paths are as long as real ones.
type pod struct {
	t       testing.TB
	id      string
	bundle  string
	rootfs  string
	monitor *client.Monitor
}

func newPod(t testing.TB) *pod {
	t.Helper()
	testutil.RequireRoot(t, "containers in namespaces and cgroups")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static")
	}
	id := fmt.Sprintf("%064x", rand.Uint64())
	dir, err := os.MkdirTemp("/run", "strake-shim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log, err := os.ReadFile(filepath.Join(dir, "pods", id, "monitor.log"))
		if err != nil {
			t.Error(err)
		}
		if bytes.Contains(log, []byte("panic: ")) || bytes.Contains(log, []byte("DATA RACE")) || t.Failed() && len(log) > 0 {
			t.Errorf("monitor.log:\n%s", log)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		removeCgroups(t, id)
	})
	p := &pod{t: t, id: id, bundle: filepath.Join(dir, "pods", id), rootfs: filepath.Join(dir, "rootfs")}
	for _, d := range []string{p.bundle, p.rootfs + "/bin", p.rootfs + "/proc", p.rootfs + "/dev", p.rootfs + "/tmp"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.rootfs+"/bin/busybox", data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "echo", "true", "false", "yes", "seq", "kill", "ps", "stty", "head", "dd", "setsid", "printf", "tr", "id", "ls", "hostname"} {
		if err := os.Symlink("busybox", p.rootfs+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	return p
}

// podCgroup is the parent of a pod's cgroups, for which nobody but the test cares.
func podCgroup(id string) string { return "/strake-shim-" + id[len(id)-8:] }

// removeCgroups removes the pod's cgroup, which must be empty by now.
func removeCgroups(t testing.TB, id string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, err := filepath.Glob(pattern + podCgroup(id))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				left, _ := filepath.Glob(dir + "/*/cgroup.procs")
				t.Errorf("left over: %v %v", err, left)
			}
		}
	}
}

func (p *pod) start() {
	p.t.Helper()
	m, err := client.Start(p.t.Context(), client.StartOptions{Binary: monitorBinary, Namespace: "strake", ID: p.id, Bundle: p.bundle})
	if err != nil {
		p.t.Fatal(err)
	}
	p.monitor = m
	status, err := m.SandboxStatus(p.t.Context(), "none")
	if err == nil {
		p.t.Fatalf("status of an unknown sandbox: %+v", status)
	}
	p.t.Cleanup(func() {
		ctx := p.background()
		m, err := client.Connect(ctx, m.Address()) // the first may be closed by the test
		if err != nil {
			return // it has been shut down
		}
		defer m.Close()
		if err := m.ShutdownSandbox(ctx, p.id); err != nil {
			p.t.Errorf("shut down: %v", err)
		}
	})
}

func (p *pod) writeSpec(dir string, spec *specs.Spec) {
	p.t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// spec is a small container: namespaces of its own, /proc and /dev.
func (p *pod) spec(id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: p.rootfs},
		Hostname: "box",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: podCgroup(p.id) + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

// box is a container of a pod, whose output goes to a CRI log.
type box struct {
	*pod
	id, bundle, log string
}

type boxOption func(*client.CreateOptions, *specs.Spec)

func withTerminal(o *client.CreateOptions, s *specs.Spec) {
	o.Terminal, s.Process.Terminal = true, true
}
func withStdin(o *client.CreateOptions, _ *specs.Spec) { o.Stdin = "attach:" }

// create creates a container with an id as long as a real one's.
func (p *pod) create(args []string, options ...boxOption) *box {
	p.t.Helper()
	id := fmt.Sprintf("%064x", rand.Uint64())
	b := &box{pod: p, id: id, bundle: filepath.Join(p.bundle, id)}
	b.log = filepath.Join(b.bundle, "0.log")
	if err := os.MkdirAll(b.bundle, 0o700); err != nil {
		p.t.Fatal(err)
	}
	spec := p.spec(id, args...)
	o := client.CreateOptions{
		ID: id, Bundle: b.bundle, Stdout: "cri://" + b.log, Stderr: "cri://" + b.log,
		RuntimeRoot: filepath.Join(p.bundle, "runtime"),
	}
	for _, option := range options {
		option(&o, spec)
	}
	p.writeSpec(b.bundle, spec)
	pid, err := p.monitor.Create(p.t.Context(), o)
	if err != nil {
		p.t.Fatalf("create: %v", err)
	}
	if pid <= 0 {
		p.t.Fatalf("create: pid %d", pid)
	}
	return b
}

func (p *pod) run(args []string, options ...boxOption) *box {
	p.t.Helper()
	b := p.create(args, options...)
	if _, err := p.monitor.Start(p.t.Context(), b.id); err != nil {
		p.t.Fatalf("start: %v", err)
	}
	return b
}

func (b *box) wait() client.Exit {
	b.t.Helper()
	e, err := b.monitor.Wait(b.t.Context(), b.id, "")
	if err != nil {
		b.t.Fatalf("wait: %v", err)
	}
	return e
}

// remove kills the container, if it is alive, and deletes it.
func (b *box) remove() {
	b.t.Helper()
	if err := b.monitor.Kill(b.t.Context(), b.id, "", 9, false); err == nil {
		b.wait()
	}
	if _, err := b.monitor.Delete(b.t.Context(), b.id, ""); err != nil {
		b.t.Errorf("delete: %v", err)
	}
	os.RemoveAll(b.bundle)
}

// lines returns the log without time stamps, "stdout F text".
func (b *box) lines() []string { return logLines(b.t, b.log) }

func logLines(t testing.TB, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		t.Fatalf("%s ends within a line", path)
	}
	var lines []string
	for line := range bytes.Lines(data) {
		stamp, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil {
			t.Fatalf("%s: %q: %v", path, line, err)
		}
		lines = append(lines, rest)
	}
	return lines
}

// background outlives the test's own context, for cleanups.
func (p *pod) background() context.Context { return context.WithoutCancel(p.t.Context()) }

// delete runs the shim's delete command for a container.
func (p *pod) delete(b *box) []byte {
	p.t.Helper()
	cmd := exec.Command(monitorBinary, "-namespace", "strake", "-id", b.id, "-address", "", "-bundle", b.bundle, "delete")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("delete: %v: %s", err, &stderr)
	}
	return out
}
