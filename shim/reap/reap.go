// Package reap collects the exits of a monitor's children: the processes of its
// containers, each through its pidfd, and orphans that the kernel hands to the
// monitor because it is a subreaper.
//
// Nothing here polls. A watched process costs a goroutine that sleeps in the
// network poller until its pidfd becomes readable. Orphans are announced by
// SIGCHLD; they occur only where a container has no PID namespace of its own, so
// that signal is not listened to before AdoptOrphans.
//
// The one difficulty is telling an orphan from a child that somebody here has
// just started and will wait for: whoever starts or waits for children by other
// means holds the Reaper meanwhile (Hold), and an orphan is collected only while
// nobody does. mu is never held across anything that blocks.
package reap

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// Exit is how a process ended. Status is its exit code, or 128 + Signal.
type Exit struct {
	Pid    int
	Status int
	Signal int // 0 if it exited by itself
	At     time.Time
}

// Reaper knows which children are somebody's.
type Reaper struct {
	adopt sync.Once
	again chan struct{} // an orphan may have become visible

	mu      sync.Mutex
	holders int
	watched map[int]struct{}
}

// New makes this process a subreaper and returns its Reaper. There is one per
// process.
func New() (*Reaper, error) {
	if err := sys.SetSubreaper(); err != nil {
		return nil, fmt.Errorf("become a subreaper: %w", err)
	}
	return &Reaper{again: make(chan struct{}, 1), watched: map[int]struct{}{}}, nil
}

// Hold must be called before children are started or waited for other than by
// Watch, and release afterwards, when those that stay are watched. Holding does
// not exclude others.
func (r *Reaper) Hold() (release func()) {
	r.mu.Lock()
	r.holders++
	r.mu.Unlock()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		r.holders--
		r.mu.Unlock()
		r.wake()
	})
}

// Watch reports, once, the exit of a child that was started under Hold, however
// long ago it ended. It borrows pidfd until done is called.
func (r *Reaper) Watch(pid int, pidfd *os.File, done func(Exit)) error {
	// A descriptor of its own: closing the caller's would end the wait.
	fd, err := sys.DupPollable(pidfd)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	raw, err := fd.SyscallConn()
	if err != nil {
		_ = fd.Close() // was never used
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	r.mu.Lock()
	r.watched[pid] = struct{}{}
	r.mu.Unlock()
	go func() {
		var exit sys.ChildExit
		var waitErr error
		told := false
		err := raw.Read(func(fd uintptr) bool {
			var ok bool
			if exit, ok, waitErr = sys.WaitPidFD(int(fd)); ok || waitErr != nil {
				return true
			}
			// It may have ended and be its tracer's to collect first (ptrace(2)), at
			// its leisure.
			if !told {
				var zombie sys.ChildExit
				if zombie, told = sys.ZombieExit(int(fd), pid); told {
					zombie.Pid = pid
					done(exitOf(zombie, time.Now()))
				}
			}
			return false
		})
		at := time.Now()
		_ = fd.Close() // a duplicate
		r.mu.Lock()
		delete(r.watched, pid)
		r.mu.Unlock()
		r.wake()
		if err != nil || waitErr != nil {
			// Not our child, or collected by somebody else: a mistake of ours,
			// but whoever waits for it must not wait for ever.
			exit = sys.ChildExit{Pid: pid, Status: 255}
		}
		if !told {
			done(exitOf(exit, at))
		}
	}()
	return nil
}

// WatchOther reports, once, the exit of a process that need not be a child: one
// that a monitor left that was killed. Known is false where its exit code is
// nowhere to be had. It borrows pidfd until done is called.
func WatchOther(pid int, pidfd *os.File, done func(e Exit, known bool)) error {
	fd, err := sys.DupPollable(pidfd)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	raw, err := fd.SyscallConn()
	if err != nil {
		_ = fd.Close() // was never used
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		var exit sys.ChildExit
		var known bool
		err := raw.Read(func(fd uintptr) (ended bool) {
			// Before its parent collects it, or after.
			if exit, known = sys.ZombieExit(int(fd), pid); known {
				return true
			}
			exit, known, ended = sys.PidFDExit(int(fd))
			return ended
		})
		at := time.Now()
		_ = fd.Close() // a duplicate
		if err != nil || !known {
			exit, known = sys.ChildExit{Status: lostStatus}, false
		}
		exit.Pid = pid
		done(exitOf(exit, at), known)
	}()
	return nil
}

// lostStatus is the status of a process whose exit nobody saw.
const lostStatus = 255

func exitOf(e sys.ChildExit, at time.Time) Exit {
	x := Exit{Pid: e.Pid, Status: e.Status, At: at}
	if e.Signaled {
		x.Status, x.Signal = 128+e.Status, e.Status
	}
	return x
}

// WatchFD calls look when fd becomes readable, and once at the start, until look
// returns false or stop is called. Look takes away what made it readable. The
// descriptor stays the caller's and may be closed after stop.
func WatchFD(fd int, look func() bool) (stop func(), err error) {
	f, err := sys.DupPollableFD(fd, "watch")
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close() // unused
		return nil, err
	}
	go func() {
		_ = raw.Read(func(uintptr) bool { return !look() }) // ends with stop at the latest
	}()
	return func() { _ = f.Close() }, nil // a duplicate
}

// Start starts a command that its caller waits for, with cmd.Wait, and then
// reports as collected.
func (r *Reaper) Start(cmd *exec.Cmd) (collected func(), err error) {
	release := r.Hold()
	defer release()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	r.mu.Lock()
	r.watched[pid] = struct{}{}
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		delete(r.watched, pid)
		r.mu.Unlock()
		r.wake()
	}, nil
}

// AdoptOrphans begins to collect children that nobody watches.
func (r *Reaper) AdoptOrphans() {
	r.adopt.Do(func() {
		children := make(chan os.Signal, 1)
		signal.Notify(children, syscall.SIGCHLD)
		go func() {
			for {
				select {
				case <-children:
				case <-r.again:
				}
				for r.collectOrphan() {
				}
			}
		}()
	})
}

// wake makes the collector look again: the child that hid an orphan from
// PeekChild is gone, or the last holder is.
func (r *Reaper) wake() {
	select {
	case r.again <- struct{}{}:
	default: // it is going to look anyway
	}
}

// collectOrphan collects one orphan and reports whether there may be another.
func (r *Reaper) collectOrphan() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holders > 0 {
		return false
	}
	child, ok, err := sys.PeekChild()
	if !ok || err != nil {
		return false
	}
	if _, watched := r.watched[child.Pid]; watched {
		return false // its watcher is on its way and will wake us
	}
	_, ok, err = sys.WaitPid(child.Pid)
	return ok && err == nil
}
