package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// inMountNS runs fn on a thread in a mount namespace; nil is this process's. The
// caller keeps ns.
func inMountNS(ns *os.File, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return onThread(func() error {
		// A root directory of its own is what the thread can take there.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare(CLONE_FS)", err)
		}
		if err := unix.Setns(Fd(ns), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns(CLONE_NEWNS)", err)
		}
		return fn()
	})
}

// MountID is the id of the mount that path is on, in the mount namespace ns or,
// with nil, this process's.
func MountID(ns *os.File, path string) (id uint64, err error) {
	err = inMountNS(ns, func() error {
		id, err = mountID(path)
		return err
	})
	return id, err
}

func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Mnt_id, nil
}

// DetachMount detaches the mounts at path, with all below them, in the mount
// namespace ns or, with nil, this process's. The mount with id on
// is what was there before them, and stays.
func DetachMount(ns *os.File, path string, on uint64) error {
	return inMountNS(ns, func() error {
		for {
			id, err := mountID(path)
			if err != nil || id == on {
				return err
			}
			if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return &os.PathError{Op: "umount", Path: path, Err: err}
			}
		}
	})
}

// Inode is an open file's inode number; of a namespace it is the identity.
func Inode(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(Fd(f), &st); err != nil {
		return 0, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return st.Ino, nil
}

// CloneMount makes a copy of the mount at path, with recursive of all below it
// too, that is attached nowhere. The caller closes it.
func CloneMount(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// IDMapMount gives a mount that is attached nowhere yet the id mapping of a user
// namespace.
func IDMapMount(mount, userns *os.File, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(Fd(userns))}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(Fd(mount), "", flags, &attr))
}
