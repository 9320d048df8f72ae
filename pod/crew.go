package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/client"
)

// crew is a monitor process and the pods that it holds: Options.MonitorPods of them
// at most. With one each, its directory is the pod's bundle and it ends with the
// pod; else it has a directory of its own, which the pods' monitor files name, and
// it is ended when the last one has left, or becomes the spare (spare.go).
//
// crews.mu guards all that can change; it is a leaf.
type crew struct {
	id, dir string
	handler string
	program string // what it was started from; "" if not by us. See Manager.program
	shared  bool
	kept    client.Kept // for the next monitor, should this one be killed

	ready chan struct{} // closed when conn, or err, is there

	pods      map[string]*sandbox
	spare     bool // it has none, and waits for the next
	conn      Monitor
	err       error         // why there is no monitor
	replacing chan struct{} // closed when the loss of conn has been seen to; nil: it is well
}

type crewSet struct {
	mu     sync.Mutex
	all    map[string]*crew // by dir
	spares bool             // there is to be a spare

	tending sync.WaitGroup // begun under mu, as long as there is to be one
}

// crewFile, in a pod's bundle, names the directory of its monitor, if that has one
// of its own.
const crewFile = "monitor"

// maxCrewFile bounds what is read of it.
const maxCrewFile = 4096

func (m *Manager) crewsDir() string { return filepath.Join(m.o.State, "monitors") }

// crewDir is where the monitor of a pod has its socket.
func (m *Manager) crewDir(pod string) string {
	if data, err := sys.ReadFile(filepath.Join(m.podState(pod), crewFile), maxCrewFile); err == nil {
		return filepath.Join(m.crewsDir(), filepath.Base(strings.TrimSpace(string(data))))
	}
	return m.podState(pod)
}

// monitorAddress is where the monitor of a pod listens.
func (m *Manager) monitorAddress(pod string) string {
	return "unix://" + filepath.Join(m.crewDir(pod), monitorSocket)
}

func (c *crew) address() string { return "unix://" + filepath.Join(c.dir, monitorSocket) }

func newCrew(id, dir, handler string, shared bool) *crew {
	return &crew{id: id, dir: dir, handler: handler, shared: shared, ready: make(chan struct{}), pods: map[string]*sandbox{}}
}

// place finds a monitor with room for a new pod, or starts one.
func (m *Manager) place(ctx context.Context, p *sandbox) (*crew, Monitor, error) {
	c, chosen := m.chooseCrew(p, m.program(p.record.Runtime))
	switch chosen {
	case crewIsNew:
		conn, err := m.startCrew(ctx, c)
		m.settleCrew(c, conn, err)
	case crewIsSpare:
		m.checkSpare(ctx, c)
	}
	conn, err := m.monitorOf(ctx, c)
	if err == nil && c.shared {
		err = atomicfile.WriteVolatile(filepath.Join(m.podState(p.id), crewFile), []byte(filepath.Base(c.dir)), 0o600)
	}
	if err != nil {
		return nil, nil, errors.Join(err, m.leave(ctx, p, c))
	}
	return c, conn, nil
}

// settleCrew says that a crew has its first monitor, or why it has none.
func (m *Manager) settleCrew(c *crew, conn Monitor, err error) {
	m.crews.mu.Lock()
	c.conn, c.err = conn, err
	m.crews.mu.Unlock()
	close(c.ready)
}

// monitorOf is a crew's monitor, once it is there and well.
func (m *Manager) monitorOf(ctx context.Context, c *crew) (Monitor, error) {
	wait := c.ready
	for {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		m.crews.mu.Lock()
		conn, err := c.conn, c.err
		wait = c.replacing
		m.crews.mu.Unlock()
		if wait == nil {
			return conn, err
		}
	}
}

// chosenCrew is what is to be done with a crew before a pod can be on it.
type chosenCrew int

const (
	crewRuns    chosenCrew = iota // or is being started, or replaced, by somebody else
	crewIsNew                     // startCrew
	crewIsSpare                   // checkSpare
)

// chooseCrew places a pod in a monitor, by the program that one would be started from now.
func (m *Manager) chooseCrew(p *sandbox, program string) (*crew, chosenCrew) {
	m.crews.mu.Lock()
	defer m.crews.mu.Unlock()
	c := newCrew(p.id, m.podState(p.id), p.record.Runtime, false)
	if most := m.settings().MonitorPods; most > 1 {
		var spare *crew
		for _, c := range m.crews.all {
			if !c.shared || c.handler != p.record.Runtime || c.err != nil {
				continue
			}
			// One without pods that is not the spare is being ended.
			if n := len(c.pods); n > 0 && n < most {
				c.pods[p.id] = p
				return c, crewRuns
			}
			if c.spare && c.program == program {
				spare = c
			}
		}
		if spare != nil {
			spare.spare, spare.pods[p.id] = false, p
			if spare.conn == nil {
				return spare, crewRuns // soon
			}
			spare.replacing = make(chan struct{})
			return spare, crewIsSpare
		}
		c = m.newSharedCrew(p.record.Runtime)
	}
	c.pods[p.id], c.program = p, program
	m.crews.all[c.dir] = c
	return c, crewIsNew
}

func (m *Manager) startCrew(ctx context.Context, c *crew) (Monitor, error) {
	if c.shared {
		if err := os.Mkdir(c.dir, 0o700); err != nil {
			return nil, err
		}
	}
	// Others may wait for it who have more time.
	ctx, cancel := undoContext(ctx)
	defer cancel()
	monitor, err := m.o.Monitors.Start(ctx, m.startOptions(c))
	if err == nil {
		m.keep(ctx, c, monitor)
	}
	return monitor, err
}

// startOptions is how a monitor is started.
func (m *Manager) startOptions(c *crew) client.StartOptions {
	s := m.settings()
	runtime := s.Runtimes[c.handler]
	return client.StartOptions{
		Binary: runtime.Monitor, Namespace: monitorNamespace, ID: c.id, Bundle: c.dir, Pins: m.pins, StateDir: m.o.State,
		Debug: s.Debug, Env: runtime.Env,
	}
}

// keep has a monitor send what is to be kept for the next one.
func (m *Manager) keep(ctx context.Context, c *crew, monitor Monitor) {
	if m.pins == "" {
		return
	}
	// Once it has answered anything, it listens.
	_, err := monitor.SandboxStatus(ctx, c.id)
	if err == nil || errors.Is(err, client.ErrNotFound) {
		err = c.kept.Connect(ctx, c.dir)
	}
	if err != nil {
		m.o.Log.Warn("terminals will not survive their monitor", "monitor", c.id, "error", err)
	}
}

// leave takes a pod, which has been shut down, from its monitor. The last one ends
// the monitor, unless that becomes the spare.
func (m *Manager) leave(ctx context.Context, p *sandbox, c *crew) error {
	handler := m.wantsSpare()
	program, most := m.program(handler), m.settings().MonitorPods
	m.crews.mu.Lock()
	full := len(c.pods) == most
	delete(c.pods, p.id)
	last, conn := len(c.pods) == 0 && m.crews.all[c.dir] == c, c.conn
	if last {
		c.spare = m.crews.spares && m.crews.goodSpare(c, handler, program, most)
	}
	if last && !c.spare {
		delete(m.crews.all, c.dir)
	}
	stays := c.spare
	m.crews.mu.Unlock()
	ends := last && !stays
	if full || ends {
		defer m.tendSpare() // there is room beside the others now, or may be no monitor
	}
	if !ends {
		return nil
	}
	c.kept.Close()
	_ = os.Remove(m.eventsPath(c.id) + ".ttrpc") // of a handler that is a shim; else there is none
	if conn != nil {
		defer func() { _ = conn.Close() }() // nothing is under way on it
	}
	if !c.shared {
		return nil
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	return m.endCrew(ctx, c.dir, conn)
}

// goodSpare: a crew without pods can be the spare, and no other monitor of the handler has
// room, for most pods each.
func (s *crewSet) goodSpare(c *crew, handler, program string, most int) bool {
	for _, o := range s.all {
		if o != c && o.shared && o.handler == handler && len(o.pods) < most {
			return false
		}
	}
	return c.shared && c.handler == handler && c.program == program && c.conn != nil && c.err == nil && c.replacing == nil
}

// endCrew ends a monitor that has no pods and removes its directory, without
// which it ends by itself.
func (m *Manager) endCrew(ctx context.Context, dir string, conn Monitor) error {
	if conn != nil {
		if err := conn.ShutdownSandbox(ctx, ""); err != nil && !gone(err) {
			m.o.Log.Warn("end monitor", "dir", dir, "error", err)
		}
	}
	return os.RemoveAll(dir)
}

// rejoin finds the monitor of a pod after a start of the daemon, or starts one that
// replaces it, if it has been killed.
func (m *Manager) rejoin(ctx context.Context, p *sandbox) (Monitor, error) {
	if _, err := os.Stat(filepath.Join(m.podState(p.id), specFile)); err != nil {
		return nil, err // a reboot, or its end was not written
	}
	dir := m.crewDir(p.id)
	m.crews.mu.Lock()
	c := m.crews.all[dir]
	first := c == nil
	if first {
		id := p.id
		if dir != m.podState(p.id) {
			id = filepath.Base(dir)
		}
		c = newCrew(id, dir, p.record.Runtime, dir != m.podState(p.id))
		m.crews.all[dir] = c
	}
	c.pods[p.id] = p
	m.crews.mu.Unlock()
	if first {
		conn, err := m.o.Monitors.Connect(ctx, c.address())
		if err == nil {
			m.keep(ctx, c, conn)
		} else {
			conn, err = m.replaceMonitor(ctx, c)
		}
		m.settleCrew(c, conn, err)
	}
	conn, err := m.monitorOf(ctx, c)
	if err != nil {
		m.crews.mu.Lock()
		delete(c.pods, p.id) // others may be on their way: endOrphanCrews ends it, if not
		m.crews.mu.Unlock()
		return nil, err
	}
	p.crew = c
	return conn, nil
}

// sandboxOn asks a monitor for a pod's sandbox. One that has replaced the pod's own
// is told to adopt it, unless it has; a daemon may have been killed in between.
func (m *Manager) sandboxOn(ctx context.Context, conn Monitor, p *sandbox) (client.Sandbox, error) {
	s, err := conn.SandboxStatus(ctx, p.id)
	if !errors.Is(err, client.ErrNotFound) {
		return s, err
	}
	if err := conn.Adopt(ctx, p.id, m.podState(p.id)); err != nil {
		return client.Sandbox{}, err
	}
	return conn.SandboxStatus(ctx, p.id)
}

// replaceTries is how many monitors may be killed in a row before their pods are lost.
const replaceTries = 5

// replaceMonitor starts a monitor in the place of one that has been killed.
func (m *Manager) replaceMonitor(ctx context.Context, c *crew) (Monitor, error) {
	if c.shared {
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			return nil, err
		}
	}
	var conn Monitor
	var err error
	for range replaceTries {
		conn, err = m.o.Monitors.Replace(ctx, m.startOptions(c), &c.kept)
		if !errors.Is(err, client.ErrUnavailable) { // else it has been killed, too
			break
		}
	}
	if err != nil {
		m.o.Log.Error("replace monitor", "monitor", c.id, "error", err)
		return nil, err
	}
	m.monitorsReplaced.Add(1)
	return conn, nil
}

// onMonitor calls fn with the pod's monitor and, if that is lost meanwhile, with
// the one that replaces it, once it is there. What fn does must bear repetition.
func (m *Manager) onMonitor(ctx context.Context, p *sandbox, fn func(Monitor) error) error {
	for {
		monitor, err := p.live()
		if err != nil {
			return err
		}
		if err = fn(monitor); !errors.Is(err, client.ErrUnavailable) || ctx.Err() != nil || m.life.Err() != nil {
			return err
		}
		m.monitorLost(p, monitor)
		if now, e := p.live(); e == nil && now == monitor {
			return err // it is well: something else is not
		}
	}
}

// monitorLost sees to a monitor whose connection broke, for all its pods, and
// returns when that is done, whoever does it. While one is being replaced, the
// next may be lost already: whoever has waited looks again.
func (m *Manager) monitorLost(p *sandbox, was Monitor) {
	for {
		p.mu.Lock()
		c := p.crew
		lost := p.monitor == was
		p.mu.Unlock()
		if !lost || c == nil {
			return
		}
		m.crews.mu.Lock()
		others := c.replacing
		if others == nil && c.conn != was {
			m.crews.mu.Unlock()
			return
		}
		done := make(chan struct{})
		if others == nil {
			c.replacing = done
		}
		m.crews.mu.Unlock()
		if others != nil {
			<-others
			continue
		}
		m.recoverCrew(p, c, was)
		m.crews.mu.Lock()
		c.replacing = nil
		m.crews.mu.Unlock()
		close(done)
		return
	}
}

// recoverCrew connects pods with their monitor again or, if that is gone, with one
// that replaces it.
func (m *Manager) recoverCrew(p *sandbox, c *crew, was Monitor) {
	ctx, cancel := undoContext(m.life)
	defer cancel()
	if _, err := was.SandboxStatus(ctx, p.id); !errors.Is(err, client.ErrUnavailable) {
		return // it answers
	}
	_ = was.Close()
	began := time.Now()
	conn, err := m.o.Monitors.Connect(ctx, c.address())
	replaced := err != nil
	if replaced {
		conn, err = m.replaceMonitor(ctx, c)
	}
	m.crews.mu.Lock()
	c.conn, c.err = conn, err
	var pods []*sandbox
	for _, p := range c.pods {
		pods = append(pods, p)
	}
	m.crews.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range pods {
		all.Go(func() { m.recoverOn(ctx, p, was, conn, err, replaced) })
	}
	all.Wait()
	if replaced && err == nil {
		m.o.Log.Warn("monitor was killed and is replaced", "monitor", c.id, "pods", len(pods), "after", time.Since(began))
	}
}

// recoverOn goes on with a pod on another connection. If there can be none, it
// ends what the monitor held: nobody could stop it or see its end.
func (m *Manager) recoverOn(ctx context.Context, p *sandbox, was, conn Monitor, err error, replaced bool) {
	p.mu.Lock()
	mine := p.monitor == was // else the pod is being started, or stopped
	p.mu.Unlock()
	if !mine {
		return
	}
	if err == nil && replaced {
		var s client.Sandbox
		switch s, err = m.sandboxOn(ctx, conn, p); {
		case err == nil:
			err = m.joinSandbox(p, s)
		case errors.Is(err, client.ErrUnavailable):
			err = nil // it has been killed, too: whoever watches the pod sees to that
		}
	}
	p.mu.Lock()
	mine = p.monitor == was
	making := p.record.Phase == phaseCreating
	if mine && err != nil {
		p.monitor = nil
	} else if mine {
		p.monitor = conn
	}
	p.mu.Unlock()
	switch {
	case !mine, making && err != nil: // whoever makes or stops it undoes what there is
	case err != nil:
		m.o.Log.Error("monitor is gone; ending its pod", "pod", p.id, "name", p.what, "error", err)
		m.lose(ctx, p, "its monitor is gone")
	default:
		go m.watchSandbox(p, conn)
		for _, c := range p.all() {
			if !closed(c.exited) {
				go m.watch(c, conn)
			}
		}
	}
}

// endOrphanCrews ends monitors that hold no pod that we know, at the end of a
// start's recovery.
func (m *Manager) endOrphanCrews(ctx context.Context) {
	var orphans []Monitor
	m.crews.mu.Lock()
	for dir, c := range m.crews.all {
		if len(c.pods) > 0 {
			continue
		}
		delete(m.crews.all, dir)
		if c.conn != nil {
			orphans = append(orphans, c.conn)
		}
	}
	m.crews.mu.Unlock()
	for _, conn := range orphans {
		_ = conn.Close() // connected again below, if it has to be ended
	}
	m.removeOrphanEvents()
	atOnce(slices.Values(names(m.crewsDir())), func(name string) {
		dir := filepath.Join(m.crewsDir(), name)
		m.crews.mu.Lock()
		known := m.crews.all[dir] != nil
		m.crews.mu.Unlock()
		if known {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
		defer cancel()
		conn, err := m.o.Monitors.Connect(ctx, "unix://"+filepath.Join(dir, monitorSocket))
		if err != nil {
			conn = nil
		}
		err = m.endCrew(ctx, dir, conn)
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			m.o.Log.Warn("end a monitor without pods", "dir", dir, "error", err)
			return
		}
		m.o.Log.Info("ended a monitor without pods", "dir", dir) // the spare of one that was killed
	})
}

// eventsPath is where the monitor with that id takes the events of foreign shims: a
// path that is short however long that of its directory is.
func (m *Manager) eventsPath(id string) string {
	return filepath.Join(m.o.State, "events", id[:min(len(id), eventsName)])
}

// eventsName is how much of a monitor's id names its socket for events.
const eventsName = 16

// removeOrphanEvents removes the sockets of monitors that are no more.
func (m *Manager) removeOrphanEvents() {
	known := map[string]bool{}
	m.crews.mu.Lock()
	for _, c := range m.crews.all {
		known[filepath.Base(m.eventsPath(c.id))+".ttrpc"] = true
	}
	m.crews.mu.Unlock()
	dir := filepath.Join(m.o.State, "events")
	for _, name := range names(dir) {
		if !known[name] {
			_ = os.Remove(filepath.Join(dir, name)) // clutter at worst
		}
	}
}

// closeCrews ends all connections; monitors that hold pods stay.
func (m *Manager) closeCrews(ctx context.Context) error {
	err := m.endSpares(ctx)
	var conns []Monitor
	m.crews.mu.Lock()
	crews := slices.Collect(maps.Values(m.crews.all))
	for _, c := range crews {
		if c.conn != nil {
			conns = append(conns, c.conn)
		}
	}
	m.crews.mu.Unlock()
	for _, conn := range conns {
		err = errors.Join(err, conn.Close())
	}
	for _, c := range crews {
		c.kept.Close()
	}
	if err != nil {
		return fmt.Errorf("close monitors: %w", err)
	}
	return nil
}
