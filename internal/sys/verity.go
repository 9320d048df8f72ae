package sys

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file: fs-verity, by which the kernel checks what is read of a file
// (Documentation/filesystems/fsverity.rst).

// ErrNoVerity says that a file system has no fs-verity, or the kernel has none.
var ErrNoVerity = errors.New("no fs-verity")

// verityBlock is how much of a file one hash is of: every kernel with pages of this size
// takes it.
const verityBlock = 4096

// EnableVerity has the kernel check what is read of a regular file, from now on: a block
// that is not what it is now is EIO. Nobody can write to the file any more; it can be
// removed. A file that has this already stays as it is. Somebody who has it open for
// writing is ETXTBSY.
func EnableVerity(path string) error { return EnableVerityAt(unix.AT_FDCWD, path) }

// EnableVerityAt is EnableVerity for name, one component in dir.
func EnableVerityAt(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: verityBlock}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg)))
	switch errno {
	case 0, unix.EEXIST:
		return nil
	case unix.EOPNOTSUPP, unix.ENOTTY:
		return &os.PathError{Op: "enable fs-verity", Path: name, Err: ErrNoVerity}
	}
	return &os.PathError{Op: "enable fs-verity", Path: name, Err: errno}
}

// HasVerity is nil if files below a directory can have fs-verity, ErrNoVerity if not. It
// tries it with a file of its own.
func HasVerity(dir string) error {
	f, err := os.CreateTemp(dir, "verity-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := f.Close(); err != nil {
		return err
	}
	return EnableVerity(f.Name())
}
