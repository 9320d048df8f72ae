package task_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// startSandbox starts one with its own IPC and UTS namespaces, and others.
func (p *pod) startSandbox(more ...specs.LinuxNamespace) client.Sandbox {
	p.t.Helper()
	return p.startSandboxIn(podCgroup(p.id)+"/pod", more...)
}

func (p *pod) startSandboxIn(cgroupsPath string, more ...specs.LinuxNamespace) client.Sandbox {
	p.t.Helper()
	spec := &specs.Spec{Version: specs.Version, Hostname: "the-pod", Linux: &specs.Linux{
		CgroupsPath: cgroupsPath,
		Namespaces:  append([]specs.LinuxNamespace{{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}, more...),
	}}
	p.writeSpec(p.bundle, spec)
	if err := p.monitor.CreateSandbox(p.t.Context(), p.id, p.bundle, client.Handler{}); err != nil {
		p.t.Fatal(err)
	}
	s, err := p.monitor.StartSandbox(p.t.Context(), p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	if s.State != "SANDBOX_READY" {
		p.t.Errorf("sandbox: %+v", s)
	}
	return s
}

// inPod makes a container join the sandbox's namespaces.
func inPod(s client.Sandbox) boxOption {
	return func(_ *client.CreateOptions, spec *specs.Spec) {
		spec.Hostname = ""
		for i, ns := range spec.Linux.Namespaces {
			spec.Linux.Namespaces[i].Path = s.Namespaces[string(ns.Type)]
		}
	}
}

// alive reports whether a process runs; a zombie, which only waits for whatever
// is process 1 here, has no command line.
func alive(pid int) bool {
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, state, _ := bytes.Cut(stat, []byte(") "))
	if len(state) == 0 {
		return false
	}
	// What ends may still have its files, and so may threads that a zombie leaves.
	threads, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	return state[0] != 'Z' && state[0] != 'X' || len(threads) > 1
}

func TestSandbox(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	s := p.startSandbox()
	if len(s.Namespaces) != 2 || s.Namespaces["pid"] != "" {
		t.Errorf("namespaces: %v", s.Namespaces)
	}
	b := p.run([]string{"sh", "-c", "hostname; ls -l /proc/self/ns/ipc"}, inPod(s))
	b.wait()
	ipc, err := os.Readlink(s.Namespaces["ipc"])
	if err != nil {
		t.Fatal(err)
	}
	if lines := b.lines(); len(lines) != 2 || lines[0] != "stdout F the-pod" || !strings.HasSuffix(lines[1], ipc) {
		t.Errorf("log: %q, ipc namespace %s", lines, ipc)
	}
	other := p.run([]string{"sleep", "1000"}, inPod(s))
	if err := p.monitor.StopSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	if e := other.wait(); e.Status != 137 {
		t.Errorf("exit: %+v", e)
	}
	if s, err := p.monitor.SandboxStatus(ctx, p.id); err != nil || s.State != "SANDBOX_NOTREADY" || len(s.Namespaces) != 0 {
		t.Errorf("stopped: %+v, %v", s, err)
	}
	if err := p.monitor.StopSandbox(ctx, p.id); err != nil {
		t.Errorf("stop again: %v", err)
	}
	other.remove()
	b.remove()
	pid := s.Pid
	if err := p.monitor.ShutdownSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor", pid)
	if _, err := os.Stat(strings.TrimPrefix(p.monitor.Address(), "unix://")); err == nil {
		t.Error("the socket is still there")
	}
}

func waitDead(t *testing.T, what string, pid int) {
	t.Helper()
	for range 300 {
		if !alive(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s is still alive", what)
}

// A straked that died before it told its monitor of a sandbox leaves one that
// its successor knows by its socket only.
func TestShutdownWithoutSandbox(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	pid := p.monitorPid()
	if err := p.monitor.ShutdownSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor", pid)
}

// Nobody deletes the containers of a pod that is shut down: the monitor must.
// newPod's cleanup finds a cgroup that stays.
func TestShutdownRemovesContainers(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	s := p.startSandbox()
	b := p.run([]string{"sleep", "1000"}, inPod(s))
	if err := p.monitor.ShutdownSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor", s.Pid)
	if _, err := os.Stat(filepath.Join(p.bundle, "runtime", b.id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the container's state is still there: %v", err)
	}
}

// A monitor without its socket can be asked by nobody, and ends by itself.
func TestAbandoned(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	s := p.startSandbox()
	b := p.run([]string{"sleep", "1000"}, inPod(s))
	status, err := p.monitor.ContainerStatus(t.Context(), b.id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(strings.TrimPrefix(p.monitor.Address(), "unix://")); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the container", status.Pid)
	waitDead(t, "the monitor", s.Pid)
}

// A monitor with which nobody is connected any more ends, unless it has a pod.
func TestDeserted(t *testing.T) {
	p := newPod(t)
	pid := p.monitorPid()
	second, err := client.Connect(t.Context(), p.monitor.Address())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.SandboxStatus(t.Context(), p.id); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("sandbox: %v", err)
	}
	if err := p.monitor.Close(); err != nil { // there is another connection
		t.Fatal(err)
	}
	p.monitor = second
	s := p.startSandbox()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	// TestClientGone has it wait for a container.
	if p.monitor, err = client.Connect(t.Context(), second.Address()); err != nil {
		t.Fatal(err)
	}
	if again, err := p.monitor.SandboxStatus(t.Context(), p.id); err != nil || again.Pid != s.Pid || s.Pid != pid {
		t.Errorf("sandbox: %+v, %v; before %+v", again, err, s)
	}
	if err := p.monitor.StopSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.monitor.ShutdownSandbox(t.Context(), p.id), p.monitor.Close()); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor", pid)

	p.start()
	pid = p.monitorPid()
	if err := p.monitor.Close(); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor without a pod", pid)
}

// Once a pod is being stopped, no container may slip in.
func TestCreateAfterStop(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	p.startSandbox()
	if err := p.monitor.StopSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	_, err := p.monitor.Create(t.Context(), client.CreateOptions{ID: "late", Bundle: p.bundle})
	if err == nil || !strings.Contains(err.Error(), "is being stopped") {
		t.Errorf("create: %v", err)
	}
}

// With a shared PID namespace there is a first process, which collects orphans.
func TestSharedPID(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	s := p.startSandbox(specs.LinuxNamespace{Type: specs.PIDNamespace})
	a := p.run([]string{"sleep", "1000"}, inPod(s))
	b := p.run([]string{"sh", "-c", "ps -o pid,user,args; (sleep 0.1 &); sleep 0.3; ps -o pid,stat,args"}, inPod(s))
	b.wait()
	out := strings.Join(b.lines(), "\n")
	if !strings.Contains(out, " 1 65534    /pause") || !strings.Contains(out, "sleep 1000") {
		t.Errorf("processes:\n%s", out)
	}
	if strings.Contains(out, "Z ") {
		t.Errorf("a zombie:\n%s", out)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(s.Pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	kb := 0
	for line := range strings.Lines(string(data)) {
		var n int
		if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &n); err == nil {
			kb += n
		}
	}
	if kb == 0 || kb > 64 {
		t.Errorf("the pause process has %d kB of private memory", kb)
	}
	if e, err := os.Stat("/proc/" + strconv.Itoa(s.Pid)); err != nil {
		t.Errorf("pause: %v, %v", e, err)
	}
	if err := p.monitor.StopSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	if e := a.wait(); e.Status != 137 {
		t.Errorf("exit: %+v", e)
	}
	a.remove()
	b.remove()
}

// Below a slice the pause process is in a scope of systemd's, as the containers are.
func TestScopeSharedPID(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err != nil {
		t.Skip("systemd does not run here: see test/vm")
	}
	p := newPod(t)
	defer p.monitor.Close()
	scope := "strake-test.slice:shim:" + p.id
	s := p.startSandboxIn(scope, specs.LinuxNamespace{Type: specs.PIDNamespace})
	cgroups, err := os.ReadFile("/proc/" + strconv.Itoa(s.Pid) + "/cgroup")
	if want := "/strake.slice/strake-test.slice/shim-" + p.id + "-pause.scope\n"; err != nil || !strings.Contains(string(cgroups), want) {
		t.Errorf("the pause process is in %q (%v), want %s", cgroups, err, want)
	}
	b := p.run([]string{"ps", "-o", "pid,args"}, inPod(s), func(_ *client.CreateOptions, spec *specs.Spec) {
		spec.Linux.CgroupsPath = scope + "-box"
	})
	b.wait()
	if out := strings.Join(b.lines(), "\n"); !strings.Contains(out, " 1 /pause") {
		t.Errorf("processes:\n%s", out)
	}
	b.remove()
	if err := p.monitor.StopSandbox(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/strake.slice/strake-test.slice/shim-" + p.id + "*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// kill -9 of the client: a new one finds everything.
func TestClientGone(t *testing.T) {
	p := newPod(t)
	ctx := t.Context()
	s := p.startSandbox()
	b := p.run([]string{"sh", "-c", "sleep 0.3; echo later; exit 4"}, inPod(s))
	address := p.monitor.Address()
	if err := p.monitor.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := client.Connect(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p.monitor = m
	if again, err := m.SandboxStatus(ctx, p.id); err != nil || again.Pid != s.Pid || again.Namespaces["uts"] != s.Namespaces["uts"] {
		t.Errorf("sandbox: %+v, %v; before %+v", again, err, s)
	}
	if e := b.wait(); e.Status != 4 {
		t.Errorf("exit: %+v", e)
	}
	if lines := b.lines(); len(lines) != 1 || lines[0] != "stdout F later" {
		t.Errorf("log: %q", lines)
	}
	b.remove()
}
