package testutil

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ExitsAreKept says whether the kernel tells how a process has ended to whoever has a pidfd of it
// (Linux 6.15).
func ExitsAreKept() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return true
	}
	var major, minor int
	_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor) // as all kernels have it
	return major > 6 || major == 6 && minor >= 15
}
