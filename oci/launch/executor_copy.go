package launch

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/plan"
)

// Sizes of copyTree's memory: a frame for each level of directories, and one
// buffer for links' targets and extended attributes.
const (
	copyDepth = 128
	copyDirs  = 4096                      // of directory entries a frame
	copyFrame = 32 + statxSize + copyDirs // four words, the directory's statx, entries
	copyValue = 64 << 10                  // XATTR_SIZE_MAX
	copyNames = 64 << 10                  // XATTR_LIST_MAX
	copySize  = copyDepth*copyFrame + statxSize + copyValue + copyNames
)

// copyUp copies the tree of a directory into a mount.
func (l *lowering) copyUp(o *plan.Op) {
	from, to := l.scratch, l.scratch+1
	l.openat2(from, reg(o.On), l.mustStr("."), plan.FlagDirectory, 0, 0)
	l.openat2(to, reg(o.Dir), l.mustStr("."), plan.FlagDirectory, 0, 0)
	i := l.emit(pCopy, 0, reg(from), reg(to))
	l.code[i].text = uint32(l.space(msgText)) // for the name of a file that cannot be
	l.emit(unix.SYS_CLOSE, 0, reg(from))
	l.emit(unix.SYS_CLOSE, 0, reg(to))
}

// copier is copyTree's state: addresses in memory of its own.
type copier struct {
	stat, value, names uintptr
}

// copyTree copies what is in directory from into directory to: owners, modes,
// times and extended attributes too. Names are taken from the directory itself
// and no link is followed, so it stays in the tree whoever changes that
// meanwhile. On an error the name of the file is put at text, and its length
// returned.
//
// The frames on the way down: source, target, next entry, end of entries; then
// the source's statx; then the entries.
//
//go:nosplit
//go:norace
func copyTree(from, to, text uintptr) (uintptr, syscall.Errno) {
	base, _, errno := syscall.RawSyscall6(unix.SYS_MMAP, 0, copySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno != 0 {
		return 0, errno
	}
	var c copier
	c.stat = base + copyDepth*copyFrame
	c.value = c.stat + statxSize
	c.names = c.value + copyValue
	var name uintptr
	depth := uintptr(0)
	newFrame(base, from, to, c.stat)
	for {
		f := base + depth*copyFrame
		if load(f+16, 8) == load(f+24, 8) {
			n, _, e := syscall.RawSyscall6(unix.SYS_GETDENTS64, load(f, 8), f+32+statxSize, copyDirs, 0, 0, 0)
			if errno = e; errno != 0 {
				break
			}
			store(f+16, 0)
			store(f+24, n)
			if n != 0 {
				continue
			}
			if depth == 0 {
				break
			}
			// All of it is there: now its times, which that has changed.
			if errno = c.attributes(load(f, 8), load(f+8, 8), f+32); errno == 0 {
				errno = c.times(load(f+8, 8), 0, f+32, 0)
			}
			closeBoth(load(f, 8), load(f+8, 8))
			depth--
			if errno != 0 {
				break
			}
			continue
		}
		entry := f + 32 + statxSize + load(f+16, 8)
		store(f+16, load(f+16, 8)+load(entry+16, 2))
		name = entry + 19
		if isDots(name) {
			continue
		}
		var src, dst uintptr
		src, dst, errno = c.entry(load(f, 8), load(f+8, 8), name)
		if errno == 0 && dst == 0 {
			if errno = c.owner(load(f+8, 8), name); errno == 0 {
				errno = c.times(load(f+8, 8), name, c.stat, abi.AtSymlinkNofollow)
			}
		}
		if errno == 0 && dst != 0 && load(c.stat+statxMode, 2)&abi.SIFMT == abi.SIFREG {
			if errno = c.content(src, dst); errno == 0 {
				errno = c.attributes(src, dst, c.stat)
			}
			if errno == 0 {
				errno = c.times(dst, 0, c.stat, 0)
			}
			closeBoth(src, dst)
			dst = 0
		}
		if errno != 0 {
			break
		}
		if dst == 0 {
			continue
		}
		if depth++; depth == copyDepth {
			closeBoth(src, dst)
			depth--
			errno = unix.ELOOP
			break
		}
		newFrame(f+copyFrame, src, dst, c.stat)
	}
	n := uintptr(0)
	if errno != 0 && name != 0 {
		n = copyText(text, name)
	}
	for ; depth > 0; depth-- {
		closeBoth(load(base+depth*copyFrame, 8), load(base+depth*copyFrame+8, 8))
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, base, copySize, 0, 0, 0, 0)
	return n, errno
}

// newFrame begins a directory: stat is the source's statx.
//
//go:nosplit
//go:norace
//go:noinline
func newFrame(f, from, to, stat uintptr) {
	store(f, from)
	store(f+8, to)
	store(f+16, 0)
	store(f+24, 0)
	for i := uintptr(0); i < statxSize; i += 8 {
		store(f+32+i, load(stat+i, 8))
	}
}

// copyText copies a name, as much of it as a message holds.
//
//go:nosplit
//go:norace
//go:noinline
func copyText(text, name uintptr) (n uintptr) {
	for ; n < msgText && load(name+n, 1) != 0; n++ {
		*(*byte)(at(text + n)) = byte(load(name+n, 1))
	}
	return n
}

// entry makes one entry: a file is empty, a directory too, and src and dst are
// open then. What is neither only wants its owner and times.
//
//go:nosplit
//go:norace
func (c *copier) entry(from, to, name uintptr) (src, dst uintptr, errno syscall.Errno) {
	_, _, errno = syscall.RawSyscall6(unix.SYS_STATX, from, name, abi.AtSymlinkNofollow, unix.STATX_BASIC_STATS, c.stat, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	mode := load(c.stat+statxMode, 2)
	switch mode & abi.SIFMT {
	case abi.SIFDIR:
		if _, _, errno = syscall.RawSyscall6(unix.SYS_MKDIRAT, to, name, 0o700, 0, 0, 0); errno != 0 {
			return 0, 0, errno
		}
		return openBoth(from, to, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.O_RDONLY|unix.O_DIRECTORY)
	case abi.SIFREG:
		return openBoth(from, to, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	case unix.S_IFLNK:
		n, _, errno := syscall.RawSyscall6(unix.SYS_READLINKAT, from, name, c.value, copyValue-1, 0, 0)
		if errno != 0 {
			return 0, 0, errno
		}
		*(*byte)(at(c.value + n)) = 0
		_, _, errno = syscall.RawSyscall6(unix.SYS_SYMLINKAT, c.value, to, name, 0, 0, 0)
		return 0, 0, errno
	}
	dev := abi.Mkdev(uint32(load(c.stat+statxRdev, 4)), uint32(load(c.stat+statxRdev+4, 4)))
	_, _, errno = syscall.RawSyscall6(unix.SYS_MKNODAT, to, name, mode, uintptr(dev), 0, 0)
	return 0, 0, errno
}

// content copies a file's bytes and attributes. What was a file when it was
// looked at may be a FIFO by now, which has none.
//
//go:nosplit
//go:norace
func (c *copier) content(src, dst uintptr) syscall.Errno {
	*(*byte)(at(c.value)) = 0 // an empty path
	_, _, errno := syscall.RawSyscall6(unix.SYS_STATX, src, c.value, abi.AtEmptyPath, unix.STATX_BASIC_STATS, c.stat, 0)
	if errno == 0 && load(c.stat+statxMode, 2)&abi.SIFMT != abi.SIFREG {
		errno = unix.ESTALE
	}
	for errno == 0 {
		var n uintptr
		n, _, errno = syscall.RawSyscall6(unix.SYS_SENDFILE, dst, src, 0, 1<<30, 0, 0)
		if errno == 0 && n == 0 {
			break
		}
		if errno == unix.EINTR {
			errno = 0
		}
	}
	return errno
}

// attributes gives an open file what another has, but for its times.
//
//go:nosplit
//go:norace
func (c *copier) attributes(src, dst, stat uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_FCHOWN, dst, load(stat+statxUID, 4), load(stat+statxUID+4, 4), 0, 0, 0)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_FCHMOD, dst, load(stat+statxMode, 2)&0o7777, 0, 0, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	list, _, errno := syscall.RawSyscall6(unix.SYS_FLISTXATTR, src, c.names, copyNames, 0, 0, 0)
	if errno != 0 {
		list = 0 // a file system without
	}
	for at := uintptr(0); at < list; {
		name := c.names + at
		for load(c.names+at, 1) != 0 {
			at++
		}
		at++
		n, _, errno := syscall.RawSyscall6(unix.SYS_FGETXATTR, src, name, c.value, copyValue, 0, 0)
		if errno != 0 {
			continue // it may list what it does not show
		}
		_, _, errno = syscall.RawSyscall6(unix.SYS_FSETXATTR, dst, name, c.value, n, 0, 0)
		if errno != 0 && errno != unix.EOPNOTSUPP && errno != unix.EPERM {
			return errno // those are kinds that a tmpfs or this user cannot have
		}
	}
	return 0
}

// owner gives a link or a special file its owner, and its mode if it has one.
//
//go:nosplit
//go:norace
func (c *copier) owner(dir, name uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_FCHOWNAT, dir, name, load(c.stat+statxUID, 4), load(c.stat+statxUID+4, 4), abi.AtSymlinkNofollow, 0)
	mode := load(c.stat+statxMode, 2)
	if errno == 0 && mode&abi.SIFMT != unix.S_IFLNK {
		_, _, errno = syscall.RawSyscall6(unix.SYS_FCHMODAT, dir, name, mode&0o7777, 0, 0, 0)
	}
	return errno
}

// times sets those of access and change, of name in dir or of dir itself.
//
//go:nosplit
//go:norace
func (c *copier) times(dir, name, stat, flags uintptr) syscall.Errno {
	ts := c.value // two struct timespec
	store(ts, load(stat+statxAtime, 8))
	store(ts+8, load(stat+statxAtime+8, 4))
	store(ts+16, load(stat+statxMtime, 8))
	store(ts+24, load(stat+statxMtime+8, 4))
	_, _, errno := syscall.RawSyscall6(unix.SYS_UTIMENSAT, dir, name, ts, flags, 0, 0)
	return errno
}

//go:nosplit
//go:norace
func openBoth(from, to, name, readFlags, writeFlags uintptr) (src, dst uintptr, errno syscall.Errno) {
	const both = unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, _, errno = syscall.RawSyscall6(unix.SYS_OPENAT, from, name, readFlags|both, 0, 0, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	dst, _, errno = syscall.RawSyscall6(unix.SYS_OPENAT, to, name, writeFlags|both, 0o600, 0, 0)
	if errno != 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, src, 0, 0, 0, 0, 0)
		return 0, 0, errno
	}
	return src, dst, 0
}

//go:nosplit
//go:norace
func closeBoth(a, b uintptr) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, a, 0, 0, 0, 0, 0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, b, 0, 0, 0, 0, 0)
}

// isDots says whether a name is "." or "..".
//
//go:nosplit
//go:norace
func isDots(name uintptr) bool {
	if load(name, 1) != '.' {
		return false
	}
	next := load(name+1, 1)
	return next == 0 || next == '.' && load(name+2, 1) == 0
}

//go:nosplit
//go:norace
func store(addr, value uintptr) { *(*uintptr)(at(addr)) = value }

// Offsets in struct statx.
const (
	statxUID   = 20 // and the gid behind it
	statxAtime = 64 // seconds 64 bits, nanoseconds 32
	statxMtime = 112
)
