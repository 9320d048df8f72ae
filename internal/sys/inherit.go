package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// InheritedFile takes a descriptor that this process was started with. EBADF if
// there is none of that number: one that closes on exec was opened since, by Go's
// runtime for one, and is nobody's to hand on.
func InheritedFile(fd int, name string) (*os.File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC != 0 {
		err = unix.EBADF
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Inherit has the next program that this process executes inherit f.
func Inherit(f *os.File) error {
	_, err := unix.FcntlInt(uintptr(Fd(f)), unix.F_SETFD, 0)
	return os.NewSyscallError("fcntl", err)
}
