package task_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What an idle monitor with a container costs: private memory as issue 4 counts
// it, and no wake-ups at all.
func TestIdleCost(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	s := p.startSandbox()
	b := p.run([]string{"sleep", "1000"}, inPod(s), withStdin)
	for range 20 {
		if _, err := p.monitor.ExecSync(t.Context(), b.id, p.process("true"), time.Minute, 1024); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(4 * time.Second) // memory is given back after two
	before := switches(t, s.Pid)
	time.Sleep(2 * time.Second)
	if n := switches(t, s.Pid) - before; n > 2 {
		t.Errorf("%d wake-ups in two idle seconds", n)
	}
	kb := anonymous(t, s.Pid)
	t.Logf("%d kB of anonymous memory", kb)
	if kb > 3000 {
		t.Errorf("%d kB of anonymous memory: 2200 is usual", kb)
	}
	b.remove()
}

// switches counts how often the threads of a process have been put on a processor.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	for _, thread := range threads(t, pid) {
		for line := range strings.Lines(read(t, thread+"/status")) {
			var k int
			if _, err := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &k); err == nil {
				n += k
			}
		}
	}
	return n
}

func threads(t *testing.T, pid int) (dirs []string) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		dirs = append(dirs, fmt.Sprintf("/proc/%d/task/%s", pid, e.Name()))
	}
	return dirs
}

func anonymous(t *testing.T, pid int) (kb int) {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
		if _, err := fmt.Sscanf(line, "Anonymous: %d kB", &kb); err == nil {
			return kb
		}
	}
	t.Fatal("no figure in smaps_rollup")
	return 0
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
