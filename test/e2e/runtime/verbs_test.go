package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/strake-containers/strake/internal/sys"
)

// waitPid waits for the end of a process that is not ours.
func waitPid(t *testing.T, pid int) {
	t.Helper()
	f, err := sys.OpenPidFD(pid)
	if err != nil {
		return // gone
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := sys.WaitReadable(ctx, f); err != nil {
		t.Fatalf("process %d does not end: %v", pid, err)
	}
}

func TestRun(t *testing.T) {
	h := newHost(t)
	if got := h.must("run", "--bundle", h.bundle(nil, "echo", "hello", "there"), "a"); got != "hello there\n" {
		t.Errorf("output %q", got)
	}
	if r := h.do("run", "--bundle", h.bundle(nil, "exit", "7"), "a"); r.code != 7 || r.err != "" {
		t.Errorf("exit code %d, stderr %q", r.code, r.err)
	}
	if got := h.must("list", "--quiet"); got != "" {
		t.Errorf("left: %q", got)
	}
	// Kept, it is a stopped container.
	h.must("run", "--keep", "--bundle", h.bundle(nil, "exit", "0"), "a")
	if s := h.status("a"); s != "stopped" {
		t.Errorf("status %s", s)
	}
	h.must("delete", "a")
}

func TestLifecycle(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(nil, "sleep")
	pidFile := filepath.Join(h.root, "pid")
	h.must("create", "--bundle", bundle, "--pid-file", pidFile, "a")
	s := h.state("a")
	if s.Status != "created" || s.ID != "a" || s.Bundle != bundle || s.Rootfs != bundle+"/rootfs" || s.Owner != "root" || s.Version != specs.Version {
		t.Errorf("state %+v", s)
	}
	if pid, err := os.ReadFile(pidFile); err != nil || string(pid) != fmt.Sprint(s.Pid) {
		t.Errorf("pid file %q, %v; state says %d", pid, err, s.Pid)
	}
	h.fails(1, "already exists", "create", "--bundle", bundle, "a")
	h.must("start", "a")
	h.fails(1, "not in state created", "start", "a")
	if s := h.status("a"); s != "running" {
		t.Errorf("status %s", s)
	}

	// What the lists say.
	table := strings.Split(h.must("list"), "\n")
	if len(table) != 3 || !strings.HasPrefix(table[0], "ID          PID         STATUS") || !strings.HasPrefix(table[1], "a ") {
		t.Errorf("list: %q", table)
	}
	var list []state
	if err := json.Unmarshal([]byte(h.must("list", "--format=json")), &list); err != nil || len(list) != 1 || list[0].Pid != s.Pid {
		t.Errorf("list: %v, %v", list, err)
	}
	if got := h.must("ps", "--format", "json", "a"); got != fmt.Sprintf("[%d]\n", s.Pid) {
		t.Errorf("ps: %q", got)
	}
	if got := h.must("ps", "a"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "/inside sleep") {
		t.Errorf("ps: %q", got)
	}

	// Paused and not.
	h.must("pause", "a")
	if s := h.status("a"); s != "paused" {
		t.Errorf("status %s", s)
	}
	h.fails(255, "paused", "exec", "a", "/inside", "exit", "0")
	h.must("resume", "a")
	if s := h.status("a"); s != "running" {
		t.Errorf("status %s", s)
	}

	// The end.
	h.fails(1, "still running", "delete", "a")
	freezer := filepath.Join("/sys/fs/cgroup/freezer", filepath.Base(h.root), filepath.Base(bundle), "freezer.state")
	if _, err := os.Stat(freezer); err == nil { // who is frozen by version 1 is let go
		if err := os.WriteFile(freezer, []byte("FROZEN"), 0); err != nil {
			t.Error(err)
		}
	}
	h.must("kill", "a", "KILL")
	waitPid(t, s.Pid)
	if s := h.state("a"); s.Status != "stopped" || s.Pid != 0 {
		t.Errorf("state %+v", s)
	}
	h.fails(1, "container not running", "kill", "a")
	h.fails(1, "container is not running", "events", "--stats", "a")
	h.fails(1, "container is not running", "events", "a")
	h.fails(255, "stopped", "exec", "a", "/inside", "exit", "0")
	h.must("delete", "a")
	for _, verb := range []string{"state", "start", "kill", "delete", "pause", "ps"} {
		h.fails(1, "does not exist", verb, "a")
	}
	h.must("delete", "--force", "a")
}

// TestStartRefused: the error of the execve comes over a connection to the gate that
// was made before Go's runtime had started.
func TestStartRefused(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) { s.Process.Args = []string{"/bad"} })
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "bad"), []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.must("create", "--bundle", bundle, "a")
	h.fails(1, "exec /bad: exec format error", "start", "a")
	h.must("delete", "--force", "a")
}

func TestDeleteForce(t *testing.T) {
	h := newHost(t)
	for _, verb := range [][]string{{"create"}, {"run", "--detach"}} {
		h.must(append(verb, "--bundle", h.bundle(nil, "sleep"), "a")...)
		pid := h.state("a").Pid
		h.must("delete", "a", "--force") // flags after the argument too
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("%s: process lives on: %s", verb, stat)
		}
	}
	// One that has not been started needs no force.
	h.must("create", "--bundle", h.bundle(nil, "sleep"), "a")
	h.must("delete", "a")
}

func TestExec(t *testing.T) {
	h := newHost(t)
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "a")
	defer h.must("delete", "--force", "a")
	for _, test := range []struct {
		flags, args string
		want        string
	}{
		{"", "echo hi", "hi\n"},
		{"--env X=1 --env Y=2", "env Y", "2\n"},
		{"--cwd /tmp", "cwd", "/tmp <nil>\n"},
		{"--user 12:34 --additional-gids 56", "status Uid", "Uid:\t12\t12\t12\t12\n"},
		{"--user 12:34 --additional-gids 56", "status Gid", "Gid:\t34\t34\t34\t34\n"},
		{"--user 12:34 --additional-gids 56", "status Groups", "Groups:\t56 \n"},
		{"--cap CAP_SYS_ADMIN", "status CapInh", "CapInh:\t0000000000000000\n"},
		{"--cap sys_admin", "status CapBnd", "CapBnd:\t0000000020200420\n"},
	} {
		args := append([]string{"exec"}, strings.Fields(test.flags)...)
		args = append(append(args, "a", "/inside"), strings.Fields(test.args)...)
		if got := h.must(args...); got != test.want {
			t.Errorf("exec %s %s: %q, want %q", test.flags, test.args, got, test.want)
		}
	}
	if r := h.do("exec", "a", "/inside", "exit", "3"); r.code != 3 {
		t.Errorf("exit code %d", r.code)
	}
	h.fails(255, "nosuch", "exec", "a", "/nosuch")
	h.fails(255, "--user", "exec", "--user", "12x", "a", "/inside", "exit", "0")
	h.fails(255, "command", "exec", "a")

	// From a file, detached.
	process := filepath.Join(h.root, "process.json")
	data, err := json.Marshal(&specs.Process{Cwd: "/", Args: []string{"/inside", "sleep"}, Env: []string{"STRAKE_E2E_INSIDE=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(process, data, 0o644); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(h.root, "pid")
	h.must("exec", "--detach", "--process", process, "--pid-file", pidFile, "a")
	pid, err := os.ReadFile(pidFile)
	if err != nil || !strings.Contains(h.must("ps", "-f", "json", "a"), string(pid)) {
		t.Errorf("pid %q, %v, is not among the container's", pid, err)
	}
}

func TestSignals(t *testing.T) {
	h := newHost(t)
	cmd := h.command("run", "--bundle", h.bundle(nil, "term"), "a")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if lines.Scan(); lines.Text() != "ready" {
		t.Errorf("says %q", lines.Text())
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if lines.Scan(); lines.Text() != "terminated" {
		t.Errorf("says %q", lines.Text())
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d", code)
	}
	// Killed by one.
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "a")
	cmd = h.command("exec", "--pid-file", filepath.Join(h.root, "pid"), "a", "/inside", "term")
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewScanner(out).Scan()
	h.must("kill", "--all", "a", "SIGKILL")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+9 {
		t.Errorf("exit code %d", code)
	}
	h.must("delete", "--force", "a")
}

func TestErrors(t *testing.T) {
	h := newHost(t)
	logFile := filepath.Join(h.root, "log")
	r := h.do("--log", logFile, "--log-format", "json", "create", "--bundle", h.bundle(func(s *specs.Spec) { s.Process.Args = []string{"/nosuch"} }), "a")
	var entry struct{ Level, Msg, Time string }
	data, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &entry); err != nil {
		t.Fatalf("log %q: %v", data, err)
	}
	if r.code != 1 || entry.Level != "error" || !strings.Contains(entry.Msg, "/nosuch") || !strings.Contains(r.err, entry.Msg) {
		t.Errorf("exit code %d, stderr %q, log %+v", r.code, r.err, entry)
	}
	if _, err := time.Parse(time.RFC3339, entry.Time); err != nil {
		t.Error(err)
	}
	h.fails(1, "mounts[0]", "run", "--bundle", h.bundle(func(s *specs.Spec) { s.Mounts[0].Type = "nosuchfs" }), "a")
	h.fails(1, "linux.resources.pids.limit", "run", "--bundle", h.bundle(func(s *specs.Spec) {
		limit := int64(1 << 40)
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &limit}
	}), "a")
	h.fails(1, "linux.seccomp.syscalls[0].action", "run", "--bundle", h.bundle(func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: "NO"}}}
	}), "a")
	h.fails(1, "config.json", "run", "--bundle", h.root, "a")
	h.fails(1, "invalid container id", "run", "--bundle", h.root, "a/b")
	h.fails(1, "slice:prefix:name", "--systemd-cgroup", "run", "--bundle", h.bundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/b" }), "a")
	h.fails(3, "No help topic for", "frobnicate")
	h.fails(1, "unknown flag", "list", "--frobnicate")
	h.fails(1, "does not exist", "checkpoint", "a")
	h.fails(1, "config.json exists", "spec", "--bundle", h.bundle(nil, "exit", "0"))
}

// TestRefusedFlags: what runc refuses on a command line is refused, with its exit code.
func TestRefusedFlags(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(nil, "sleep")
	socket := filepath.Join(h.root, "console")
	h.fails(1, "has no terminal", "create", "--console-socket", socket, "--bundle", bundle, "a")
	h.fails(1, "has no terminal", "run", "--console-socket", socket, "--bundle", bundle, "a")
	h.fails(1, "has no terminal", "run", "--detach", "--console-socket", socket, "--bundle", bundle, "a")
	h.fails(1, "container id", "exec")
	for _, root := range []string{"/", "//", "/run/.."} {
		if r := h.finish(exec.Command(program, "--root", root, "list")); r.code != 1 || !strings.Contains(r.err, "--root") {
			t.Errorf("--root %s: exit code %d, %q, %q", root, r.code, r.out, r.err)
		}
	}
	h.fails(255, "invalid container id", "exec", "", "/inside")

	h.must("run", "--detach", "--bundle", bundle, "b")
	defer h.must("delete", "--force", "b")
	h.fails(255, "has no terminal", "exec", "--console-socket", socket, "b", "/inside", "echo")
	h.fails(255, "has no terminal", "exec", "--detach", "--console-socket", socket, "b", "/inside", "echo")
	for _, variable := range []string{"FOO", "=x", ""} {
		h.fails(255, fmt.Sprintf("--env: %q is not NAME=VALUE", variable), "exec", "--env", variable, "b", "/inside", "echo")
	}
	if got := h.must("exec", "--env", "FOO=", "--env", "BAR=a=b", "b", "/inside", "env", "BAR"); got != "a=b\n" {
		t.Errorf("%q", got)
	}
}

// TestExecWithoutItsPidfd: a process whose pidfd reaches nobody does not stay.
func TestExecWithoutItsPidfd(t *testing.T) {
	h := newHost(t)
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "a")
	defer h.must("delete", "--force", "a")
	pidFile, nobody := filepath.Join(h.root, "pid"), filepath.Join(h.root, "nobody")
	for _, detach := range []string{"--detach=false", "--detach"} {
		h.fails(255, "--pidfd-socket", "exec", detach, "--pid-file", pidFile, "--pidfd-socket", nobody, "a", "/inside", "sleep")
		var pids []int
		if err := json.Unmarshal([]byte(h.must("ps", "--format", "json", "a")), &pids); err != nil || len(pids) != 1 {
			t.Errorf("%s: processes %v, %v", detach, pids, err)
		}
	}
}

// TestRunWithoutItsPidfd: nor does a container's program run.
func TestRunWithoutItsPidfd(t *testing.T) {
	h := newHost(t)
	ran, nobody := filepath.Join(h.root, "ran"), filepath.Join(h.root, "nobody")
	bundle := h.bundle(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", ran}}}}
	}, "exit", "0")
	for _, detach := range []string{"--detach=false", "--detach"} {
		h.fails(1, "--pidfd-socket", "run", detach, "--pidfd-socket", nobody, "--bundle", bundle, "a")
		if _, err := os.Lstat(ran); err == nil {
			t.Errorf("%s: the program has run", detach)
		}
	}
}

func TestDockerLike(t *testing.T) {
	h := newHost(t)
	errno := uint(77)
	confined := func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM},
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
		}
		limit := int64(64 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	bundle := h.bundle(confined, "sleep")
	h.must("run", "--detach", "--bundle", bundle, "a")
	defer h.must("delete", "--force", "a")
	if got := h.must("exec", "a", "/inside", "mkdir", "/tmp/x"); got != "true\n" {
		t.Error("the seccomp profile does not bind an exec")
	}
	if got := h.must("exec", "a", "/inside", "status", "Seccomp"); got != "Seccomp:\t2\n" {
		t.Errorf("%q", got)
	}
	if got := h.must("exec", "a", "/inside", "open", "/dev/null"); got != "<nil>\n" {
		t.Errorf("/dev/null: %q", got)
	}
	if got := h.must("exec", "a", "/inside", "open", "/proc/sys/kernel/panic"); !strings.Contains(got, "read-only") {
		t.Errorf("/proc/sys/kernel/panic: %q", got)
	}
	var stats struct {
		Type string
		Data struct {
			Memory struct{ Usage struct{ Limit uint64 } }
			Pids   struct{ Current uint64 }
		}
	}
	read := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(h.must("events", "--stats", "a")), &stats); err != nil || stats.Type != "stats" {
			t.Fatalf("events: %+v, %v", stats, err)
		}
	}
	if read(); stats.Data.Memory.Usage.Limit != 64<<20 || stats.Data.Pids.Current == 0 {
		t.Errorf("stats: %+v", stats)
	}
	h.must("update", "--memory", "32M", "a")
	h.fails(1, "linux.intelRdt: its config has none", "update", "--l3-cache-schema", "L3:0=f", "a")
	h.fails(1, "linux.intelRdt.memBwSchema: invalid config: does not start with MB:", "update", "--mem-bw-schema", "20", "a")
	if read(); stats.Data.Memory.Usage.Limit != 32<<20 {
		t.Errorf("after update: %+v", stats)
	}
}

// Without resources in its config a container gets the default devices only.
func TestDefaultDevices(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) {
		s.Linux.Resources = nil
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
	}, "open", "/dev/kmsg")
	if got := h.must("run", "--bundle", bundle, "a"); !strings.Contains(got, "not permitted") {
		t.Errorf("/dev/kmsg: %q", got)
	}
}

func TestDescriptors(t *testing.T) {
	h := newHost(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Also where the runtime has to start itself again.
	for _, change := range []func(*specs.Spec){nil, noStub} {
		cmd := h.command("run", "--preserve-fds", "1", "--bundle", h.bundle(change, "fd", "3"), "a")
		cmd.ExtraFiles = []*os.File{w}
		if res := h.finish(cmd); res.out != "<nil>\n" {
			t.Errorf("%+v", res)
		}
	}
	// Socket activation's go first, unless they are somebody else's.
	for pid, want := range map[string]string{"": "1\n", "1": "\n"} {
		cmd := h.command("run", "--bundle", h.bundle(nil, "env", "LISTEN_FDS"), "a")
		cmd.ExtraFiles, cmd.Env = []*os.File{w}, append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID="+pid)
		if res := h.finish(cmd); res.out != want {
			t.Errorf("LISTEN_PID=%s: %+v", pid, res)
		}
	}
	cmd := h.command("run", "--bundle", h.bundle(nil, "fd", "3"), "a")
	cmd.ExtraFiles, cmd.Env = []*os.File{w}, append(os.Environ(), "LISTEN_FDS=1")
	if res := h.finish(cmd); res.out != "<nil>\n" {
		t.Errorf("%+v", res)
	}
	w.Close()
	if got, err := io.ReadAll(r); string(got) != strings.Repeat("from inside\n", 3) {
		t.Errorf("%q, %v", got, err)
	}
	// Not handed on, it is not there.
	cmd = h.command("run", "--bundle", h.bundle(nil, "fd", "3"), "a")
	cmd.ExtraFiles = []*os.File{r}
	if res := h.finish(cmd); !strings.Contains(res.out, "bad file descriptor") {
		t.Errorf("%+v", res)
	}
	h.fails(1, "--preserve-fds=1: descriptor 3 is not open", "run", "--preserve-fds", "1", "--bundle", h.bundle(nil, "exit", "0"), "a")
	// What is missing is told by the name of who promised it.
	cmd = h.command("run", "--bundle", h.bundle(nil, "exit", "0"), "a")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
	if res := h.finish(cmd); res.code != 1 || !strings.Contains(res.err, "LISTEN_FDS=1: descriptor 3 is not open") {
		t.Errorf("%+v", res)
	}
}

func TestShow(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(nil, "exit", "0")
	text := h.must("plan", bundle)
	for _, words := range []string{"clone3", "mounts[0]", "process.args", "linux.maskedPaths"} {
		if !strings.Contains(text, words) {
			t.Errorf("plan does not name %s:\n%s", words, text)
		}
	}
	var program struct{ Ops []any }
	if err := json.Unmarshal([]byte(h.must("plan", "--format", "json", bundle)), &program); err != nil || len(program.Ops) < 20 {
		t.Errorf("plan as JSON: %d operations, %v", len(program.Ops), err)
	}
	var f features.Features
	if err := json.Unmarshal([]byte(h.must("features")), &f); err != nil {
		t.Fatal(err)
	}
	if f.OCIVersionMax != specs.Version || !slices.Contains(f.MountOptions, "rro") || !slices.Contains(f.Linux.Namespaces, "time") ||
		!slices.Contains(f.Linux.Capabilities, "CAP_BPF") || !*f.Linux.Seccomp.Enabled {
		t.Errorf("features: %+v", f)
	}
	version := strings.Split(h.must("--version"), "\n")
	if !strings.HasPrefix(version[0], "strake-runtime version ") || version[2] != "spec: "+specs.Version {
		t.Errorf("version: %q", version)
	}
	if got := h.must("kill", "--help"); !strings.Contains(got, "--all") {
		t.Errorf("help: %q", got)
	}
	if got := h.must("--help"); !strings.Contains(got, "  exec ") || !strings.Contains(got, "--root DIR") {
		t.Errorf("help: %q", got)
	}
}
