package launch

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/abi"
)

// Sizes of makePath's memory: struct open_how, what of the path has been resolved, what
// is left of it, and the next link's target with what is left behind it. All paths of a
// program have it in common: each use of other pages takes four faults and a flush.
const (
	pathMax   = 4096
	pathSize  = openHowSize + 3*pathMax
	pathSteps = 1024 // components and links that one path may have, also while somebody renames
)

// pathMaker is makePath's state: addresses in its memory.
type pathMaker struct {
	root, how  uintptr
	done, rest uintptr
	spare      uintptr
	end        uintptr // length of what is at done
}

// makePath is pMakePath: out = path args[1] below the directory in register args[0],
// made as kind args[2] (a value or a register) with mode args[3]. It opens the path as
// openat2(2) with resolve args[4] does, O_PATH, with memory at args[5], and makes what is missing of it:
// directories and, in the end, a file of that type and mode. A link that leads to
// nothing is followed like any other: what it leads to is made, inside root. Each
// thing is made in a directory that the kernel has resolved inside root, so whoever
// swaps a component meanwhile changes where inside root things are made, no more.
//
//go:nosplit
//go:norace
func (c *child) makePath(in *instr) syscall.Errno {
	a := &in.args
	root, kind := uintptr(*c.reg(a[0])), a[2]
	if in.isReg&(1<<2) != 0 {
		kind = uintptr(*c.reg(kind))
	}
	base := a[5] + openHowSize
	m := pathMaker{root: root, done: base, rest: a[1], spare: base + pathMax, end: 1, how: a[5]}
	store(base, '.') // and NULs
	store(m.how, abi.OPath|abi.OCloexec)
	store(m.how+16, a[4])
	fd, errno := m.walk(kind, a[3], base+2*pathMax)
	if errno == 0 {
		*c.reg(uintptr(in.out)) = int64(fd)
	}
	return errno
}

// walk takes one component after the other; other is the second of two buffers for
// what is left.
//
//go:nosplit
//go:norace
func (m *pathMaker) walk(kind, mode, other uintptr) (uintptr, syscall.Errno) {
	for range pathSteps {
		for load(m.rest, 1) == '/' {
			m.rest++
		}
		if load(m.rest, 1) == 0 {
			return m.open()
		}
		n := m.component()
		before := m.end
		if before+n+2 > pathMax {
			return 0, unix.ENAMETOOLONG
		}
		store1(m.done+before, '/')
		copyBytes(m.done+before+1, m.rest, n)
		m.end += n + 1
		store1(m.done+m.end, 0)
		fd, errno := m.open()
		if errno == 0 {
			_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
			m.rest += n
			continue
		}
		if errno != unix.ENOENT {
			return 0, errno
		}
		store1(m.done+before, 0) // its name is the string behind this one
		parent, errno := m.open()
		if errno != 0 {
			return 0, errno
		}
		name := m.done + before + 1
		got, _, errno := syscall.RawSyscall6(unix.SYS_READLINKAT, parent, name, m.spare, pathMax, 0, 0)
		switch errno {
		case 0:
			errno = m.follow(got, n)
			m.spare, other = other, m.spare
		case unix.ENOENT:
			errno = m.make(parent, name, kind, mode, n)
		case unix.EINVAL: // by now there is something
			errno = 0
		}
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, parent, 0, 0, 0, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		if load(m.done, 1) == '.' && load(m.done+1, 1) == 0 {
			m.end = 1
		} else {
			m.end = before
		}
	}
	return 0, unix.ELOOP
}

// component is the length of the next one.
//
//go:nosplit
//go:norace
func (m *pathMaker) component() (n uintptr) {
	for c := load(m.rest, 1); c != 0 && c != '/'; c = load(m.rest+n, 1) {
		n++
	}
	return n
}

// open opens what has been resolved.
//
//go:nosplit
//go:norace
func (m *pathMaker) open() (fd uintptr, errno syscall.Errno) {
	for range 128 { // see runUntilDeep
		fd, _, errno = syscall.RawSyscall6(unix.SYS_OPENAT2, m.root, m.done, m.how, openHowSize, 0, 0)
		if errno != unix.EAGAIN && errno != unix.EINTR {
			break
		}
	}
	return fd, errno
}

// follow puts a link's target, got bytes at spare, in the place of the component of
// n bytes that it is.
//
//go:nosplit
//go:norace
func (m *pathMaker) follow(got, n uintptr) syscall.Errno {
	left := m.rest + n
	length := uintptr(0)
	for load(left+length, 1) != 0 {
		length++
	}
	if got+length+1 > pathMax {
		return unix.ENAMETOOLONG
	}
	copyBytes(m.spare+got, left, length+1)
	m.rest = m.spare
	if load(m.rest, 1) == '/' {
		store1(m.done, '.')
		store1(m.done+1, 0)
	}
	return 0
}

// make makes the component: the file if it is the last one.
//
//go:nosplit
//go:norace
func (m *pathMaker) make(parent, name, kind, mode, n uintptr) (errno syscall.Errno) {
	left := m.rest + n
	for load(left, 1) == '/' {
		left++
	}
	switch {
	case load(left, 1) != 0:
		_, _, errno = syscall.RawSyscall6(unix.SYS_MKDIRAT, parent, name, 0o755, 0, 0, 0)
	case kind == unix.S_IFDIR:
		_, _, errno = syscall.RawSyscall6(unix.SYS_MKDIRAT, parent, name, mode, 0, 0, 0)
	default:
		_, _, errno = syscall.RawSyscall6(unix.SYS_MKNODAT, parent, name, unix.S_IFREG|mode&0o666, 0, 0, 0)
	}
	if errno == unix.EEXIST { // by now somebody has
		return 0
	}
	return errno
}

//go:nosplit
//go:norace
func store1(addr uintptr, b byte) { *(*byte)(at(addr)) = b }

//go:nosplit
//go:norace
func copyBytes(to, from, n uintptr) {
	for i := uintptr(0); i < n; i++ {
		store1(to+i, byte(load(from+i, 1)))
	}
}
