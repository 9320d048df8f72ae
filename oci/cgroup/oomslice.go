package cgroup

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// systemd removes a scope, and memory.events with it, as soon as its last process has
// ended, and is often quicker than whoever hears of that end and looks. The slice
// around it stays, and counts on v2 what happened anywhere below, also in what is
// gone. So what a slice counts and no scope that is still there is the kill of one that is
// not. Others may be killed in a slice that is not one pod's alone: kills are charged
// to a scope only by who knows that SIGKILL ended it (Ended), and those that came to
// light before are nobody's.

// sliceKills are the kills in one slice. All are guarded by sliceMu, over which nothing
// blocks.
type sliceKills struct {
	dir    string
	events *os.File
	others int64 // kills of no watch
	scopes map[*OOMWatch]*scopeKills
}

// scopeKills are those in one scope, as far as known; ended says that no more is to be
// asked about.
type scopeKills struct {
	n     uint64
	ended bool
}

var (
	sliceMu       sync.Mutex
	watchedSlices = map[string]*sliceKills{}
)

// watchSlice counts the kills in the slice as well. Without it, there is only the
// scope's own count.
func (w *OOMWatch) watchSlice(dir string) {
	sliceMu.Lock()
	defer sliceMu.Unlock()
	s := watchedSlices[dir]
	if s != nil {
		if _, err := oomKills(s.events); err != nil {
			s = nil // it has gone, and been made anew
		}
	}
	if s == nil {
		name := filepath.Join(dir, "memory.events")
		fd, err := open(name, syscall.O_RDONLY)
		if err != nil {
			return
		}
		s = &sliceKills{dir: dir, events: os.NewFile(uintptr(fd), name), scopes: map[*OOMWatch]*scopeKills{}}
		watchedSlices[dir] = s
	}
	s.scopes[w], w.slice = &scopeKills{}, s
	if left, gone := s.look(); !gone || len(s.scopes) == 1 {
		s.others += left
	}
}

// look reads all counts, and returns how many kills are nobody's so far, and whether a
// scope is gone whose they may be. The sum comes first: of one that happens
// meanwhile it must not know more than the scopes.
func (s *sliceKills) look() (left int64, gone bool) {
	sum, err := oomKills(s.events)
	if err != nil {
		return 0, true
	}
	left = int64(sum) - s.others
	for w, k := range s.scopes {
		if n, err := oomKills(w.counter); err == nil {
			k.n = n
		} else if !k.ended {
			gone = true
		}
		left -= int64(k.n)
	}
	return left, gone
}

// learn takes note of the scope's own count, for when it is gone.
func (w *OOMWatch) learn(n uint64) {
	sliceMu.Lock()
	defer sliceMu.Unlock()
	if w.slice != nil {
		w.slice.scopes[w].n = n
	}
}

// Ended is to be told, once, that the cgroup's last process has ended, and whether SIGKILL
// ended it. It reports whether that was for want of memory where Killed cannot any
// more, of a scope that is gone.
func (w *OOMWatch) Ended(bySIGKILL bool) (killed bool) {
	sliceMu.Lock()
	defer sliceMu.Unlock()
	if w.slice == nil {
		return false
	}
	k := w.slice.scopes[w]
	k.ended = true
	left, _ := w.slice.look()
	if _, err := oomKills(w.counter); err == nil || !bySIGKILL || left <= 0 {
		return false
	}
	k.n += uint64(left)
	return true
}

// leaveSlice ends watchSlice.
func (w *OOMWatch) leaveSlice() {
	sliceMu.Lock()
	defer sliceMu.Unlock()
	s := w.slice
	if s == nil {
		return
	}
	w.slice = nil
	_, _ = s.look() // for this one's last count
	s.others += int64(s.scopes[w].n)
	delete(s.scopes, w)
	if left, gone := s.look(); !gone {
		s.others += left
	}
	if len(s.scopes) == 0 {
		_ = s.events.Close() // only read
		if watchedSlices[s.dir] == s {
			delete(watchedSlices, s.dir)
		}
	}
}
