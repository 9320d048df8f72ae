package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// CVE-2019-5736 (runc before 1.0-rc7): a container gets the runtime executed inside, as the interpreter
// of a script, keeps its /proc/PID/exe and writes to it when it has ended.
func TestProgramCannotBeWrittenTo(t *testing.T) {
	// What is executed is a file in memory that is sealed (docs/adr/0014), or our
	// program on a read-only mount (docs/adr/0009).
	t.Run("stub", func(t *testing.T) { stealProgram(t, syscall.EPERM, nil) })
	t.Run("seal", func(t *testing.T) {
		stealProgram(t, syscall.EROFS, noStub)
	})
}

// noStub makes a config that the stub is not enough for, so that the runtime starts itself
// again.
func noStub(s *specs.Spec) {
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"execveat"}, Action: specs.ActErrno}}}
}

// A profile may forbid all there is: to execute the container's program, to say that it could
// not be, and to exit. The process ends nonetheless: it does not try for ever.
func TestProfileThatForbidsEvenToExit(t *testing.T) {
	for name, allowed := range map[string][]string{"stub": {"execveat"}, "seal": {"getpid"}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.must("create", "--bundle", h.bundle(func(s *specs.Spec) {
				s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
					Syscalls: []specs.LinuxSyscall{{Names: allowed, Action: specs.ActAllow}}}
			}, "echo"), "a")
			defer h.must("delete", "--force", "a")
			pid := h.state("a").Pid
			if r := h.do("start", "--timeout", "20s", "a"); strings.Contains(r.err, "20s") {
				t.Fatalf("start: %s", r.err)
			}
			waitPid(t, pid)
		})
	}
}

func stealProgram(t *testing.T, want syscall.Errno, change func(*specs.Spec)) {
	h := newHost(t)
	before, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	bundle := h.bundle(func(s *specs.Spec) {
		s.Root.Readonly = false
		if change != nil {
			change(s)
		}
	}, "thief")
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.WriteFile(filepath.Join(rootfs, "script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Detached: nothing of the runtime executes its program in the end.
	h.must("run", "--detach", "--bundle", bundle, "a")
	defer h.must("delete", "--force", "a")
	for range 500 {
		h.do("exec", "a", "/script")
		if _, err := os.Stat(filepath.Join(rootfs, "caught")); err == nil {
			break
		}
	}
	pid := h.state("a").Pid
	if pid > 0 { // else it is through already
		waitPid(t, pid)
	}
	if got, err := os.ReadFile(filepath.Join(rootfs, "result")); err != nil || string(got) != want.Error() {
		t.Errorf("the thief: %s, %v", got, err)
	}
	if after, err := os.ReadFile(program); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the program has been written to: %v", err)
	}
}

// steal catches a program that is not of this container and tries to write to it.
func steal() string {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err.Error()
	}
	var loot *os.File
	for end := time.Now().Add(time.Minute); loot == nil; {
		if time.Now().After(end) {
			return "caught nothing"
		}
		programs, _ := filepath.Glob("/proc/[0-9]*/exe") // a constant pattern
		for _, path := range programs {
			if st, err := os.Stat(path); err == nil && !os.SameFile(own, st) {
				loot, _ = os.Open(path) // it may have ended
			}
		}
	}
	if err := os.WriteFile("/caught", nil, 0o644); err != nil {
		return err.Error()
	}
	for end := time.Now().Add(10 * time.Second); ; {
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", loot.Fd()), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("stolen")
		}
		if err == nil {
			return "written"
		}
		if !errors.Is(err, syscall.ETXTBSY) || time.Now().After(end) {
			return errors.Unwrap(err).Error()
		}
	}
}
