package idle

import (
	"math"
	"runtime/debug"
	"testing"
	"time"
)

func await(t *testing.T, changes <-chan bool, resting bool) {
	t.Helper()
	select {
	case is := <-changes:
		if is != resting {
			t.Fatalf("resting: %v, want %v", is, resting)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("it never came to be: resting %v", resting)
	}
}

// A process rests once it has not been busy, with the collector off, and is as it
// was when it is busy again: because it is told, or because it allocates.
func TestRest(t *testing.T) {
	before := debug.SetGCPercent(70)
	defer debug.SetGCPercent(before)
	normal := func() {
		t.Helper()
		if p := debug.SetGCPercent(70); p != 70 {
			t.Errorf("GOGC is %d", p)
		}
		if l := debug.SetMemoryLimit(-1); l != math.MaxInt64 {
			t.Errorf("the memory limit is %d", l)
		}
	}
	changes := make(chan bool, 10)
	r := newRest(time.Millisecond, func(resting bool) { changes <- resting })
	defer r.timer.Stop()
	await(t, changes, true)
	if l := debug.SetMemoryLimit(-1); l == math.MaxInt64 {
		t.Error("no memory limit at rest: nothing would end it")
	}
	r.mu.Lock()
	r.after = time.Hour
	r.mu.Unlock()
	r.Busy()
	await(t, changes, false)
	normal()

	r.mu.Lock()
	r.after = time.Millisecond
	r.mu.Unlock()
	r.Busy()
	await(t, changes, true)
	r.mu.Lock()
	r.after = time.Hour
	r.mu.Unlock()
	for {
		garbage = make([]byte, 1<<16)
		select {
		case resting := <-changes:
			if resting {
				t.Fatal("it rests twice")
			}
			normal()
			return
		default:
		}
	}
}

var garbage []byte

// Who is busy before the rest has begun does not rest.
func TestBusyInTime(t *testing.T) {
	changes := make(chan bool, 10)
	r := newRest(time.Hour, func(resting bool) { changes <- resting })
	for range 3 {
		r.Busy()
	}
	r.begin()
	await(t, changes, true)
	r.Busy()
	await(t, changes, false)
	r.timer.Stop()
}
