package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is in this file runs without Go's runtime, as oci/early, which calls it, does:
// nothing is allocated, system calls are raw. Whatever is not as it always is ends the
// attempt: then the process, which has not executed anything yet, is gone when it is
// reported, and the caller begins again with Go's runtime, which has words for it.

// keptInputs is how many descriptors a kept program starts with at most.
const keptInputs = 40

// learn looks at who runs here; noFile is for a process whose limits Go has not touched.
func (c *caller) learn() bool {
	var self, ns [statxSize]byte
	for i := range 2 {
		name, to := &selfExe[0], &self
		if i == 1 {
			name, to = &selfUserNS[0], &ns
		}
		_, _, errno := syscall.RawSyscall6(unix.SYS_STATX, at_fdcwd, uintptr(unsafe.Pointer(name)), 0, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(to)), 0)
		if errno != 0 {
			return false
		}
	}
	const sizeAt, changedAt = 40, 96 // in struct statx
	of := uintptr(unsafe.Pointer(&self))
	c.device, c.inode, c.size = uint64(load(of+statxDev, 8)), uint64(load(of+statxIno, 8)), uint64(load(of+sizeAt, 8))
	c.changed, c.changedNano = uint64(load(of+changedAt, 8)), uint64(load(of+changedAt+8, 4))
	c.userNS = uint64(load(uintptr(unsafe.Pointer(&ns))+statxIno, 8))

	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if _, _, errno := syscall.RawSyscall6(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps)), 0, 0, 0, 0); errno != 0 {
		return false
	}
	c.capabilities = uint64(caps[1].Permitted)<<32 | uint64(caps[0].Permitted)

	var files unix.Rlimit
	if _, _, errno := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&files)), 0, 0); errno != 0 {
		return false
	}
	if c.noFileSoft, c.noFile = files.Cur, files.Max; files.Cur == files.Max {
		c.noFileSoft, c.noFile = 0, 0
	}
	return true
}

var (
	selfExe    = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'e', 'x', 'e', 0}
	selfUserNS = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'n', 's', '/', 'u', 's', 'e', 'r', 0}
	procDir    = [...]byte{'/', 'p', 'r', 'o', 'c', 0}
	stubName   = [...]byte{'s', 't', 'r', 'a', 'k', 'e', '-', 's', 't', 'u', 'b', 0}
)

// OpenKept maps the program of a file, whose name ends with a NUL, if it is one for this
// request and this caller; otherwise it is nil. The caller closes it.
//
// The file is the runtime's own, in a directory that is root's alone: what it says of
// its own parts is believed.
func OpenKept(name uintptr, request string) *Kept {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, at_fdcwd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0, 0, 0)
	if errno != 0 {
		return nil
	}
	size, _, errno := syscall.RawSyscall6(unix.SYS_LSEEK, fd, 0, unix.SEEK_END, 0, 0, 0)
	if errno == 0 && size >= unsafe.Sizeof(Kept{}) && size <= maxKept {
		const flags = unix.MAP_PRIVATE | unix.MAP_FIXED_NOREPLACE
		var got uintptr
		got, _, errno = syscall.RawSyscall6(unix.SYS_MMAP, keptBase, size, unix.PROT_READ|unix.PROT_WRITE, flags, fd, 0)
		if errno == 0 && got != keptBase { // before Linux 4.17 it is taken for a wish
			_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, got, size, 0, 0, 0, 0)
			errno = unix.EEXIST
		}
	} else {
		errno = unix.EINVAL
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	if errno != 0 {
		return nil
	}
	k := (*Kept)(at(keptBase))
	var c caller
	if k.magic == keptMagic && k.size == uint64(size) && k.request <= k.size && k.requestLen <= k.size-k.request &&
		unsafe.String((*byte)(at(keptBase+uintptr(k.request))), k.requestLen) == request && c.learn() && c == k.caller {
		return k
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, keptBase, size, 0, 0, 0, 0)
	return nil
}

// Sealed says whether this process may run the program, or has to be sealed first
// (SealEarly).
func (k *Kept) Sealed() bool {
	if k.stub != 0 {
		return true
	}
	var fs unix.Statfs_t
	_, _, errno := syscall.RawSyscall6(unix.SYS_STATFS, uintptr(unsafe.Pointer(&selfExe)), uintptr(unsafe.Pointer(&fs)), 0, 0, 0, 0)
	return errno == 0 && fs.Flags&unix.ST_RDONLY != 0
}

// SealEarly is Seal: it executes this program again with the arguments argv and the
// environment envp, which has SealedEnv. It returns if that is not possible.
func SealEarly(argv, envp uintptr) {
	self := uintptr(unsafe.Pointer(&selfExe))
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPEN_TREE, at_fdcwd, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return
	}
	var empty byte
	name := uintptr(unsafe.Pointer(&empty))
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	at := uintptr(unsafe.Pointer(&attr))
	if _, _, errno = syscall.RawSyscall6(unix.SYS_MOUNT_SETATTR, fd, name, unix.AT_EMPTY_PATH, at, unsafe.Sizeof(attr), 0); errno == 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXECVEAT, fd, name, argv, envp, unix.AT_EMPTY_PATH, 0)
	}
	closeFD(fd)
}

// Close unmaps the program.
func (k *Kept) Close() {
	_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, keptBase, uintptr(k.size), 0, 0, 0, 0)
}

// keptRun is a run of a kept program, from the parent's side.
type keptRun struct {
	*Kept
	open        [keptInputs + 2]int // descriptors that are closed when the process has its own
	nopen       int
	keep        [keptInputs + 2]int // that the child keeps, ascending
	nkeep       int
	sock        uintptr // our end of sync; noFD if there is none
	progress    uintptr // a page that is the child's too; 0 if there is none
	pidfd       uintptr // of the process; noFD if there is none
	followed    bool    // that is the sibling's
	clone       cloneArgs
	clonedPidfd int32
	child       child
}

const noFD = ^uintptr(0)

// Run starts the program in the container of init, which is open as a pidfd; root names
// its root directory, as a path that ends with a NUL. It returns a pidfd of the process,
// whose parent is this process, once it has executed its program; otherwise nothing
// is left of it.
func (k *Kept) Run(init, root uintptr) (pidfd uintptr, ok bool) {
	r := keptRun{Kept: k, sock: noFD, pidfd: noFD}
	ok = r.prepare(init, root) && r.fork() && r.talk()
	if !ok {
		r.kill()
	}
	r.closeOpen()
	closeFD(r.sock)
	if r.progress != 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, r.progress, progressSize, 0, 0, 0, 0)
	}
	return r.pidfd, ok
}

// progressSize is rounded up to a page by the kernel.
const progressSize = 16

func closeFD(fd uintptr) {
	if fd != noFD {
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	}
}

func (r *keptRun) closeOpen() {
	for _, fd := range r.open[:r.nopen] {
		closeFD(uintptr(fd))
	}
	r.nopen = 0
}

// prepare opens what the program starts with.
func (r *keptRun) prepare(init, root uintptr) bool {
	var errno syscall.Errno
	const shared = unix.MAP_SHARED | unix.MAP_ANONYMOUS
	r.progress, _, errno = syscall.RawSyscall6(unix.SYS_MMAP, 0, progressSize, unix.PROT_READ|unix.PROT_WRITE, shared, noFD, 0)
	if errno != 0 {
		r.progress = 0
		return false
	}
	var pair [2]int32
	_, _, errno = syscall.RawSyscall6(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0, uintptr(unsafe.Pointer(&pair)), 0, 0)
	if errno != 0 {
		return false
	}
	r.sock = uintptr(pair[0])
	sync, ok := r.late(uintptr(pair[1]))
	if !ok {
		return false
	}
	if r.stub != 0 {
		stub, ok := r.newStub()
		if !ok {
			return false
		}
		r.setReg(r.stubReg, stub)
	}
	inputs := unsafe.Slice((*keptInput)(at(keptBase+uintptr(r.inputs))), r.ninputs)
	for i := range inputs {
		in := &inputs[i]
		var fd uintptr
		switch in.kind {
		case keptSync:
			fd = sync
		case keptPidfd:
			fd = init
		case keptStdio, keptStdio + 1, keptStdio + 2:
			fd = uintptr(in.kind - keptStdio)
		case keptProc:
			fd, ok = r.openProc()
		case keptRoot:
			fd, ok = r.openFile(root, unix.O_PATH)
		default:
			fd, ok = r.openFile(keptBase+uintptr(in.path), unix.O_WRONLY)
		}
		if !ok {
			return false
		}
		r.setReg(in.reg, fd)
	}
	m := image{code: unsafe.Slice((*instr)(at(keptBase+uintptr(r.code))), r.ncode), closing: int(r.closing)}
	m.keepOnly(r.keep[:r.nkeep])
	return true
}

// own notes a descriptor of ours.
func (r *keptRun) own(fd uintptr, errno syscall.Errno) (uintptr, bool) {
	if errno != 0 {
		return noFD, false
	}
	if r.nopen == len(r.open) {
		closeFD(fd)
		return noFD, false
	}
	r.open[r.nopen] = int(fd)
	r.nopen++
	return fd, true
}

func (r *keptRun) openFile(name, flags uintptr) (uintptr, bool) {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, at_fdcwd, name, flags|unix.O_CLOEXEC, 0, 0, 0)
	return r.own(fd, errno)
}

// openProc is sys.OpenProc.
func (r *keptRun) openProc() (uintptr, bool) {
	fd, ok := r.openFile(uintptr(unsafe.Pointer(&procDir)), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if !ok {
		return noFD, false
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	_, _, errno := syscall.RawSyscall6(unix.SYS_FSTATFS, fd, uintptr(unsafe.Pointer(&fs)), 0, 0, 0, 0)
	_, _, errno2 := syscall.RawSyscall6(unix.SYS_FSTAT, fd, uintptr(unsafe.Pointer(&st)), 0, 0, 0, 0)
	const rootInode = 1
	return fd, errno == 0 && errno2 == 0 && fs.Type == unix.PROC_SUPER_MAGIC && st.Ino == rootInode
}

// late owns a descriptor that is used after the standard ones are in place: it is moved
// out of their way.
func (r *keptRun) late(fd uintptr) (uintptr, bool) {
	if uint64(fd) > r.after {
		return r.own(fd, 0)
	}
	moved, _, errno := syscall.RawSyscall6(unix.SYS_FCNTL, fd, unix.F_DUPFD_CLOEXEC, uintptr(r.after+1), 0, 0, 0)
	closeFD(fd)
	return r.own(moved, errno)
}

// newStub is newStub of stub.go.
func (r *keptRun) newStub() (uintptr, bool) {
	const flags, sealAll = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING, unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	name := uintptr(unsafe.Pointer(&stubName))
	fd, _, errno := syscall.RawSyscall6(unix.SYS_MEMFD_CREATE, name, flags|unix.MFD_EXEC, 0, 0, 0, 0)
	if errno == unix.EINVAL {
		fd, _, errno = syscall.RawSyscall6(unix.SYS_MEMFD_CREATE, name, flags, 0, 0, 0, 0)
	}
	if errno != 0 {
		return noFD, false
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_WRITE, fd, keptBase+uintptr(r.stub), uintptr(r.stubLen), 0, 0, 0)
	if errno == 0 && uint64(n) == r.stubLen {
		_, _, errno = syscall.RawSyscall6(unix.SYS_FCNTL, fd, unix.F_ADD_SEALS, sealAll, 0, 0, 0)
	} else {
		errno = unix.EIO
	}
	if errno != 0 {
		closeFD(fd)
		return noFD, false
	}
	return r.late(fd)
}

// setReg gives a register its descriptor, which the child keeps.
func (r *keptRun) setReg(reg uint64, fd uintptr) {
	*(*int64)(at(keptBase + uintptr(r.regs+8*reg))) = int64(fd)
	i := r.nkeep
	for ; i > 0 && r.keep[i-1] >= int(fd); i-- {
		if r.keep[i-1] == int(fd) {
			return
		}
	}
	copy(r.keep[i+1:r.nkeep+1], r.keep[i:r.nkeep])
	r.keep[i] = int(fd)
	r.nkeep++
}

func (r *keptRun) fork() bool {
	r.clone = cloneArgs{flags: unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND, pidfd: uint64(uintptr(unsafe.Pointer(&r.clonedPidfd))), exitSignal: uint64(unix.SIGCHLD)}
	if r.cgroup != 0 {
		fd, ok := r.openFile(keptBase+uintptr(r.cgroup), unix.O_RDONLY|unix.O_DIRECTORY)
		if !ok {
			return false
		}
		r.clone.flags |= unix.CLONE_INTO_CGROUP
		r.clone.cgroup = uint64(fd)
	}
	mem := keptBase + uintptr(r.mem)
	r.child = child{
		code: keptBase + uintptr(r.code), ncode: uintptr(r.ncode), regs: keptBase + uintptr(r.regs), mem: mem,
		report: mem + uintptr(r.report), sync: uintptr(*(*int64)(at(keptBase + uintptr(r.regs+8*r.syncReg)))), progress: r.progress,
	}
	if r.siblingPid != 0 {
		*(*uint64)(at(keptBase + uintptr(r.siblingPid))) = uint64(r.progress) + siblingAt
	}
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&r.clone)), unsafe.Sizeof(r.clone), 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		r.child.run()
	}
	if errno != 0 {
		return false
	}
	r.pidfd = uintptr(r.clonedPidfd)
	r.closeOpen() // so that the child's end is the last one
	return true
}

// talk hears of the sibling, if there is to be one, and of the execve.
func (r *keptRun) talk() bool {
	for moves := r.forkAt != 0; ; {
		var data [msgHeader + msgText]byte
		var control [64]byte
		iov := unix.Iovec{Base: &data[0], Len: uint64(len(data))}
		msg := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0], Controllen: uint64(len(control))}
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMSG, r.sock, uintptr(unsafe.Pointer(&msg)), unix.MSG_CMSG_CLOEXEC, 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0 && errno != unix.ECONNRESET:
			return false
		case errno != 0 || n == 0:
			return !moves && uint64(load(r.progress, 4)) == r.execAt
		case n < msgHeader || !moves || load(uintptr(unsafe.Pointer(&data)), 4) != msgFork || msg.Controllen < 20:
			return false
		}
		const fdAt = 16 // behind struct cmsghdr
		sibling := load(uintptr(unsafe.Pointer(&control))+fdAt, 4)
		wait(r.pidfd)
		closeFD(r.pidfd)
		r.pidfd, r.followed, moves = sibling, true, false
	}
}

// wait waits for the end of a child.
func wait(pidfd uintptr) {
	for errno := unix.EINTR; errno == unix.EINTR; {
		_, _, errno = syscall.RawSyscall6(unix.SYS_WAITID, unix.P_PIDFD, pidfd, 0, unix.WEXITED|unix.WALL, 0, 0)
	}
}

// kill ends the process for certain, and a sibling that was not heard of.
func (r *keptRun) kill() {
	if r.pidfd == noFD {
		return
	}
	KillChild(r.pidfd)
	r.pidfd = noFD
	pid := load(r.progress+siblingAt, 4)
	if pid == 0 || r.followed {
		return
	}
	fd, _, errno := syscall.RawSyscall6(unix.SYS_PIDFD_OPEN, pid, 0, 0, 0, 0, 0)
	if errno != 0 {
		return // it has been collected
	}
	// With WNOHANG and WNOWAIT, an error says that it is not our child.
	const look = unix.WEXITED | unix.WALL | unix.WNOHANG | unix.WNOWAIT
	if _, _, errno = syscall.RawSyscall6(unix.SYS_WAITID, unix.P_PIDFD, fd, 0, look, 0, 0); errno != 0 {
		closeFD(fd)
		return
	}
	KillChild(fd)
}

// KillChild kills a child by its pidfd, waits for its end, and closes the pidfd. It needs
// no Go runtime.
func KillChild(pidfd uintptr) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, pidfd, uintptr(unix.SIGKILL), 0, 0, 0, 0) // ESRCH: it has ended
	wait(pidfd)
	closeFD(pidfd)
}
