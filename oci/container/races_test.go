package container

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/launch"
)

// swapping exchanges two paths until the test ends or stop is called.
func swapping(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	must(t, sys.Exchange(a, b)) // both are there
	done := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = sys.Exchange(a, b)
			}
		}
	})
	stop = sync.OnceFunc(func() { close(done); swapper.Wait() })
	t.Cleanup(stop)
	return stop
}

// rounds is how often a race is run. Each must be lost by the attacker, and the
// test would be none if the two sides never met: it wants some of each outcome.
func rounds(t *testing.T) int {
	t.Helper()
	if testing.Short() {
		return 20
	}
	return 60
}

// CVE-2023-27561 (runc 1.0.0-rc95 to 1.1.4): /proc of the rootfs is swapped with
// a link while it is mounted on, so that procfs lands elsewhere and everything
// that is later read or masked below /proc is the image's.
func TestSwappedProcIsRefusedOrReal(t *testing.T) {
	e := newEnv(t)
	rootfs := filepath.Join(e.bundle, "rootfs")
	must(t, os.MkdirAll(filepath.Join(rootfs, "proc"), 0o755))
	must(t, os.MkdirAll(filepath.Join(rootfs, "fake/self"), 0o755))
	must(t, os.WriteFile(filepath.Join(rootfs, "fake/self/mountinfo"), []byte("fake"), 0o644))
	must(t, os.Symlink("/fake", filepath.Join(rootfs, "link")))
	stop := swapping(t, filepath.Join(rootfs, "proc"), filepath.Join(rootfs, "link"))
	refused, real := 0, 0
	for range rounds(t) {
		r, err := e.run(e.spec("cat /proc/self/mountinfo"))
		switch {
		case err != nil && strings.Contains(err.Error(), "symbolic link"):
			refused++
		case err != nil:
			t.Fatal(err)
		// Swapped once more behind the mount, the name is a link again; the mount
		// is where it was made, on the directory, and nobody's masks are elsewhere.
		case strings.Contains(r.out, " / /fake ") || strings.Contains(r.out, "/fake/"):
			t.Fatalf("mounted elsewhere:\n%s", r.out)
		default:
			real++
		}
	}
	stop()
	if refused == 0 || real == 0 {
		t.Errorf("no race: %d refused, %d real", refused, real)
	}
}

// CVE-2025-31133 (runc to 1.2.7): /dev/null of the image is swapped with a link to
// a file of procfs while paths are masked; a runtime that binds the image's
// /dev/null over them binds that file, writable.
func TestSwappedNullMasksNothingElse(t *testing.T) {
	e := newEnv(t)
	dev := filepath.Join(e.bundle, "rootfs/dev")
	must(t, os.MkdirAll(filepath.Join(dev, "pts"), 0o755))
	must(t, syscall.Mknod(filepath.Join(dev, "null"), syscall.S_IFCHR|0o666, 1<<8|3))
	must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, "link")))
	before, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	swapping(t, filepath.Join(dev, "null"), filepath.Join(dev, "link"))
	s := e.spec("[ -c /proc/timer_list ] && [ -z \"$(cat /proc/timer_list)\" ] && echo x > /proc/timer_list; echo masked")
	s.Mounts = append(s.Mounts[:1], s.Mounts[2:]...) // the image's own /dev
	masked, refused := 0, 0
	for range rounds(t) {
		r, err := e.run(s)
		switch {
		case err != nil && strings.Contains(err.Error(), "/dev/null"):
			refused++
		case err != nil:
			t.Fatal(err)
		case r.code != 0 || !strings.HasSuffix(r.out, "masked\n"):
			t.Fatalf("%+v", r)
		default:
			masked++
		}
	}
	if masked == 0 || refused == 0 {
		t.Errorf("no race: %d masked, %d refused", masked, refused)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("core_pattern is now %q, %v", after, err)
	}
}

// CVE-2025-52881 (runc to 1.2.7): where a write to procfs is meant to go there is a
// link to another file of procfs, in a volume that another container changes
// meanwhile. The control is the volume itself: through the container's /proc the
// write would end in the trap.
func TestRedirectedSysctlIsNotFollowed(t *testing.T) {
	e := newEnv(t)
	fake := t.TempDir()
	dir := filepath.Join(fake, "sys/net/ipv4")
	must(t, os.MkdirAll(dir, 0o755))
	trap := filepath.Join(fake, "trap")
	must(t, os.WriteFile(trap, nil, 0o644))
	const name = "ip_unprivileged_port_start"
	must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	must(t, os.Symlink("../../../trap", filepath.Join(dir, "link")))
	stop := swapping(t, filepath.Join(dir, name), filepath.Join(dir, "link"))
	s := e.spec("true")
	s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"bind"}}
	s.Linux.Sysctl = map[string]string{"net.ipv4." + name: "77"}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	for range rounds(t) / 4 {
		e.mustRun(s)
	}
	stop()
	for _, file := range []string{trap, filepath.Join(dir, name), filepath.Join(dir, "link")} {
		if data, err := os.ReadFile(file); err != nil || len(data) > 0 {
			t.Errorf("%s has %q, %v", file, data, err)
		}
	}
}

// CVE-2023-25809 (runc to 1.1.4): a rootless container without a cgroup namespace
// gets the host's /sys, and with it /sys/fs/cgroup, where its user's own cgroup,
// which is delegated to him, can be written to. The control is a config that asks
// for just that.
func TestDelegatedCgroupIsReadOnlyWithoutItsNamespace(t *testing.T) {
	if mode, err := cgroup.Detect(); err != nil || mode == cgroup.Unified {
		t.Skipf("needs cgroup v1: on v2 the kernel mounts no hierarchy for a user namespace without a cgroup namespace (%v)", err)
	}
	for option, want := range map[string]bool{"ro": false, "rw": true} {
		t.Run(option, func(t *testing.T) {
			e := newEnv(t)
			shareRootfs(t, e)
			s := e.spec("for d in /sys/fs/cgroup/* /sys/fs/cgroup; do mkdir $d/evil; done")
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UserNamespace}}
			ids := []specs.LinuxIDMapping{{HostID: mappedRoot, Size: 65536}}
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			s.Mounts = append(s.Mounts[:5], specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
				Options: []string{"nosuid", "noexec", "nodev", "relatime", option}})
			c, p := e.create(s)
			cg, err := c.Cgroup()
			must(t, err)
			for _, dir := range cg.Dirs() { // as systemd delegates a user's
				must(t, os.Chown(dir, mappedRoot, mappedRoot))
			}
			must(t, c.Start(t.Context()))
			must(t, sys.WaitReadable(t.Context(), p.PidFD))
			made := false
			for _, dir := range cg.Dirs() {
				made = os.Remove(dir+"/evil") == nil || made
			}
			if made != want {
				t.Errorf("a cgroup was made: %v", made)
			}
		})
	}
}

// A process that joins is killed with its container, whose init dies of it later: on
// a busy node much later.
func TestInitDiesAfterThoseWhoJoin(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	pidfd, err := sys.OpenPidFD(cmd.Process.Pid)
	must(t, err)
	defer func() { _ = pidfd.Close() }()
	st, ok := readStat(cmd.Process.Pid)
	if !ok {
		t.Fatal("init has no stat")
	}
	late := time.AfterFunc(500*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer func() {
		late.Stop()
		_ = cmd.Process.Kill()
	}()
	r := &record{Pid: cmd.Process.Pid, StartTime: st.start}
	if !ending(t.Context(), r, pidfd, launch.ErrKilled) {
		t.Error("the container is not ending")
	}
}

// A container that is deleted while it is made is the deleter's to undo: whoever made it
// leaves alone what has the id by then.
func TestDeletedCreatorLeavesTheNextAlone(t *testing.T) {
	e := newEnv(t)
	log, fifo := filepath.Join(e.bundle, "log"), filepath.Join(e.bundle, "fifo")
	must(t, os.WriteFile(log, nil, 0o600))
	must(t, syscall.Mkfifo(fifo, 0o600))
	stop := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo stopped >> " + log}}}
	slow := e.spec("exec sleep 1000")
	slow.Hooks = &specs.Hooks{
		CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo > " + fifo + "; read -r go < " + fifo}}},
		Poststop:      stop,
	}
	slow.Linux.CgroupsPath = "/" + e.id()
	for i, next := range []*specs.Hooks{nil, {Poststop: stop}, nil} {
		o := CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: slow}
		if i == 2 { // without a socket in it, the directory's inode number may be the next one's
			o.Run = func(*Process) error { return nil }
		}
		failed := make(chan error, 1)
		go func() {
			_, _, err := Create(t.Context(), o)
			failed <- err
		}()
		_, err := os.ReadFile(fifo) // its hook runs
		must(t, err)
		first, err := Load(e.state, o.ID)
		must(t, err)
		must(t, first.Delete(t.Context(), true))

		s := e.spec("exec sleep 1000")
		s.Hooks = next
		s.Linux.CgroupsPath = slow.Linux.CgroupsPath
		c, p := e.start(s, func(other *CreateOptions) { other.ID = o.ID })
		must(t, os.WriteFile(fifo, nil, 0)) // its hook ends
		if err := <-failed; err == nil {
			t.Error("a container that was deleted has been made")
		}
		if st, err := c.State(); err != nil || st.Status != specs.StateRunning || st.Pid != p.Pid {
			t.Errorf("the next one: %+v, %v", st, err)
		}
		must(t, c.Delete(t.Context(), true))
	}
	// Three were deleted while they were made, and one had such a hook, too.
	if data, err := os.ReadFile(log); err != nil || string(data) != strings.Repeat("stopped\n", 4) {
		t.Errorf("poststop hooks: %q, %v", data, err)
	}
}

// A deleter that is overtaken by another, and by who makes the next container of the id,
// leaves that alone.
func TestOvertakenDeleterLeavesTheNextAlone(t *testing.T) {
	e := newEnv(t)
	fifo, once := filepath.Join(e.bundle, "fifo"), filepath.Join(e.bundle, "once")
	must(t, syscall.Mkfifo(fifo, 0o600))
	s := e.spec("true")
	s.Linux.CgroupsPath = "/" + e.id()
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh",
		Args: []string{"sh", "-c", "mkdir " + once + " || exit 0; echo > " + fifo + "; read -r go < " + fifo + "; true"}}}}
	first, p := e.start(s)
	wait(t, p)
	slow := make(chan error, 1)
	go func() { slow <- first.Delete(t.Context(), false) }()
	_, err := os.ReadFile(fifo) // its hook runs
	must(t, err)
	must(t, first.Delete(t.Context(), false))

	next := e.spec("exec sleep 1000")
	next.Linux.CgroupsPath = s.Linux.CgroupsPath
	c, p := e.start(next, func(o *CreateOptions) { o.ID = first.ID() })
	must(t, os.WriteFile(fifo, nil, 0)) // its hook ends
	must(t, <-slow)
	if st, err := c.State(); err != nil || st.Status != specs.StateRunning || st.Pid != p.Pid {
		t.Errorf("the next one: %+v, %v", st, err)
	}
	if _, err := c.Spec(); err != nil {
		t.Error(err)
	}
}

// A Container that was made here is that one for ever: who undoes or removes it late leaves the
// next one of the id alone.
func TestLateRemovalLeavesTheNextAlone(t *testing.T) {
	e := newEnv(t)
	fifo := filepath.Join(e.bundle, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	hooked := e.spec("exec sleep 1000")
	hooked.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo > " + fifo + "; read -r go < " + fifo + "; exit 1"}}}}
	first, _ := e.create(hooked)
	started := make(chan error, 1)
	go func() { started <- first.Start(t.Context()) }()
	_, err := os.ReadFile(fifo) // its hook runs
	must(t, err)
	other, err := Load(e.state, first.ID())
	must(t, err)
	must(t, other.Delete(t.Context(), true))

	c, p := e.start(e.spec("exec sleep 1000"), func(o *CreateOptions) { o.ID = first.ID() })
	must(t, os.WriteFile(fifo, nil, 0)) // its hook fails
	if err := <-started; err == nil {
		t.Error("a start whose hook fails succeeds")
	}
	must(t, first.Delete(t.Context(), true)) // as run does at the end of its container
	if st, err := c.State(); err != nil || st.Status != specs.StateRunning || st.Pid != p.Pid {
		t.Errorf("the next one: %+v, %v", st, err)
	}
}
