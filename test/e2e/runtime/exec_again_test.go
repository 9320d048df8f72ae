package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/launch"
)

// again is an exec that tells whether Go's runtime has started.
func (h *host) again(args ...string) (r result, started bool) {
	h.t.Helper()
	cmd := h.command(append([]string{"exec"}, args...)...)
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	r = h.finish(cmd)
	var own []string
	for line := range strings.Lines(r.err) {
		if strings.HasPrefix(line, "init ") {
			started = true
		} else {
			own = append(own, line)
		}
	}
	r.err = strings.Join(own, "")
	return r, started
}

// waiting is an exec, of a program that has begun to wait for SIGTERM.
func (h *host) waiting() *exec.Cmd {
	h.t.Helper()
	cmd := h.command("exec", "a", "/inside", "term")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = out.Read(make([]byte, len("ready\n")))
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

// terminate has its runtime pass SIGTERM on.
func (h *host) terminate(cmd *exec.Cmd) {
	h.t.Helper()
	err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	const terminated = 5
	if cmd.ProcessState.ExitCode() != terminated {
		h.t.Errorf("a process that got SIGTERM: %v", err)
	}
}

// TestExecAgain: what has been asked for before is done without Go's runtime, and is the
// same in all that can be seen of it.
func TestExecAgain(t *testing.T) {
	h := newHost(t)
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "a")
	defer h.must("delete", "--force", "a")
	process := filepath.Join(h.root, "process.json")
	data, err := json.Marshal(&specs.Process{
		Args: []string{"/inside", "status", "CapEff"}, Cwd: "/tmp", Env: []string{"STRAKE_E2E_INSIDE=1"},
		User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}, NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Ambient: nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(process, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"a", "/inside", "exit", "42"},
		{"a", "/inside", "echo", "said"},
		{"a", "/inside", "cgroups"},
		{"a", "/inside", "status", "NoNewPrivs"},
		{"a", "/inside", "descriptors"},
		{"a", "/inside", "slack"},
		{"a", "/inside", "keyrings"},
		{"a", "/inside", "limits"},
		{"a", "/inside", "env", "HOME"},
		{"--process", process, "a"},
	} {
		first := h.do(append([]string{"exec"}, args...)...)
		if second, started := h.again(args...); started || second.code != first.code || second.err != first.err || second.out != first.out {
			t.Errorf("%s: Go's runtime starts: %v; %+v, first %+v", args, started, second, first)
		}
	}

	// Another process in the same file, and a file that can be read only once.
	if err := os.WriteFile(process, []byte(strings.Replace(string(data), "CapEff", "CapBnd", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, started := h.again("--process", process, "a"); !started || !strings.HasPrefix(r.out, "CapBnd:") {
		t.Errorf("another process: Go's runtime starts: %v, %+v", started, r)
	}
	cmd := exec.Command("sh", "-c", `cat "$0" | "$@"`, process, program, "--root", filepath.Join(h.root, "state"), "exec", "--process", "/dev/stdin", "a")
	if r := h.finish(cmd); r.code != 0 || !strings.HasPrefix(r.out, "CapBnd:") {
		t.Errorf("a process from a pipe: %+v", r)
	}

	// A pipe is given to the process's user, a file is not: another program.
	want := h.must("exec", "a", "/inside", "echo", "x")
	for range 2 {
		cmd := h.command("exec", "a", "/inside", "echo", "x")
		if got, err := cmd.Output(); err != nil || string(got) != want {
			t.Errorf("into a pipe: %q, %v", got, err)
		}
	}

	// The program disappears, and is not to be executed: the words are Go's.
	const goesAway = "/tmp/goes-away"
	rootfs := h.state("a").Rootfs
	self, err := os.ReadFile(filepath.Join(rootfs, "inside"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rootfs+goesAway, self, 0o755); err != nil {
		t.Fatal(err)
	}
	h.must("exec", "a", goesAway, "exit", "0")
	if r, started := h.again("a", goesAway, "exit", "0"); started || r.code != 0 {
		t.Errorf("again: Go's runtime starts: %v, %+v", started, r)
	}
	if err := os.Remove(rootfs + goesAway); err != nil {
		t.Fatal(err)
	}
	h.fails(255, goesAway, "exec", "a", goesAway, "exit", "0")
	if err := os.Symlink("/proc/self/exe", rootfs+goesAway); err != nil {
		t.Fatal(err)
	}
	h.fails(255, goesAway, "exec", "a", goesAway, "exit", "0")

	// What is not kept, or is no program, is made anew.
	for _, name := range launch.KeptNames() {
		if err := os.WriteFile(filepath.Join(h.root, "state", "a", name), []byte(strings.Repeat("x", 9000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r, started := h.again("a", "/inside", "exit", "42"); !started || r.code != 42 {
		t.Errorf("a file that is no program: Go's runtime starts: %v, %+v", started, r)
	}
	if r, started := h.again("a", "/inside", "exit", "42"); started || r.code != 42 {
		t.Errorf("and again: Go's runtime starts: %v, %+v", started, r)
	}
	cmd = h.command("exec", "a", "/inside", "exit", "42")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1", "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{os.Stdin}
	if r := h.finish(cmd); r.code != 42 || !strings.Contains(r.err, "init ") {
		t.Errorf("with descriptors to pass on: %+v", r)
	}
	h.must("pause", "a")
	h.fails(255, "paused", "exec", "a", "/inside", "exit", "42")
	h.must("resume", "a")
	h.must("kill", "a", "KILL")
	for h.status("a") != "stopped" {
		time.Sleep(time.Millisecond) // its end takes its time on a busy machine
	}
	h.fails(255, "stopped", "exec", "a", "/inside", "exit", "42")
}

// TestExecAgainSealed: where others may look into a process that joins, our program is
// executed again from where nobody can write to it, and only then as it is kept.
func TestExecAgainSealed(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) {
		c := s.Process.Capabilities
		c.Bounding, c.Permitted, c.Effective = append(c.Bounding, "CAP_SYS_PTRACE"), append(c.Permitted, "CAP_SYS_PTRACE"), append(c.Effective, "CAP_SYS_PTRACE")
	}, "sleep")
	h.must("run", "--detach", "--bundle", bundle, "a")
	defer h.must("delete", "--force", "a")
	for i := range 3 {
		if r, started := h.again("a", "/inside", "exit", "42"); r.code != 42 || r.err != "" || started != (i == 0) {
			t.Errorf("Go's runtime starts: %v, %+v", started, r)
		}
	}
	// The program that waits is what is sealed.
	for range 2 {
		cmd := h.waiting()
		var fs syscall.Statfs_t
		const readOnly = 0x1 // ST_RDONLY
		if err := syscall.Statfs(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid), &fs); err != nil || fs.Flags&readOnly == 0 {
			t.Errorf("its file is on a mount with flags %#x, %v", fs.Flags, err)
		}
		h.terminate(cmd)
	}
}

// TestLabelled: for a process with a label of a security module the program is sealed
// before Go's runtime starts, which then starts once, or not at all.
func TestLabelled(t *testing.T) {
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || enabled[0] != 'Y' {
		t.Skip("needs AppArmor")
	}
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) { s.Process.ApparmorProfile = "unconfined" }, "sleep")
	starts := func(args ...string) int {
		cmd := h.command(args...)
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		r := h.finish(cmd)
		if r.code != 0 {
			t.Fatalf("%s: %+v", args, r)
		}
		return strings.Count(r.err, "init runtime @")
	}
	if n := starts("run", "--detach", "--bundle", bundle, "a"); n != 1 {
		t.Errorf("run: Go's runtime starts %d times", n)
	}
	defer h.must("delete", "--force", "a")
	for i, want := range []int{2, 0} { // the command line of the first does not say whose config counts
		if n := starts("exec", "a", "/inside", "exit", "0"); n != want {
			t.Errorf("exec %d: Go's runtime starts %d times, want %d", i, n, want)
		}
	}
	process := filepath.Join(h.root, "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["/inside","exit","0"],"cwd":"/","user":{},"env":["STRAKE_E2E_INSIDE=1"],"apparmorProfile": "unconfined"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		if n := starts("exec", "--process", process, "a"); n != want {
			t.Errorf("exec --process %d: Go's runtime starts %d times, want %d", i, n, want)
		}
	}
}

// TestExecAgainDetached: the pid file has the process, and a signal to who waits for one
// goes to it.
func TestExecAgainDetached(t *testing.T) {
	h := newHost(t)
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "a")
	defer h.must("delete", "--force", "a")
	file := filepath.Join(h.root, "pid")
	var pids []int
	for i := range 2 {
		r, started := h.again("--detach", "--pid-file", file, "a", "/inside", "sleep")
		if r.code != 0 || started != (i == 0) {
			t.Fatalf("Go's runtime starts: %v, %+v", started, r)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(data))
		if err != nil {
			t.Fatal(err)
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || string(cmdline) != "/inside\x00sleep\x00" {
			t.Errorf("process %d is %q, %v", pid, cmdline, err)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o644 {
			t.Errorf("pid file: %v, %v", info, err)
		}
		pids = append(pids, pid)
	}
	if pids[0] == pids[1] {
		t.Errorf("one process: %v", pids)
	}
	if left, err := filepath.Glob(filepath.Join(h.root, ".strake-tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	// A place where none can be written is said before anything runs.
	h.fails(255, "/no/such/", "exec", "--detach", "--pid-file", "/no/such/pid", "a", "/inside", "sleep")

	// Nor is a process that ends at once any other than itself, whose caller ignores SIGCHLD:
	// the kernel then collects children, and a number that is gone reads as -1.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const endsAtOnce = "/tmp/ends-at-once" // nothing is behind its headers: SIGBUS
	if err := os.WriteFile(h.state("a").Rootfs+endsAtOnce, self[:4096], 0o755); err != nil {
		t.Fatal(err)
	}
	const rounds = 100
	for range rounds {
		again := h.command("exec", "--detach", "--pid-file", file, "a", endsAtOnce)
		ignoring := exec.Command("env", append([]string{"--ignore-signal=CHLD"}, again.Args...)...)
		if r := h.finish(ignoring); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		data, err := os.ReadFile(file)
		if pid, notNumber := strconv.Atoi(string(data)); err != nil || notNumber != nil || pid <= 1 {
			t.Fatalf("pid file: %q, %v", data, err)
		}
	}

	for range 2 {
		cmd := h.waiting()
		h.terminate(cmd)
	}
	for i := range 2 {
		if r, started := h.again("a", "/inside", "kill-self"); r.code != 128+int(syscall.SIGKILL) || started != (i == 0) {
			t.Errorf("a process that was killed: Go's runtime starts: %v, %+v", started, r)
		}
	}
}
