package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// child is what the executor works on: addresses only, since the child must not
// store Go pointers.
type child struct {
	code, ncode uintptr
	regs        uintptr // of int64
	mem         uintptr
	report      uintptr // message buffer
	sync        uintptr // descriptor that messages go to
	progress    uintptr // shared with the parent: the instruction being run
}

// at makes an address a pointer. The memory is the image's, which the parent
// keeps; vet's misgivings about uintptrs do not apply.
//
//go:nosplit
func at(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }

//go:nosplit
func (c *child) reg(n uintptr) *int64 { return (*int64)(at(c.regs + 8*n)) }

// run runs the instructions and never returns: the last one is an execve or an
// exit, and an error is reported and ends the process.
//
// The two instructions that go deep are called from here, not from runUntilDeep:
// the frames of nosplit functions that call each other may have 792 bytes in all,
// and those on arm64 are large. (So RawSyscall6 is called for any number of
// arguments: RawSyscall is one frame more.)
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) run() {
	for pc := uintptr(0); ; pc++ {
		pc = c.runUntilDeep(pc)
		in := (*instr)(at(c.code + pc*unsafe.Sizeof(instr{})))
		if in.code == pMakePath {
			if errno := c.makePath(in); errno != 0 {
				c.fail(in, pc, errno, 0)
			}
			continue
		}
		n, errno := copyTree(uintptr(*c.reg(in.args[0])), uintptr(*c.reg(in.args[1])), c.mem+uintptr(in.text))
		if errno != 0 {
			in.textLen = uint32(n)
			c.fail(in, pc, errno, 0)
		}
	}
}

// runUntilDeep runs the instructions from pc on and returns the index of the
// first pCopy or pMakePath that it meets.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (c *child) runUntilDeep(pc uintptr) uintptr {
	var (
		a     [6]uintptr
		in    *instr
		r     uintptr
		errno syscall.Errno
		tries int
	)
	for pc < c.ncode {
		in = (*instr)(at(c.code + pc*unsafe.Sizeof(instr{})))
		*(*uint32)(at(c.progress)) = uint32(pc)
		for i := 0; i < 6; i++ {
			a[i] = in.args[i]
			if in.isReg&(1<<i) != 0 {
				a[i] = uintptr(*c.reg(a[i]))
			}
		}
		tries = 0
	again:
		errno = 0
		switch in.code {
		case pNothing:
		case pJump:
			pc = a[0]
			continue
		case pIfOpen, pIfEmpty:
			if (int64(a[0]) >= 0) == (in.code == pIfOpen) {
				pc = a[1]
			} else {
				pc++
			}
			continue
		case pEmpty:
			r = ^uintptr(0)
		case pMove:
			r = a[0]
		case pLoad:
			r = load(a[0], a[1]) & a[2]
		case pCopy, pMakePath:
			return pc
		case pOctal:
			octal(a[0], a[1])
		case pStore:
			*(*uint32)(at(a[1])) = uint32(a[0])
		case pStore64:
			*(*uint64)(at(a[1])) = uint64(a[0])
		case pCheck:
			same := load(a[0], a[1])&a[2] == a[3]
			if a[4] == checkJumpElse {
				pc++
				if !same {
					pc = a[5]
				}
				continue
			}
			if same != (a[4] == checkEqual) {
				errno = syscall.Errno(a[5])
			}
		case pLookup:
			r, errno = lookup(a[0], a[1], a[2])
		case pHome:
			home(a[0], a[1], a[2])
		case pReport:
			c.sync = a[0]
		case pReady:
			errno = c.ask(msgReady, pc, 0)
		case pSync:
			errno = c.ask(msgSync, pc, a[0])
		case pListen:
			errno = c.listener(pc, a[0])
		case pFork:
			errno = c.forkSibling(a[0], a[1], a[2])
		case pHook:
			errno = runHook(&a)
		case pSignals:
			resetSignals(a[0])
		case pAt:
			c.tell(msgAt, pc, 0, c.text(in))
		case pPause:
			for {
				_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
		default:
			r, _, errno = syscall.RawSyscall6(uintptr(in.code), a[0], a[1], a[2], a[3], a[4], a[5])
		}
		if errno == 0 {
			if in.out != 0 {
				*c.reg(uintptr(in.out)) = int64(r)
			}
			pc++
			continue
		}
		// openat2 says EAGAIN when a rename elsewhere makes ".." unsafe to
		// judge; a bounded number of tries keeps a hostile renamer from
		// holding us.
		if tries++; errno == unix.EINTR || (errno == unix.EAGAIN && in.code == unix.SYS_OPENAT2 && tries < 128) {
			goto again
		}
		if !in.allows(errno) {
			c.fail(in, pc, errno, a[0])
		}
		if in.flags&flagWarn != 0 {
			c.tell(msgWarn, pc, uintptr(errno), 0)
		}
		if in.out != 0 {
			*c.reg(uintptr(in.out)) = -1
		}
		if in.jump != 0 {
			pc = uintptr(in.jump)
		} else {
			pc++
		}
	}
	exit(0)
	return 0
}

// exit ends the process. The config's seccomp filter may refuse even that: what it has no say
// in is an access to where nothing is, whose SIGSEGV, forced by the kernel, an init heeds too.
//
//go:nosplit
func exit(code uintptr) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
	for {
		*(*byte)(at(0)) = 0
	}
}

//go:nosplit
//go:norace
func (in *instr) allows(errno syscall.Errno) bool {
	for i := 0; i < len(in.allow); i++ {
		if in.allow[i] != 0 && uintptr(in.allow[i]) == uintptr(errno) {
			return true
		}
	}
	return false
}

//go:nosplit
//go:norace
func load(addr, size uintptr) uintptr {
	switch size {
	case 1:
		return uintptr(*(*uint8)(at(addr)))
	case 2:
		return uintptr(*(*uint16)(at(addr)))
	case 4:
		return uintptr(*(*uint32)(at(addr)))
	}
	return uintptr(*(*uint64)(at(addr)))
}

// octal writes a mode's permissions as four octal digits.
//
//go:nosplit
//go:norace
func octal(mode, to uintptr) {
	v := load(mode, 2)
	for i := range uintptr(4) {
		*(*byte)(at(to + i)) = byte('0' + v>>(9-3*i)&7)
	}
}

// tell sends a message with text bytes behind the header.
//
//go:nosplit
//go:norace
func (c *child) tell(kind, pc, value, text uintptr) {
	m := (*[4]uint32)(at(c.report))
	m[0], m[1], m[2], m[3] = uint32(kind), uint32(pc), uint32(value), 0
	_, _, _ = syscall.RawSyscall6(unix.SYS_SENDTO, c.sync, c.report, msgHeader+text, unix.MSG_NOSIGNAL, 0, 0)
}

// fail reports an error and ends the process. The text is the file system's own
// words, where it has some, or the instruction's name for a reader without the
// Program.
//
//go:nosplit
//go:norace
func (c *child) fail(in *instr, pc uintptr, errno syscall.Errno, fd uintptr) {
	var n uintptr
	if in.flags&flagFsLog != 0 {
		r, _, e := syscall.RawSyscall(unix.SYS_READ, fd, c.report+msgHeader, msgText)
		if e == 0 {
			n = r
		}
	} else {
		n = c.text(in)
	}
	c.tell(msgError, pc, uintptr(errno), n)
	exit(127)
}

// resetSignals ignores and blocks no signal any more: what our caller does
// (nohup, a Python program's SIGPIPE, a blocked SIGTERM) is not the container's
// business. zero is an empty struct sigaction, which has an empty set in it.
//
//go:nosplit
//go:norace
func resetSignals(zero uintptr) {
	const last, setSize = 64, 8
	for sig := uintptr(1); sig <= last; sig++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, zero, 0, setSize, 0, 0) // not KILL and STOP
	}
	const setMask = 2
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, zero, 0, setSize, 0, 0)
}

// text puts an instruction's text into the message and returns its length.
//
//go:nosplit
//go:norace
func (c *child) text(in *instr) (n uintptr) {
	for ; n < uintptr(in.textLen); n++ {
		*(*byte)(at(c.report + msgHeader + n)) = *(*byte)(at(c.mem + uintptr(in.text) + n))
	}
	return n
}

// ask tells the parent that a step is reached and waits for one byte.
//
//go:nosplit
//go:norace
func (c *child) ask(kind, pc, step uintptr) syscall.Errno {
	c.tell(kind, pc, step, 0)
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, c.sync, c.report, 1, 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 && n == 0 {
			exit(126) // the parent has gone or given up; nobody to tell
		}
		return errno
	}
}

// listener tells the parent which descriptor is the listener of the seccomp
// filter that this process is under by now, and waits until it has been handed
// to whoever answers it. The word to the parent is the one call that must not be
// up to the listener, so it is the one that cannot be (see oci/seccomp): write.
//
//go:nosplit
//go:norace
func (c *child) listener(pc, fd uintptr) syscall.Errno {
	m := (*[4]uint32)(at(c.report))
	m[0], m[1], m[2], m[3] = msgListener, uint32(pc), uint32(fd), 0
	if _, _, errno := syscall.RawSyscall(unix.SYS_WRITE, c.sync, c.report, msgHeader); errno != 0 {
		return errno
	}
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, c.sync, c.report, 1)
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 && n == 0 {
			exit(126)
		}
		return errno
	}
}

// forkSibling clones a sibling, a child of our parent, that goes on with the
// program; this process hands over its pidfd and ends. (Its pid would not do:
// here it may be that of another PID namespace than the parent's.)
//
//go:nosplit
//go:norace
func (c *child) forkSibling(args, size, msg uintptr) syscall.Errno {
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, args, size, 0)
	if errno != 0 || pid == 0 {
		return errno
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_SENDMSG, c.sync, msg, unix.MSG_NOSIGNAL)
	exit(0)
	return 0
}

// lookup returns the address of the first of a NULL-terminated list of paths
// that the process may execute. The file must not be our own program (id):
// executed in the container, it would hand a descriptor of the host's binary to
// whoever is there.
//
//go:nosplit
//go:norace
func lookup(list, statx, id uintptr) (uintptr, syscall.Errno) {
	const eaccess = 0x200
	result := unix.ENOENT
	for ; ; list += 8 {
		path := load(list, 8)
		if path == 0 {
			return 0, result
		}
		_, _, errno := syscall.RawSyscall6(unix.SYS_STATX, at_fdcwd, path, 0, unix.STATX_BASIC_STATS, statx, 0)
		if errno == unix.ENOENT || errno == unix.ENOTDIR {
			continue
		}
		if errno != 0 {
			result = errno
			continue
		}
		mode := load(statx+statxMode, 2) & unix.S_IFMT
		if mode == unix.S_IFDIR {
			if result == unix.ENOENT {
				result = unix.EISDIR
			}
			continue
		}
		if load(statx+statxDev, 8) == load(id, 8) && load(statx+statxIno, 8) == load(id+8, 8) {
			result = unix.EPERM
			continue
		}
		_, _, errno = syscall.RawSyscall6(unix.SYS_FACCESSAT2, at_fdcwd, path, unix.X_OK, eaccess, 0, 0)
		if errno == 0 && mode == unix.S_IFREG {
			return path, 0
		}
		result = unix.EACCES
	}
}

const (
	at_fdcwd = ^uintptr(99) // AT_FDCWD, -100
	statxIno = 32
	statxDev = 136 // major and minor, 32 bits each
)
