// Package runtime kills strake-runtime, or the process that it forks, at every
// step of every verb, and looks what is left: what "delete --force" removes, and
// then nothing.
//
// Each test takes some steps, evenly spread, so that all of it takes seconds;
// STRAKE_WALK=all takes every one.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// program is the strake-runtime under test.
var program string

func TestMain(m *testing.M) { os.Exit(testutil.MainWith(m, "strake-runtime", &program)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const id = "walk"

// host is a state directory and a bundle. The test is the subreaper of all that
// it starts, so that whatever a killed runtime leaves becomes its child, and is
// found.
type host struct {
	t      *testing.T
	root   string
	bundle string
	cgroup string // the containers' parent
}

func newHost(t *testing.T) *host {
	t.Helper()
	testutil.RequireRoot(t, "containers are root's to make")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs Debian's busybox-static: %v", err)
	}
	must(t, sys.SetSubreaper())
	root, err := os.MkdirTemp("/run", "strake-walk-")
	must(t, err)
	h := &host{t: t, root: root, bundle: filepath.Join(root, "bundle"), cgroup: filepath.Base(root)}
	t.Cleanup(func() {
		if t.Failed() {
			h.do("delete", "--force", id)
		}
		h.clean("at the end")
		must(t, os.RemoveAll(root))
	})
	bin := filepath.Join(h.bundle, "rootfs/bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "busybox"), busybox, 0o755))
	for _, name := range []string{"sleep", "true"} {
		must(t, os.Symlink("busybox", filepath.Join(bin, name)))
	}
	h.configure(nil)
	return h
}

// configure writes the bundle's config: runc's default one, limits, and hooks of
// every kind.
func (h *host) configure(change func(*specs.Spec)) {
	h.t.Helper()
	file := filepath.Join(h.bundle, "config.json")
	_ = os.Remove(file) // there is none at first
	h.must("spec", "--bundle", h.bundle)
	data, err := os.ReadFile(file)
	must(h.t, err)
	var s specs.Spec
	must(h.t, json.Unmarshal(data, &s))
	s.Process.Terminal = false
	s.Process.Args = []string{"sleep", "1000"}
	s.Linux.CgroupsPath = "/" + h.cgroup + "/" + id
	limit, pids := int64(64<<20), int64(64)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	host, inside := []specs.Hook{{Path: "/bin/busybox", Args: []string{"true"}}}, []specs.Hook{{Path: "/bin/true"}}
	s.Hooks = &specs.Hooks{CreateRuntime: host, CreateContainer: host, StartContainer: inside, Poststart: host, Poststop: host}
	if change != nil {
		change(&s)
	}
	data, err = json.Marshal(&s)
	must(h.t, err)
	must(h.t, os.WriteFile(file, data, 0o644))
}

func (h *host) command(args ...string) *exec.Cmd {
	return exec.Command(program, append([]string{"--root", filepath.Join(h.root, "state")}, args...)...)
}

// do runs a command to its end, and collects every other child that ends
// meanwhile: a process whose parent does not would keep its PID namespace, and so
// the container's init, alive.
func (h *host) do(args ...string) (out string, code int) {
	h.t.Helper()
	file, err := os.CreateTemp(h.root, "out-") // a pipe would be held open by the container
	must(h.t, err)
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = file, file
	must(h.t, cmd.Start())
	var status syscall.WaitStatus
	for pid := 0; pid != cmd.Process.Pid; {
		pid, err = syscall.Wait4(-1, &status, syscall.WALL, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			h.t.Fatal(err)
		}
	}
	_ = cmd.Process.Release()
	data, err := os.ReadFile(file.Name())
	must(h.t, err)
	return string(data), status.ExitStatus()
}

func (h *host) must(args ...string) string {
	h.t.Helper()
	out, code := h.do(args...)
	if code != 0 {
		h.t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// status is what state says, "" of a container that does not exist.
func (h *host) status() string {
	h.t.Helper()
	lives := []string{"created", "running", "paused"}
	status, alive := h.look()
	if !alive && slices.Contains(lives, status) { // it may have ended since: who was killed may have killed it
		status, alive = h.look()
	}
	if status != "creating" && alive != slices.Contains(lives, status) {
		h.t.Errorf("state says %s of a process that lives: %v", status, alive)
	}
	return status
}

// look asks for the state, then whether init lives.
func (h *host) look() (status string, alive bool) {
	h.t.Helper()
	out, code := h.do("state", id)
	if code != 0 {
		if !strings.Contains(out, "does not exist") {
			h.t.Errorf("state: exit code %d: %s", code, out)
		}
		return "", false
	}
	var s struct {
		Status string
		Pid    int
	}
	must(h.t, json.Unmarshal([]byte(out), &s))
	if !slices.Contains([]string{"creating", "created", "running", "paused", "stopped"}, s.Status) {
		h.t.Errorf("state: %s", out)
	}
	return s.Status, s.Pid > 0 && syscall.Kill(s.Pid, 0) == nil
}

// clean fails the test if a container has left anything, and takes it away.
func (h *host) clean(when string) {
	h.t.Helper()
	left, _ := os.ReadDir(filepath.Join(h.root, "state"))
	for _, e := range left {
		h.t.Errorf("%s: the state of %s is left", when, e.Name())
		_ = os.RemoveAll(filepath.Join(h.root, "state", e.Name()))
	}
	for _, pid := range orphans(h.t) {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		h.t.Errorf("%s: process %d is left: %q", when, pid, comm)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, dir := range h.cgroups() {
		frozen, _ := os.ReadFile(dir + "/cgroup.freeze")
		h.t.Errorf("%s: cgroup %s is left, frozen: %s", when, dir, frozen)
		_ = os.Remove(dir + "/" + id) // children first
		_ = os.Remove(dir)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(h.t, err)
	if strings.Contains(string(mounts), h.root) {
		h.t.Errorf("%s: mounts are left:\n%s", when, mounts)
	}
	entries, err := os.ReadDir(h.bundle)
	must(h.t, err)
	for _, e := range entries {
		if e.Name() != "config.json" && e.Name() != "rootfs" {
			h.t.Errorf("%s: %s is left in the bundle", when, e.Name())
		}
	}
}

func (h *host) cgroups() (dirs []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		found, _ := filepath.Glob(pattern + h.cgroup) // a constant pattern
		dirs = append(dirs, found...)
	}
	return dirs
}

// orphans collects the children that have ended, or are about to, and returns
// those that live.
func orphans(t *testing.T) (alive []int) {
	t.Helper()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err != nil: // ECHILD: none is left
			return alive
		case pid > 0:
			continue
		}
		// Some live. One that has nobody to talk to any more ends by itself.
		files, _ := filepath.Glob("/proc/self/task/*/children")
		var list []int
		for _, f := range files {
			data, _ := os.ReadFile(f) // the thread may have gone
			for _, field := range strings.Fields(string(data)) {
				n := 0
				_, _ = fmt.Sscan(field, &n)
				list = append(list, n)
			}
		}
		if len(list) == 0 {
			continue
		}
		if !ends(t, list[0]) {
			return list
		}
	}
}

// ends waits for the end of a process.
func ends(t *testing.T, pid int) bool {
	t.Helper()
	f, err := sys.OpenPidFD(pid)
	if err != nil {
		return true
	}
	defer f.Close()
	ctx, cancel := contextFor(10 * time.Second)
	defer cancel()
	return sys.WaitReadable(ctx, f) == nil
}

// points picks steps to kill at, of a command that has some.
func points(steps, sample int) (list []int) {
	if os.Getenv("STRAKE_WALK") == "all" || steps <= sample {
		sample = steps
	}
	for i := range sample {
		list = append(list, i*steps/sample)
	}
	return list
}

// verb is a command to be killed.
type verb struct {
	args    []string
	prepare func(h *host)
	sample  int
	// after is looked at before the container is deleted.
	after func(h *host, tr trace, status string)
}

func create(h *host) { h.must("create", "--bundle", h.bundle, id) }
func start(h *host)  { create(h); h.must("start", id) }
func nothing(*host)  {}

// usable says that a container works whatever became of the command before.
func usable(h *host, _ trace, status string) {
	h.t.Helper()
	if status == "paused" {
		h.must("resume", id)
		status = h.status()
	}
	if status != "running" {
		h.t.Errorf("the container is %s", status)
		return
	}
	h.must("exec", id, "true")
}

func verbs(h *host) map[string]verb {
	bundle := []string{"--bundle", h.bundle}
	// An init whose creator is killed before it has answered it for the last time
	// ends by itself, and may still be there when its state is asked for.
	startable := func(h *host, _ trace, status string) {
		if status != "created" {
			return
		}
		out, code := h.do("start", id)
		if code == 0 {
			return
		}
		if h.stopped(); h.status() != "stopped" {
			h.t.Fatalf("start: exit code %d: %s", code, out)
		}
	}
	return map[string]verb{
		"create": {append([]string{"create"}, append(bundle, id)...), nothing, 24, startable},
		"run":    {append([]string{"run", "--detach"}, append(bundle, id)...), nothing, 12, nil},
		"start": {[]string{"start", id}, create, 10, func(h *host, tr trace, status string) {
			if status == "created" {
				// The one that was killed may have opened the gate nevertheless.
				if out, code := h.do("start", id); code != 0 && h.status() != "running" {
					h.t.Errorf("start: exit code %d: %s", code, out)
				}
			}
			if status := h.status(); status != "running" {
				h.t.Errorf("the container is %s", status)
			}
		}},
		"exec":         {[]string{"exec", "--detach", id, "sleep", "1000"}, start, 12, usable},
		"exec again":   {[]string{"exec", "--detach", id, "sleep", "1000"}, func(h *host) { start(h); h.must("exec", "--detach", id, "sleep", "1000") }, 12, usable},
		"pause":        {[]string{"pause", id}, start, 8, usable},
		"resume":       {[]string{"resume", id}, func(h *host) { start(h); h.must("pause", id) }, 8, usable},
		"update":       {[]string{"update", "--memory", "33554432", "--pids-limit", "32", id}, start, 8, usable},
		"kill --all":   {[]string{"kill", "--all", id, "USR1"}, func(h *host) { start(h) }, 8, unfrozen},
		"delete":       {[]string{"delete", id}, func(h *host) { start(h); h.must("kill", id, "KILL"); h.stopped() }, 10, nil},
		"delete force": {[]string{"delete", "--force", id}, start, 12, nil},
	}
}

// stopped waits until the container's init, a child of ours by now, has ended.
func (h *host) stopped() {
	h.t.Helper()
	if left := orphans(h.t); len(left) > 0 {
		h.t.Fatalf("processes %v do not end", left)
	}
}

func unfrozen(h *host, _ trace, status string) {
	if status == "paused" {
		h.t.Error("a signal has left the container frozen")
	}
}

// eachStep runs a verb to its end once, then again and again with whom killed at one
// of its steps, and looks with after, then whether delete leaves nothing.
func (h *host) eachStep(t *testing.T, whom who, v verb, after func(h *host, tr trace, when, status string)) {
	own := *h
	own.t, h = t, &own
	v.prepare(h)
	whole := walk{whom, -1}.run(t, h.command(v.args...))
	if whole.code != 0 {
		t.Fatalf("exit code %d: %s", whole.code, whole.stderr)
	}
	h.must("delete", "--force", id)
	h.clean("without a kill")
	t.Logf("%d steps", whole.steps)
	for _, at := range points(whole.steps, v.sample) {
		if t.Failed() {
			return
		}
		v.prepare(h)
		tr := walk{whom, at}.run(t, h.command(v.args...))
		when := fmt.Sprintf("killed at step %d, system call %d", at, tr.call)
		status := h.status()
		t.Logf("%s: exit code %d, %s: %s", when, tr.code, status, strings.TrimSpace(tr.stderr))
		after(h, tr, when, status)
		if whom == theRuntime || status != "" { // a failing create leaves nothing by itself
			h.must("delete", "--force", id)
		}
		h.clean(when) // and the next round takes the same id
	}
}

// TestKillTheRuntime kills strake-runtime at each step of each verb.
func TestKillTheRuntime(t *testing.T) {
	h := newHost(t)
	all := verbs(h)
	for _, name := range sorted(all) {
		v := all[name]
		t.Run(name, func(t *testing.T) {
			h.eachStep(t, theRuntime, v, func(h *host, tr trace, _, status string) {
				if v.after != nil {
					v.after(h, tr, status)
				}
			})
		})
	}
}

func sorted(m map[string]verb) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// namesStep says whether an error has the field and the call at which a process
// was killed.
func namesStep(text string) bool {
	_, rest, _ := strings.Cut(text, "container "+id+": ")
	step, ok := strings.CutSuffix(rest, ": process was killed\n")
	return ok && strings.Contains(step, ": ") && !strings.Contains(step, ": call ") // a number without a name
}

// TestKillTheChild kills the container's process at each of its steps: who made
// it says which, and undoes everything.
func TestKillTheChild(t *testing.T) {
	h := newHost(t)
	all := verbs(h)
	for _, name := range []string{"create", "run", "exec", "exec again"} {
		v := all[name]
		t.Run(name, func(t *testing.T) {
			h.eachStep(t, theChild, v, func(h *host, tr trace, when, status string) {
				switch {
				case tr.code == 0: // it had nothing more to tell: the gate, or its execve
				case !namesStep(tr.stderr):
					t.Errorf("%s: exit code %d: %s", when, tr.code, tr.stderr)
				case !strings.HasPrefix(name, "exec") && status != "":
					t.Errorf("%s: the container is %s", when, status)
				}
				if strings.HasPrefix(name, "exec") {
					usable(h, tr, status)
				}
			})
		})
	}
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
