package runtime

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
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
