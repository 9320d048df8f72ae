package early

import (
	"syscall"
	"unsafe"
)

// The names in a container's state directory, as in oci/container.
const (
	stateFile  = "state.json"
	configFile = "config.json"
	gateSocket = "start.sock"

	// launch.KeptNames
	kept0 = "exec.0"
	kept1 = "exec.1"
	kept2 = "exec.2"
	kept3 = "exec.3"
)

// specVersion is specs.Version, which is put together when a program starts.
const specVersion = "1.3.0"

// state shows what cmd/strake-runtime's state shows, of a container of root's: other users'
// names are in a file.
func (c *command) state(r *record) bool {
	if !c.isRoots() {
		return false
	}
	s, shown := r.status(), r.pid
	name := ""
	switch s {
	case created:
		name = `"created"`
	case running:
		name = `"running"`
		if !r.thawed() {
			return false
		}
	case stopped:
		name, shown = `"stopped"`, 0
	default:
		return false
	}
	var digits [20]byte
	var w writer
	w.put("{\n  \"ociVersion\": \"" + specVersion + "\"")
	w.member("id", r.id)
	w.member("pid", decimal(&digits, shown))
	w.member("status", name)
	w.member("bundle", r.bundle)
	w.member("rootfs", r.rootfs)
	w.member("created", r.created)
	if r.annotations != "" {
		w.put(",\n  \"annotations\": {")
		t := reader{text: r.annotations, at: 1}
		for more := true; more && !t.bad; more = t.take(',') {
			if t.at > 1 {
				w.put(",")
			}
			w.put("\n    ")
			w.put(t.quoted())
			t.expect(':')
			w.put(": ")
			w.put(t.quoted())
		}
		w.put("\n  }")
	}
	w.member("owner", `"root"`)
	w.put("\n}\n")
	return w.flush()
}

// isRoots says whether the container's state directory belongs to root.
func (c *command) isRoots() bool {
	if !paths.dir.set(c.root, "/", c.id, "") {
		return false
	}
	var st syscall.Stat_t
	_, errno := call(sysFstatat, atFDCWD, paths.dir.at(), uintptr(unsafe.Pointer(&st)), 0)
	return errno == 0 && st.Uid == 0
}

// writer collects what is written at once.
type writer struct {
	n    int
	full bool
}

func (w *writer) put(text string) {
	if len(text) > len(output)-w.n {
		w.full = true
		return
	}
	w.n += copy(output[w.n:], text)
}

func (w *writer) member(name, value string) {
	w.put(",\n  \"")
	w.put(name)
	w.put("\": ")
	w.put(value)
}

// flush writes to standard output. If it fails, nothing has been written.
func (w *writer) flush() bool {
	if w.full {
		return false
	}
	for at := 0; at < w.n; {
		n, errno := call(syscall.SYS_WRITE, uintptr(syscall.Stdout), uintptr(unsafe.Pointer(&output[at])), uintptr(w.n-at), 0)
		if errno != 0 && errno != syscall.EINTR && errno != syscall.EAGAIN {
			return at > 0 // a reader that hung up half-way has nothing to be told
		}
		if errno == 0 {
			at += int(n)
		} else if at == 0 {
			return false
		}
	}
	return true
}

// kill signals init.
func (c *command) kill(r *record) bool {
	if c.signal == uintptr(syscall.SIGKILL) && (r.sharedPID || !r.canDie()) {
		return false // all processes are meant, or they are to be let go
	}
	pidfd, errno := call(sysPidfdOpen, uintptr(r.pid), 0, 0, 0)
	if errno != 0 {
		return false
	}
	// Read with the pidfd open, it is init's that is signalled.
	done := false
	if s := r.status(); s == created || s == running {
		_, errno = call(sysPidfdSendSignal, pidfd, c.signal, 0, 0)
		done = errno == 0
	}
	closeFD(pidfd)
	return done
}

// start opens the gate of a container without hooks and waits for the execve.
func (c *command) start(r *record) bool {
	if r.hooks || r.status() != created {
		return false
	}
	var addr struct {
		family uint16
		path   [108]byte // sun_path, unix(7)
	}
	if !paths.file.set(c.root, "/", c.id, "/"+gateSocket) {
		return false
	}
	n := 0
	for ; paths.file.name[n] != 0; n++ {
		if n == len(addr.path)-1 {
			return false
		}
		addr.path[n] = paths.file.name[n]
	}
	addr.family = syscall.AF_UNIX
	conn, errno := call(syscall.SYS_SOCKET, syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return false
	}
	if _, errno = call(syscall.SYS_CONNECT, conn, uintptr(unsafe.Pointer(&addr)), unsafe.Sizeof(addr), 0); errno != 0 {
		closeFD(conn)
		return false
	}
	var first [4]byte
	for errno = syscall.EINTR; errno == syscall.EINTR; {
		var got uintptr
		got, errno = call(syscall.SYS_RECVFROM, conn, uintptr(unsafe.Pointer(&first)), unsafe.Sizeof(first), syscall.MSG_PEEK)
		if errno == 0 && got > 0 {
			Gate = int(conn)
			return false
		}
	}
	closeFD(conn)
	if errno != 0 {
		return false // init has died in front of its gate
	}
	_, _ = call(syscall.SYS_UNLINKAT, atFDCWD, paths.file.at(), 0, 0) // delete removes it with the rest
	return true
}

// delete removes a container that nobody has anything to say about: one that is stopped
// or has not been started or, with force, one that runs. All is done by way of the directory:
// its name may be the next container's before the end, if another deletes this one, too.
func (c *command) delete() bool {
	if !paths.dir.set(c.root, "/", c.id, "") {
		return false
	}
	dir, errno := call(syscall.SYS_OPENAT, atFDCWD, paths.dir.at(), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return false
	}
	done := c.deleteIn(dir)
	closeFD(dir)
	return done
}

func (c *command) deleteIn(dir uintptr) bool {
	var r record
	if !r.readIn(dir) || r.hooks || r.more || r.cgroupTop != "" && r.cgroupTop != r.cgroup {
		return false
	}
	if !onlyOurs(dir) || !c.end(&r) || !r.removeCgroup() {
		return false
	}
	// The record goes last: without one it would be taken for one that is being made.
	for _, name := range [...]string{configFile, gateSocket, kept0, kept1, kept2, kept3, stateFile} {
		if !paths.file.set(name, "", "", "") {
			return false
		}
		if _, errno := call(syscall.SYS_UNLINKAT, dir, paths.file.at(), 0, 0); errno != 0 && errno != syscall.ENOENT {
			return false
		}
	}
	if _, errno := call(syscall.SYS_UNLINKAT, atFDCWD, paths.dir.at(), atRemoveDir, 0); errno == 0 {
		return true
	}
	var st syscall.Stat_t
	_, errno := call(syscall.SYS_FSTAT, dir, uintptr(unsafe.Pointer(&st)), 0, 0)
	return errno == 0 && st.Nlink == 0 // another has removed it
}

// patience is how long what was killed may take to be gone. Whoever is frozen in a v1
// cgroup is not gone before he is thawed.
const patience = 1 // second

// end makes sure that init has ended, if it may be made to.
func (c *command) end(r *record) bool {
	s := r.status()
	if s == stopped {
		return true
	}
	if s == running && !c.force || r.sharedPID || r.cgroup != "" && v2Mount() == "" {
		return false // or more is to be killed than init takes along
	}
	pidfd, errno := call(sysPidfdOpen, uintptr(r.pid), 0, 0, 0)
	if errno != 0 {
		return false
	}
	// Read with the pidfd open, it is init's that is killed.
	ended := false
	if s = r.status(); s == created || s == running && c.force {
		_, errno = call(sysPidfdSendSignal, pidfd, uintptr(syscall.SIGKILL), 0, 0)
		ended = errno == 0 && wait(pidfd, pollIn)
	}
	closeFD(pidfd)
	return ended
}

// onlyOurs says whether nothing else is in the state directory than what is removed
// by name.
func onlyOurs(dir uintptr) bool {
	// What is ours fits, and a longer list is not.
	n, errno := call(syscall.SYS_GETDENTS64, dir, uintptr(unsafe.Pointer(&cgroupText)), unsafe.Sizeof(cgroupText), 0)
	if errno != 0 {
		return false
	}
	const lengthAt, nameAt = 16, 19 // in struct linux_dirent64, getdents(2)
	few := 0
	for at := 0; at+nameAt < int(n); few++ {
		size := int(cgroupText[at+lengthAt]) | int(cgroupText[at+lengthAt+1])<<8
		if size <= nameAt || at+size > int(n) {
			return false
		}
		name := unsafe.String(&cgroupText[at+nameAt], size-nameAt)
		end := index(name, 0, 0)
		if end < 0 {
			return false
		}
		switch name[:end] {
		case ".", "..", stateFile, configFile, gateSocket, kept0, kept1, kept2, kept3:
		default:
			return false
		}
		at += size
	}
	const most = 9
	return few <= most
}
