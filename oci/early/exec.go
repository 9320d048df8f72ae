package early

import (
	"syscall"
	"unsafe"

	"github.com/strake-containers/strake/oci/launch"
)

// maxRequest is more than an exec's process takes, with its environment.
const maxRequest = 64 << 10

// requestText is what an exec asks for: launch.KeepOptions' Request.
var requestText [maxRequest]byte

// wanted is an exec's own part of the command line.
var wanted struct {
	process, pidFile string
	detach           bool
	command          []string
}

// parseExec reads what shims and engines pass to exec: the file of the process or a
// command. A flag that changes the process is none of them: the file says it all.
func (c *command) parseExec(args []string) bool {
	wanted.process, wanted.pidFile, wanted.detach = "", "", false
	at := 0
	for ; at < len(args) && args[at] != "" && args[at][0] == '-'; at++ {
		name, value, given := flag(args[at])
		switch name {
		case "detach", "d":
			if given {
				return false
			}
			wanted.detach = true
			continue
		case "process", "p", "pid-file":
		default:
			return false
		}
		if !given {
			at, value = next(args, at)
		}
		if value == "" || value == "-" {
			return false
		}
		if name == "pid-file" {
			wanted.pidFile = value
		} else {
			wanted.process = value
		}
	}
	if at >= len(args) {
		return false
	}
	c.id, wanted.command = args[at], args[at+1:]
	return wanted.process != "" || len(wanted.command) > 0
}

// runExec runs the program that an exec for the same request has left in the state
// directory (docs/adr/0045). It returns the exit code, or GiveUp. That file is looked for
// first: without one, all else would be done for nothing.
func (c *command) runExec() int {
	if isSet("LISTEN_FDS=") {
		return GiveUp // there may be descriptors of systemd's to pass on
	}
	asked, ok := request()
	if !ok {
		return GiveUp
	}
	name := [...]byte{'/', 'e', 'x', 'e', 'c', '.', '0' + launch.KeptSlot(asked)}
	if !paths.file.set(c.root, "/", c.id, unsafe.String(&name[0], len(name))) {
		return GiveUp
	}
	kept := launch.OpenKept(paths.file.at(), asked)
	if kept == nil {
		return GiveUp
	}
	code := GiveUp
	sealed := kept.Sealed()
	if sealed {
		code = c.execKept(kept)
	}
	kept.Close()
	if !sealed {
		seal()
	}
	return code
}

// execKept runs it in a container that is in order.
func (c *command) execKept(kept *launch.Kept) int {
	var r record
	if !c.read(&r) {
		return GiveUp
	}
	init, errno := call(sysPidfdOpen, uintptr(r.pid), 0, 0, 0)
	if errno != 0 {
		return GiveUp
	}
	code := GiveUp
	if r.status() == running && r.thawed() { // read with the pidfd open, it is init's
		code = execIn(&r, kept, init)
	}
	closeFD(init)
	return code
}

func execIn(r *record, kept *launch.Kept, init uintptr) int {
	var digits [20]byte
	if !paths.file.set("/proc/", decimal(&digits, r.pid), "/root", "") {
		return GiveUp
	}
	var pid pidFile
	if wanted.pidFile != "" && !pid.reserve(wanted.pidFile) {
		return GiveUp
	}
	var was uint64
	if !keepChildren() || !wanted.detach && !catchSignals(&was) {
		pid.giveUp()
		return GiveUp
	}
	process, ok := kept.Run(init, paths.file.at())
	if ok && wanted.pidFile != "" && !pid.put(process) {
		launch.KillChild(process)
		ok = false
	}
	switch {
	case !ok:
		pid.giveUp()
		if !wanted.detach {
			setMask(&was, nil)
		}
		return GiveUp
	case wanted.detach:
		return 0
	}
	return await(process)
}

// request puts together what the exec asks for.
func request() (string, bool) {
	n := 0
	for fd := range uintptr(3) {
		var st syscall.Stat_t
		if _, errno := call(syscall.SYS_FSTAT, fd, uintptr(unsafe.Pointer(&st)), 0, 0); errno != 0 {
			return "", false
		}
		requestText[n] = '-'
		if kind := st.Mode & syscall.S_IFMT; kind == syscall.S_IFIFO || kind == syscall.S_IFSOCK {
			requestText[n] = 'o'
		}
		n++
	}
	if wanted.process == "" {
		requestText[n] = 'a'
		n++
		for _, arg := range wanted.command {
			if n+len(arg)+1 > len(requestText) {
				return "", false
			}
			n += copy(requestText[n:], arg)
			requestText[n] = 0
			n++
		}
		return unsafe.String(&requestText[0], n), true
	}
	requestText[n] = 'p'
	n++
	if !paths.file.set(wanted.process, "", "", "") || !isFile(&paths.file) {
		return "", false
	}
	text, errno := readFile(&paths.file, requestText[n:])
	return unsafe.String(&requestText[0], n+len(text)), errno == 0
}

// pidFile is the file for a process's number on its way.
type pidFile struct {
	fd   uintptr
	open bool
}

const (
	pidFilePerm = 0o644
	pidDigits   = "0000000000" // room for any
)

// reserve makes the temporary file of internal/atomicfile, and takes the room for a
// number: once there is a process, nothing can fail for want of it.
func (p *pidFile) reserve(name string) bool {
	dir, base := "", name
	for i := range len(name) {
		if name[i] == '/' {
			dir, base = name[:i+1], name[i+1:]
		}
	}
	var digits [20]byte
	own, _ := call(syscall.SYS_GETPID, 0, 0, 0, 0)
	if base == "" || !paths.pidFile.set(name, "", "", "") || !paths.temp.set(dir, ".strake-tmp-", base, "-") {
		return false
	}
	at := len(dir) + len(".strake-tmp-") + len(base) + len("-")
	number := decimal(&digits, uint64(own))
	if at+len(number)+len("-0") >= len(paths.temp.name) {
		return false
	}
	at += copy(paths.temp.name[at:], number)
	at += copy(paths.temp.name[at:], "-0")
	paths.temp.name[at] = 0
	const flags = syscall.O_CREAT | syscall.O_EXCL | syscall.O_WRONLY | syscall.O_CLOEXEC
	fd, errno := call(syscall.SYS_OPENAT, atFDCWD, paths.temp.at(), flags, 0)
	if errno != 0 {
		return false
	}
	p.fd, p.open = fd, true
	_, errno = call(syscall.SYS_FCHMOD, fd, pidFilePerm, 0, 0)
	if errno == 0 && p.write(pidDigits) {
		return true
	}
	p.giveUp()
	return false
}

// write writes at the start of the file, and ends it there.
func (p *pidFile) write(text string) bool {
	n, errno := call(syscall.SYS_PWRITE64, p.fd, uintptr(unsafe.Pointer(unsafe.StringData(text))), uintptr(len(text)), 0)
	if errno != 0 || int(n) != len(text) {
		return false
	}
	_, errno = call(syscall.SYS_FTRUNCATE, p.fd, uintptr(len(text)), 0, 0)
	return errno == 0
}

// put writes the number of a process into the file, and gives it its name.
func (p *pidFile) put(pidfd uintptr) bool {
	var digits [20]byte
	if !paths.file.set("/proc/self/fdinfo/", decimal(&digits, uint64(pidfd)), "", "") {
		return false
	}
	text, errno := readFile(&paths.file, statText[:])
	if errno != 0 {
		return false
	}
	const label = "Pid:\t"
	for at := 0; at < len(text); {
		end := index(text, at, '\n')
		if end < 0 {
			return false
		}
		if end-at > len(label) && text[at:at+len(label)] == label {
			pid := text[at+len(label) : end]
			if _, ok := number(pid); !ok || !p.write(pid) { // -1: it has been collected
				return false
			}
			_, errno = call(syscall.SYS_RENAMEAT, atFDCWD, paths.temp.at(), atFDCWD, paths.pidFile.at())
			if errno != 0 {
				return false
			}
			closeFD(p.fd)
			p.open = false
			return true
		}
		at = end + 1
	}
	return false
}

// giveUp removes the temporary file, if there is one.
func (p *pidFile) giveUp() {
	if p.open {
		_, _ = call(syscall.SYS_UNLINKAT, atFDCWD, paths.temp.at(), 0, 0)
		closeFD(p.fd)
		p.open = false
	}
}

// forwarded is the set of signals that cmd/strake-runtime's catchSignals catches.
const forwarded = ^uint64(0) &^ (1<<(syscall.SIGKILL-1) | 1<<(syscall.SIGSTOP-1) | 1<<(syscall.SIGPIPE-1) | 1<<(syscall.SIGURG-1) |
	1<<(syscall.SIGSEGV-1) | 1<<(syscall.SIGBUS-1) | 1<<(syscall.SIGFPE-1) | 1<<(syscall.SIGILL-1) | 1<<(syscall.SIGTRAP-1) | 1<<(syscall.SIGSYS-1) |
	1<<(32-1) | 1<<(33-1))

const setSize = 8 // of a set of signals

// keepChildren has the kernel keep children that have ended for us to ask about, also if
// the caller ignores SIGCHLD: it would collect them.
func keepChildren() bool {
	var action [4]uintptr // SIG_DFL (struct sigaction of the kernel)
	_, errno := call(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGCHLD), uintptr(unsafe.Pointer(&action)), 0, setSize)
	return errno == 0
}

// catchSignals has the signals wait for await.
func catchSignals(was *uint64) bool {
	set := forwarded
	return setMask(&set, was)
}

func setMask(set, was *uint64) bool {
	const setMask = 2 // SIG_SETMASK
	_, errno := call(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(was)), setSize)
	return errno == 0
}

// await waits for a process's end, passes signals on to it, and returns its exit code.
func await(pidfd uintptr) int {
	const codeAt, pidAt, statusAt, infoWords = 2, 4, 6, 32 // 32-bit words of siginfo_t
	const pPidfd, wExited = 3, 4                           // P_PIDFD, WEXITED
	set := forwarded
	for {
		var info [infoWords]int32
		n, errno := call(syscall.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&info)), 0, setSize)
		switch {
		case errno != 0: // EINTR
			continue
		case n != uintptr(syscall.SIGCHLD):
			_, _ = call(sysPidfdSendSignal, pidfd, n, 0, 0) // ESRCH: its end comes
			continue
		}
		info[pidAt] = 0
		_, errno = call(syscall.SYS_WAITID, pPidfd, pidfd, uintptr(unsafe.Pointer(&info)), wExited|syscall.WNOHANG|syscall.WALL)
		if errno != 0 || info[pidAt] == 0 {
			continue
		}
		const exited = 1 // CLD_EXITED
		if info[codeAt] == exited {
			return int(info[statusAt])
		}
		return 128 + int(info[statusAt])
	}
}
