package early

import (
	"syscall"
	"unsafe"
)

const (
	atFDCWD     = ^uintptr(99) // AT_FDCWD, -100
	atRemoveDir = 0x200        // AT_REMOVEDIR, linux/fcntl.h

	// The same on all architectures (asm-generic/unistd.h).
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434

	cgroup2Magic = 0x63677270 // CGROUP2_SUPER_MAGIC, linux/magic.h
)

// call is a system call of up to four arguments.
func call(number, a, b, c, d uintptr) (uintptr, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(number, a, b, c, d, 0, 0)
	return r, errno
}

func closeFD(fd uintptr) { _, _ = call(syscall.SYS_CLOSE, fd, 0, 0, 0) }

// Events of poll(2).
const (
	pollIn  = 0x1
	pollPri = 0x2
)

// wait waits, with patience, for an event of a descriptor.
func wait(fd uintptr, event int16) bool {
	poll := struct {
		fd               int32
		events, returned int16
	}{int32(fd), event, 0}
	left := syscall.Timespec{Sec: patience} // less what the kernel has waited for already
	for {
		n, errno := call(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&left)), 0)
		if errno != syscall.EINTR {
			return errno == 0 && n == 1
		}
	}
}

// path is the name of a file, with the NUL that the kernel wants.
type path struct{ name [1024]byte }

// paths are those of one run.
var paths struct{ state, log, stat, cgroup, dir, file, pidFile, temp path }

// set joins the parts. It fails if they are too long.
func (p *path) set(a, b, c, d string) bool {
	if len(a)+len(b)+len(c)+len(d) >= len(p.name) {
		return false
	}
	n := copy(p.name[:], a)
	n += copy(p.name[n:], b)
	n += copy(p.name[n:], c)
	n += copy(p.name[n:], d)
	p.name[n] = 0
	return true
}

func (p *path) at() uintptr { return uintptr(unsafe.Pointer(&p.name)) }

// The contents of files.
var (
	stateText  [32 << 10]byte // state.json
	statText   [1 << 10]byte  // /proc/PID/stat
	cgroupText [1 << 10]byte  // a file of a cgroup
	mountsText [64 << 10]byte // mountinfo
	output     [48 << 10]byte // more than there is in stateText
)

// readFile reads a whole file into buf; EFBIG if it fills that.
func readFile(name *path, buf []byte) (string, syscall.Errno) { return readFileIn(atFDCWD, name, buf) }

// readFileIn is readFile of a directory's file.
func readFileIn(dir uintptr, name *path, buf []byte) (string, syscall.Errno) {
	fd, errno := call(syscall.SYS_OPENAT, dir, name.at(), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return "", errno
	}
	n := 0
	for {
		var got uintptr
		got, errno = call(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[n])), uintptr(len(buf)-n), 0)
		if errno != 0 || got == 0 {
			break
		}
		if n += int(got); n == len(buf) {
			errno = syscall.EFBIG
			break
		}
	}
	closeFD(fd)
	return unsafe.String(&buf[0], n), errno
}

// decimal writes a number's digits to the end of buf and returns them.
func decimal(buf *[20]byte, n uint64) string {
	at := len(buf)
	for {
		at--
		buf[at] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return unsafe.String(&buf[at], len(buf)-at)
		}
	}
}

// index is where b is in text from a place on, or -1.
func index(text string, from int, b byte) int {
	for i := from; i < len(text); i++ {
		if text[i] == b {
			return i
		}
	}
	return -1
}

func contains(text, word string) bool {
	for i := 0; i+len(word) <= len(text); i++ {
		if text[i:i+len(word)] == word {
			return true
		}
	}
	return false
}
