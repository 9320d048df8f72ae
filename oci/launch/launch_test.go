package launch

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/oci/plan"
)

// program is a program with the inputs that every one has.
func program(ops ...plan.Op) *plan.Program {
	for i := range ops {
		ops[i].Field = "test"
	}
	return &plan.Program{Inputs: []plan.Input{{Reg: 1, Kind: plan.InSync}, {Reg: 2, Kind: plan.InStdout}}, Regs: 9, Ops: ops}
}

func run(t *testing.T, p *plan.Program, files map[plan.Reg]int) error {
	t.Helper()
	proc, err := Run(t.Context(), Request{Program: p, Files: files, CgroupFD: -1})
	if err != nil {
		return err
	}
	defer func() { _ = proc.PidFD.Close() }()
	return Kill(proc)
}

func TestAFailingOperationIsNamed(t *testing.T) {
	err := run(t, program(
		plan.Op{Do: plan.OpUmask, A: 0o22},
		plan.Op{Do: plan.OpOpen, Path: "/no/such", Out: 3, Note: "a note"},
	), nil)
	var e *Error
	if !errors.As(err, &e) || e.Errno != syscall.ENOENT || err.Error() != "test (a note): open: no such file or directory" {
		t.Errorf("error %v", err)
	}
}

// EPERM of sched_setattr(2) has other causes than a lacking capability, by policy.
func TestARefusedSchedulerSaysWhatItTakes(t *testing.T) {
	for policy, want := range map[uint64]string{unix.SCHED_FIFO: "linux.resources.cpu.realtimeRuntime",
		unix.SCHED_RR: "linux.resources.cpu.realtimeRuntime", unix.SCHED_DEADLINE: "linux.resources.cpu.cpus", unix.SCHED_BATCH: "(it takes CAP_SYS_NICE)"} {
		e := Error{Op: &plan.Op{Do: plan.OpSched, Field: "process.scheduler", Nums: []uint64{policy}}, Call: "sched_setattr", Errno: syscall.EPERM}
		if got := e.Error(); !strings.HasPrefix(got, "process.scheduler: sched_setattr: operation not permitted (it takes CAP_SYS_NICE") || !strings.Contains(got, want) {
			t.Errorf("policy %d: %s", policy, got)
		}
	}
}

func TestAllowedErrorsSkipsAndExec(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := program(
		plan.Op{Do: plan.OpOpen, Path: "/no/such", Out: 3, Allow: []int{int(syscall.ENOENT)}},
		plan.Op{Do: plan.OpIfOpen, Dir: 3, A: 1},
		plan.Op{Do: plan.OpOpen, Path: "/also/missing", Out: 4},
		plan.Op{Do: plan.OpOpen, Path: "/", A: plan.FlagDirectory, Out: 5},
		plan.Op{Do: plan.OpIsDir, Dir: 5, A: 1},
		plan.Op{Do: plan.OpSkip, A: 1},
		plan.Op{Do: plan.OpOpen, Path: "/missing/too", Out: 4},
		plan.Op{Do: plan.OpLookup, Args: []string{"sh"}, Env: []string{"/nowhere/sh", "/bin/sh"}},
		plan.Op{Do: plan.OpStdio, Regs: []plan.Reg{2, 2, 2}},
		plan.Op{Do: plan.OpExec, Args: []string{"sh", "-c", "echo $V; ls /proc/self/fd | tr '\\n' ' '"}, Env: []string{"V=value", "PATH=/bin:/usr/bin"}},
	)
	p.Target = 3
	proc, err := Run(t.Context(), Request{Program: p, Files: map[plan.Reg]int{2: int(w.Fd())}, CgroupFD: -1})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	buf := make([]byte, 100)
	var out string
	for {
		n, err := r.Read(buf)
		out += string(buf[:n])
		if err != nil {
			break
		}
	}
	_ = r.Close()
	if err := Kill(proc); err != nil {
		t.Error(err)
	}
	if out != "value\n0 1 2 3 " { // 3 is ls's own
		t.Errorf("output %q", out)
	}
}

func TestMain(m *testing.M) {
	if testing.CoverMode() != "" {
		hidden[0] = span{} // the child counts what it runs, in variables
	}
	os.Exit(m.Run())
}

// A child has the program and its stack of our memory, and nothing else. If this fails, Go's
// heap is elsewhere now, and memory.go has to look there.
func TestChildHasNoHeap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to look into the child")
	}
	secret := bytes.Repeat([]byte("s"), 1<<20)
	mapped, err := unix.Mmap(-1, 0, len(secret), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	copy(mapped, secret)
	_, err = Run(t.Context(), Request{Program: program(plan.Op{Do: plan.OpSync, A: 7}), CgroupFD: -1,
		Sync: func(_, pid int) error {
			mem, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mem")
			if err != nil {
				t.Error(err)
				return err
			}
			defer func() { _ = mem.Close() }()
			at := func(p unsafe.Pointer) error {
				var b [1]byte
				_, err := mem.ReadAt(b[:], int64(uintptr(p)))
				return err
			}
			if err := at(unsafe.Pointer(unsafe.StringData("of the program file"))); err != nil { // the control
				t.Errorf("a constant of the program cannot be read: %v", err)
			}
			if err := at(unsafe.Pointer(&pageSize)); err == nil && testing.CoverMode() == "" {
				t.Error("a variable can be read")
			}
			for _, offset := range []int{0, len(secret) / 2, len(secret) - 1} {
				if err := at(unsafe.Pointer(&secret[offset])); err == nil {
					t.Errorf("byte %d of something in the heap can be read", offset)
				}
				if err := at(unsafe.Pointer(&mapped[offset])); err == nil {
					t.Errorf("byte %d of something mapped can be read", offset)
				}
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		}})
	if !errors.Is(err, ErrKilled) {
		t.Errorf("error %v", err)
	}
	runtime.KeepAlive(secret)
}

// Processes are made beside each other, and beside programs that are executed.
func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				_, err := Run(t.Context(), Request{Program: program(plan.Op{Do: plan.OpExit, A: 3}), CgroupFD: -1})
				if !errors.Is(err, ErrKilled) {
					t.Errorf("error %v", err)
				}
			}
		})
		wg.Go(func() {
			for range 3 {
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAKilledChildIsSaidToBe(t *testing.T) {
	_, err := Run(t.Context(), Request{Program: program(plan.Op{Do: plan.OpSync, A: 7}), CgroupFD: -1,
		Sync: func(_, pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }})
	if err == nil || !strings.Contains(err.Error(), "process was killed") {
		t.Errorf("error %v", err)
	}
}

func TestACancelledRunSaysWhereItWas(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := program(plan.Op{Do: plan.OpSync, A: 1}, plan.Op{Do: plan.OpPause, Note: "for ever"})
	_, err := Run(ctx, Request{Program: p, CgroupFD: -1, Sync: func(int, int) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "test") {
		t.Errorf("error %v", err)
	}
}

func TestBadProgramsAreRefused(t *testing.T) {
	many := make([]plan.Op, 0x4000)
	for _, tt := range []struct {
		p    *plan.Program
		want string
	}{
		{program(plan.Op{Do: "dance"}), `unknown operation "dance"`},
		{program(plan.Op{Do: plan.OpSkip, A: 5}), "jump behind the end"},
		{program(plan.Op{Do: plan.OpChdir, Path: "a\x00b"}), "NUL"},
		{program(plan.Op{Do: plan.OpSched}), "sched wants 7 numbers"},
		{program(many...), "too large"},
		{&plan.Program{Inputs: []plan.Input{{Reg: 1, Kind: plan.InSync}}, Regs: 300}, "too large"},
		{&plan.Program{}, "no register for the parent"},
		{&plan.Program{Inputs: []plan.Input{{Reg: 1, Kind: plan.InSync}}, Regs: 1, Ops: []plan.Op{{Do: plan.OpClose, Dir: 99}}}, "register 99"},
	} {
		if err := run(t, tt.p, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

func TestFindHome(t *testing.T) {
	for _, tt := range []struct {
		passwd, want string
		uid          uintptr
	}{
		{"root:x:0:0:root:/root:/bin/sh\n", "/root", 0},
		{"a:x:1:1::/a:\nb:x:2:2::/b:\n", "/b", 2},
		{"7:x:1:1::/wrong:\nb:x:7:2::/right:", "/right", 7},
		{"a:x:1:1::/a", "/", 1}, // cut off
		{"a:x:1:1::relative:\n", "/", 1},
		{"a:x::1::/empty:\n", "/", 0},
		{"a:x:-1:1::/neg:\na:x:99999999999:1::/big:\n", "/", 1},
		{"a:x:1:1::/" + strings.Repeat("l", homeSlot) + ":\n", "/", 1},
		{"", "/", 0},
	} {
		if got := homeOf(tt.passwd, tt.uid); got != tt.want {
			t.Errorf("%.40q for %d: %q, want %q", tt.passwd, tt.uid, got, tt.want)
		}
	}
}

func homeOf(passwd string, uid uintptr) string {
	slot := make([]byte, homeSlot)
	copy(slot, "HOME=/")
	data := append([]byte(passwd), 0)
	findHome(uintptr(unsafe.Pointer(&slot[0])), uid, uintptr(unsafe.Pointer(&data[0])), uintptr(len(passwd)))
	return unix.ByteSliceToString(slot)[len("HOME="):]
}

func FuzzFindHome(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", uint32(0))
	f.Fuzz(func(t *testing.T, passwd string, uid uint32) {
		if h := homeOf(passwd, uintptr(uid)); !strings.HasPrefix(h, "/") {
			t.Errorf("home %q", h)
		}
	})
}

// Whoever holds the process's end of the socket keeps no Run that has been cancelled.
func TestACancelledRunDoesNotWaitForWhoHasItsSocket(t *testing.T) {
	p := program(plan.Op{Do: plan.OpSync, A: plan.SyncHooks}, plan.Op{Do: plan.OpPause})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var held []int
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Request{Program: p, CgroupFD: -1, Sync: func(_, pid int) error {
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return err
			}
			held = append(held, pidfd)
			for fd := range 64 {
				if copied, err := unix.PidfdGetfd(pidfd, fd, 0); err == nil {
					held = append(held, copied)
				}
			}
			cancel()
			return nil
		}})
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if len(held) < 2 {
			t.Skip("needs root: nothing is held")
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
		for _, fd := range held {
			_ = unix.Close(fd)
		}
		held = nil
		<-ended
	}
}

// Who has got hold of the socket says what it likes: nothing of it is taken that the
// program does not say there, nor twice, and no descriptor stays.
func TestUnexpectedMessages(t *testing.T) {
	p := program(
		plan.Op{Do: plan.OpUmask, A: 0o22, Warn: true},
		plan.Op{Do: plan.OpUmask, A: 0o22},
		plan.Op{Do: plan.OpSync, A: plan.SyncHooks},
		plan.Op{Do: plan.OpListener, Dir: 3},
	)
	img, err := lower(p, fileID{}, false)
	if err != nil {
		t.Fatal(err)
	}
	c := &conversation{Request: Request{Program: p}, img: img, progress: make([]byte, os.Getpagesize())}
	at := func(op int) uint32 {
		for i := img.first; i < len(img.code); i++ {
			if int(img.code[i].op) == op {
				return uint32(i)
			}
		}
		t.Fatalf("operation %d has no instruction", op)
		return 0
	}
	for _, tt := range []struct {
		what  string
		m     message
		taken bool
	}{
		{"a listener in place of a step", message{kind: msgListener, instr: at(2)}, false},
		{"a warning of what does not warn", message{kind: msgWarn, instr: at(1)}, false},
		{"a warning of what is not there", message{kind: msgWarn, instr: 1 << 31}, false},
		{"a descriptor", message{kind: msgFD, instr: at(0)}, false},
		{"a warning", message{kind: msgWarn, instr: at(0)}, true},
		{"the same warning", message{kind: msgWarn, instr: at(0)}, false},
		{"a step", message{kind: msgSync, instr: at(2)}, true},
		{"the same step", message{kind: msgSync, instr: at(2)}, false},
		{"a warning of before", message{kind: msgWarn, instr: at(0)}, false},
		{"a listener", message{kind: msgListener, instr: at(3)}, true},
		{"the same listener", message{kind: msgListener, instr: at(3)}, false},
		{"an error", message{kind: msgError, instr: at(1)}, true},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		tt.m.file = r
		if err := c.expected(tt.m); (err == nil) != tt.taken {
			t.Errorf("%s: %v", tt.what, err)
		}
		if err := r.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: its descriptor is open", tt.what)
		}
		_ = w.Close()
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	first, err1 := unix.Dup(int(r.Fd()))
	second, err2 := unix.Dup(int(r.Fd()))
	third, err3 := unix.Dup(int(r.Fd()))
	if err := errors.Join(err1, err2, err3, r.Close()); err != nil {
		t.Fatal(err)
	}
	f := fileFrom(append(unix.UnixRights(first, second), unix.UnixRights(third)...))
	if f == nil || f.Fd() != uintptr(first) {
		t.Fatalf("not the first descriptor: %v", f)
	}
	_ = f.Close()
	if _, err := w.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("others are open: %v", err)
	}
	_ = w.Close()
}
