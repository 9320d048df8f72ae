package runtime

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What two of one name are, is not left to the program.
func TestEnvironment(t *testing.T) {
	h := newHost(t)
	bundle := func(name string, env ...string) string {
		return h.bundle(func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, env...) }, "env", name)
	}
	for _, tt := range []struct {
		name, want string
		env        []string
	}{
		{"A", "2", []string{"A=1", "A=2"}},
		{"A", "", []string{"A=1", "A="}},
		{"HOME", "/x", []string{"HOME=", "HOME=/x"}},
		{"HOME", "/", []string{"HOME="}}, // there is no /etc/passwd
		{"HOME", "/", []string{"HOME=/x", "HOME="}},
	} {
		if got := h.must("run", "--bundle", bundle(tt.name, tt.env...), "a"); got != tt.want+"\n" {
			t.Errorf("%q: %s is %q", tt.env, tt.name, got)
		}
	}
}

// A working directory that only root gets to, and one that only the user does.
func TestWorkingDirectory(t *testing.T) {
	h := newHost(t)
	var dir string
	bundle := h.bundle(func(s *specs.Spec) { s.Process.Cwd, s.Process.User.UID = "/tmp/x", 1000 }, "cwd")
	dir = filepath.Join(bundle, "rootfs/tmp/x")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := h.must("run", "--bundle", bundle, "a"); got != "/tmp/x <nil>\n" {
		t.Errorf("root's directory: %q", got)
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if got := h.must("run", "--bundle", bundle, "a"); got != "/tmp/x <nil>\n" {
		t.Errorf("the user's directory: %q", got)
	}
}

// A caller that is bound to a CPU does not bind its containers.
func TestAffinityIsNotInherited(t *testing.T) {
	h := newHost(t)
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		t.Skip("takes two CPUs")
	}
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b")
	defer h.must("delete", "--force", "b")
	for _, args := range [][]string{{"run", "--bundle", h.bundle(nil, "status", "Cpus_allowed"), "a"}, {"exec", "b", "/inside", "status", "Cpus_allowed"}} {
		want := h.must(args...)
		got := bound(t, &one, &all, func() string { return h.must(args...) })
		if got != want {
			t.Errorf("%s: %q, want %q", args[0], got, want)
		}
	}
}

// bound calls do while the programs that it starts are bound to some CPUs: they
// inherit it from the thread that starts them.
func bound(t *testing.T, to, back *unix.CPUSet, do func() string) string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, to); err != nil {
		t.Fatal(err)
	}
	got := do()
	if err := unix.SchedSetaffinity(0, back); err != nil {
		t.Fatal(err)
	}
	return got
}

// What strake-runtime gives its own threads is not what it gives containers.
func TestTimerSlack(t *testing.T) {
	h := newHost(t)
	const callers, normal = 77_000, 0 // ns; 0 is what the thread began with
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b")
	defer h.must("delete", "--force", "b")
	out := filepath.Join(h.root, "hook")
	hook := func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat /proc/self/timerslack_ns > " + out}}}}
	}
	for _, args := range [][]string{{"run", "--bundle", h.bundle(hook, "slack"), "a"}, {"exec", "b", "/inside", "slack"}} {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, callers, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		got := h.must(args...)
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, normal, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
		if got != "77000 <nil>\n" {
			t.Errorf("%s: %q", args[0], got)
		}
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != "77000\n" {
		t.Errorf("a hook has %q (%v)", got, err)
	}
}

// A terminal's lines reach a pipe as the program wrote them.
func TestTerminalToPipe(t *testing.T) {
	h := newHost(t)
	got := h.must("run", "--bundle", h.bundle(func(s *specs.Spec) { s.Process.Terminal = true }, "echo", "line"), "a")
	if got != "line\n" {
		t.Errorf("%q", got)
	}
}

// What cannot be granted is warned of.
func TestCapabilityWarnings(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL", "CAP_CHOWN", "CAP_NOSUCH"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"},
			Inheritable: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_CHOWN"},
		}
	}, "status", "CapBnd")
	r := h.do("run", "--bundle", bundle, "a")
	if r.code != 0 || r.out != "CapBnd:\t0000000000000021\n" {
		t.Errorf("exit code %d, %q", r.code, r.out)
	}
	for _, words := range []string{"unknown capability CAP_NOSUCH", "can't raise ambient capability CAP_CHOWN"} {
		if !strings.Contains(r.err, words) {
			t.Errorf("no %q in %q", words, r.err)
		}
	}
	// exec makes a capability ambient only where the config made it inheritable.
	h.must("run", "--detach", "--bundle", h.bundle(func(s *specs.Spec) {
		c := s.Process.Capabilities
		c.Inheritable, c.Bounding = []string{"CAP_CHOWN"}, append(c.Bounding, "CAP_CHOWN")
	}, "sleep"), "b")
	defer h.must("delete", "--force", "b")
	if got := h.must("exec", "--cap", "CAP_CHOWN", "--cap", "CAP_FOWNER", "b", "/inside", "status", "CapAmb"); got != "CapAmb:\t0000000000000001\n" {
		t.Errorf("%q", got)
	}
}

// Shares beside idle are left out, which create and update say.
func TestIdleHasNoShares(t *testing.T) {
	h := newHost(t)
	const words = "linux.resources.cpu.shares: unable to apply both shares and idle"
	limit := func(s *specs.Spec) {
		shares, idle := uint64(512), int64(1)
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Idle: &idle}}
	}
	r := h.do("create", "--bundle", h.bundle(limit, "sleep"), "a")
	if r.code != 0 || !strings.Contains(r.err, words) {
		t.Errorf("create: exit code %d, %q", r.code, r.err)
	}
	r = h.do("update", "--cpu-share", "300", "--cpu-idle", "1", "a")
	if r.code != 0 || !strings.Contains(r.err, words) {
		t.Errorf("update: exit code %d, %q", r.code, r.err)
	}
	r = h.do("update", "--cpu-idle", "1", "a")
	if r.code != 0 || r.err != "" {
		t.Errorf("idle alone: exit code %d, %q", r.code, r.err)
	}
	h.must("delete", "--force", "a")
}

// Which containers, by a regular expression.
func TestRegex(t *testing.T) {
	h := newHost(t)
	for _, id := range []string{"db-1", "web-1", "web-2"} {
		h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), id)
	}
	pid := h.state("web-2").Pid
	h.must("kill", "--regex", "^web-2$", "KILL")
	waitPid(t, pid)
	if got := h.status("web-1") + h.status("web-2") + h.status("db-1"); got != "runningstoppedrunning" {
		t.Error(got)
	}
	h.must("delete", "--force", "--regex", "^web-")
	if got := h.must("list", "--quiet"); got != "db-1\n" {
		t.Errorf("left: %q", got)
	}
	h.fails(1, "--regex", "delete", "--force", "--regex", "(")
	h.must("delete", "--force", "--regex", ".")
}

// The config may have another name.
func TestConfigFlag(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(nil, "echo", "other")
	other := filepath.Join(bundle, "other.json")
	if err := os.Rename(filepath.Join(bundle, "config.json"), other); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"other.json", other} {
		if got := h.must("run", "--bundle", bundle, "--config", name, "a"); got != "other\n" {
			t.Errorf("%q", got)
		}
	}
	h.fails(1, "config.json", "run", "--bundle", bundle, "a")
}

// The log and what comes to standard error.
func TestLog(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.root, "log")
	text := regexp.MustCompile(`^time="[^"]+" level=error msg="container nosuch: container does not exist"\n$`)
	entry := regexp.MustCompile(`^\{"level":"error","msg":"container nosuch: container does not exist","time":"[^"]+"\}\n$`)
	for _, tt := range []struct {
		flags       []string
		file, stdio *regexp.Regexp
	}{
		{nil, nil, regexp.MustCompile(`^strake-runtime: container nosuch: container does not exist\n$`)},
		{[]string{"--debug"}, nil, text},
		{[]string{"--log-format=json"}, nil, entry},
		{[]string{"--log", file}, text, nil},
		{[]string{"--log=file:" + file, "--log-format", "json"}, entry, nil},
		{[]string{"--log", file, "--log-level", "error"}, text, nil},
	} {
		r := h.do(append(tt.flags, "state", "nosuch")...)
		data, _ := os.ReadFile(file) // missing is empty
		if tt.file != nil && !tt.file.Match(data) || tt.file == nil && len(data) > 0 {
			t.Errorf("%q: file %q", tt.flags, data)
		}
		if tt.stdio != nil && !tt.stdio.MatchString(r.err) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%q: standard error %q", tt.flags, r.err)
		}
		_ = os.Remove(file)
	}
	h.fails(1, "--log-level", "--log-level", "loud", "list")
	h.fails(1, "not file:FILE", "--log", "carrier:pigeon", "list")
	r := h.do("--debug", "run", "--bundle", h.bundle(nil, "exit", "0"), "a")
	if r.code != 0 || !strings.Contains(r.err, `level=debug msg="program of `) {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}

// Help and version begin as those of runc, for scripts that look.
func TestHelpAndVersion(t *testing.T) {
	h := newHost(t)
	if got := h.must("--help"); !strings.HasPrefix(got, "NAME:\n   strake-runtime - Open Container Initiative runtime\n") {
		t.Errorf("%q", got)
	}
	if got := h.must("exec", "-h"); !strings.HasPrefix(got, "NAME:\n   strake-runtime exec - ") {
		t.Errorf("%q", got)
	}
	if got := h.must("--version"); !regexp.MustCompile(`^strake-runtime version \d+\.\d+\.\d+.*\ncommit: .+\nspec: \d+\.\d+\.\d+\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
	missing := exec.Command(program, "--root", filepath.Join(h.root, "nosuch"), "list")
	if r := h.finish(missing); r.code != 1 || !strings.Contains(r.err, "--root") {
		t.Errorf("list of a missing root: %d, %q", r.code, r.err)
	}
}

// What execve refuses is one line of the program's own, as callers expect it.
func TestExecveErrorIsBare(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) { s.Process.Args = []string{"/script"} })
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "script"), []byte("#!/no/such interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := h.do("run", "--bundle", bundle, "a"); r.code == 0 || r.err != "exec /script: no such file or directory\n" {
		t.Errorf("run: %d, %q", r.code, r.err)
	}
}

// exec --cgroup, with and without controllers.
func TestExecSubCgroup(t *testing.T) {
	h := newHost(t)
	var group string
	h.must("run", "--detach", "--bundle", h.bundle(func(s *specs.Spec) { group = s.Linux.CgroupsPath }, "sleep"), "a")
	defer h.must("delete", "--force", "a")
	h.fails(255, "bad sub cgroup path", "exec", "--cgroup", "..", "a", "/inside", "exit", "0")
	h.fails(255, "no such file", "exec", "--cgroup", "nosuch", "a", "/inside", "exit", "0")
	h.fails(255, "unknown controller", "exec", "--cgroup", "whaat:/", "a", "/inside", "exit", "0")
	h.fails(255, "only one", "exec", "--cgroup", "x", "--cgroup", "y", "a", "/inside", "exit", "0")
	h.must("exec", "--cgroup", "/", "a", "/inside", "exit", "0")
	if _, err := os.Stat("/sys/fs/cgroup/pids" + group); err != nil {
		t.Skip("no v1 controllers here")
	}
	sub := "/sys/fs/cgroup/pids" + group + "/sub"
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	got := h.must("exec", "--cgroup", "pids:sub", "a", "/inside", "cgroups")
	if !strings.Contains(got, ":pids:"+group+"/sub\n") || !strings.Contains(got, ":memory:"+group+"\n") {
		t.Errorf("%s", got)
	}
}

// SIGKILL ends all processes of a container that shares its PID namespace, and so
// it does when init has ended before.
func TestKillInSharedPIDNamespace(t *testing.T) {
	h := newHost(t)
	for _, initFirst := range []bool{false, true} {
		h.must("run", "--detach", "--bundle", h.bundle(func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		}, "sleep"), "a")
		pidFile := filepath.Join(h.root, "pid")
		h.must("exec", "--detach", "--pid-file", pidFile, "a", "/inside", "sleep")
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		other, err := strconv.Atoi(string(text))
		if err != nil {
			t.Fatal(err)
		}
		init := h.state("a").Pid
		if initFirst {
			if err := syscall.Kill(init, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			waitPid(t, init)
		}
		h.must("kill", "a", "KILL")
		waitPid(t, init)
		waitPid(t, other)
		h.must("delete", "a")
	}
}

// The hooks of the container's side.
func TestContainerHooks(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) {
		s.Root.Readonly = false
		s.Process.Env = append(s.Process.Env, "WORD=of the process")
		s.Hooks = &specs.Hooks{
			CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo here > ./tmp/made"}}},
			StartContainer:  []specs.Hook{{Path: "/inside", Args: []string{"inside", "write", "/tmp/word", "WORD"}}},
		}
	}, "exit", "0")
	h.must("run", "--bundle", bundle, "a")
	if got, err := os.ReadFile(filepath.Join(bundle, "rootfs/tmp/made")); string(got) != "here\n" {
		t.Errorf("createContainer: %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(bundle, "rootfs/tmp/word")); string(got) != "of the process" {
		t.Errorf("startContainer: %q, %v", got, err)
	}
	for name, hooks := range map[string]*specs.Hooks{
		"createContainer": {CreateContainer: []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "exit 2"}}}},
		"startContainer":  {StartContainer: []specs.Hook{{Path: "/inside", Args: []string{"inside", "exit", "0"}}, {Path: "/inside", Args: []string{"inside", "exit", "2"}}}},
		"createRuntime":   {CreateRuntime: []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "exit 2"}}}},
		"poststart":       {Poststart: []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "exit 2"}}}},
	} {
		bundle := h.bundle(func(s *specs.Spec) { s.Hooks = hooks }, "sleep")
		h.fails(1, "error running "+name+" hook #1: exit status 2", "run", "--bundle", bundle, "a")
	}
}

// What create and exec would run, and what a changed config changes of it.
func TestPlanOfExecAndDiff(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(nil, "exit", "0")
	config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(bundle, "changed.json")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(config), `"cwd":"/"`, `"cwd":"/tmp"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := h.must("plan", "--diff", bundle, bundle); got != "" {
		t.Errorf("no change is shown as %s", got)
	}
	got := h.must("plan", "--diff", bundle, changed)
	for line := range strings.Lines(got) {
		if line[0] != ' ' && !strings.HasPrefix(line, "@@ ") && !strings.HasPrefix(line, "--- ") && !strings.HasPrefix(line, "+++ ") &&
			!strings.Contains(line, "# process.cwd (/") {
			t.Errorf("a change of cwd is shown as %s", line)
		}
	}
	if !strings.Contains(got, `+r`) || !strings.Contains(got, `open "/tmp`) {
		t.Errorf("%s", got)
	}
	process := filepath.Join(h.root, "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["/inside"],"cwd":"/tmp","env":["A=b"]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := h.must("plan", "--process", process, bundle); !strings.Contains(got, "setns") || !strings.Contains(got, `exec "/inside" env "A=b"`) {
		t.Errorf("%s", got)
	}
	var prog struct {
		Ops []struct {
			Do string `json:"do"`
		} `json:"ops"`
	}
	if err := json.Unmarshal([]byte(h.must("plan", "--process", process, "--format", "json", bundle)), &prog); err != nil || len(prog.Ops) == 0 || prog.Ops[len(prog.Ops)-1].Do != "exec" {
		t.Errorf("%v, %d operations", err, len(prog.Ops))
	}
}

// A container's end of its old root, with all mounts below it, reaches none of the host's,
// where these are shared as systemd makes them.
func TestHostsMountsStay(t *testing.T) {
	h := newHost(t)
	for _, propagation := range []string{"", "shared", "slave", "private", "rshared", "rslave", "rprivate", "unbindable"} {
		bundle := h.bundle(func(s *specs.Spec) { s.Linux.RootfsPropagation = propagation }, "exit", "0")
		// In a copy of the host's mounts, which are each other's peers only. One that others
		// end meanwhile, with its mount point, goes in the copy, too (the kernel's
		// __detach_mounts): those whose mount point stays are a container's doing.
		before := filepath.Join(t.TempDir(), "before")
		cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec", `
			mounts() { cut -d ' ' -f 5 /proc/self/mountinfo | sort; }
			mount --make-rshared /
			mounts > "$0"
			"$@" >&2
			mounts | comm -23 "$0" -`, before},
			h.command("run", "--bundle", bundle, "mounts").Args...)...)
		r := h.finish(cmd)
		if r.code != 0 {
			t.Errorf("rootfsPropagation %q: exit code %d, %s", propagation, r.code, r.err)
		}
		for lost := range strings.Lines(r.out) {
			lost = strings.TrimSuffix(lost, "\n")
			if _, err := os.Lstat(lost); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("rootfsPropagation %q: the host's %s is gone (%v)", propagation, lost, err)
			}
		}
	}
}
