package launch

import (
	"syscall"

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
		_, _, _ = syscall.RawSyscall(unix.SYS_MUNMAP, buf, size, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
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
