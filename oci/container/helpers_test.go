package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// env is a place for containers of one test: a state root in memory and a rootfs
// with busybox.
type env struct {
	t      *testing.T
	state  string
	bundle string
}

var serial atomic.Int64

func newEnv(t *testing.T) *env {
	t.Helper()
	testutil.RequireRoot(t, "containers are made")
	checkLeaks(t)
	state, err := os.MkdirTemp("/run", "strake-core-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	e := &env{t: t, state: state, bundle: t.TempDir()}
	makeRootfs(t, filepath.Join(e.bundle, "rootfs"))
	return e
}

func makeRootfs(t *testing.T, dir string) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs Debian's busybox-static: %v", err)
	}
	for _, d := range []string{"bin", "etc", "tmp", "dir"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
	for _, a := range strings.Fields("sh true false sleep cat ls id mount echo env tty touch readlink stat ln mv rm grep mkdir chmod wc") {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n1000:x:7:7::/wrong:/bin/sh\n"), 0o644))
}

// checkLeaks fails the test if a descriptor, a child or a mount of a container is
// left at its end. Mounts of other tests, which run beside this one, do not
// count.
func checkLeaks(t *testing.T) {
	t.Helper()
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	// The poller's descriptors come with first use.
	r, w, err := os.Pipe()
	must(t, err)
	_ = errors.Join(r.SetReadDeadline(time.Time{}), r.Close(), w.Close())
	before := fds()
	t.Cleanup(func() {
		if n := fds(); n > before {
			entries, _ := filepath.Glob("/proc/self/fd/*")
			for _, fd := range entries {
				target, _ := os.Readlink(fd)
				t.Logf("%s: %s", fd, target)
			}
			t.Errorf("%d descriptors leaked", n-before)
		}
		data, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		if strings.Contains(string(data), t.Name()) {
			t.Errorf("mounts leaked:\n%s", data)
		}
		if exit, ok, err := sys.PeekChild(); ok || err != nil {
			t.Errorf("child left: %+v, %v", exit, err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (e *env) id() string { return fmt.Sprintf("strake-core-%d-%d", os.Getpid(), serial.Add(1)) }

// spec is a config like runc's default one, with a shell script to run.
func (e *env) spec(script string) *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: []string{"sh", "-c", script}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/bin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024}},
		},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "strake-test",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/timer_list", "/proc/scsi", "/proc/does-not-exist", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/no/such"},
		},
	}
}

type result struct {
	out  string
	code int
}

// collect reads what comes out of a pipe in the background.
func collect(t *testing.T) (w *os.File, text func() string) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	done := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(r)
		_ = r.Close()
		done <- string(data)
	}()
	return w, func() string {
		_ = w.Close()
		select {
		case s := <-done:
			return s
		case <-time.After(time.Minute):
			t.Error("output does not end")
			return ""
		}
	}
}

// run makes a container, runs it to its end and deletes it.
func (e *env) run(s *specs.Spec, change ...func(*CreateOptions)) (result, error) {
	e.t.Helper()
	w, text := collect(e.t)
	o := CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: s, Stdout: w, Stderr: w}
	for _, f := range change {
		f(&o)
	}
	c, p, err := Create(e.t.Context(), o)
	if err != nil {
		text() // also closes the pipe
		e.gone(o.ID)
		return result{}, err
	}
	startErr := c.Start(e.t.Context())
	code := wait(e.t, p)
	if err := c.Delete(e.t.Context(), false); startErr == nil || !errors.Is(err, ErrNotExist) { // which a failed hook leaves
		must(e.t, err)
	}
	e.gone(o.ID)
	return result{text(), code}, startErr
}

// mustRun is run for containers that have to work; it returns their output.
func (e *env) mustRun(s *specs.Spec, change ...func(*CreateOptions)) string {
	e.t.Helper()
	r, err := e.run(s, change...)
	must(e.t, err)
	if r.code != 0 {
		e.t.Fatalf("exit code %d, output:\n%s", r.code, r.out)
	}
	return r.out
}

// create makes a container that is deleted at the end of the test.
func (e *env) create(s *specs.Spec, change ...func(*CreateOptions)) (*Container, *Process) {
	e.t.Helper()
	o := CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: s}
	for _, f := range change {
		f(&o)
	}
	c, p, err := Create(e.t.Context(), o)
	must(e.t, err)
	e.t.Cleanup(func() {
		if err := c.Delete(context.Background(), true); err != nil && !errors.Is(err, ErrNotExist) {
			e.t.Errorf("delete: %v", err)
		}
		_, _, _ = sys.WaitPidFD(sys.Fd(p.PidFD))
		_ = p.PidFD.Close()
		_ = closeFile(p.Console)
		e.gone(o.ID)
	})
	return c, p
}

// start makes a container that runs.
func (e *env) start(s *specs.Spec, change ...func(*CreateOptions)) (*Container, *Process) {
	e.t.Helper()
	c, p := e.create(s, change...)
	must(e.t, c.Start(e.t.Context()))
	return c, p
}

// exec runs a process in a container to its end.
func (e *env) exec(c *Container, p *specs.Process, change ...func(*ExecOptions)) (result, error) {
	e.t.Helper()
	w, text := collect(e.t)
	o := ExecOptions{Process: p, Stdout: w, Stderr: w}
	for _, f := range change {
		f(&o)
	}
	proc, err := c.Exec(e.t.Context(), o)
	if err != nil {
		text() // also closes the pipe
		return result{}, err
	}
	code := wait(e.t, proc)
	return result{text(), code}, nil
}

func sh(script string) *specs.Process {
	return &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}}
}

// wait collects a process's exit: its code, or 128 + signal.
func wait(t *testing.T, p *Process) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := sys.WaitReadable(ctx, p.PidFD); err != nil {
		_ = sys.KillPidFD(sys.Fd(p.PidFD), 9)
		t.Errorf("process does not end: %v", err)
		_ = sys.WaitReadable(context.Background(), p.PidFD)
	}
	exit, _, err := sys.WaitPidFD(sys.Fd(p.PidFD))
	must(t, err)
	_ = p.PidFD.Close()
	if exit.Signaled {
		return 128 + exit.Status
	}
	return exit.Status
}

// gone fails the test if anything of a container is left.
func (e *env) gone(id string) {
	e.t.Helper()
	if _, err := os.Stat(filepath.Join(e.state, id)); !errors.Is(err, os.ErrNotExist) {
		e.t.Errorf("state of %s is left", id)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*/" + id)
	if len(left) > 0 {
		e.t.Errorf("cgroups are left: %v", left)
	}
}

func contains(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

func lines(b []byte) []string { return strings.Split(string(bytes.TrimSpace(b)), "\n") }

func itoa(i int) string { return fmt.Sprint(i) }
