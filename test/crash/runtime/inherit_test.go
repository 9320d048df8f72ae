package runtime

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestNothingOfTheCallerIsInside starts containers and processes from a caller
// that has about everything that a process can hand down: ignored and blocked
// signals, a umask, an environment, descriptors without close-on-exec, a
// terminal's session, a parent-death signal.
func TestNothingOfTheCallerIsInside(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"sh", "cat", "ls", "env", "umask"} {
		must(t, os.Symlink("busybox", filepath.Join(h.bundle, "rootfs/bin", name)))
	}
	secret, err := os.Create(filepath.Join(h.root, "secret"))
	must(t, err)
	defer secret.Close()
	// What is looked at is the process itself, not a child of a shell, which
	// would look after its signals.
	looks := map[string][]string{
		"status": {"cat", "/proc/self/status"},
		"stat":   {"cat", "/proc/self/stat"},
		"fds":    {"ls", "-l", "/proc/self/fd"},
		"env":    {"env"},
	}
	check := func(t *testing.T, look, out string) {
		t.Helper()
		has := func(words ...string) {
			t.Helper()
			for _, w := range words {
				if !strings.Contains(out, w) {
					t.Errorf("%s: no %q in\n%s", look, w, out)
				}
			}
		}
		switch look {
		case "status":
			none := strings.Repeat("0", 16)
			has("SigBlk:\t"+none, "SigIgn:\t"+none, "SigCgt:\t"+none, "Umask:\t0022", "CapInh:\t"+none, "Groups:\t \n")
		case "stat":
			f := strings.Fields(out)
			if pid, session, tty := f[0], f[5], f[6]; session != pid || tty != "0" {
				t.Errorf("pid %s, session %s, terminal %s", pid, session, tty)
			}
		case "fds":
			for line := range strings.Lines(strings.TrimSpace(out)) {
				_, name, _ := strings.Cut(line, ":") // of the time
				f := strings.Fields(name)
				// What has no target is ls's own and closed by now.
				if len(f) == 4 && !strings.Contains("0 1 2", f[1]) && !strings.HasPrefix(f[3], "/proc/") {
					t.Errorf("descriptor: %s", line)
				}
			}
		case "env":
			if strings.Contains(out, "SECRET") {
				t.Errorf("environment:\n%s", out)
			}
		}
	}
	call := func(args ...string) string {
		t.Helper()
		// env(1) ignores and blocks the signals, setpriv(1) has it die with us.
		cmd := exec.Command("setpriv", append([]string{"--pdeathsig", "keep", "--inh-caps", "+chown",
			"env", "--ignore-signal", "--block-signal", program, "--root", filepath.Join(h.root, "state")}, args...)...)
		cmd.Env = append(os.Environ(), "SECRET=1")
		cmd.ExtraFiles = []*os.File{secret, secret, secret, nil, secret}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGUSR1}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, &errs)
		}
		return out.String()
	}
	for look, args := range looks {
		h.configure(func(s *specs.Spec) { s.Process.Args, s.Hooks = args, nil })
		check(t, look, call("run", "--bundle", h.bundle, id))
	}
	h.configure(nil)
	start(h)
	for look, args := range looks {
		check(t, look, call(append([]string{"exec", id}, args...)...))
	}
	if out := call("exec", "--preserve-fds", "1", id, "ls", "-l", "/proc/self/fd"); strings.Count(out, "/secret") != 1 {
		t.Errorf("--preserve-fds 1:\n%s", out)
	}
	h.must("delete", "--force", id)
}
