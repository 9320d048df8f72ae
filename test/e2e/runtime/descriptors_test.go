package runtime

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// openDescriptors lists what a process has open beside its standard descriptors, and
// what the Go runtime has opened for itself: a poller, its own CPU quota, the directory.
func openDescriptors() string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		base := filepath.Base(target)
		ours := errors.Is(err, os.ErrNotExist) || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" ||
			base == "fd" || base == "cpu.cfs_quota_us" || base == "cpu.cfs_period_us" || base == "cpu.max"
		if n, _ := strconv.Atoi(e.Name()); n > 2 && !ours {
			list = append(list, e.Name()+" is "+target)
		}
	}
	return "[" + strings.Join(list, " ") + "]"
}

// pushInput tries to type a character into the terminal that is standard input, and to
// open the terminal that controls the process.
func pushInput() string {
	c := byte('x')
	_, _, typed := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	tty, opened := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if opened == nil {
		_ = tty.Close()
	}
	return fmt.Sprintf("typed %v, controlled %v", typed == 0, opened == nil)
}

// CVE-2024-21626 (runc 1.0.0-rc93 to 1.1.11) and its like: whatever the caller has left open, and whatever the
// runtime has opened on the way, neither the container's processes nor the hooks in its namespaces have it.
func TestNothingOfTheHost(t *testing.T) {
	h := newHost(t)
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	hook := func(name string) func(*specs.Spec, string) {
		return func(s *specs.Spec, bundle string) {
			script := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "ls -l /proc/self/fd/ > " + bundle}, Env: []string{"PATH=/bin:/usr/bin"}}}
			switch name {
			case "createContainer":
				s.Hooks.CreateContainer = script
			case "startContainer":
				s.Hooks.StartContainer = []specs.Hook{{Path: "/inside", Args: []string{"inside", "descriptors", "/hook"}, Env: []string{"STRAKE_E2E_INSIDE=1"}}}
			}
		}
	}
	for _, name := range []string{"", "createContainer", "startContainer"} {
		for _, sealed := range []bool{false, true} {
			out := filepath.Join(h.root, "hook-out")
			bundle := h.bundle(func(s *specs.Spec) {
				s.Root.Readonly = false
				s.Hooks = &specs.Hooks{}
				hook(name)(s, out)
				if sealed {
					noStub(s)
				}
			}, "descriptors")
			cmd := h.command("run", "--bundle", bundle, "a")
			cmd.ExtraFiles = []*os.File{dir, dir, dir}
			r := h.finish(cmd)
			if r.code != 0 || r.out != "[]\n" {
				t.Errorf("%s: the container has %q: %d, %s", name, r.out, r.code, r.err)
			}
			if name == "startContainer" {
				out = filepath.Join(bundle, "rootfs/hook")
			}
			data, err := os.ReadFile(out)
			if name != "" && (err != nil || len(data) == 0) {
				t.Errorf("%s: the hook says nothing: %v", name, err)
			}
			// Its own: the state, its output, the files of this test and the listing's directory.
			for line := range strings.Lines(string(data)) {
				own := strings.Contains(line, "memfd:hook-") || strings.Contains(line, "-> "+h.root) || strings.Contains(line, "/dev/null") || strings.Contains(line, "/fd")
				if strings.Contains(line, " -> /") && !own {
					t.Errorf("%s: the hook has %s", name, line)
				}
			}
			_ = os.Remove(out)
		}
	}
	// With a terminal, and in a process that joins.
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b")
	terminal := h.bundle(func(s *specs.Spec) { s.Process.Terminal = true }, "descriptors")
	for _, args := range [][]string{{"run", "--bundle", terminal, "c"}, {"exec", "--tty", "b", "/inside", "descriptors"}} {
		master, slave := openPTY(t)
		cmd := h.command(args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.ExtraFiles = []*os.File{dir, dir, dir}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(master).ReadString('\n')
		if strings.TrimSpace(line) != "[]" {
			t.Errorf("%s: %q, %v", args[0], line, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
	}
	cmd := h.command("exec", "b", "/inside", "descriptors")
	cmd.ExtraFiles = []*os.File{dir, dir, dir}
	if r := h.finish(cmd); r.out != "[]\n" {
		t.Errorf("exec: %+v", r)
	}
	h.must("delete", "--force", "b")
}

// A container that is given its caller's terminal as plain standard input has not that
// for a controlling terminal: it cannot type into it what the caller's shell would run
// (TIOCSTI), nor open it as /dev/tty.
func TestCallersTerminalIsNotControlled(t *testing.T) {
	h := newHost(t)
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b")
	for _, args := range [][]string{{"run", "--bundle", h.bundle(nil, "type"), "a"}, {"exec", "b", "/inside", "type"}} {
		_, slave := openPTY(t)
		cmd := h.command(args...)
		cmd.Stdin = slave
		if r := h.finish(cmd); r.out != "typed false, controlled false\n" {
			t.Errorf("%s: %+v", args[0], r)
		}
	}
	h.must("delete", "--force", "b")
}

// Every resource's limits are those of the config, also where an ordinary process
// could not have raised them, in a user namespace and in a process that joins.
func TestLimits(t *testing.T) {
	h := newHost(t)
	limits := []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_NPROC", Soft: 300, Hard: 400},
		{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 24}, {Type: "RLIMIT_MEMLOCK", Soft: 4096, Hard: 8192},
	}
	want := "200 200 0 0 300 400 1048576 16777216 4096 8192\n"
	for _, user := range []bool{false, true} {
		change := func(s *specs.Spec) {
			s.Process.Rlimits = limits
			if user {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 0, Size: 65536}}
				s.Linux.GIDMappings = s.Linux.UIDMappings
			}
		}
		if got := h.must("run", "--bundle", h.bundle(change, "limits"), "a"); got != want {
			t.Errorf("user namespace %v: %q, want %q", user, got, want)
		}
		h.must("run", "--detach", "--bundle", h.bundle(change, "sleep"), "b")
		if got := h.must("exec", "b", "/inside", "limits"); got != want {
			t.Errorf("exec, user namespace %v: %q, want %q", user, got, want)
		}
		h.must("delete", "--force", "b")
	}
}

// TestCallersLimit: hooks, and containers that are given none, have the caller's limit of
// open files, which Go's runtime, and oci/early for a moment, changes in ours.
func TestCallersLimit(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.root, "hook")
	change := func(s *specs.Spec) {
		s.Process.Rlimits = nil
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "(ulimit -Sn; ulimit -Hn) > " + file}}}}
	}
	busybox, err := os.ReadFile("/bin/busybox") // a program in Go would raise its own limit
	if err != nil {
		t.Skipf("needs Debian's busybox-static: %v", err)
	}
	shell := []string{"/busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn"}
	bundle := func(args ...string) string {
		dir := h.bundle(func(s *specs.Spec) { change(s); s.Process.Args = args })
		if err := os.WriteFile(filepath.Join(dir, "rootfs/busybox"), busybox, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	limited := func(soft string, args ...string) {
		t.Helper()
		cmd := h.command(args...)
		limits := "ulimit -Sn " + soft + ` && ulimit -Hn 2000 && exec "$@"`
		if r := h.finish(exec.Command("sh", append([]string{"-c", limits, "sh"}, cmd.Args...)...)); r.code != 0 || r.out != soft+"\n2000\n" {
			t.Errorf("a limit of %s: %+v", soft, r)
		}
	}
	limited("100", "run", "--bundle", bundle(shell...), "a")
	if data, err := os.ReadFile(file); err != nil || string(data) != "100\n2000\n" {
		t.Errorf("the hook: %q, %v", data, err)
	}
	h.must("run", "--detach", "--bundle", bundle("/inside", "sleep"), "b")
	defer h.must("delete", "--force", "b")
	for _, soft := range []string{"1500", "1500", "100", "100", "2000"} { // the second of each is kept
		limited(soft, append([]string{"exec", "b"}, shell...)...)
	}
}

// processLimits are those of TestLimits, in its order.
func processLimits() string {
	data, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, name := range []string{"Max open files", "Max core file size", "Max processes", "Max stack size", "Max locked memory"} {
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				list = append(list, strings.Fields(rest)[:2]...)
			}
		}
	}
	return strings.Join(list, " ")
}

// Each container has a session keyring of its own, with its name, and a process that
// joins is in it; without one the caller's stays.
func TestSessionKeyring(t *testing.T) {
	h := newHost(t)
	change := func(s *specs.Spec) { s.Linux.MaskedPaths = nil }
	bundle := h.bundle(change, "sleep")
	h.must("run", "--detach", "--bundle", bundle, "k1")
	h.must("run", "--detach", "--bundle", h.bundle(change, "sleep"), "k2")
	for _, id := range []string{"k2", "k1"} { // k1 has made the cgroup above both
		got := h.must("exec", id, "/inside", "keyrings")
		if got != "_ses."+id+"\n" {
			t.Errorf("%s is in %q", id, got)
		}
		h.must("delete", "--force", id)
	}
	if got := h.must("run", "--no-new-keyring", "--bundle", h.bundle(change, "keyrings"), "k3"); strings.Contains(got, "_ses.k3") {
		t.Errorf("--no-new-keyring: %q", got)
	}
}

// sessionKeyring is the name of this process's.
func sessionKeyring() string {
	const describe, session = 6, ^uintptr(2) // KEY_SPEC_SESSION_KEYRING is -3
	buf := make([]byte, 256)
	n, _, errno := syscall.Syscall6(unix.SYS_KEYCTL, describe, session, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if errno != 0 {
		return errno.Error()
	}
	fields := strings.SplitN(strings.TrimRight(string(buf[:min(int(n), len(buf))]), "\x00"), ";", 5)
	return fields[len(fields)-1]
}
