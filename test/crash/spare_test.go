package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/test/node"
)

// TestSpare follows the monitor that is ready for the next pod, while all that it depends
// on is killed, stopped and replaced. That nothing stays is seen at the end of the test.
func TestSpare(t *testing.T) {
	bin := t.TempDir()
	install(t, node.Bin(t), bin)
	t.Setenv("STRAKE_BIN", bin)
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	is := func(what string, want int) (pids []int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			if pids = n.Monitors(); len(pids) == want {
				return pids
			}
			if time.Now().After(end) {
				t.Fatalf("%s: monitors %v, want %d", what, pids, want)
			}
			<-time.After(time.Millisecond)
		}
	}
	run := func(name string) (id string) {
		t.Helper()
		config := n.PodConfig(name, true)
		pod := must1(n.RunPod(ctx, config))(t)
		return must1(n.RunContainer(ctx, pod, config, n.ContainerConfig("c", "/bin/sleep", "100000")))(t)
	}

	first := is("straked has started", 1)[0]
	n.Kill()
	is("straked was killed", 0)
	n.StartDaemon()
	second := is("straked has started again", 1)[0]
	if second == first {
		t.Error("it is the same monitor")
	}

	// Both at once: nobody tells the next straked.
	must(t, syscall.Kill(second, syscall.SIGSTOP))
	n.Kill()
	must(t, syscall.Kill(second, syscall.SIGKILL))
	n.StartDaemon()
	third := is("straked and the monitor were killed", 1)[0]
	dirs := must1(filepath.Glob(filepath.Join(n.State, "monitors", "*")))(t)
	if len(dirs) != 1 {
		t.Errorf("directories %q", dirs)
	}

	// One that stopped answering is not waited for for ever by the next straked.
	must(t, syscall.Kill(third, syscall.SIGSTOP))
	n.Kill()
	n.StartDaemon()
	is("a stopped monitor is not the spare", 2)
	must(t, syscall.Kill(third, syscall.SIGCONT))
	fourth := is("it has ended", 1)[0]

	// A pod takes it along, and leaves it to the next straked.
	id := run("a")
	if pids := is("a pod has it", 1); pids[0] != fourth {
		t.Errorf("monitor %d is there, was %d", pids[0], fourth)
	}
	n.Kill()
	if r := must1(os.Stat(fmt.Sprintf("/proc/%d", fourth)))(t); !r.IsDir() {
		t.Error("the pod's monitor is gone")
	}
	n.StartDaemon()
	untilThere(ctx, t, n, id, "/bin/true")
	n.RemoveAll(ctx)
	fifth := is("the pod is gone", 1)[0]

	// Another build.
	install(t, node.Bin(t), bin)
	id = run("b")
	untilThere(ctx, t, n, id, "/bin/true")
	for _, pid := range n.Monitors() {
		if exe := must1(os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)))(t); pid != fifth && strings.HasSuffix(exe, "(deleted)") {
			t.Errorf("monitor %d of a new pod is still %s", pid, exe)
		}
	}
	n.RemoveAll(ctx)
	if left := n.Leftovers(); len(left) > 0 {
		is("all pods are gone", 1)
		if left = n.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
	if sixth := is("all pods are gone", 1)[0]; sixth == fifth {
		t.Error("it is the one of the build before")
	}

	n.Terminate()
	is("straked was stopped", 0)
	n.StartDaemon()
	is("straked was started", 1)
}
