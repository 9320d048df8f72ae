package cgroup

import (
	"crypto/rand"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/testutil"
)

// newScope names a scope, held by a helper until the test puts one of its own in.
func newScopeTest(t *testing.T, annotations map[string]string) *Cgroup {
	t.Helper()
	testutil.RequireRoot(t, "scopes are root's to make")
	if _, err := os.Stat("/run/systemd/private"); err != nil {
		t.Skip("systemd does not run here: see test/vm")
	}
	hold := func() (int, func(), error) {
		h := startHelper(t, "wait")
		return h.Process.Pid, func() { _ = h.Process.Kill(); _ = h.Wait() }, nil
	}
	c, err := Name(Config{Path: "strake-test.slice:cg:" + rand.Text()[:10], Systemd: true, Hold: hold, Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, c) })
	return c
}

func TestScope(t *testing.T) {
	c := newScopeTest(t, map[string]string{AnnotationPrefix + "TimeoutStopUSec": "uint64 5000000"})
	if !strings.HasPrefix(c.Path(), "/strake.slice/strake-test.slice/cg-") || !strings.HasSuffix(c.Path(), ".scope") {
		t.Errorf("its path is %s", c.Path())
	}
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20))},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(12345)), Period: ptr(uint64(50000)), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(1))},
	}
	if err := c.Create(r); err != nil {
		t.Fatal(err)
	}
	h := startHelper(t, "wait")
	if err := c.Apply(h.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(); err != nil {
		t.Fatal(err)
	}
	check := func(controller, file, want string) {
		t.Helper()
		if got := c.file(t, controller, file); c.mode == Unified && got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	check("memory", "memory.max", "67108864")
	check("cpu", "cpu.max", "12500 50000")
	check("pids", "pids.max", "1")
	check("cpuset", "cpuset.cpus", "0")

	// Another of the same name is refused, and harms nothing.
	again, err := Name(Config{Path: "strake-test.slice:cg:" + strings.TrimSuffix(c.Path()[strings.LastIndex(c.Path(), "cg-")+3:], ".scope"), Systemd: true, Hold: c.hold})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Create(nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a second scope of the name: %v; want ErrBusy", err)
	}

	// Another process, knowing what was saved, changes it. A quota alone keeps the
	// period, and systemd's view stays the kernel's.
	other, err := Open(c.Saved())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(25000))}, Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	check("cpu", "cpu.max", "25000 50000")
	check("memory", "memory.max", "max")
	check("pids", "pids.max", "1")
}

// systemd would move the process that the scope is started with into the frozen
// cgroup, and nothing would ever come of either.
func TestScopeFrozen(t *testing.T) {
	c := newScopeTest(t, nil)
	var freezers []string
	for _, h := range c.all {
		switch {
		case h.v2 && c.mode == Unified:
			freezers = append(freezers, c.dir(h)+"/cgroup.freeze")
		case slices.Contains(h.controllers, "freezer"):
			freezers = append(freezers, c.dir(h)+"/freezer.state")
		}
	}
	set := func(v2, v1 string) {
		t.Helper()
		for _, file := range freezers {
			state := v1
			if strings.HasSuffix(file, "cgroup.freeze") {
				state = v2
			}
			if err := os.WriteFile(file, []byte(state), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, file := range freezers {
		if err := os.MkdirAll(path.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	set("1", "FROZEN")
	err := c.Create(nil)
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "frozen") {
		t.Errorf("a scope over a frozen cgroup: %v; want ErrBusy", err)
	}
	if !c.Exists() {
		t.Error("Create's undo has removed what it has not made")
	}
	set("0", "THAWED")
	if err := c.Create(nil); err != nil {
		t.Errorf("Create once it is thawed: %v", err)
	}
}

func TestScopeUndo(t *testing.T) {
	c := newScopeTest(t, nil)
	err := c.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}, CPU: &specs.LinuxCPU{Mems: "1023"}})
	if err == nil {
		t.Fatal("a memory node that no host has was taken")
	}
	if c.Exists() {
		t.Error("left a scope")
	}
}

// What systemd has removed before anybody looked is told by the slice.
func TestScopeOOMUnseen(t *testing.T) {
	// run has a process in a scope of its own end by kill, and returns when systemd has
	// removed that.
	run := func(c *Cgroup, helper string, kill func(*helper)) (w *OOMWatch) {
		t.Helper()
		limit := int64(64 << 20)
		if err := c.Create(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}); err != nil {
			t.Fatal(err)
		}
		if c.mode != Unified {
			t.Skip("v1's slices count for themselves alone")
		}
		w, err := c.WatchOOM()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() }) // only read
		h := startHelper(t, helper)
		if err := errors.Join(c.Apply(h.Process.Pid), c.Settle()); err != nil {
			t.Fatal(err)
		}
		kill(h)
		_ = h.Wait()     // it was killed
		for c.Exists() { // systemd tells only those whose job it is
			<-time.After(5 * time.Millisecond)
		}
		if killed, err := w.Killed(); killed || err == nil {
			t.Errorf("of a scope that is gone: killed %v, %v", killed, err)
		}
		return w
	}
	eat := func(h *helper) {
		if _, err := h.in.Write([]byte("\n")); err != nil {
			t.Error(err)
		}
	}
	kill := func(h *helper) { _ = h.Process.Kill() } // it is there

	stays := newScopeTest(t, nil)
	if err := stays.Create(nil); err != nil {
		t.Fatal(err)
	}
	beside, err := stays.WatchOOM()
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close()
	for _, c := range []struct {
		helper string
		end    func(*helper)
		want   bool
	}{{"eat", eat, true}, {"wait", kill, false}, {"eat", eat, true}} {
		w := run(newScopeTest(t, nil), c.helper, c.end)
		if got := w.Ended(true); got != c.want {
			t.Errorf("%s: killed for want of memory: %v", c.helper, got)
		}
	}
	// What nobody asked about is not the next one's.
	if err := run(newScopeTest(t, nil), "eat", eat).Close(); err != nil {
		t.Error(err)
	}
	if run(newScopeTest(t, nil), "wait", kill).Ended(true) || beside.Ended(true) {
		t.Error("the kill in one scope is told of another")
	}
}

func TestGiveAway(t *testing.T) {
	for _, mode := range modes(t) {
		if mode != Unified {
			t.Skip("v1 is not given away")
		}
		c := newTest(t, mode)
		c.owner = ptr(1234)
		if err := c.Create(nil); err != nil {
			t.Fatal(err)
		}
		h, _ := c.v2()
		for file, want := range map[string]uint32{"": 1234, "/cgroup.procs": 1234, "/cgroup.subtree_control": 1234, "/memory.max": 0, "/cgroup.freeze": 0} {
			var st syscall.Stat_t
			if err := syscall.Stat(c.dir(h)+file, &st); err != nil || st.Uid != want {
				t.Errorf("%q is of user %d, %v; want %d", file, st.Uid, err, want)
			}
		}
	}
}
