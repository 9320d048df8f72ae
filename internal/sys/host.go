package sys

import "golang.org/x/sys/unix"

// KernelRelease is uname's release, such as "6.1.0-18-amd64".
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Capabilities is this process's permitted set, one bit per capability.
func Capabilities() (uint64, error) {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

// CanMount says whether this process may make and copy mounts in its mount
// namespace: it takes CAP_SYS_ADMIN in the user namespace that owns that.
func CanMount() bool {
	const noFlags = 1<<31 - 1
	// The permission is looked at first, then the flags, which are none.
	_, err := unix.Fsopen("tmpfs", noFlags)
	return err != unix.EPERM
}

// InUserNamespace says whether this process is in a user namespace other than the first.
func InUserNamespace() bool {
	const first = 0xeffffffd // the kernel's PROC_USER_INIT_INO
	var ns unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &ns) == nil && ns.Ino != first
}

// NoFileLimit is this process's limit of open files.
func NoFileLimit() (soft, hard uint64, err error) {
	var l unix.Rlimit
	err = unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	return l.Cur, l.Max, err
}
