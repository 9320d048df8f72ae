package sys

import (
	"sync"

	"golang.org/x/sys/unix"
)

// MayStayOpen says whether a descriptor that could be opened again at any time may be kept
// instead: as long as it is in the lower half of what this process may have. The kernel gives
// out the least that is free, so that everything else has the other half.
func MayStayOpen(fd int) bool { return fd < stayOpen() }

var stayOpen = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur/2, 1<<20))
})
