package launch

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The two functions that make a fork of a Go process safe: they block signals, and
// keep the scheduler off the thread. Go keeps them linkable for gVisor
// (go.dev/issue/67401). The third, for the child, is not needed: the clone itself puts
// signal handlers back to default, and the program begins with pSignals.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags      uint64
	pidfd      uint64
	childTID   uint64
	parentTID  uint64
	exitSignal uint64
	stack      uint64
	stackSize  uint64
	tls        uint64
	setTID     uint64
	setTIDSize uint64
	cgroup     uint64
}

const parentTID = 24 // offset in cloneArgs

// forkArgs is what fork needs beside the image.
type forkArgs struct {
	clone cloneArgs
	pidfd int32
	// pidNS, unless negative, is the PID namespace that the child is born in,
	// and ownPidNS this process's. Only the children of a thread are concerned
	// by setns(CLONE_NEWPID), and the thread is put back before Go's scheduler
	// can see it, so no thread stays changed.
	pidNS, ownPidNS int

	timerSlack uintptr // of the child, if not that of whichever thread clones it

	memory memory
	child  child
}

// fork clones. In the child it never returns. It returns the pid, or 0 and the
// error, and whether it was the PID namespace that could not be entered.
//
// The stack must not grow between beforeFork and afterFork, nor ever in the
// child, which has no scheduler; all that is called is nosplit.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(f *forkArgs) (pid uintptr, errno syscall.Errno, atSetns bool) {
	beforeFork()
	// Only now: until here the stack, and f if it lives there, may have moved.
	f.clone.pidfd = uint64(uintptr(unsafe.Pointer(&f.pidfd)))
	f.memory.stack(uintptr(unsafe.Pointer(f)), unsafe.Sizeof(*f))
	if f.pidNS >= 0 {
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETNS, uintptr(f.pidNS), unix.CLONE_NEWPID, 0); errno != 0 {
			afterFork()
			return 0, errno, true
		}
	}
	if f.timerSlack != 0 {
		_, _, _ = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, f.timerSlack, 0) // it cannot fail
	}
	f.memory.hide()
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&f.clone)), unsafe.Sizeof(f.clone), 0)
	if errno == 0 && pid == 0 {
		f.child.run()
	}
	f.memory.show()
	if f.pidNS >= 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(f.ownPidNS), unix.CLONE_NEWPID, 0); e != 0 {
			// The thread would give its later children to the container. This
			// cannot fail for a namespace that one is in; make it loud.
			afterFork()
			panic("launch: cannot return to the own PID namespace: " + e.Error()) //nolint:forbidigo // worse than a crash: the next container would land in this one
		}
	}
	afterFork()
	runtime.KeepAlive(f)
	return pid, errno, false
}
