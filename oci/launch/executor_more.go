package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// home puts the home directory of uid into the slot behind "HOME=". The file is
// the container's: it may be missing, huge, a FIFO or nonsense, and then the
// slot stays "HOME=/".
//
//go:nosplit
//go:norace
func home(slot, uid, path uintptr) {
	const size = 256 << 10
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, at_fdcwd, path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0, 0, 0)
	if errno != 0 {
		return
	}
	buf, _, errno := syscall.RawSyscall6(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno == 0 {
		var n uintptr
		for n < size {
			r, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, buf+n, size-n)
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 || r == 0 {
				break
			}
			n += r
		}
		findHome(slot, uid, buf, n)
		syscall.RawSyscall(unix.SYS_MUNMAP, buf, size, 0)
	}
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
}

// findHome looks through lines of name:password:uid:gid:comment:home:shell.
//
//go:nosplit
//go:norace
func findHome(slot, uid, buf, n uintptr) {
	const prefix = 5 // len("HOME=")
	for line := uintptr(0); line < n; {
		var field, start, value, digits uintptr
		match, bad := false, false
		i := line
		start = i
		for ; i < n; i++ {
			ch := *(*byte)(at(buf + i))
			if ch != ':' && ch != '\n' {
				if field == 2 {
					if ch < '0' || ch > '9' || digits >= 10 {
						bad = true
					}
					value = value*10 + uintptr(ch-'0')
					digits++
				}
				continue
			}
			if field == 2 {
				match = !bad && digits > 0 && value == uid
			}
			if field == 5 && match {
				length := i - start
				if length == 0 || length >= homeSlot-prefix || *(*byte)(at(buf + start)) != '/' {
					return
				}
				for k := uintptr(0); k < length; k++ {
					*(*byte)(at(slot + prefix + k)) = *(*byte)(at(buf + start + k))
				}
				*(*byte)(at(slot + prefix + length)) = 0
				return
			}
			if ch == '\n' {
				break
			}
			field++
			start = i + 1
		}
		line = i + 1
	}
}

// runHook runs a program and waits for it, at most a[4] ms. Arguments: path,
// argv, envp, a descriptor for its standard input, the time, clone3's arguments
// followed by room for the pidfd, pollfd and wait status.
//
//go:nosplit
//go:norace
func runHook(a *[6]uintptr) syscall.Errno {
	clone := a[5]
	pidfdAt := clone + 11*8
	poll := clone + 12*8
	info := clone + 13*8
	*(*uint64)(at(clone + 8)) = uint64(pidfdAt)
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, clone, unsafe.Sizeof(cloneArgs{}), 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		syscall.RawSyscall(unix.SYS_LSEEK, a[3], 0, 0)
		syscall.RawSyscall(unix.SYS_DUP3, a[3], 0, 0)
		_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, a[0], a[1], a[2])
		exit(uintptr(errno) & 0x7f)
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
		syscall.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, pidfd, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	}
	for {
		_, _, errno = syscall.RawSyscall6(unix.SYS_WAIT4, pid, info, 0, 0, 0, 0)
		if errno != unix.EINTR {
			break
		}
	}
	syscall.RawSyscall(unix.SYS_CLOSE, pidfd, 0, 0)
	if errno != 0 {
		return errno
	}
	if late {
		return unix.ETIMEDOUT
	}
	if status := load(info, 4); status != 0 {
		if status&0x7f == 0 && status>>8 < 127 && (status>>8 == uintptr(unix.ENOENT) || status>>8 == uintptr(unix.EACCES)) {
			return syscall.Errno(status >> 8)
		}
		return unix.ECANCELED
	}
	return 0
}
