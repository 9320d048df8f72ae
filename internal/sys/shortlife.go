package sys

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// callersSlack is the timer slack (prctl(2), PR_SET_TIMERSLACK) that this program was
// started with, in nanoseconds; 0 if all its threads have that.
var callersSlack uintptr

// shortLived is whether the program has called ShortLife.
var shortLived bool

// ShortLife suits Go's runtime to a program that has ended before it would have got
// going, started with one thread's worth of scheduler and, by its entry, with a timer
// slack of 10 ms, for which slack is what it was before (0: nothing was changed). It is
// called first of all by main, which begins on the thread that the program starts on.
//
// The runtime's monitor thread, which it starts before any init, wakes up every 20 µs
// until it has seen a millisecond of calm, then less often, up to every 10 ms. The slack,
// which threads inherit, gives it the longest pause from the start: thirty switches of
// threads are a tenth of what a container's start takes. The thread that is called on
// gets the caller's back, and what is started gets it by CallersSlack.
func ShortLife(slack uintptr) {
	shortLived, callersSlack = true, slack
	restoreSlack()
}

func restoreSlack() {
	if callersSlack != 0 {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, callersSlack, 0, 0, 0) // it cannot fail
	}
}

// CallersSlack is the timer slack that a thread has to give itself before it clones a
// process, in nanoseconds; 0 none: a thread that the monitor thread has started has
// inherited that one's.
func CallersSlack() uintptr { return callersSlack }

// StartProgram calls start, which starts another program, on a thread with the caller's
// timer slack.
func StartProgram(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restoreSlack()
	return start()
}

// Concurrent is for who has goroutines wait for several things at once. With one thread's
// worth of scheduler, whoever waits in the kernel (for a terminal, for a program's end)
// has the others wait until the monitor thread comes by. It changes nothing in a program
// that has not called ShortLife: that one has chosen its number of threads for itself.
func Concurrent() {
	if shortLived && runtime.GOMAXPROCS(0) == 1 {
		runtime.GOMAXPROCS(2)
	}
}
