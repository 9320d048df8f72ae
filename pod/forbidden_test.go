package pod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/annotation"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

// forbids is a profile that forbids two calls, each with an errno of its own.
const forbids = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
	{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
	{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]}`

// A container's forbidden calls fail as its profile says and are counted, those of a
// process that was added too, whatever is killed meanwhile: the monitor, and the daemon.
func TestRealForbiddenCalls(t *testing.T) {
	n := newRealNode(t)
	n.change = allowNotifier
	m := n.open()
	config := n.pod("counted")
	config.Annotations = map[string]string{annotation.Notifier[0]: ""}
	pod := n.run(m, config)
	container := ContainerConfig{Name: "main", Command: []string{"/bin/sh", "-c", "while :; do /bin/busybox sleep 1000; done"}}
	container.Security.Seccomp = n.profile(forbids)
	id := n.start(m, pod, container)
	plain := ContainerConfig{Name: "plain", Command: []string{"/bin/sleep", "1000"}}
	n.start(m, pod, plain) // has nothing to count

	made := func() {
		t.Helper()
		if out := n.sh(m, id, "/bin/busybox mkdir /tmp/x 2>&1; /bin/busybox hostname other 2>&1; true"); !strings.Contains(out, "No space left on device") || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("the calls fail with %q", out)
		}
	}
	counted := func(times uint64) {
		t.Helper()
		got := map[string]uint64{}
		for _, f := range m.ForbiddenCalls() {
			if f.Namespace != config.Namespace || f.Pod != "counted" || f.Container != "main" {
				t.Errorf("counted: %+v", f)
			}
			got[f.Call] = f.Times
		}
		if len(got) != 2 || got["mkdir"] != times || got["sethostname"] != times {
			t.Errorf("counted: %v, want %d times mkdir and sethostname", got, times)
		}
	}
	made()
	counted(1)
	n.killMonitor()
	n.alive(m, id)
	counted(1)
	made()
	counted(2)
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = n.open()
	made()
	counted(3)
	if err := m.CheckpointContainer(t.Context(), id, filepath.Join(t.TempDir(), "c.tar"), 0); err == nil || !strings.Contains(err.Error(), "seccomp listener") {
		t.Errorf("checkpoint: %v", err)
	}
	if err := m.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if s := mustExit(t, m, id); s.Reason != ReasonError || s.Message != "" {
		t.Errorf("a container that was only counted: %+v", s)
	}
	counted(3)
}

// The calls of init itself, which outlives its monitor: the next one answers them.
func TestRealForbiddenCallsOfInit(t *testing.T) {
	n := newRealNode(t)
	n.change = allowNotifier
	m := n.open()
	config := n.pod("init")
	config.Annotations = map[string]string{annotation.Notifier[1] + ".main": ""}
	pod := n.run(m, config)
	container := ContainerConfig{Name: "main", Command: []string{"/bin/sh", "-c",
		"while [ ! -e /tmp/end ]; do /bin/busybox mkdir /tmp/x 2>/tmp/error && exit 1; cat /tmp/error; grep -q 'No space left' /tmp/error || exit 2; done; exit 0"}}
	container.Security.Seccomp = n.profile(forbids)
	if err := os.Symlink("busybox", filepath.Join(n.layer(), "bin", "grep")); err != nil {
		t.Fatal(err)
	}
	id := n.start(m, pod, container)
	bundleDir := m.containerState(pod, id)
	for range 5 {
		n.killMonitor()
		n.alive(m, id)
		before := m.ForbiddenCalls()
		for { // it goes on
			now := m.ForbiddenCalls()
			if len(before) > 0 && len(now) == 1 && now[0].Times > before[0].Times+3 {
				break
			}
			if len(before) == 0 {
				before = now
			}
			if _, err := client.ReadExit(bundleDir); err == nil {
				t.Fatalf("it has ended: %+v", mustExit(t, m, id))
			}
		}
	}
	n.sh(m, id, "touch /tmp/end")
	if s := mustExit(t, m, id); s.ExitCode != 0 {
		t.Errorf("the container: %+v", s)
	}
}

// A container that is to be stopped for its forbidden calls says which they were.
func TestRealForbiddenCallsStop(t *testing.T) {
	n := newRealNode(t)
	n.change = allowNotifier
	m := n.open()
	config := n.pod("stopped")
	config.Annotations = map[string]string{annotation.Notifier[0]: "stop"}
	pod := n.run(m, config)
	container := ContainerConfig{Name: "main", Command: []string{"/bin/sh", "-c", "/bin/busybox mkdir /tmp/a; /bin/busybox mkdir /tmp/b; /bin/busybox hostname other; exec sleep 100000"}}
	container.Security.Seccomp = n.profile(forbids)
	id := n.start(m, pod, container)
	n.killMonitor() // the next one sees to it
	s := mustExit(t, m, id)
	if s.Reason != ReasonForbidden || s.Message != "Used forbidden syscalls: mkdir (2x), sethostname (1x)" || s.ExitCode != 137 {
		t.Errorf("it ended: %s: %s (%d)", s.Reason, s.Message, s.ExitCode)
	}
}

// allowNotifier lets pods ask for the notifier.
func allowNotifier(o *Options) {
	for name, r := range o.Runtimes {
		r.AllowedAnnotations = annotation.Notifier[:1]
		o.Runtimes[name] = r
	}
}

// profile is a seccomp profile in a file.
func (n *realNode) profile(text string) *bundle.Profile {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "profile.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return &bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: path}
}
