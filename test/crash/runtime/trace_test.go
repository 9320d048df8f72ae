package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// The tests kill a program between two of its system calls, as ptrace(2) shows
// them: so every step of it can be the last, without a line in the program for
// it.

// who is killed.
type who int

const (
	theRuntime who = iota // strake-runtime itself, all its threads
	theChild              // the process that it forks for the container
)

func (w who) String() string { return [...]string{"runtime", "child"}[w] }

// walk is one run of a command under ptrace.
type walk struct {
	who who
	// at is the step at which to kill: before the system call that would be the
	// at-th to change something, from 0. Below 0 nobody is killed.
	at int
}

// trace is what came of it.
type trace struct {
	steps  int    // system calls that change something
	killed bool   // or the command ended before
	call   uint64 // number of the system call that it was killed before
	code   int    // exit code of the command, -1 if it was killed
	stderr string
}

const (
	ptraceGetSyscallInfo = 0x420e
	ptraceOExitkill      = 0x100000

	infoEntry = 1 // ptrace_syscall_info.op
)

// quiet are the system calls that change nothing outside of the process, nor
// anything that a later step could trip over.
var quiet = []uint64{
	syscall.SYS_READ, syscall.SYS_PREAD64, syscall.SYS_CLOSE, syscall.SYS_MMAP, syscall.SYS_MUNMAP, syscall.SYS_MPROTECT,
	syscall.SYS_MADVISE, syscall.SYS_BRK, syscall.SYS_FUTEX, syscall.SYS_RT_SIGACTION, syscall.SYS_RT_SIGPROCMASK,
	syscall.SYS_RT_SIGRETURN, syscall.SYS_SIGALTSTACK, syscall.SYS_GETTID, syscall.SYS_GETPID, syscall.SYS_NANOSLEEP,
	syscall.SYS_CLOCK_GETTIME, syscall.SYS_EPOLL_CTL, syscall.SYS_EPOLL_CREATE1, syscall.SYS_EVENTFD2, syscall.SYS_FCNTL,
	syscall.SYS_FSTAT, syscall.SYS_READLINKAT, syscall.SYS_UNAME, syscall.SYS_SCHED_YIELD, syscall.SYS_SCHED_GETAFFINITY,
	syscall.SYS_TGKILL, syscall.SYS_GETEUID, syscall.SYS_GETCWD, syscall.SYS_FSTATFS, syscall.SYS_STATFS, syscall.SYS_GETDENTS64,
	syscall.SYS_LSEEK, syscall.SYS_CAPGET,
}

// run runs a command and kills whom w says. The command is a child of this
// process; other children may be collected with it.
func (w walk) run(t *testing.T, cmd *exec.Cmd) trace {
	t.Helper()
	runtime.LockOSThread() // ptrace's requests are a thread's
	defer runtime.UnlockOSThread()
	errs, err := os.CreateTemp(t.TempDir(), "stderr-")
	must(t, err)
	defer errs.Close()
	cmd.Stderr = errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	must(t, cmd.Start())
	main := cmd.Process.Pid
	result := trace{code: -1}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(main, &status, syscall.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("trace: status %#x, %v", status, err)
	}
	options := syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACEEXEC | syscall.PTRACE_O_TRACECLONE | ptraceOExitkill
	if w.who == theChild {
		options |= syscall.PTRACE_O_TRACEFORK
	}
	must(t, syscall.PtraceSetOptions(main, options))
	w.resume(main, main, 0)
	for {
		pid, err := syscall.Wait4(-1, &status, syscall.WALL, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		must(t, err)
		if !status.Stopped() {
			if pid == main {
				if status.Exited() {
					result.code = status.ExitStatus()
				}
				break
			}
			continue
		}
		signal := status.StopSignal()
		deliver := 0
		switch {
		case signal == syscall.SIGTRAP|0x80:
			nr, entry := syscallAt(pid)
			if !w.concerns(main, pid) || !entry || slices.Contains(quiet, nr) {
				break
			}
			if result.steps == w.at {
				result.killed, result.call = true, nr
				_ = syscall.Kill(statusOf(pid, "Tgid"), syscall.SIGKILL) // all its threads
			}
			result.steps++
		case signal == syscall.SIGTRAP && status.TrapCause() == syscall.PTRACE_EVENT_EXEC && statusOf(pid, "Tgid") != main:
			// The container's program, or a hook: none of ours any more.
			_ = syscall.PtraceDetach(pid)
			continue
		case signal == syscall.SIGTRAP || signal == syscall.SIGSTOP: // other events, and a new thread's first stop
		default:
			deliver = int(signal)
		}
		w.resume(main, pid, deliver)
	}
	data, err := os.ReadFile(errs.Name())
	must(t, err)
	result.stderr = string(data)
	return result
}

// concerns says whether a traced thread belongs to who is to be killed. The
// child's own children are hooks.
func (w walk) concerns(main, pid int) bool {
	if w.who == theRuntime {
		return statusOf(pid, "Tgid") == main
	}
	return statusOf(pid, "PPid") == main
}

// resume lets a traced thread go on: up to its next system call, if it matters.
// ESRCH is a thread that was killed meanwhile.
func (w walk) resume(main, pid, signal int) {
	if w.concerns(main, pid) {
		_ = syscall.PtraceSyscall(pid, signal)
	} else {
		_ = syscall.PtraceCont(pid, signal)
	}
}

// statusOf is a number of /proc/TID/status, 0 of a thread that has gone.
func statusOf(tid int, field string) (n int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	_, _ = fmt.Sscan(rest, &n)
	return n
}

// syscallAt is the system call that a thread has stopped at, and whether it is
// about to make it.
func syscallAt(tid int) (nr uint64, entry bool) {
	var info struct {
		op       uint8
		_        [3]uint8
		arch     uint32
		ip, sp   uint64
		nr       uint64
		args     [6]uint64
		retdata  uint32
		reserved uint32
	}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info),
		uintptr(unsafe.Pointer(&info)), 0, 0)
	return info.nr, errno == 0 && info.op == infoEntry
}
