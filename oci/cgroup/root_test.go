package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

func TestLimits(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		r := &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(32 << 20))},
			CPU:    &specs.LinuxCPU{Shares: ptr(uint64(2048)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(10000)), Cpus: "0", Mems: "0"},
			Pids:   &specs.LinuxPids{Limit: ptr(int64(42))},
		}
		if err := c.Create(r); err != nil {
			t.Fatal(err)
		}
		type expect struct{ controller, file, value string }
		want := []expect{
			{"memory", "memory.limit_in_bytes", "67108864"}, {"memory", "memory.memsw.limit_in_bytes", "100663296"},
			{"memory", "memory.soft_limit_in_bytes", "33554432"},
			{"cpu", "cpu.shares", "2048"}, {"cpu", "cpu.cfs_quota_us", "50000"}, {"cpu", "cpu.cfs_burst_us", "10000"},
			{"cpuset", "cpuset.cpus", "0"}, {"pids", "pids.max", "42"},
		}
		if c.mode == Unified {
			want = []expect{
				{"memory", "memory.max", "67108864"}, {"memory", "memory.swap.max", "33554432"}, {"memory", "memory.low", "33554432"},
				{"cpu", "cpu.weight", "174"}, {"cpu", "cpu.max", "50000 100000"}, {"cpu", "cpu.max.burst", "10000"},
				{"cpuset", "cpuset.cpus", "0"}, {"pids", "pids.max", "42"},
			}
		}
		for _, w := range want {
			if got := c.file(t, w.controller, w.file); got != w.value {
				t.Errorf("%s = %q, want %q", w.file, got, w.value)
			}
		}

		// Raising and lowering: each wants another order of the same two files.
		for _, limit := range []int64{256 << 20, 16 << 20, -1} {
			swap := max(limit*2, -1)
			err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}})
			if err != nil {
				t.Errorf("memory limit %d: %v", limit, err)
			}
		}
		for _, quota := range []int64{5000, 90000, -1} {
			burst := uint64(max(0, quota/2))
			if err := c.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Burst: &burst}}); err != nil {
				t.Errorf("cpu quota %d: %v", quota, err)
			}
		}
		s, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.Pids.Limit != 42 || s.Memory.Limit != NoLimit {
			t.Errorf("stats: pids limit %d, memory limit %d", s.Pids.Limit, s.Memory.Limit)
		}
	})
}

// On a hybrid host the v2 hierarchy stays without controllers: crun refuses to
// work beside one that has some.
func TestHybridLeavesV2Alone(t *testing.T) {
	mode := modes(t)[0]
	if mode != Hybrid {
		t.Skip("not a hybrid host")
	}
	c := newTest(t, mode)
	h, _ := c.v2()
	before, err := readFile(h.mount + "/cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{}}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{h.mount, path.Dir(c.dir(h))} {
		if after, err := readFile(dir + "/cgroup.subtree_control"); err != nil || dir == h.mount && after != before || dir != h.mount && strings.TrimSpace(after) != "" {
			t.Errorf("%s/cgroup.subtree_control: %q, %v", dir, after, err)
		}
	}
}

func TestCreateUndoesOnError(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		err := c.Create(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4095"}})
		if err == nil || !strings.Contains(err.Error(), "linux.resources.cpu.cpus") {
			t.Errorf("error %v does not name the field", err)
		}
		if c.Exists() {
			t.Error("left a cgroup")
		}
	})
}

func TestAbsentController(t *testing.T) {
	for _, mode := range modes(t) {
		c := newTest(t, mode)
		err := c.Create(&specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: ptr(uint32(3))}}})
		if err == nil || !strings.Contains(err.Error(), "linux.resources.rdma.mlx5_0") {
			t.Errorf("%v: error %v does not name the field", mode, err)
		}
		if _, ok := c.find("rdma"); !ok && !errors.Is(err, ErrUnsupported) { // else the device is what is missing
			t.Errorf("%v: error %v; want ErrUnsupported", mode, err)
		}
		if mode == Unified {
			continue
		}
		err = c.Create(&specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), `"memory.high"`) {
			t.Errorf("%v: error %v; want ErrUnsupported that names memory.high", mode, err)
		}
	}
}

func TestUnified(t *testing.T) {
	for _, mode := range modes(t) {
		if mode != Unified {
			t.Skip("the host's controllers are v1")
		}
		c := newTest(t, mode)
		if err := c.Create(&specs.LinuxResources{Unified: map[string]string{"memory.high": "1048576\n", "cpu.max": "max 50000"}}); err != nil {
			t.Fatal(err)
		}
		if got := c.file(t, "memory", "memory.high"); got != "1048576" {
			t.Errorf("memory.high = %q", got)
		}
	}
}

// has reports whether c is in the hierarchy of those controllers, as
// /proc/PID/cgroup writes them. Not all need be mounted here: somebody may have
// one in a mount namespace of his own.
func (c *Cgroup) has(controllers string) bool {
	return slices.ContainsFunc(c.all, func(h hierarchy) bool {
		return h.v2 && controllers == "" || !h.v2 && strings.Join(h.controllers, ",") == controllers
	})
}

func TestJoin(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		// From outside.
		h := startHelper(t, "wait")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		// From inside, as a new child does: a shell writes "0" for itself.
		sys := &syscall.SysProcAttr{}
		dir, err := c.OpenV2()
		if err != nil {
			t.Fatal(err)
		}
		if dir != nil {
			defer dir.Close()
			sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
		}
		script := "for f in " + strings.Join(c.JoinFiles(), " ") + "; do echo 0 >$f || exit 1; done; cat /proc/self/cgroup"
		sh := exec.Command("/bin/sh", "-c", script)
		sh.SysProcAttr = sys
		out, err := sh.Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if fields[2] != c.Path() && c.has(fields[1]) {
				t.Errorf("the child is in %s", line)
			}
		}
		pids, err := c.Pids(false)
		if err != nil || !slices.Equal(pids, []int{h.Process.Pid}) {
			t.Errorf("pids %v, %v; want %d", pids, err, h.Process.Pid)
		}
		// A cgroup in use is neither made again nor removed.
		again, err := New(c.Path(), c.Mode())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Create(nil); !errors.Is(err, ErrBusy) {
			t.Errorf("a second Create: %v; want ErrBusy", err)
		}
		if pids, _ := c.Pids(false); len(pids) != 1 {
			t.Error("the second Create's undo has removed the first's processes")
		}
	})
}

// A frozen cgroup that somebody has left would hold its first process for ever.
func TestCreateFrozen(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, err := New(c.Path(), c.Mode())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Create(nil); !errors.Is(err, ErrBusy) {
			t.Errorf("Create of a frozen cgroup: %v; want ErrBusy", err)
		}
		if !c.Exists() {
			t.Error("Create's undo has removed what it has not made")
		}
		if err := c.Thaw(); err != nil {
			t.Fatal(err)
		}
		if err := again.Create(nil); err != nil {
			t.Errorf("Create once it is thawed: %v", err)
		}
	})
}

func TestDeleteBusy(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "wait")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(); !errors.Is(err, ErrBusy) {
			t.Errorf("Delete with a process inside: %v; want ErrBusy", err)
		}
	})
}

func TestFreezeAndKill(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "null")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := c.Freeze(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if frozen, err := c.Frozen(); !frozen || err != nil {
			t.Errorf("frozen: %v, %v", frozen, err)
		}
		answer := make(chan string, 1)
		go func() { answer <- h.ask(t, "/dev/null") }()
		select {
		case a := <-answer:
			t.Errorf("a frozen process answered %q", a)
		case <-time.After(50 * time.Millisecond):
		}
		if err := c.Thaw(); err != nil {
			t.Fatal(err)
		}
		<-answer
		if frozen, err := c.Frozen(); frozen || err != nil {
			t.Errorf("thawed, but frozen: %v, %v", frozen, err)
		}

		// A signal that it can live with, then the end of a frozen one.
		if err := c.Kill(syscall.SIGURG); err != nil {
			t.Error(err)
		}
		if frozen, _ := c.Frozen(); frozen {
			t.Error("Kill left it frozen")
		}
		if err := c.Freeze(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitEmpty(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(); err == nil || h.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("ended by %v", h.ProcessState)
		}
	})
}

// Nothing is said of the events of a cgroup that is removed: who waits for one
// must be told of that.
func TestWaitEndsWithTheCgroup(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		h, ok := c.v2()
		if !ok {
			t.Skip("no cgroup v2 here")
		}
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		watched, asked := make(chan struct{}), 0
		ended := make(chan error, 1)
		go func() {
			ended <- waitEvents(ctxFor(t, 20*time.Second), c.dir(h), func(events) bool {
				if asked++; asked == 2 {
					close(watched)
				}
				return false
			})
		}()
		<-watched
		if err := c.Delete(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !isErrno(err, syscall.ENOENT, syscall.ENODEV) {
			t.Errorf("wait for a cgroup that is removed: %v", err)
		}
	})
}

// On a hybrid host we freeze through v2; what somebody froze through v1 dies too.
func TestKillFrozenByV1(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		freezer, ok := c.find("freezer")
		if !ok || freezer.v2 {
			t.Skip("no v1 freezer here")
		}
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "null")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(c.dir(freezer)+"/freezer.state", "FROZEN"); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitEmpty(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		_ = h.Wait()
	})
}

// A process that forks and ends, and its child likewise, is nowhere when it is
// looked for.
func TestKillReachesWhoRuns(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		// It reads first, so that all of it is in the cgroup.
		runner := exec.Command("/bin/sh", "-c", "read go; f() { f & }; f & f & f")
		in, err := runner.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := runner.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(runner.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		_ = runner.Wait() // by now its children run
		if pids, err := c.Pids(true); len(pids) == 0 || err != nil {
			t.Fatalf("nobody runs: %v, %v", pids, err)
		}
		if err := c.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitEmpty(ctxFor(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if frozen, _ := c.Frozen(); frozen {
			t.Error("Kill left it frozen")
		}
	})
}

func TestFreezeGivesUp(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.WaitEmpty(ctx); err != nil {
			t.Errorf("an empty cgroup: %v", err)
		}
		h := startHelper(t, "wait")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitEmpty(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("WaitEmpty: %v; want Canceled", err)
		}
	})
}

// Another process deletes, knowing Top; a neighbour keeps the parent.
func TestDeleteByAnother(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		if want := "/" + strings.Split(c.Path(), "/")[1]; c.top != want {
			t.Errorf("Top is %q, want %q", c.top, want)
		}
		neighbour, err := New(path.Dir(c.Path())+"/neighbour", c.Mode())
		if err != nil {
			t.Fatal(err)
		}
		if err := neighbour.Create(nil); err != nil {
			t.Fatal(err)
		}
		if neighbour.top != neighbour.Path() {
			t.Errorf("the neighbour's Top is %q", neighbour.top)
		}
		again, err := New(c.Path(), c.Mode())
		if err != nil {
			t.Fatal(err)
		}
		again.top = c.top
		if err := again.Delete(); err != nil {
			t.Fatal(err)
		}
		if c.Exists() || !neighbour.Exists() {
			t.Errorf("after Delete: there %v, neighbour there %v", c.Exists(), neighbour.Exists())
		}
		if err := neighbour.Delete(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDescendants(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		inner, err := New(c.Path()+"/a/b", c.Mode())
		if err != nil {
			t.Fatal(err)
		}
		if err := inner.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "wait")
		if err := inner.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if pids, err := c.Pids(true); err != nil || !slices.Equal(pids, []int{h.Process.Pid}) {
			t.Errorf("recursive pids %v, %v", pids, err)
		}
		if pids, _ := c.Pids(false); len(pids) != 0 {
			t.Errorf("own pids %v", pids)
		}
		// Deleting what was just killed, without waiting first.
		if err := c.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(); err != nil {
			t.Error(err)
		}
	})
}

// A process whose maker was killed while it joined is in some hierarchies of v1 only.
func TestKillOfOneHalfWayIn(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if c.processes().v2 {
			t.Skip("a process is born in v2")
		}
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "wait")
		cpu, ok := c.find("cpu")
		if !ok {
			t.Skip("no cpu controller here")
		}
		if err := writeFile(c.dir(cpu)+"/cgroup.procs", strconv.Itoa(h.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		// Nor need the cgroup be in all.
		if err := rmdir(c.dir(c.processes())); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		if err := c.WaitEmpty(ctxFor(t, 10*time.Second)); err != nil {
			t.Error(err)
		}
		if err := c.Delete(); err != nil {
			t.Error(err)
			_ = h.Process.Kill()
		}
		_ = h.Wait()
	})
}

// What is nested deeper than a path is long is found, killed and removed, too.
func TestDeepDescendants(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "wait")
		name := strings.Repeat("a", 200)
		for _, hierarchy := range c.all {
			at, err := sys.OpenDir(c.dir(hierarchy))
			if err != nil {
				t.Fatal(err)
			}
			for range 30 {
				for _, leaf := range []string{"b", name} {
					if err := sys.MkdirAt(at, leaf, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				next, err := sys.OpenDirAt(at, name)
				if err := errors.Join(err, sys.CloseFd(at)); err != nil {
					t.Fatal(err)
				}
				at = next
			}
			if hierarchy.mount == c.processes().mount {
				file := fmt.Sprintf("/proc/self/fd/%d/cgroup.procs", at)
				if err := writeFile(file, strconv.Itoa(h.Process.Pid)); err != nil {
					t.Fatal(err)
				}
			}
			_ = sys.CloseFd(at)
		}
		if pids, err := c.Pids(true); err != nil || !slices.Equal(pids, []int{h.Process.Pid}) {
			t.Errorf("pids %v, %v", pids, err)
		}
		if err := c.Delete(); !errors.Is(err, ErrBusy) {
			t.Errorf("delete with a process: %v", err)
		}
		if err := c.Kill(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = h.Wait()
		if err := c.Delete(); err != nil {
			t.Errorf("%.300v", err)
		}
		if c.Exists() {
			t.Error("it is there")
		}
	})
}

func TestOOMWatch(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		limit := int64(64 << 20)
		if err := c.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}); err != nil {
			t.Fatal(err)
		}
		w, err := c.WatchOOM()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if killed, err := w.Killed(); killed || err != nil {
			t.Errorf("at the start: killed %v, %v", killed, err)
		}
		h := startHelper(t, "eat")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if _, err := h.in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		if err := waitReadable(w.FD(), 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := w.Wait(ctxFor(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		_ = h.Wait()
		if killed, err := w.Killed(); !killed || err != nil {
			t.Errorf("after the kill: killed %v, %v", killed, err)
		}
		s, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.Memory.OOMKills == 0 || s.Memory.Limit != uint64(limit) || s.CPU.Usage == 0 {
			t.Errorf("stats: %+v", s.Memory)
		}
	})
}

// waitReadable waits on a bare descriptor, as the monitor's loop does.
func waitReadable(fd int, d time.Duration) error {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer syscall.Close(ep)
	if err := syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN}); err != nil {
		return err
	}
	var events [1]syscall.EpollEvent
	for deadline := time.Now().Add(d); ; {
		n, err := syscall.EpollWait(ep, events[:], int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}

func TestDevices(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		rule := func(allow bool, kind, access string, numbers ...int64) specs.LinuxDeviceCgroup {
			r := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
			if len(numbers) > 0 {
				r.Major, r.Minor = &numbers[0], &numbers[1]
			}
			return r
		}
		deny := rule(false, "", "rwm")
		if err := c.Create(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny}}); err != nil {
			t.Fatal(err)
		}
		h := startHelper(t, "null")
		if err := c.Apply(h.Process.Pid); err != nil {
			t.Fatal(err)
		}
		kmsg := node(t, "kmsg", 1, 11)
		forbidden := func(path string) bool { return h.ask(t, path) == "true" }
		check := func(stage string, null, kmsgForbidden bool) {
			t.Helper()
			if got := forbidden("/dev/null"); got != null {
				t.Errorf("%s: /dev/null forbidden: %v", stage, got)
			}
			if got := forbidden(kmsg); got != kmsgForbidden {
				t.Errorf("%s: kmsg forbidden: %v", stage, got)
			}
		}
		check("default", false, true)
		set := func(rules ...specs.LinuxDeviceCgroup) {
			t.Helper()
			if err := c.Set(&specs.LinuxResources{Devices: rules}); err != nil {
				t.Fatal(err)
			}
		}
		set(deny, rule(true, "c", "rw", 1, 11))
		check("kmsg added", false, false)
		set(deny, rule(true, "c", "r", 1, 11))
		check("kmsg read only", false, true)
		set(rule(true, "a", "rwm"))
		check("everything", false, false)
		set(rule(true, "a", "rwm"), rule(false, "c", "w", 1, 11))
		check("everything but kmsg", false, true)
		set(deny)
		check("nothing again", false, true)
	})
}

// node makes a device node in a directory of the test's.
func node(t *testing.T, name string, major, minor uint32) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, int(major<<8|minor)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Usage says the same as Stats, of less.
func TestUsage(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		limit := int64(64 << 20)
		if err := c.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: new(int64(42))}}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", "read go; i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.Apply(cmd.Process.Pid), in.Close()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it has used the CPU, and nothing changes any more
		s, err1 := c.Stats()
		u, err2 := c.Usage(nil, true)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if s.CPU.Usage == 0 || u.CPU.Usage != s.CPU.Usage || u.Memory.Limit != uint64(limit) || u.Memory.SwapLimit != s.Memory.SwapLimit || u.Pids.Current != s.Pids.Current {
			t.Errorf("usage %+v\nstats %+v", u, s)
		}
		if u.Memory.PageFaults < s.Memory.PageFaults { // the kernel sums them up now and then
			t.Errorf("usage %+v\nstats %+v", u.Memory, s.Memory)
		}
		if u.Memory.Stat != nil || len(u.CPU.PerCPU) > 0 || len(u.Hugetlb) > 0 || u.Memory.MaxUsage != 0 {
			t.Errorf("usage has more than is asked for: %+v", u)
		}
	})
}

// Counters say what Usage does, of the cgroup that is there, and have files open until they are
// closed.
func TestCounters(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		create := func(limit int64) {
			t.Helper()
			if err := c.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err != nil {
				t.Fatal(err)
			}
		}
		create(64 << 20)
		var bases Bases
		defer bases.Close()
		counters := c.Counters(true)
		defer counters.Close()
		open := 0
		check := func(limit uint64) {
			t.Helper()
			k, err1 := counters.Usage(&bases)
			u, err2 := c.Usage(&bases, true)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if k.CPU.Usage != u.CPU.Usage || k.Memory.Limit != limit || u.Memory.Limit != limit || k.Pids != u.Pids {
				t.Errorf("counters %+v\nusage %+v", k, u)
			}
			if n := filesOpen(t, c); n == 0 || open != 0 && n != open {
				t.Errorf("%d files are open, before %d", n, open)
			} else {
				open = n
			}
		}
		check(64 << 20)
		cmd := exec.Command("/bin/sh", "-c", "read go; i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; read end")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		k, err := counters.Usage(nil)
		if err != nil || k.Pids.Current != 1 {
			t.Errorf("with a process: %+v, %v", k, err)
		}
		_ = in.Close()
		_ = cmd.Wait() // it reads an end, twice
		check(64 << 20)
		if again, err := counters.Usage(nil); err != nil || again.CPU.Usage <= k.CPU.Usage {
			t.Errorf("CPU time after a loop: %+v, before it %+v, %v", again, k, err)
		}
		if err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(128 << 20))}}); err != nil {
			t.Fatal(err)
		}
		check(128 << 20)

		// One that is gone is gone, and the next of its name is another.
		end(t, c)
		bases.Close()
		if s, err := counters.Usage(nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of a cgroup that is gone: %+v, %v", s, err)
		}
		if n := filesOpen(t, c); n != 0 {
			t.Errorf("%d files of a cgroup that is gone are open", n)
		}
		create(32 << 20)
		check(32 << 20)
		end(t, c)
		bases.Close()
		create(16 << 20)
		check(16 << 20)

		// Closed, they read all the same.
		counters.Close()
		if s, err := counters.Usage(nil); err != nil || s.Memory.Limit != 16<<20 {
			t.Errorf("closed: %+v, %v", s, err)
		}
		if n := filesOpen(t, c); n != 0 {
			t.Errorf("%d files are open after Close", n)
		}
	})
}

// filesOpen counts this process's open files of a cgroup, which may have been removed.
func filesOpen(t *testing.T, c *Cgroup) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(link, c.path+"/") {
			n++
		}
	}
	return n
}

// The limits of Usage are the cgroup's own, whatever those above it are.
func TestUsageLimits(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if err := c.Create(&specs.LinuxResources{}); err != nil {
			t.Fatal(err)
		}
		above, err := New(path.Dir(c.path), c.mode)
		if err != nil {
			t.Fatal(err)
		}
		const mib = int64(1) << 20
		for _, own := range []int64{-1, 64 * mib, 300 * mib, -1} {
			if err := errors.Join(above.Set(memoryAndSwap(-1, -1)), c.Set(memoryAndSwap(own, max(2*own, -1)))); err != nil {
				t.Fatal(err)
			}
			for _, other := range []int64{-1, 128 * mib} {
				if err := above.Set(memoryAndSwap(other, max(2*other, -1))); err != nil {
					t.Fatal(err)
				}
				s, err1 := c.Stats()
				u, err2 := c.Usage(nil, false)
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				want := uint64(NoLimit)
				if own > 0 {
					want = uint64(own)
				}
				if u.Memory.Limit != want || s.Memory.Limit != want || u.Memory.SwapLimit != s.Memory.SwapLimit {
					t.Errorf("limit %d below %d: usage %d and swap %d, stats %d and %d", own, other,
						u.Memory.Limit, u.Memory.SwapLimit, s.Memory.Limit, s.Memory.SwapLimit)
				}
			}
		}
	})
}

func memoryAndSwap(limit, swap int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}
}

func TestGone(t *testing.T) {
	eachMode(t, func(t *testing.T, c *Cgroup) {
		if _, err := c.Stats(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stats: %v", err)
		}
		if _, err := c.Usage(nil, false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Usage: %v", err)
		}
		if pids, err := c.Pids(true); len(pids) != 0 || err != nil {
			t.Errorf("Pids: %v, %v", pids, err)
		}
		if err := c.Kill(syscall.SIGTERM); err != nil {
			t.Errorf("Kill: %v", err)
		}
		if err := c.Delete(); err != nil {
			t.Errorf("Delete: %v", err)
		}
	})
}

func BenchmarkCreateDelete(b *testing.B) {
	testutil.RequireRoot(b, "cgroups are root's to make")
	mode, err := Detect()
	if err != nil {
		b.Fatal(err)
	}
	limit := int64(64 << 20)
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: &limit},
	}
	for b.Loop() {
		c, err := New("/strake-cg-bench", mode)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Create(r); err != nil {
			b.Fatal(err)
		}
		if err := c.Delete(); err != nil {
			b.Fatal(err)
		}
	}
}

// What the kubelet asks for every few seconds.
func BenchmarkUsage(b *testing.B) {
	mode, err := Detect()
	if err != nil || os.Getuid() != 0 {
		b.Skip("needs root and cgroups")
	}
	c, err := New("/strake-bench-"+strconv.Itoa(os.Getpid())+"/pods/burstable/pod/container", mode)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Create(&specs.LinuxResources{}); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := c.Delete(); err != nil {
			b.Error(err)
		}
	}()
	b.Run("again", func(b *testing.B) {
		counters := c.Counters(true)
		defer counters.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := counters.Usage(nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, bases := range map[string]*Bases{"alone": nil, "among others": {}} {
		b.Run(name, func(b *testing.B) {
			defer bases.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Usage(bases, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
