package task

import (
	"errors"
	"sync"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/reap"
)

// oomWatch tells when the kernel has killed something in a container for want of
// memory. Its zero value never does.
type oomWatch struct {
	mu    sync.Mutex // a leaf; the watch itself is for one caller at a time
	watch *cgroup.OOMWatch
	stop  func()
}

// killed looks, and reports whether there will be anything more to look at.
func (w *oomWatch) killed() (killed, alive bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watch == nil {
		return false, false
	}
	killed, err := w.watch.Killed()
	return killed, err == nil // the error is that the cgroup has gone
}

// ended looks for the last time, as soon as init has ended: a scope is systemd's to remove
// then, and may have gone already.
func (w *oomWatch) ended(bySIGKILL bool) (killed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watch == nil {
		return false
	}
	seen, _ := w.watch.Killed() // the error is that the cgroup has gone
	return w.watch.Ended(bySIGKILL) || seen
}

// close ends the watch. It waits for a look under way, which takes mu: mu is not
// held over it.
func (w *oomWatch) close() {
	w.mu.Lock()
	watch, stop := w.watch, w.stop
	w.watch = nil
	w.mu.Unlock()
	if watch == nil {
		return
	}
	stop()
	_ = watch.Close() // only read
}

// watchOOM begins to watch the container's cgroup; what happened in that of an
// adopted one counts, too. A host without a memory
// controller has no OOM kills of a container's own.
func (t *task) watchOOM(adopted bool) error {
	cg, err := t.container.Cgroup()
	if err != nil {
		return err
	}
	w, err := cg.WatchOOM()
	if errors.Is(err, cgroup.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if adopted {
		w.FromStart()
	}
	t.oom.mu.Lock()
	defer t.oom.mu.Unlock() // the first look waits for it
	t.oom.watch = w
	t.oom.stop, err = reap.WatchFD(w.FD(), t.checkOOM)
	if err != nil {
		t.oom.watch = nil
		return errors.Join(err, w.Close())
	}
	return nil
}

// checkOOM looks for an OOM kill and announces the first. It is called by the
// watch, and wherever an answer depends on it, since cgroup v1 wakes the watch
// before it kills. It reports whether there is reason to go on watching.
func (t *task) checkOOM() bool {
	killed, alive := t.oom.killed()
	if killed {
		t.tellOOM()
		return false // once is enough
	}
	return alive
}

func (t *task) tellOOM() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.oomKilled {
		t.oomKilled = true
		t.service.events.publish("/tasks/oom", "containerd.events.TaskOOM", &taskEvent{ContainerID: t.id})
	}
}
