package early

import (
	"syscall"
	"unsafe"
)

const cgroupRoot = "/sys/fs/cgroup"

// v2Mount is where the v2 hierarchy is mounted, or "".
func v2Mount() string {
	for i := range 2 {
		mount := cgroupRoot
		if i == 1 {
			mount = cgroupRoot + "/unified" // a hybrid host's
		}
		if !paths.file.set(mount, "", "", "") {
			return ""
		}
		var fs syscall.Statfs_t
		_, errno := call(syscall.SYS_STATFS, paths.file.at(), uintptr(unsafe.Pointer(&fs)), 0, 0)
		if errno == 0 && fs.Type == cgroup2Magic {
			return mount
		}
	}
	return ""
}

// readCgroup reads a file of the container's cgroup in a hierarchy.
func (r *record) readCgroup(mount, file string) (string, syscall.Errno) {
	if !paths.cgroup.set(mount, r.cgroup, file, "") {
		return "", syscall.ENAMETOOLONG
	}
	return readFile(&paths.cgroup, cgroupText[:])
}

// thawed says whether a container's processes are neither frozen nor about to be.
func (r *record) thawed() bool {
	if r.cgroup == "" {
		return true
	}
	mount := v2Mount()
	if mount == "" {
		return false
	}
	events, errno := r.readCgroup(mount, "/cgroup.events")
	if errno != 0 || !contains(events, "frozen 0\n") {
		return false
	}
	freeze, errno := r.readCgroup(mount, "/cgroup.freeze")
	return errno == 0 && freeze == "0\n"
}

// canDie says whether nobody holds the container's processes by the v1 freezer, where not
// even SIGKILL ends them.
func (r *record) canDie() bool {
	if r.cgroup == "" || v2Mount() == cgroupRoot {
		return true
	}
	state, errno := r.readCgroup(cgroupRoot+"/freezer", "/freezer.state")
	return errno == 0 && state == "THAWED\n"
}

// removeCgroup removes the container's cgroup from every hierarchy, if nobody is in
// it and nothing below it.
func (r *record) removeCgroup() bool {
	if r.cgroup == "" {
		return true
	}
	mount := v2Mount()
	if mount == "" {
		return false
	}
	if !r.emptied(mount) || !r.removeBelow(mount) {
		return false
	}
	if mount == cgroupRoot {
		return true
	}
	if !paths.file.set("/proc/self/mountinfo", "", "", "") {
		return false
	}
	text, errno := readFile(&paths.file, mountsText[:])
	if errno != 0 {
		return false
	}
	for at := 0; at < len(text); {
		end := index(text, at, '\n')
		if end < 0 {
			return false
		}
		if mount, ok := v1Mount(text[at:end]); ok && !r.removeBelow(mount) {
			return false
		}
		at = end + 1
	}
	return true
}

// emptied says whether nobody is in the cgroup, with patience for the last of those that
// die with init.
func (r *record) emptied(mount string) bool {
	if !paths.cgroup.set(mount, r.cgroup, "/cgroup.events", "") {
		return false
	}
	fd, errno := call(syscall.SYS_OPENAT, atFDCWD, paths.cgroup.at(), syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return false
	}
	empty := false
	const changes = 10 // are more than the end of a container makes
	for range changes {
		n, errno := call(syscall.SYS_PREAD64, fd, uintptr(unsafe.Pointer(&cgroupText)), unsafe.Sizeof(cgroupText), 0)
		if errno != 0 || n == 0 {
			break
		}
		if empty = contains(unsafe.String(&cgroupText[0], int(n)), "populated 0\n"); empty || r.sharedPID || !wait(fd, pollPri) {
			break // or nothing has changed since it was read
		}
	}
	closeFD(fd)
	return empty
}

// removeBelow removes the cgroup from one hierarchy.
func (r *record) removeBelow(mount string) bool {
	if !plainPath(mount) || !paths.cgroup.set(mount, r.cgroup, "", "") {
		return false
	}
	_, errno := call(syscall.SYS_UNLINKAT, atFDCWD, paths.cgroup.at(), atRemoveDir, 0)
	return errno == 0 || errno == syscall.ENOENT || errno == syscall.ENODEV
}

// v1Mount is the mount point in a line of mountinfo (proc_pid_mountinfo(5)) if that is
// of a v1 hierarchy: ID PARENT DEVICE ROOT MOUNT-POINT … - TYPE SOURCE OPTIONS.
func v1Mount(line string) (string, bool) {
	const point = 5
	at, mount := 0, ""
	for field := 1; field <= point; field++ {
		end := index(line, at, ' ')
		if end < 0 {
			return "", false
		}
		mount = line[at:end]
		at = end + 1
	}
	below := len(mount) > len(cgroupRoot) && mount[:len(cgroupRoot)] == cgroupRoot
	return mount, below && contains(line, " - cgroup ")
}
