package task_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/client"
)

func TestLife(t *testing.T) {
	testutil.CheckLeaks(t)
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.create([]string{"sh", "-c", "echo out; echo err >&2; sleep 1000 & wait"})

	if s, err := p.monitor.State(ctx, b.id, ""); err != nil || s.Status != "created" {
		t.Fatalf("state before start: %+v, %v", s, err)
	}
	if _, err := p.monitor.Create(ctx, client.CreateOptions{ID: b.id, Bundle: b.bundle}); !errors.Is(err, client.ErrAlreadyExists) {
		t.Errorf("create again: %v", err)
	}
	if _, err := p.monitor.Start(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.monitor.Start(ctx, b.id); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("start again: %v", err)
	}
	if _, err := p.monitor.Delete(ctx, b.id, ""); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("delete of a running container: %v", err)
	}
	// It waits until the container has got to its last step: a start ends with the execve.
	const started = "until cat /proc/[0-9]*/comm | grep -qx sleep; do :; done; "
	r, err := p.monitor.ExecSync(ctx, b.id, p.process("sh", "-c", started+"echo one; echo two >&2; exit 3"), 0, 1<<20)
	if err != nil || string(r.Stdout) != "one\n" || string(r.Stderr) != "two\n" || r.ExitCode != 3 {
		t.Errorf("exec: %q %q %d, %v", r.Stdout, r.Stderr, r.ExitCode, err)
	}
	if pids, err := p.monitor.Pids(ctx, b.id); err != nil || len(pids) != 2 {
		t.Errorf("pids: %v, %v", pids, err)
	}
	if err := p.monitor.Kill(ctx, b.id, "", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Status != 137 || time.Since(e.At) > time.Minute {
		t.Errorf("exit: %+v", e)
	}
	if e, err := client.ReadExit(b.bundle); err != nil || e.Status != 137 || e.Signal != 9 || e.OOMKilled || e.StartedAt.IsZero() || e.StartedAt.After(e.At) {
		t.Errorf("exit.json: %+v, %v", e, err)
	}
	if err := p.monitor.Kill(ctx, b.id, "", syscall.SIGTERM, false); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("kill of an ended container: %v", err)
	}
	st, err := p.monitor.ContainerStatus(ctx, b.id)
	if err != nil || st.State != "stopped" || st.ExitStatus != 137 || st.Signal != 9 || st.StartedAt.IsZero() || st.ExitedAt.Before(st.StartedAt) {
		t.Errorf("status: %+v, %v", st, err)
	}
	if want := []string{"stderr F err", "stdout F out"}; !slices.Equal(sorted(b.lines()), want) {
		t.Errorf("log: %q", b.lines())
	}
	if e, err := p.monitor.Delete(ctx, b.id, ""); err != nil || e.Status != 137 {
		t.Errorf("delete: %+v, %v", e, err)
	}
	if _, err := p.monitor.State(ctx, b.id, ""); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("state after delete: %v", err)
	}
}

func sorted(s []string) []string { slices.Sort(s); return s }

func (p *pod) process(args ...string) *specs.Process {
	return p.spec("", args...).Process
}

// A process may end before Start returns: its code and its output are kept.
func TestFastExits(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	for i := range 200 {
		code := i % 256
		b := p.run([]string{"sh", "-c", "printf last; exit " + strconv.Itoa(code)})
		if e := b.wait(); e.Status != code {
			t.Fatalf("exit %d: %+v", code, e)
		}
		if lines := b.lines(); len(lines) != 1 || lines[0] != "stdout P last" {
			t.Fatalf("exit %d: log %q", code, lines)
		}
		if e, err := client.ReadExit(b.bundle); err != nil || e.Status != code {
			t.Fatalf("exit.json: %+v, %v", e, err)
		}
		b.remove()
	}
}

func TestStartErrors(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := &box{pod: p, id: "missing", bundle: filepath.Join(p.bundle, "missing")}
	if err := os.Mkdir(b.bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	p.writeSpec(b.bundle, p.spec(b.id, "no-such-program"))
	_, err := p.monitor.Create(ctx, client.CreateOptions{ID: b.id, Bundle: b.bundle, RuntimeRoot: p.bundle + "/runtime"})
	if err == nil {
		_, err = p.monitor.Start(ctx, b.id)
		b.wait()
		b.remove()
	}
	if err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("missing program: %v", err)
	}
	_, err = p.monitor.Create(ctx, client.CreateOptions{ID: "x", Bundle: p.bundle + "/none"})
	if err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("missing bundle: %v", err)
	}
	_, err = p.monitor.Create(ctx, client.CreateOptions{ID: "../x", Bundle: b.bundle})
	if err == nil || !strings.Contains(err.Error(), "plain name") {
		t.Errorf("bad id: %v", err)
	}
	run := p.run([]string{"sleep", "1000"})
	_, err = p.monitor.ExecSync(ctx, run.id, p.process("no-such-program"), 0, 100)
	if err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("exec of a missing program: %v", err)
	}
	run.remove()
}

func TestPauseUpdateStats(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.run([]string{"sleep", "1000"})
	if err := p.monitor.Pause(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	if s, err := p.monitor.State(ctx, b.id, ""); err != nil || s.Status != "paused" {
		t.Errorf("paused: %+v, %v", s, err)
	}
	if err := p.monitor.Resume(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	limit := int64(64 << 20)
	if err := p.monitor.Update(ctx, b.id, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err != nil {
		t.Fatal(err)
	}
	s, err := p.monitor.Stats(ctx, []string{b.id, "none"}, podCgroup(p.id), false)
	if err != nil || len(s.Containers) != 1 || s.Pod == nil {
		t.Fatalf("stats: %+v, %v", s, err)
	}
	if got := s.Containers[b.id]; got.Memory.Limit != uint64(limit) || got.Memory.Usage == 0 || got.CPU.Usage == 0 {
		t.Errorf("stats: %+v", got)
	}
	if s.Pod.PidsCurrent != 1 || s.Pod.Memory.Limit != 0 || s.Pod.CPU.Usage < s.Containers[b.id].CPU.Usage {
		t.Errorf("stats of the pod: %+v", s.Pod)
	}
	// One that cannot be read is the only one that is not.
	wanted := []client.StatsQuery{
		{IDs: []string{b.id, "none"}, PodCgroup: podCgroup(p.id)}, {PodCgroup: "/a/../b"}, {PodCgroup: "/strake-none"}, {IDs: []string{b.id}},
	}
	const times = 10 // many are read by two
	pods, err := p.monitor.PodsStats(ctx, slices.Repeat(wanted, times))
	if err != nil || len(pods) != times*len(wanted) {
		t.Fatalf("stats of pods: %+v, %v", pods, err)
	}
	for i, want := range slices.Repeat([]string{"1 container, the pod", "an error", "0 containers", "1 container"}, times) {
		got := fmt.Sprintf("%d containers", len(pods[i].Containers))
		got = strings.Replace(got, "1 containers", "1 container", 1)
		if pods[i].Pod != nil {
			got += ", the pod"
		}
		if pods[i].Err != nil {
			got = "an error"
		}
		if got != want {
			t.Errorf("stats of pod %d: %s: %+v; want %s", i, got, pods[i], want)
		}
	}
	if now := pods[0]; now.Containers[b.id].Memory.Limit != uint64(limit) || now.Pod.PidsCurrent != 1 || now.Containers[b.id].CPU.Usage < s.Containers[b.id].CPU.Usage {
		t.Errorf("stats of pods: %+v", now)
	}
	// A paused container dies too.
	if err := p.monitor.Pause(ctx, b.id); err != nil {
		t.Fatal(err)
	}
	if err := p.monitor.Kill(ctx, b.id, "", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Status != 137 {
		t.Errorf("exit: %+v", e)
	}
	b.remove()
}

// What stats are read from stays open in the monitor as long as the container and the pod are
// there, and nowhere else.
func TestStatsStayOpen(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	sandbox := p.startSandbox()
	b := p.run([]string{"sleep", "1000"}, inPod(sandbox))
	other := p.run([]string{"sleep", "1000"}, inPod(sandbox))
	open := func(of string) (n int) {
		t.Helper()
		dir := fmt.Sprintf("/proc/%d/fd", p.monitorPid())
		fds, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if err == nil && strings.HasPrefix(link, "/sys/fs/cgroup/") && strings.Contains(link, podCgroup(p.id)) && strings.Contains(link, of) {
				n++
			}
		}
		return n
	}
	before, beforeOther := open(b.id), open(other.id)
	stats := func(ids ...string) {
		t.Helper()
		pods, err := p.monitor.PodsStats(ctx, []client.StatsQuery{{IDs: ids, PodCgroup: podCgroup(p.id)}})
		if err != nil || len(pods) != 1 || len(pods[0].Containers) != len(ids) || pods[0].Pod == nil {
			t.Fatalf("stats: %+v, %v", pods, err)
		}
	}
	stats(b.id, other.id)
	asked, all := open(b.id), open("")
	if asked <= before {
		t.Errorf("%d files of the container's cgroup are open, %d before it was asked for", asked, before)
	}
	for range 3 {
		stats(b.id, other.id)
	}
	if n := open(""); n != all {
		t.Errorf("%d files are open, %d after the first time", n, all)
	}
	r, err := p.monitor.ExecSync(ctx, b.id, p.process("ls", "-l", "/proc/self/fd"), 0, 1<<16)
	if err != nil || strings.Contains(string(r.Stdout), "cgroup") || len(r.Stdout) == 0 {
		t.Errorf("an exec has %s, %v", r.Stdout, err)
	}
	if err := p.monitor.Kill(ctx, b.id, "", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if n := open(b.id); n > before {
		t.Errorf("%d files are open after the container has ended", n)
	}
	stats(other.id)
	if err := p.monitor.StopSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	if n := open(""); n > before+beforeOther {
		t.Errorf("%d files are open after the pod was stopped", n)
	}
	b.remove()
	other.remove()
}

func TestOOM(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	limit := int64(16 << 20)
	b := p.run([]string{"sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; echo $?; exec dd if=/dev/zero of=/dev/null bs=64M count=1"},
		func(_ *client.CreateOptions, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		})
	if e := b.wait(); e.Status != 137 {
		t.Errorf("exit: %+v, log %q", e, b.lines())
	}
	if st, err := p.monitor.ContainerStatus(t.Context(), b.id); err != nil || !st.OOMKilled {
		t.Errorf("status: %+v, %v", st, err)
	}
	if e, err := client.ReadExit(b.bundle); err != nil || !e.OOMKilled {
		t.Errorf("exit.json: %+v, %v", e, err)
	}
	b.remove()
}

// systemd removes a scope as soon as it is empty, and with it what tells of the kill: it
// is looked for before anything is waited for, such as a reader of the output.
func TestScopeOOM(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err != nil {
		t.Skip("systemd does not run here: see test/vm")
	}
	p := newPod(t)
	defer p.monitor.Close()
	for range 5 {
		var out *os.File
		b := p.create([]string{"sh", "-c", "head -c 40000 /dev/zero; exec dd if=/dev/zero of=/dev/null bs=64M count=1"},
			func(o *client.CreateOptions, s *specs.Spec) {
				limit := int64(16 << 20)
				s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
				s.Linux.CgroupsPath = "strake-test.slice:shim:" + o.ID
				o.Stdout, o.Stderr = filepath.Join(o.Bundle, "out"), ""
				err := syscall.Mkfifo(o.Stdout, 0o600)
				if err == nil {
					out, err = os.OpenFile(o.Stdout, os.O_RDONLY|syscall.O_NONBLOCK, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
		if _, err := p.monitor.Start(t.Context(), b.id); err != nil {
			t.Fatal(err)
		}
		for { // systemd tells nobody who does not know the job
			left, err := filepath.Glob("/sys/fs/cgroup/strake.slice/strake-test.slice/shim-" + b.id + ".scope")
			if err != nil {
				t.Fatal(err)
			}
			if len(left) == 0 {
				break
			}
			<-time.After(time.Millisecond)
		}
		if n, err := io.Copy(io.Discard, out); n != 40000 || err != nil {
			t.Errorf("output: %d bytes, %v", n, err)
		}
		_ = out.Close() // only read
		if e := b.wait(); e.Status != 137 {
			t.Errorf("exit: %+v", e)
		}
		if e, err := client.ReadExit(b.bundle); err != nil || !e.OOMKilled {
			t.Errorf("exit.json: %+v, %v", e, err)
		}
		b.remove()
	}
}
