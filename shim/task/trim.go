package task

import (
	"runtime/debug"
	"time"
)

// trimAfter is how long nothing must have been asked of the monitor before it
// gives memory back.
const trimAfter = 2 * time.Second

// newTrimmer returns a timer that, some time after its last reset, gives the
// memory that verbs have used (a config.json takes a megabyte to read) back to
// the kernel: monitors are many, and nearly always idle. It is no tick: an idle
// monitor has nothing that would reset it.
func newTrimmer() *time.Timer { return time.AfterFunc(trimAfter, debug.FreeOSMemory) }
