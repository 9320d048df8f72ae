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

// DetachMount detaches the mount at path, with all below it, in the mount
// namespace ns or, with nil, this process's. If path is on the mount with id on,
// there is nothing on top of it and nothing is done.
func DetachMount(ns *os.File, path string, on uint64) error {
	return inMountNS(ns, func() error {
		id, err := mountID(path)
		if err != nil || id == on {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "umount", Path: path, Err: err}
		}
		return nil
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
