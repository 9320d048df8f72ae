package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// NewTmpfs makes a tmpfs that is mounted nowhere and lasts as long as the
// returned file is open, or a mount made from it. Options are as in fstab:
// nosuid, nodev, noexec, ro, and tmpfs's own key=value.
func NewTmpfs(options []string) (*os.File, error) { return newFS("tmpfs", options) }

// newFS is NewTmpfs of another type.
func newFS(fstype string, options []string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: fsopen: %w", fstype, err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount has its own reference
	attributes := 0
	for _, o := range options {
		switch o {
		case "nosuid":
			attributes |= unix.MOUNT_ATTR_NOSUID
		case "nodev":
			attributes |= unix.MOUNT_ATTR_NODEV
		case "noexec":
			attributes |= unix.MOUNT_ATTR_NOEXEC
		case "ro":
			attributes |= unix.MOUNT_ATTR_RDONLY
		default:
			key, value, ok := strings.Cut(o, "=")
			if !ok {
				return nil, fmt.Errorf("%s: option %q is not known", fstype, o)
			}
			if err := unix.FsconfigSetString(fs, key, value); err != nil {
				return nil, fmt.Errorf("%s: option %q: %w", fstype, o, err)
			}
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("%s: create: %w", fstype, err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("%s: fsmount: %w", fstype, err)
	}
	return os.NewFile(uintptr(m), fstype), nil
}

// NewDevice makes a device node of that type, permissions, number and owner in a file
// system of its own, as a mount that is attached nowhere. It takes Linux 6.15. The
// caller closes it.
func NewDevice(mode uint32, number uint64, uid, gid int) (*os.File, error) {
	fs, err := NewTmpfs([]string{"size=0", "nr_inodes=2", "mode=755"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = fs.Close() }() // the copy has its own reference
	const name = "device"
	if err := unix.Mknodat(Fd(fs), name, mode, int(number)); err != nil {
		return nil, fmt.Errorf("mknod: %w", err)
	}
	if err := unix.Fchownat(Fd(fs), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("chown: %w", err)
	}
	if err := unix.Fchmodat(Fd(fs), name, mode&0o7777, 0); err != nil { // whatever the umask is
		return nil, fmt.Errorf("chmod: %w", err)
	}
	fd, err := unix.OpenTree(Fd(fs), name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// clones is what CanClone has found out.
var clones struct {
	sync.Mutex
	known, can bool
}

// CanClone reports whether other processes can make mounts of a detached one:
// not before Linux 6.15. It tries once: the kernel waits for all processors before it lets
// the copy go, 0.03 ms at best and 10 on a busy machine.
func CanClone(mount *os.File) (bool, error) {
	clones.Lock()
	defer clones.Unlock()
	if clones.known {
		return clones.can, nil
	}
	can, err := tryClone(mount)
	clones.known, clones.can = err == nil, can
	return can, err
}

func tryClone(mount *os.File) (bool, error) {
	fd, err := unix.OpenTree(int(mount.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open_tree: %w", err)
	}
	return true, unix.Close(fd)
}
