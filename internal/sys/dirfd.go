package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file: files by directory descriptor, as image layers are written. The
// descriptors are plain numbers, not *os.File: a layer has 100,000 files, and
// an os.File costs each of them an epoll registration and a finalizer. The
// caller owns every descriptor it gets and closes it with CloseFd.

// CloseFd closes a descriptor of this file's functions.
func CloseFd(fd int) error { return unix.Close(fd) }

// OpenDir opens a directory by path, for the *At functions.
func OpenDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// OpenDirBelow opens a directory at path below root, whatever the path holds: a
// symbolic link on the way is ELOOP, a way out EXDEV.
func OpenDirBelow(root int, path string) (int, error) {
	return openDir2(root, path, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// OpenFileBelow opens a file at path below root for reading, under the same rule,
// as an os.File. It does not wait for the other end of a FIFO.
func OpenFileBelow(root int, path string) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// OpenDirInRoot is OpenDirBelow that follows symbolic links as if root were "/":
// still no path leads outside.
func OpenDirInRoot(root int, path string) (int, error) {
	return openDir2(root, path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_XDEV)
}

func openDir2(root int, path string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(root, path, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: a rename raced, says openat2(2)
			continue
		}
		return fd, err
	}
}

// ResolveInRoot is the path, below an open root directory, of what path leads to
// when symbolic links are followed as if root were "/", and whether that is a
// directory. What is not there is fs.ErrNotExist.
func ResolveInRoot(root *os.File, path string) (resolved string, isDir bool, err error) {
	fd, err := handleInRoot(root, path)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = unix.Close(fd) }()
	whole, err := FdPath(fd)
	if err != nil {
		return "", false, err
	}
	above, err := FdPath(Fd(root))
	if err != nil {
		return "", false, err
	}
	below, ok := strings.CutPrefix(whole, strings.TrimSuffix(above, "/"))
	if !ok || below != "" && below[0] != '/' {
		return "", false, fmt.Errorf("%s: it is at %s, which is not below %s", path, whole, above)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	return "/" + strings.TrimPrefix(below, "/"), st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// LockMount makes the mount that path leads to, as ResolveInRoot follows it,
// read-only, and makes setuid and execution of what is on it impossible. It is
// for the mount namespace of this thread.
func LockMount(root *os.File, path string) error {
	fd, err := handleInRoot(root, path)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return nil
}

func handleInRoot(root *os.File, path string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(Fd(root), path, &how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: a rename raced, says openat2(2)
			continue
		}
		if err != nil {
			return -1, &os.PathError{Op: "openat2", Path: path, Err: err}
		}
		return fd, nil
	}
}

// FdPath is the path of an open directory, as the kernel knows it now.
func FdPath(fd int) (string, error) { return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)) }

// OpenDirAt opens the directory name, one component, in dir. A symbolic link is
// not followed.
func OpenDirAt(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// CreateAt makes and opens a new file for writing; what exists is EEXIST.
func CreateAt(dir int, name string, mode uint32) (int, error) {
	return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
}

// WriteFd writes all of data.
func WriteFd(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// MkdirAt makes the directory name in dir.
func MkdirAt(dir int, name string, mode uint32) error { return unix.Mkdirat(dir, name, mode) }

// SymlinkAt makes the symbolic link name in dir.
func SymlinkAt(target string, dir int, name string) error { return unix.Symlinkat(target, dir, name) }

// LinkAt makes name in dir another name of oldName in oldDir; a symbolic link
// is linked itself.
func LinkAt(oldDir int, oldName string, dir int, name string) error {
	return unix.Linkat(oldDir, oldName, dir, name, 0)
}

// MknodAt makes a device or FIFO; mode has the type bits (unix S_IF…).
func MknodAt(dir int, name string, mode, major, minor uint32) error {
	return unix.Mknodat(dir, name, mode, int(unix.Mkdev(major, minor)))
}

// Stat is what the layer writer wants to know of an existing entry.
type Stat struct {
	Ino          uint64
	Mode         uint32 // type and permissions as in st_mode
	UID, GID     uint32
	Nlink        uint64
	Size         int64
	Major, Minor uint32 // of a device
	Mtime        time.Time
}

// IsDir reports a directory.
func (s Stat) IsDir() bool { return s.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports a plain file.
func (s Stat) IsRegular() bool { return s.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink reports a symbolic link.
func (s Stat) IsSymlink() bool { return s.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsWhiteout reports overlayfs's mark of a deleted entry.
func (s Stat) IsWhiteout() bool {
	return s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Major == 0 && s.Minor == 0
}

// StatAt examines name in dir without following a link; "" is dir itself.
func StatAt(dir int, name string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return Stat{}, err
	}
	return Stat{
		Ino: st.Ino, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint64(st.Nlink), Size: st.Size, //nolint:unconvert // 32 bits on arm64
		Major: unix.Major(uint64(st.Rdev)), Minor: unix.Minor(uint64(st.Rdev)), //nolint:unconvert // as above
		Mtime: time.Unix(st.Mtim.Unix()),
	}, nil
}

// UnlinkAt removes name from dir; it must not be a directory.
func UnlinkAt(dir int, name string) error { return unix.Unlinkat(dir, name, 0) }

// RmdirAt removes the empty directory name from dir.
func RmdirAt(dir int, name string) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) }

// ReadDirNames lists what is left to read of an open directory.
func ReadDirNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// ChownFd sets the owner of an open file.
func ChownFd(fd, uid, gid int) error { return unix.Fchown(fd, uid, gid) }

// LchownAt sets the owner of name in dir, a link's own.
func LchownAt(dir int, name string, uid, gid int) error {
	return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// ChmodFd sets the permission bits, with setuid, setgid and sticky.
func ChmodFd(fd int, mode uint32) error { return unix.Fchmod(fd, mode) }

// ChmodAt sets the permission bits of name in dir, which must not be a symbolic
// link: the caller has just made it.
func ChmodAt(dir int, name string, mode uint32) error { return unix.Fchmodat(dir, name, mode, 0) }

// SetTimesFd sets access and modification time of an open file.
func SetTimesFd(fd int, atime, mtime time.Time) error {
	return unix.UtimesNanoAt(fd, "", timespecs(atime, mtime), unix.AT_EMPTY_PATH)
}

// SetTimesAt sets the times of name in dir, a link's own.
func SetTimesAt(dir int, name string, atime, mtime time.Time) error {
	return unix.UtimesNanoAt(dir, name, timespecs(atime, mtime), unix.AT_SYMLINK_NOFOLLOW)
}

func timespecs(atime, mtime time.Time) []unix.Timespec {
	return []unix.Timespec{timespec(atime), timespec(mtime)}
}

func timespec(t time.Time) unix.Timespec {
	// From seconds and nanoseconds: UnixNano overflows beyond the year 2262.
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// SetXattrFd sets an extended attribute of an open file or directory.
func SetXattrFd(fd int, name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }

// RemoveXattrFd removes an extended attribute of an open file or directory.
func RemoveXattrFd(fd int, name string) error { return unix.Fremovexattr(fd, name) }

// SetXattrAt sets an extended attribute of name in dir without following a link.
func SetXattrAt(dir int, name, attr string, value []byte) error {
	return unix.Lsetxattr("/proc/self/fd/"+strconv.Itoa(dir)+"/"+name, attr, value, 0)
}

// XattrsFd reads all extended attributes of an open file or directory.
func XattrsFd(fd int) (map[string][]byte, error) {
	return xattrs(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(attr string, b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
}

func xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string][]byte, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := list(names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	attrs := map[string][]byte{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		n, err := get(string(name), value)
		if err != nil {
			return nil, fmt.Errorf("xattr %s: %w", name, err)
		}
		attrs[string(name)] = bytes.Clone(value[:n])
	}
	return attrs, nil
}

// DropCache has the next read of a file come from the device, as far as what is in
// memory has been written there.
func DropCache(f *os.File) { _ = unix.Fadvise(Fd(f), 0, 0, unix.FADV_DONTNEED) } // advice

// SyncFS writes the whole file system of an open directory to its device.
func SyncFS(fd int) error { return unix.Syncfs(fd) }

// Umask reads the process's file mode mask without changing it.
func Umask() (uint32, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if v, ok := bytes.CutPrefix(line, []byte("Umask:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 8, 32)
			return uint32(n), err
		}
	}
	return 0, fmt.Errorf("/proc/self/status: no Umask line")
}

// TryLock takes an exclusive lock (flock) on an open file, or says at once that
// another process has it.
func TryLock(f *os.File) (taken bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return false, nil
	}
	return err == nil, err
}

// lockGrace is how long the children of a dead process may have its locks.
const lockGrace = time.Second

// Lock is TryLock that waits a moment. What a killed process had locked is free only when its
// last child has executed its program: until then that one has the files, too. If it is
// not taken, the caller closes f.
func Lock(f *os.File) (taken bool, err error) {
	if taken, err = TryLock(f); taken || err != nil {
		return taken, err
	}
	own, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3) // with f's lock, and for as long as flock takes
	if err != nil {
		return false, err
	}
	locked := make(chan error, 1)
	go func() {
		err := unix.Flock(own, unix.LOCK_EX)
		for err == unix.EINTR {
			err = unix.Flock(own, unix.LOCK_EX)
		}
		_ = unix.Close(own) // f is open still, or has been closed, and the lock goes with this
		locked <- err
	}()
	select {
	case err := <-locked:
		return err == nil, err
	case <-time.After(lockGrace):
		return false, nil
	}
}

// Unlock gives up a lock of TryLock or Lock for everybody who has inherited the file, too.
func Unlock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }
