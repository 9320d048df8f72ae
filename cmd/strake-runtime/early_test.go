package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/strake-containers/strake/oci/container"
)

// TestBeforeGo: what a verb shows before Go's runtime has started is what it shows
// after, and the runtime does not start.
func TestBeforeGo(t *testing.T) {
	program := withEntry(t)
	root := t.TempDir()
	start, err := container.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	record := func(id, more string) {
		text := fmt.Sprintf(`{"version":1,"id":%q,"bundle":"/b","rootfs":"/b/rootfs","cgroup":"","created":"2026-11-26T15:05:18.44Z",%s}`, id, more)
		if err := os.Mkdir(filepath.Join(root, id), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, id, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alive := fmt.Sprintf(`"pid":%d,"startTime":%d`, os.Getpid(), start)
	record("runs", alive+`,"annotations":{"a":"1","b":"<&>"}`)
	record("ended", `"pid":1,"startTime":1`)
	record("gone", fmt.Sprintf(`"pid":%d,"startTime":1`, 1<<29))
	record("escaped", alive+`,"annotations":{"a":"\u003c"}`)
	record("made", `"pid":0,"startTime":0`)
	record("others", alive)
	asRoot := os.Geteuid() == 0
	const nobody = 65534
	if err := os.Chown(filepath.Join(root, "others"), nobody, -1); asRoot && err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  string
		early bool
	}{
		{"state runs", asRoot}, // the owner of others has a name
		{"state ended", asRoot},
		{"state gone", asRoot},
		{"state escaped", false},
		{"state made", false},
		{"state others", false},
		{"state absent", false},
		{"kill runs 0", true},
		{"kill runs 65", false},
		{"kill ended", false},
		{"start runs", false},
		{"start ended", false},
		{"delete runs", false},
	} {
		args := strings.Fields(c.args)
		out, code, started := runTraced(t, program, append([]string{"--root", root}, args...))
		if started == c.early {
			t.Errorf("%s: Go's runtime starts: %v", c.args, started)
		}
		want, wantCode, _ := runTraced(t, program, append([]string{"--rootless=false", "--root", root}, args...))
		if out != want || code != wantCode {
			t.Errorf("%s: exit code %d, %s; with Go's runtime %d, %s", c.args, code, out, wantCode, want)
		}
	}
	if out, code, started := runTraced(t, program, []string{"--root", root, "delete", "gone"}); code != 0 || started {
		t.Errorf("delete: exit code %d, Go's runtime starts: %v: %s", code, started, out)
	}
	if _, err := os.Lstat(filepath.Join(root, "gone")); !os.IsNotExist(err) {
		t.Errorf("delete leaves the state directory: %v", err)
	}
	// One that runs is killed by force.
	victim := exec.Command("sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	if start, err = container.StartTime(victim.Process.Pid); err != nil {
		t.Fatal(err)
	}
	record("victim", fmt.Sprintf(`"pid":%d,"startTime":%d`, victim.Process.Pid, start))
	if out, code, started := runTraced(t, program, []string{"--root", root, "delete", "--force", "victim"}); code != 0 || started {
		t.Errorf("delete --force: exit code %d, Go's runtime starts: %v: %s", code, started, out)
	}
	if err := victim.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process of a container that is deleted: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(root, "victim")); !os.IsNotExist(err) {
		t.Errorf("delete --force leaves the state directory: %v", err)
	}
	// What else is in the directory is left to who knows about it.
	if err := os.WriteFile(filepath.Join(root, "ended", "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code, started := runTraced(t, program, []string{"--root", root, "delete", "ended"}); code != 0 || !started {
		t.Errorf("delete: exit code %d, Go's runtime starts: %v: %s", code, started, out)
	}
}

// runTraced runs the program and says whether Go's runtime has told of its start.
func runTraced(t *testing.T, program string, args []string) (out string, code int, started bool) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	lines := strings.Split(stderr.String(), "\n")
	before := len(lines)
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "init ") })
	return stdout.String() + strings.Join(lines, "\n"), cmd.ProcessState.ExitCode(), len(lines) < before
}

// TestEarlyCalls: the code that runs before Go's runtime, with what it calls of launch,
// calls nothing of it but what copies, compares and fails. Failing would end the program.
func TestEarlyCalls(t *testing.T) {
	program := withEntry(t)
	out, err := exec.Command("go", "tool", "objdump", "-s", `strake/oci/(early|launch)\.`, program).Output()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string][]string{}
	function := ""
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "TEXT" {
			function = strings.TrimSuffix(fields[1], "(SB)")
			calls[function] = nil
		}
		if i := slices.Index(fields, "CALL"); i >= 0 && i+1 < len(fields) {
			calls[function] = append(calls[function], strings.TrimSuffix(fields[i+1], "(SB)"))
		}
	}
	allowed := []string{"runtime.memequal", "runtime.memmove", "runtime.panic", "runtime.gcWriteBarrier", "runtime.morestack", "runtime.duff",
		"runtime.memclrNoHeapPointers", "syscall.RawSyscall"}
	var todo []string
	for f := range calls {
		if strings.Contains(f, "/oci/early.") {
			todo = append(todo, f)
		}
	}
	seen := map[string]bool{}
	for ; len(todo) > 0; todo = todo[1:] {
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		for _, to := range calls[todo[0]] {
			if _, ours := calls[to]; ours {
				todo = append(todo, to)
			} else if !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(to, prefix) }) {
				t.Errorf("%s calls %s", todo[0], to)
			}
		}
	}
	const kept = "github.com/strake-containers/strake/oci/launch.(*Kept).Run"
	if len(seen) < 30 || !seen[kept] {
		t.Errorf("only %d functions found, %s: %v", len(seen), kept, seen[kept])
	}
}
