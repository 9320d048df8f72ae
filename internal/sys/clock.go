package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// Monotonic is the time since some point in the past, which does not jump
// (CLOCK_MONOTONIC).
func Monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it is there
	return time.Duration(t.Nano())
}
