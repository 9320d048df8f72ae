package pod

import (
	"context"
	"errors"
	"time"

	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/shim/client"
)

// flushAfter is how long after its end a container's record is made to outlive a
// power cut, unless it is removed by then: most containers end with their pod.
const flushAfter = 2 * time.Second

// lastReap is how long after a failure a monitor is asked again at most to let go of an
// ended container: somebody may be waiting to remove it.
const lastReap = 30 * time.Second

// watchSandbox notices the death of a pod's monitor also while no container
// runs in it.
func (m *Manager) watchSandbox(p *sandbox, monitor Monitor) {
	err := monitor.WaitSandbox(m.life, p.id)
	switch {
	case m.life.Err() != nil:
	case errors.Is(err, client.ErrUnavailable):
		m.monitorLost(p, monitor)
	case err == nil:
		m.sandboxEnded(p)
	}
}

// sandboxEnded makes a pod one that is not ready: its sandbox has ended, by itself
// unless it is being stopped. What is left of it goes when it is stopped.
func (m *Manager) sandboxEnded(p *sandbox) {
	p.mu.Lock()
	p.ended = true
	stopping := p.stopping
	p.mu.Unlock()
	if !stopping {
		m.o.Log.Warn("the pod's sandbox has ended", "pod", p.id, "name", p.what)
		m.forgetPodName(p)
		m.publishEnd(p)
	}
}

// publishEnd tells, once, that a pod is not ready any more.
func (m *Manager) publishEnd(p *sandbox) {
	p.mu.Lock()
	told := p.endTold
	p.endTold = true
	p.mu.Unlock()
	if !told {
		m.publish(p, Event{Type: EventStopped, ContainerID: p.id})
	}
}

// watch waits for the end of a container's process and sees to all that follows.
func (m *Manager) watch(c *container, monitor Monitor) {
	c.pod.mu.Lock()
	waits := c.waits()
	c.pod.mu.Unlock()
	if waits {
		return // whoever starts it watches it
	}
	exit, err := monitor.Wait(m.life, c.id, "")
	switch {
	case m.life.Err() != nil:
		return // Close; the next Open asks the monitor again
	case errors.Is(err, client.ErrUnavailable):
		m.monitorLost(c.pod, monitor)
		return
	case err != nil:
		m.o.Log.Error("wait for container", "container", c.id, "error", err)
		m.recordUnseen(c, "its monitor does not know it")
	default:
		m.recordExit(c, exit)
	}
	m.reap(c)
}

// recordExit writes down how a container ended and tells everybody.
func (m *Manager) recordExit(c *container, exit client.Exit) {
	// What started it has to have said so first.
	c.pod.mu.Lock()
	starting := c.lane[verbStart]
	c.pod.mu.Unlock()
	if starting != nil {
		<-starting.done
	}
	started := m.startedUnseen(c)
	// The file knows more than the rpc: whether memory ran out, or nobody saw it.
	if e, err := client.ReadExit(m.containerState(c.pod.id, c.id)); err == nil {
		exit.OOMKilled, exit.Signal, exit.Lost, exit.StartedAt, exit.Forbidden = e.OOMKilled, e.Signal, e.Lost, e.StartedAt, e.Forbidden
	}
	var forbidden map[string]uint64
	if c.record.CountForbidden { // since its birth
		forbidden = m.forbidden(c)
	}
	c.pod.mu.Lock()
	failed := c.startError
	c.pod.mu.Unlock()
	m.finish(c, exit.OOMKilled, func(r *containerRecord) {
		r.Forbidden = forbidden
		if !started.IsZero() {
			r.StartedAt = started
		}
		r.ended(exit)
		if failed != "" {
			r.ExitCode, r.Reason, r.Message = exitStartError, ReasonStartError, failed
		}
	})
}

// startedUnseen is when a container that counts as created was started, for a daemon that
// was killed before it knew; zero if it was not, or nobody can tell.
func (m *Manager) startedUnseen(c *container) time.Time {
	c.pod.mu.Lock()
	known := c.record.State != ContainerCreated || c.startError != ""
	c.pod.mu.Unlock()
	monitor, err := c.pod.live()
	if known || err != nil {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(m.life, recoverTimeout)
	defer cancel()
	s, err := monitor.ContainerStatus(ctx, c.id)
	if err != nil {
		m.o.Log.Warn("ask when container was started", "container", c.id, "error", err)
	}
	return s.StartedAt
}

// recordUnseen writes down that a container ended while nobody looked: as the
// monitor has left it in writing, or else as lost.
func (m *Manager) recordUnseen(c *container, why string) {
	if exit, err := client.ReadExit(m.containerState(c.pod.id, c.id)); err == nil {
		m.recordExit(c, exit)
		return
	}
	m.finish(c, false, func(r *containerRecord) { r.lost(why) })
}

// finish makes a container an exited one. The record outlives the daemon at once
// and a power cut a little later.
func (m *Manager) finish(c *container, oom bool, change func(*containerRecord)) {
	// The monitor may report an end and be lost at the same moment.
	c.ending.Do(func() {
		if oom {
			m.oomKilled.Add(1)
		}
		err := m.updateContainer(c, false, change)
		if err != nil { // a full disk: memory and exit.json have it
			m.o.Log.Error("write how container ended", "container", c.id, "error", err)
		}
		c.pod.mu.Lock()
		if c.pod.names[c.key] == c {
			delete(c.pod.names, c.key) // the same request again means another one
		}
		c.pod.mu.Unlock()
		close(c.exited)
		c.release()
		m.publish(c.pod, Event{Type: EventStopped, ContainerID: c.id, OOM: oom})
		m.told("container stopped", m.tellContainer(m.life, c, (*nri.Plugins).StopContainer))
		time.AfterFunc(flushAfter, func() { m.flush(c, firstRetry) })
	})
}

// flush makes a container's record, and that of its pod, outlive a power cut. What
// there is no room for is tried again, after so long.
func (m *Manager) flush(c *container, again time.Duration) {
	c.pod.mu.Lock()
	removing := c.removing
	c.pod.mu.Unlock()
	if removing || m.life.Err() != nil {
		return
	}
	err := m.updateContainer(c, true, func(*containerRecord) {})
	c.pod.mu.Lock()
	first := !c.pod.flushed // that it exists is enough: its end is every boot's
	c.pod.flushed = true
	c.pod.mu.Unlock()
	if err == nil && first {
		err = m.updatePod(c.pod, true, func(*podRecord) {})
	}
	c.pod.mu.Lock()
	removing = c.removing
	c.pod.mu.Unlock()
	if err != nil && !removing {
		m.o.Log.Error("make record durable", "container", c.id, "again in", again, "error", err)
		time.AfterFunc(again, func() { m.flush(c, min(2*again, lastRetry)) })
	}
}

// reap lets the monitor give back what an ended container has in the kernel, and asks
// again until it has: a process that is killed may wait for a disk. Until then the
// container cannot be removed, since its bundle and its layers are in use. A stop of its
// pod ends all that the monitor has.
func (m *Manager) reap(c *container) {
	for wait := firstRetry; ; wait = min(2*wait, lastReap) {
		ctx, cancel := context.WithTimeout(m.life, verbTimeout)
		err := m.destroy(ctx, c.pod, c.id)
		cancel()
		if err == nil {
			break
		}
		m.o.Log.Error("delete ended container", "container", c.id, "error", err)
		c.pod.mu.Lock()
		c.unreaped = err
		c.pod.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			continue
		case <-c.pod.ending.Done():
		case <-m.life.Done():
		}
		timer.Stop()
		if m.life.Err() != nil {
			return // the next start asks again
		}
		break
	}
	c.forgotten()
}

// lose ends all containers of a pod that has no monitor any more.
func (m *Manager) lose(ctx context.Context, p *sandbox, why string) {
	m.forgetPodName(p)
	m.endLost(ctx, p)
	for _, c := range p.all() {
		if closed(c.exited) {
			continue
		}
		m.recordUnseen(c, why)
		c.forgotten()
	}
	// Without a bundle, the next start does not look for the monitor either.
	if err := m.removeBundle(p.id, m.writeEnds(p)...); err != nil {
		m.o.Log.Error("clean up after monitor", "pod", p.id, "error", err)
	}
	m.publishEnd(p)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
