package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file: copying trees of files, and the mounts that are made of them.

// OpenFileAt opens name, one component in dir, for reading. A symbolic link is
// ELOOP; it does not wait for the other end of a FIFO.
func OpenFileAt(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadlinkAt is the target of the symbolic link name in dir.
func ReadlinkAt(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// XattrsAt reads all extended attributes of name in dir, a link's own.
func XattrsAt(dir int, name string) (map[string][]byte, error) {
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	return xattrs(func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(attr string, b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) })
}

// GetXattrFd reads one extended attribute, of at most 64 bytes, of an open file
// or directory; nil if it has none.
func GetXattrFd(fd int, name string) ([]byte, error) {
	value := make([]byte, 64)
	n, err := unix.Fgetxattr(fd, name, value)
	if err == unix.ENODATA || err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return value[:n], nil
}

// CopyFile writes what is left to read of from to to, a new file. Where the file
// system can, both then share the blocks, and shared says so.
func CopyFile(to int, from *os.File) (shared bool, err error) {
	if unix.IoctlFileClone(to, Fd(from)) == nil {
		return true, nil
	}
	for kernel := true; ; {
		var n int
		if kernel {
			n, err = unix.CopyFileRange(Fd(from), nil, to, nil, 1<<30, 0)
		} else {
			n, err = unix.Sendfile(to, Fd(from), nil, 1<<30)
		}
		switch {
		case err == unix.EINTR:
		case kernel && (err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP):
			kernel = false // between these file systems, or not on this one
		case err != nil || n == 0:
			return false, err
		}
	}
}

// SetReadOnly makes a mount that is attached nowhere read-only.
func SetReadOnly(mount *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(Fd(mount), "", unix.AT_EMPTY_PATH, &attr))
}

// IsBtrfs reports whether a directory is on btrfs.
func IsBtrfs(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return uint32(st.Type) == unix.BTRFS_SUPER_MAGIC, nil //nolint:gosec // magic numbers have 32 bits
}

// Requests of linux/btrfs.h; both take a btrfs_ioctl_vol_args.
const (
	btrfsIocSnapCreate   = 0x50009401
	btrfsIocSubvolCreate = 0x5000940e
)

type btrfsVolArgs struct {
	fd   int64
	name [4088]byte
}

// CreateSubvolume makes an empty subvolume of btrfs at path.
func CreateSubvolume(path string) error {
	return makeSubvolume("create subvolume", path, btrfsIocSubvolCreate, 0)
}

// SnapshotSubvolume makes a writable snapshot, at path, of the subvolume at from.
func SnapshotSubvolume(from, path string) error {
	fd, err := OpenDir(from)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return makeSubvolume("snapshot "+from, path, btrfsIocSnapCreate, fd)
}

func makeSubvolume(op, path string, request uint, from int) error {
	args := btrfsVolArgs{fd: int64(from)}
	dir, base := filepath.Split(path)
	if base == "" || len(base) > unix.NAME_MAX {
		return &os.PathError{Op: op, Path: path, Err: unix.EINVAL}
	}
	copy(args.name[:], base)
	parent, err := OpenDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(parent), uintptr(request), uintptr(unsafe.Pointer(&args)))
	if errno != 0 {
		if errors.Is(errno, unix.ENOTTY) {
			return &os.PathError{Op: op, Path: path, Err: errors.New("not on btrfs")}
		}
		return &os.PathError{Op: op, Path: path, Err: errno}
	}
	return nil
}
