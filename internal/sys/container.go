package sys

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Fd is a file's descriptor number, without the side effect of os.File.Fd on
// older Go of making it blocking. It is valid while f is open.
func Fd(f *os.File) int {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	_ = conn.Control(func(n uintptr) { fd = int(n) })
	return fd
}

// OpenProc opens the host's /proc as a directory handle and makes sure that it
// is procfs's root and nothing mounted over it.
func OpenProc() (*os.File, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc", Err: err}
	}
	f := os.NewFile(uintptr(fd), "/proc")
	var fs unix.Statfs_t
	var st unix.Stat_t
	const rootInode = 1
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		_ = f.Close()
		return nil, fmt.Errorf("/proc is not procfs")
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != rootInode {
		_ = f.Close()
		return nil, fmt.Errorf("/proc is not the root of procfs")
	}
	return f, nil
}

// NewProc makes an instance of procfs for this process's PID namespace, which is mounted
// nowhere. It is as the host's, but what others have looked up in that is not in its way:
// under /proc/sys/net the kernel goes through what it knows of all network namespaces.
func NewProc() (*os.File, error) { return newFS("proc", []string{"nosuid", "nodev", "noexec"}) }

var nsTypes = map[string]int{
	"user": unix.CLONE_NEWUSER, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "network": unix.CLONE_NEWNET,
	"pid": unix.CLONE_NEWPID, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME, "mount": unix.CLONE_NEWNS,
}

// OpenNamespace opens a namespace by path and makes sure that it is one of the
// type that runtime-spec calls kind.
func OpenNamespace(path, kind string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	got, err := unix.IoctlRetInt(Fd(f), unix.NS_GET_NSTYPE)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a namespace", path)
	}
	if got != nsTypes[kind] {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a namespace of type %s", path, kind)
	}
	return f, nil
}

// NewMemFile makes an anonymous file in memory.
func NewMemFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// SealedMemFile is a file of memory that has data and that nobody can change any more.
func SealedMemFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		_ = f.Close() // memory
		return nil, fmt.Errorf("sealed memory: %w", err)
	}
	return f, nil
}

// ListenPacket listens on a unix socket of packets in a directory, mode 0600. The
// path is resolved relative to the directory, so that its length does not matter.
func ListenPacket(dir, name string) (*os.File, error) {
	return socketIn(dir, name, unix.SOCK_SEQPACKET, func(fd int, addr *unix.SockaddrUnix) error {
		if err := unix.Bind(fd, addr); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
}

// DialPacket connects to a socket of ListenPacket.
func DialPacket(dir, name string) (*os.File, error) {
	return socketIn(dir, name, unix.SOCK_SEQPACKET, func(fd int, addr *unix.SockaddrUnix) error { return unix.Connect(fd, addr) })
}

func socketIn(dir, name string, kind int, use func(int, *unix.SockaddrUnix) error) (*os.File, error) {
	path := dir + "/" + name
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(d) }()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := use(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d, name)}); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "socket", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// SendFile connects to a unix stream socket, sends a message with a descriptor
// and hangs up. Who listens has to accept and read within the time of a DialStream.
func SendFile(socket string, message []byte, f *os.File) error {
	fd, err := connect(socket)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	rights := unix.UnixRights(Fd(f))
	for len(message) > 0 { // a long one goes in parts, the descriptor with the first
		n, err := unix.SendmsgN(fd, message, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "sendmsg", Path: socket, Err: err}
		}
		message, rights = message[n:], nil
	}
	return nil
}

// Shutdown ends a connection in both directions: whoever reads from it wakes up.
func Shutdown(conn *os.File) error { return unix.Shutdown(Fd(conn), unix.SHUT_RDWR) }

// MountPoint is the nearest directory at or above path where something is mounted.
func MountPoint(path string) (string, error) {
	for {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st); err != nil {
			return "", &os.PathError{Op: "statx", Path: path, Err: err}
		}
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 || path == "/" {
			return path, nil
		}
		path = parent(path)
	}
}

func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}

// SetLimit sets a resource limit of another process.
func SetLimit(pid int, resource, soft, hard uint64) error {
	return unix.Prlimit(pid, int(resource), &unix.Rlimit{Cur: soft, Max: hard}, nil)
}

// KillPidFD sends a signal by a pidfd; a process that has ended is no error.
func KillPidFD(fd int, sig syscall.Signal) error {
	err := unix.PidfdSendSignal(fd, sig, nil, 0)
	if err == unix.ESRCH {
		return nil
	}
	return err
}

// Exchange swaps two paths atomically.
func Exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// OPath opens a handle of a file that can be neither read nor written.
const OPath = unix.O_PATH

// connectTimeout bounds how long a connect may wait for room in a listener's
// queue, in seconds.
var connectTimeout int64 = 30 // for a test to change

// DialStream connects to a unix stream socket: a path or, after "@", a name in
// the abstract namespace. The file is for the runtime's poller; the caller closes
// it.
func DialStream(path string) (*os.File, error) {
	fd, err := connect(path)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// connect connects to a unix stream socket, and has what is sent wait no longer than the
// connect itself.
func connect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// A non-blocking connect would be refused where this one waits.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: connectTimeout})
	if err == nil {
		err = unix.EINTR // with a timeout, the kernel restarts no connect by itself
	}
	for err == unix.EINTR {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	return fd, nil
}
