package container

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// elfWithInterpreter is an ELF program that needs another one to be run by, and
// is a link to it in effect.
func elfWithInterpreter(machine uint16, interpreter string) []byte {
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	for _, w := range []uint64{0x10000, 64, 0} {
		b = le.AppendUint64(b, w)
	}
	b = le.AppendUint32(b, 0)
	for _, h := range []uint16{64, 56, 2, 0, 0, 0} {
		b = le.AppendUint16(b, h)
	}
	const text = 64 + 2*56
	size := uint64(len(interpreter) + 1)
	for _, w := range []uint64{3 | 4<<32, text, 0, 0, size, size, 1, 1 | 5<<32, 0, 0x10000, 0x10000, text + size, text + size, 0x1000} {
		b = le.AppendUint64(b, w)
	}
	return append(append(b, interpreter...), 0)
}

// ownMachine is the ELF machine of this program.
func ownMachine(t *testing.T) uint16 {
	t.Helper()
	f, err := os.Open("/proc/self/exe")
	must(t, err)
	defer func() { _ = f.Close() }()
	var head [20]byte
	_, err = f.ReadAt(head[:], 0)
	must(t, err)
	return binary.LittleEndian.Uint16(head[18:])
}

// CVE-2019-5736 (runc before 1.0-rc7): what the kernel looks up while it executes the program, not the
// program itself, is /proc/self/exe.
func TestOwnBinaryIsNotExecutedAsAnInterpreter(t *testing.T) {
	e := newEnv(t)
	bin := filepath.Join(e.bundle, "rootfs/bin")
	must(t, os.WriteFile(filepath.Join(bin, "script"), []byte("#!/proc/self/exe -test.list=.\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "elf"), elfWithInterpreter(ownMachine(t), "/proc/self/exe"), 0o755))
	// As an ELF interpreter it takes a newer kernel than the test machine's to get
	// as far as the stub's first instruction: older ones want a writable segment.
	ended := func(r result) bool { return r.out == "" && (r.code == 127 || r.code == 128+int(syscall.SIGSEGV)) }
	c, _ := e.start(e.spec("exec sleep 1000"))
	for _, program := range []string{"script", "elf"} {
		s := e.spec("")
		s.Process.Args = []string{program}
		if r, err := e.run(s); err != nil || !ended(r) {
			t.Errorf("create with %s: %+v, %v", program, r, err)
		}
		r, err := e.exec(c, &specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"PATH=/bin"}})
		if err != nil || !ended(r) {
			t.Errorf("exec of %s: %+v, %v", program, r, err)
		}
	}
}

// What only the execve itself finds out is still said in its words.
func TestProgramThatCannotRunIsNamed(t *testing.T) {
	e := newEnv(t)
	bin := filepath.Join(e.bundle, "rootfs/bin")
	must(t, os.WriteFile(filepath.Join(bin, "text"), []byte("no program\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "orphan"), []byte("#!/no/such/interpreter\n"), 0o755))
	c, _ := e.start(e.spec("exec sleep 1000"))
	for program, errno := range map[string]syscall.Errno{"text": syscall.ENOEXEC, "orphan": syscall.ENOENT} {
		want := "exec " + program + ": " + errno.Error()
		check := func(how string, err error) {
			t.Helper()
			if !errors.Is(err, ErrExec) || !errors.Is(err, errno) || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%s: %v, want %s", how, err, want)
			}
		}
		s := e.spec("")
		s.Process.Args = []string{program}
		_, err := e.run(s)
		check("start", err)
		_, err = e.run(s, func(o *CreateOptions) { o.Run = func(*Process) error { return nil } })
		check("run", err)
		_, err = e.exec(c, &specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"PATH=/bin"}})
		check("exec", err)
	}
}

// The program does not see that another one was there before it.
func TestStubLeavesNoTrace(t *testing.T) {
	e := newEnv(t)
	const script = `cat /proc/$$/comm; tr '\0' ' ' </proc/$$/cmdline; echo; echo $A; ls /proc/$$/fd; echo x$(cat <&9)`
	extra := make([]*os.File, 7)
	for i := range extra {
		f, err := os.CreateTemp(t.TempDir(), "")
		must(t, err)
		_, err = f.WriteString(itoa(i))
		must(t, err)
		_, err = f.Seek(0, 0)
		must(t, err)
		defer func() { must(t, f.Close()) }()
		extra[i] = f
	}
	must(t, os.Symlink("busybox", filepath.Join(e.bundle, "rootfs/bin/tr")))
	s := e.spec(script)
	s.Process.Env = append(s.Process.Env, "A=b c")
	s.Process.User.UID = 1000
	s.Process.Rlimits[0] = specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 64}
	out := e.mustRun(s, func(o *CreateOptions) { o.ExtraFiles = extra })
	want := "sh\nsh -c " + script + " \nb c\n0\n1\n2\n3\n4\n5\n6\n7\n8\n9\nx6\n"
	if strings.ReplaceAll(out, "10\n", "") != want { // 10 is the shell's own
		t.Errorf("got %q\nwant %q", out, want)
	}
}

// Where the stub will not do, nothing is made and nothing left before that is said.
func TestStubIsRefusedWhereItIsNotEnough(t *testing.T) {
	e := newEnv(t)
	inSealed := os.Getenv(sealedTestEnv) != ""
	deny := func(names ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActErrno}}}
		}
	}
	for want, change := range map[string]func(*specs.Spec){
		"linux.seccomp does not allow execveat": deny("execveat"),
		"linux.seccomp does not allow fcntl":    deny("fcntl"),
		"hooks.startContainer are the image's programs": func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}}
		},
	} {
		s := e.spec("true")
		change(s)
		if _, err := e.run(s); inSealed {
			must(t, err)
		} else if !errors.Is(err, ErrUnsealed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s := e.spec("true")
	deny("reboot")(s)
	e.mustRun(s)
	s.Process.NoNewPrivileges = false
	e.mustRun(s)
	sealed(t)
}
