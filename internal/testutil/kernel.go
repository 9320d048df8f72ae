package testutil

import (
	"fmt"

	"github.com/strake-containers/strake/internal/sys"
)

// ExitsAreKept says whether the kernel tells how a process has ended to whoever has a pidfd of it
// (Linux 6.15).
func ExitsAreKept() bool { return KernelAtLeast(6, 15) }

// KernelAtLeast says whether the kernel is of a version or a later one.
func KernelAtLeast(major, minor int) bool {
	release, err := sys.KernelRelease()
	if err != nil {
		return true
	}
	var isMajor, isMinor int
	_, _ = fmt.Sscanf(release, "%d.%d", &isMajor, &isMinor) // as all kernels have it
	return isMajor > major || isMajor == major && isMinor >= minor
}
