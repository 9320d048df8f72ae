package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runHook runs a program and waits for it, at most a[4] ms. Arguments: path,
// argv, envp, a descriptor for its standard input, the time, clone3's arguments
// followed by room for the pidfd, pollfd and wait status, and the descriptor for its
// standard output and error, or 0 for those of this process. The error is one of the
// kernel's, or hookStatus and the wait status of a hook that failed.
//
//go:nosplit
//go:norace
func runHook(a *[6]uintptr) syscall.Errno {
	clone := a[5]
	pidfdAt := clone + 11*8
	poll := clone + 12*8
	info := clone + 13*8
	*(*uint64)(at(clone + 8)) = uint64(pidfdAt)
	// Where the hook's process says why it could not become the hook: any exit
	// code may be one of the hook's own.
	why, _, errno := syscall.RawSyscall6(unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno != 0 {
		return errno
	}
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, clone, unsafe.Sizeof(cloneArgs{}), 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_LSEEK, a[3], 0, 0, 0, 0, 0)
		_, _, _ = syscall.RawSyscall6(unix.SYS_DUP3, a[3], 0, 0, 0, 0, 0)
		if out := load(clone+hookOutput, 4); out != 0 {
			_, _, _ = syscall.RawSyscall6(unix.SYS_DUP3, out, 1, 0, 0, 0, 0)
			_, _, _ = syscall.RawSyscall6(unix.SYS_DUP3, out, 2, 0, 0, 0, 0)
		}
		_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVE, a[0], a[1], a[2], 0, 0, 0)
		*(*uint32)(at(why)) = uint32(errno)
		exit(127)
	}
	pidfd := load(pidfdAt, 4)
	*(*int32)(at(poll)) = int32(pidfd)
	*(*uint32)(at(poll + 4)) = unix.POLLIN
	var ts [2]int64
	var limit uintptr
	if int64(a[4]) >= 0 {
		ts[0], ts[1] = int64(a[4])/1000, int64(a[4])%1000*1000000
		limit = uintptr(unsafe.Pointer(&ts))
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, poll, 1, limit, 0, 0, 0)
	late := errno == 0 && n == 0
	if late {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, pidfd, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	}
	for {
		_, _, errno = syscall.RawSyscall6(unix.SYS_WAIT4, pid, info, 0, 0, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, pidfd, 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if late {
		return unix.ETIMEDOUT
	}
	failed := syscall.Errno(load(why, 4))
	_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, why, 4096, 0, 0, 0, 0)
	if failed != 0 {
		return failed
	}
	if status := load(info, 4); status != 0 {
		return hookStatus | syscall.Errno(status&0xffff)
	}
	return 0
}

// hookOutput is where, from the beginning of clone3's arguments, the descriptor is that a
// hook has as its output.
const hookOutput = 14 * 8

// hookStatus marks a wait status among the kernel's errors.
const hookStatus = 1 << 16
