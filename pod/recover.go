package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/store"
	"github.com/strake-containers/strake/shim/client"
)

const (
	// recoverTimeout bounds what a stuck monitor can hold up the start.
	recoverTimeout = 10 * time.Second
	// recoverAtOnce bounds the monitors that are asked at once.
	recoverAtOnce = 32
)

type (
	storedPod       = store.Pod[podRecord, containerRecord]
	storedContainer = store.Container[containerRecord]
)

// recover makes the state in memory what is on disk and in the monitors. It
// assumes that
//
//  1. nobody else works on these directories,
//  2. a monitor that answers knows better than the disk, and exit.json better
//     than nothing,
//  3. what has no finished record was promised to nobody.
//
// A pod that cannot be recovered is logged, and never keeps the others from it.
func (m *Manager) recover(ctx context.Context) error {
	pods, rubbish, err := m.store.Load()
	if err != nil {
		return err
	}
	if rubbish != nil {
		m.o.Log.Error("what was removed stays on the disk until the next start", "error", rubbish)
	}
	atOnce(slices.Values(pods), func(sp storedPod) {
		ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
		defer cancel()
		if err := m.recoverPod(ctx, sp); err != nil {
			m.o.Log.Error("recover pod", "pod", sp.ID, "error", err)
		}
	})
	m.reclaimOrphans(ctx)
	close(m.recovered)
	m.abandonAgain()
	for _, p := range m.allPods() {
		if p.stopping && m.halfStopped(p) { // nobody else knows of it yet
			m.joinStopPod(m.life, p) // a stop that was cut off goes on, whether or not its client comes back
		}
	}
	return nil
}

// atOnce calls fn for each of them, recoverAtOnce at a time, and returns when all have
// returned.
func atOnce[T any](of iter.Seq[T], fn func(T)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, recoverAtOnce)
	for one := range of {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			fn(one)
		})
	}
	all.Wait()
}

func (m *Manager) recoverPod(ctx context.Context, sp storedPod) error {
	if sp.Err == nil && sp.Record.ID != sp.ID {
		sp.Record, sp.Err = nil, fmt.Errorf("the record is that of pod %q", sp.Record.ID)
	}
	if halfMade(sp) {
		// What costs others is ended at once. The network can take its time.
		err := m.endPod(ctx, sp.ID, handlerOf(sp))
		m.undoHalfMade(sp)
		return err // which is tried again
	}
	if sp.Err != nil {
		return m.setPodAside(ctx, sp)
	}
	p := newSandbox(*sp.Record)
	if m.o.SELinux != nil && p.record.Labels != (bundle.Labels{}) {
		m.o.SELinux.Reserve(p.record.Labels)
	}
	if p.stopping = p.record.Phase == phaseStopped; p.stopping {
		p.stopTold, p.endTold = true, true
		p.end()
	}

	// 1. Its monitor, if it is to have one. The reboot, or somebody, may have
	// taken it.
	monitor := m.reconnect(ctx, p)

	// 2. Its containers.
	for _, sc := range sp.Containers {
		if sc.Err == nil && sc.Record.ID != sc.ID {
			sc.Err = fmt.Errorf("the record is that of container %q", sc.Record.ID)
		}
		if sc.Err != nil {
			if err := m.discardContainer(ctx, p, sc); err != nil {
				m.o.Log.Error("recover container", "container", sc.ID, "error", err)
			}
			continue
		}
		c := newContainer(p, *sc.Record)
		p.containers[c.id] = c
		if c.record.State != ContainerExited {
			p.names[c.key] = c
		}
	}

	// 3. It is known.
	m.mu.Lock()
	m.pods[p.id] = p
	if monitor != nil && !p.stopping {
		m.names[p.key] = p
		p.making = finishedWork
	}
	for id, c := range p.containers {
		m.containers[id] = c
		c.making = finishedWork
	}
	m.mu.Unlock()

	// 4. What became of the containers meanwhile.
	if monitor != nil {
		m.onceRecovered(func() { m.watchSandbox(p, monitor) })
	}
	if monitor == nil {
		if !p.stopping {
			m.o.Log.Warn("pod has no monitor any more", "pod", p.id, "name", p.what)
		}
		m.endLost(ctx, p)
	}
	for _, c := range p.all() {
		m.recoverContainer(ctx, c, monitor)
	}
	if monitor == nil {
		return m.removeBundle(p.id, m.writeEnds(p)...) // nobody looks for its monitor again
	}
	return nil
}

// halfStopped says whether a stopped pod still has what a stop takes away.
func (m *Manager) halfStopped(p *sandbox) bool {
	if p.record.Attached {
		return true
	}
	for _, path := range []string{m.podState(p.id), p.record.NetNS} {
		if _, err := os.Lstat(path); path != "" && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// finishedWork is the making of what was made in an earlier life.
var finishedWork = func() *work {
	w := &work{tracker: newTracker(), done: make(chan struct{})}
	close(w.done)
	return w
}()

// reconnect connects a pod with its monitor, or with the one that replaces it, or
// returns nil if there is none. One that is there and does not answer still has the
// pod: what it has is watched.
func (m *Manager) reconnect(ctx context.Context, p *sandbox) Monitor {
	monitor, err := m.rejoin(ctx, p)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // a reboot
			m.o.Log.Error("find the pod's monitor", "pod", p.id, "name", p.what, "error", err)
		}
		return nil
	}
	p.mu.Lock()
	p.monitor = monitor
	p.mu.Unlock()
	switch err := m.joinMonitor(ctx, p); {
	case err == nil:
	case errors.Is(err, errMonitorGone):
		return nil
	case gone(err):
		m.o.Log.Error("ask monitor for its sandbox", "pod", p.id, "error", err)
		p.mu.Lock()
		p.monitor = nil // its crew ends with its last pod
		p.mu.Unlock()
		return nil
	default:
		m.o.Log.Error("ask monitor for its sandbox", "pod", p.id, "error", err)
	}
	monitor, err = p.live()
	if err != nil {
		return nil
	}
	return monitor
}

// joinMonitor finds out what containers need to know of a pod's sandbox.
func (m *Manager) joinMonitor(ctx context.Context, p *sandbox) error {
	return m.onMonitor(ctx, p, func(monitor Monitor) error {
		s, err := m.sandboxOn(ctx, monitor, p)
		if err == nil {
			err = m.joinSandbox(p, s)
		}
		return err
	})
}

// recoverContainer finds out whether a container still lives and goes on
// watching it.
func (m *Manager) recoverContainer(ctx context.Context, c *container, monitor Monitor) {
	if c.record.State == ContainerExited {
		c.ending.Do(func() { close(c.exited) })
		if monitor == nil {
			c.forgotten()
		} else {
			go m.reap(c) // the end may have been written and the rest not
		}
		return
	}
	if monitor == nil {
		if _, err := client.ReadExit(m.containerState(c.pod.id, c.id)); err != nil && c.pod.stopping {
			// By the stop that was cut off, or by its going on.
			m.recordExit(c, client.Exit{Status: exitLost})
		} else {
			m.recordUnseen(c, "it ended while its monitor was gone, perhaps with the machine")
		}
		c.forgotten()
		return
	}
	var s client.Status
	err := m.onMonitor(ctx, c.pod, func(monitor Monitor) (err error) {
		s, err = monitor.ContainerStatus(ctx, c.id)
		return err
	})
	if now, e := c.pod.live(); e == nil {
		monitor = now // it may have been replaced
	}
	c.pod.mu.Lock()
	waits := c.waits()
	c.pod.mu.Unlock()
	if waits {
		if errors.Is(err, client.ErrNotFound) {
			return // for its start
		}
		if err == nil { // which the daemon did not see the end of
			err = m.updateContainer(c, false, func(r *containerRecord) { r.Pid = s.Pid })
		}
	}
	if err == nil && s.State == string(ContainerRunning) && s.StartedAt.IsZero() {
		s.StartedAt = now() // its monitor died, too, before it could
	}
	if err == nil && !s.StartedAt.IsZero() && c.record.State == ContainerCreated {
		// It was started, and the daemon died before it could write so.
		err = m.updateContainer(c, false, func(r *containerRecord) { r.State, r.StartedAt = ContainerRunning, s.StartedAt })
	}
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		m.o.Log.Error("recover container", "container", c.id, "error", err)
	}
	m.hold(c)
	if err == nil && s.State == client.StateStarting {
		m.resumeStart(c)
	}
	if err == nil && s.State == client.StatePaused {
		m.thaw(c)
	}
	m.onceRecovered(func() { m.watch(c, monitor) })
}

// thaw ends a checkpoint that the daemon before this one was killed over: it lets the
// container go on, which nothing else freezes. No other one is made meanwhile.
func (m *Manager) thaw(c *container) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	m.join(m.life, &c.pod.mu, c.lane, verbCheckpoint, c.what, verbTimeout, func(ctx context.Context, w *work) error {
		w.enter("thaw") // when CRIU has ended
		err := m.onMonitor(ctx, c.pod, func(monitor Monitor) error { return monitor.Resume(ctx, c.id) })
		if ended(err) {
			return nil
		}
		if err != nil { // nobody may wait for it
			m.o.Log.Error("let a container go on that was frozen for a checkpoint", "container", c.id, "error", err)
		}
		return err
	})
}

// onceRecovered runs fn on a goroutine of its own when all pods are known. What would
// wait for their ends can do so later: others are served sooner.
func (m *Manager) onceRecovered(fn func()) {
	go func() {
		<-m.recovered
		fn()
	}()
}

// halfMade is a pod that was never finished.
func halfMade(sp storedPod) bool {
	return sp.Record != nil && sp.Record.Phase == phaseCreating || errors.Is(sp.Err, fs.ErrNotExist)
}

// undoHalfMade undoes a pod that was never finished, while the daemon serves others
// already. Its name is in use until then, or until that has failed once.
func (m *Manager) undoHalfMade(sp storedPod) {
	what := sp.ID
	if sp.Record != nil {
		what = sp.Record.Config.Namespace + "/" + sp.Record.Config.Name
	}
	undo := func(ctx context.Context) error {
		if err := m.discardPod(ctx, sp); err != nil {
			return err
		}
		return m.store.RemovePod(sp.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.tracker.start(m.life, "undo", "half-made pod "+what, undoTimeout, func(ctx context.Context, w *work) error {
		w.enter("network")
		return undo(ctx)
	}, func(_ *work, err error) {
		m.mu.Lock()
		if sp.Record != nil {
			delete(m.undoing, keyOf(&sp.Record.Config))
		}
		if err == nil {
			delete(m.halfMade, sp.ID)
		}
		m.mu.Unlock()
		if err != nil {
			m.o.Log.Error("recover pod", "pod", sp.ID, "error", err)
			m.undoLater(sp.ID, func(ctx context.Context) error {
				if err := undo(ctx); err != nil {
					return err
				}
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.halfMade, sp.ID)
				return nil
			})
		}
	})
	m.halfMade[sp.ID] = w
	if sp.Record != nil {
		m.undoing[keyOf(&sp.Record.Config)] = w
	}
}

// discardPod ends all of a pod that will not be known.
func (m *Manager) discardPod(ctx context.Context, sp storedPod) error {
	known := network.Pod{ID: sp.ID}
	if sp.Record != nil {
		known = sp.Record.network()
	}
	var containers []string
	for _, c := range sp.Containers {
		containers = append(containers, c.ID)
	}
	return m.reclaim(ctx, known, handlerOf(sp), containers)
}

// handlerOf is the runtime handler of a pod; "" if its record is gone.
func handlerOf(sp storedPod) string {
	if sp.Record == nil {
		return ""
	}
	return sp.Record.Runtime
}

// setPodAside keeps a pod that cannot be read for a person to look at. Its name is
// free and nothing of it is left running.
func (m *Manager) setPodAside(ctx context.Context, sp storedPod) error {
	err := m.discardPod(ctx, sp)
	to, asideErr := m.store.SetPodAside(sp.ID)
	m.noteUnreadable("pod "+sp.ID, to, sp.Err)
	return errors.Join(err, asideErr)
}

// discardContainer is discardPod for a container of a pod that is known. Its
// monitor may still be creating it, and then answers when it has; one that replaces
// that removes what it has half made. Without a monitor, its program does.
func (m *Manager) discardContainer(ctx context.Context, p *sandbox, sc storedContainer) error {
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	bundleDir := m.containerState(p.id, sc.ID)
	if err := m.destroy(ctx, p, sc.ID); err != nil {
		return err // its layers and its bundle are in use; the next start tries again
	}
	if _, err := p.live(); err != nil {
		if _, err := os.Stat(bundleDir); err == nil {
			if err := m.cleanup(ctx, p.record.Runtime, sc.ID, bundleDir); err != nil {
				return err
			}
		}
	}
	err := errors.Join(os.RemoveAll(bundleDir), m.o.Images.Release(sc.ID))
	if errors.Is(sc.Err, fs.ErrNotExist) {
		return errors.Join(err, m.store.RemoveContainer(p.id, sc.ID))
	}
	to, asideErr := m.store.SetContainerAside(p.id, sc.ID)
	m.noteUnreadable("container "+sc.ID, to, sc.Err)
	return errors.Join(err, asideErr)
}

func (m *Manager) noteUnreadable(what, to string, reason error) {
	m.o.Log.Error("set aside what cannot be read", "what", what, "to", to, "reason", reason)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unreadable = append(m.unreadable, what+" ("+to+"): "+reason.Error())
}

// reclaimOrphans ends what belongs to no pod or container: its record was
// removed, lost or set aside.
func (m *Manager) reclaimOrphans(ctx context.Context) {
	m.mu.Lock()
	pods, containers := maps.Clone(m.pods), map[string]bool{}
	halfMade := maps.Clone(m.halfMade)
	for id := range m.containers {
		containers[id] = true
	}
	m.mu.Unlock()
	orphans := map[string]bool{}
	for _, dir := range []string{filepath.Join(m.o.State, "pods"), filepath.Join(m.o.State, "netns")} {
		for _, id := range names(dir) {
			if pods[id] == nil && halfMade[id] == nil {
				orphans[id] = true
			}
		}
	}
	atOnce(maps.Keys(orphans), func(id string) {
		ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
		defer cancel()
		err := m.endPod(ctx, id, "")
		m.o.Log.Warn("ends what belongs to no pod", "pod", id, "error", err)
		m.undoHalfMade(storedPod{ID: id, Err: fs.ErrNotExist})
	})
	m.endOrphanCrews(ctx)
	var living sync.Map // those that could not be ended: their layers are in use
	atOnce(maps.Values(pods), func(p *sandbox) {
		for _, name := range names(m.podState(p.id)) {
			if len(name) != len(p.id) || containers[name] || name == p.id {
				continue // a socket, a log, a container, a foreign shim's first task
			}
			err := m.discardContainer(ctx, p, storedContainer{ID: name, Err: fs.ErrNotExist})
			m.o.Log.Warn("ended what belongs to no container", "container", name, "error", err)
			if err != nil {
				living.Store(name, nil)
			}
		}
	})
	for _, l := range m.o.Images.Holders() {
		id, _, _ := strings.Cut(l.Holder, "-")
		if _, lives := living.Load(id); len(id) == 64 && !containers[id] && !lives {
			if err := m.o.Images.Release(l.Holder); err != nil {
				m.o.Log.Error("release image", "holder", l.Holder, "error", err)
			}
		}
	}
	m.collectNetworks()
}

// collectNetworks lets the network release what it holds for pods that are gone, while
// others are served. New pods, which it would not know, are connected afterwards.
// Half-made ones are being torn down by themselves.
func (m *Manager) collectNetworks() {
	m.mu.Lock()
	live := slices.Collect(maps.Keys(m.halfMade))
	m.mu.Unlock()
	for _, p := range m.allPods() {
		p.mu.Lock()
		if p.record.Attached {
			live = append(live, p.id)
		}
		p.mu.Unlock()
	}
	slices.Sort(live)
	const verb, what = "release networks", "of pods that are gone"
	m.collecting = m.tracker.start(m.life, verb, what, recoverTimeout, func(ctx context.Context, w *work) error {
		w.enter("network")
		return m.o.Network.GC(ctx, live)
	}, func(_ *work, err error) {
		if err != nil {
			m.o.Log.Error(verb+" "+what, "error", err)
		}
	})
}

// names lists a directory; one that is not there is empty.
func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return out
}
