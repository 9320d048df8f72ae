package launch

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// callName names the system calls and pseudo instructions that programs consist
// of, for error messages.
func callName(code int) string {
	switch code {
	case unix.SYS_OPENAT2:
		return "open"
	case unix.SYS_MKDIRAT:
		return "mkdir"
	case unix.SYS_SYMLINKAT:
		return "symlink"
	case unix.SYS_UNLINKAT:
		return "unlink"
	case unix.SYS_MKNODAT:
		return "mknod"
	case unix.SYS_FCHOWNAT:
		return "chown"
	case unix.SYS_FCHMODAT:
		return "chmod"
	case unix.SYS_CLOSE:
		return "close"
	case unix.SYS_WRITE:
		return "write"
	case unix.SYS_FSTATFS:
		return "statfs"
	case unix.SYS_STATX:
		return "stat"
	case unix.SYS_FSOPEN:
		return "fsopen"
	case unix.SYS_FSCONFIG:
		return "fsconfig"
	case unix.SYS_FSMOUNT:
		return "fsmount"
	case unix.SYS_OPEN_TREE:
		return "open_tree"
	case unix.SYS_MOUNT_SETATTR:
		return "mount_setattr"
	case unix.SYS_MOVE_MOUNT:
		return "move_mount"
	case unix.SYS_MOUNT:
		return "mount"
	case unix.SYS_UMOUNT2:
		return "umount"
	case unix.SYS_PIVOT_ROOT:
		return "pivot_root"
	case unix.SYS_CHROOT:
		return "chroot"
	case unix.SYS_CHDIR, unix.SYS_FCHDIR:
		return "chdir"
	case unix.SYS_GETCWD:
		return "getcwd"
	case unix.SYS_UNSHARE:
		return "unshare"
	case unix.SYS_SETNS:
		return "setns"
	case unix.SYS_SETHOSTNAME:
		return "sethostname"
	case unix.SYS_SETDOMAINNAME:
		return "setdomainname"
	case unix.SYS_KEYCTL:
		return "keyctl"
	case unix.SYS_SETSID:
		return "setsid"
	case unix.SYS_IOCTL:
		return "ioctl"
	case unix.SYS_SENDMSG:
		return "sendmsg"
	case unix.SYS_FCNTL, unix.SYS_DUP3:
		return "dup"
	case unix.SYS_CLOSE_RANGE:
		return "close_range"
	case unix.SYS_PRLIMIT64:
		return "setrlimit"
	case unix.SYS_PRCTL:
		return "prctl"
	case unix.SYS_CAPSET:
		return "capset"
	case unix.SYS_SETGROUPS:
		return "setgroups"
	case unix.SYS_SETRESGID:
		return "setgid"
	case unix.SYS_SETRESUID:
		return "setuid"
	case unix.SYS_SECCOMP:
		return "seccomp"
	case unix.SYS_UMASK:
		return "umask"
	case unix.SYS_PERSONALITY:
		return "personality"
	case unix.SYS_SCHED_SETATTR:
		return "sched_setattr"
	case unix.SYS_IOPRIO_SET:
		return "ioprio_set"
	case unix.SYS_SCHED_SETAFFINITY:
		return "sched_setaffinity"
	case unix.SYS_SET_MEMPOLICY:
		return "set_mempolicy"
	case unix.SYS_ACCEPT4:
		return "accept"
	case unix.SYS_EXECVE, unix.SYS_EXECVEAT, pLookup:
		return "exec"
	case pCheck:
		return "check"
	case pCopy:
		return "copy"
	case pMakePath:
		return "create"
	case unix.SYS_FSETXATTR:
		return "setxattr"
	case pSync:
		return "wait for the parent"
	case pReady:
		return "wait at the gate"
	case pPause:
		return "pause"
	case pSignals:
		return "rt_sigaction"
	case pHome:
		return "read /etc/passwd"
	case pListen:
		return "hand over the listener"
	case pFork:
		return "clone3"
	case pHook, pAt:
		return "run"
	}
	return "call " + strconv.Itoa(code)
}

// fsText is a file system's log line without its level ("e overlay: …").
func fsText(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 2 && s[1] == ' ' {
		s = s[2:]
	}
	return s
}
