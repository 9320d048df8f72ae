// Package idle lets a process that has nothing to do rest: its free memory is the
// kernel's again, and Go's garbage collector, which otherwise runs every two minutes
// for as long as a process lives, does not run. A node has many monitors, and nearly
// always they have nothing to do.
//
// The collector is off only as long as nothing is allocated: a collection comes, at
// the latest, slack bytes later, and ends the rest.
package idle

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// slack is how much may be allocated at rest: a little more than the runtime keeps
// free below a memory limit (1 MiB), or it would collect without end.
const slack = 4 << 20

// Rest is a process's: there is one of it. Its methods may be called concurrently.
type Rest struct {
	after   time.Duration
	changed func(resting bool) // for tests

	mu      sync.Mutex
	timer   *time.Timer
	busy    uint64 // counts calls of Busy
	resting bool
	percent int   // GOGC as it was before the rest
	limit   int64 // and GOMEMLIMIT
}

// After has the process rest whenever Busy has not been called for that long.
func After(d time.Duration) *Rest { return newRest(d, func(bool) {}) }

func newRest(d time.Duration, changed func(bool)) *Rest {
	r := &Rest{after: d, changed: changed}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(d, r.begin)
	return r
}

// Busy says that there is something to do.
func (r *Rest) Busy() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy++
	r.timer.Reset(r.after)
	if r.resting {
		r.resting = false
		debug.SetGCPercent(r.percent)
		debug.SetMemoryLimit(r.limit)
		r.changed(false)
	}
}

// begin is called by the timer, which nothing sets again before the next Busy: a
// process at rest is woken by nobody.
func (r *Rest) begin() {
	r.mu.Lock()
	busy := r.busy
	r.mu.Unlock()
	debug.FreeOSMemory() // not under the lock: it takes a millisecond
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.resting || r.busy != busy {
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r.resting = true
	r.limit = debug.SetMemoryLimit(-1)
	debug.SetMemoryLimit(min(int64(m.Sys-m.HeapReleased)+slack, r.limit))
	r.percent = debug.SetGCPercent(-1)
	// The next collection finds the witness gone.
	witness := &struct{ *Rest }{r}
	runtime.AddCleanup(witness, func(busy uint64) { r.collected(busy) }, busy)
	r.changed(true)
}

// collected ends the rest that began at that count: enough was allocated for a
// collection, so something is being done.
func (r *Rest) collected(busy uint64) {
	r.mu.Lock()
	over := !r.resting || r.busy != busy
	r.mu.Unlock()
	if !over {
		r.Busy()
	}
}
