package pod

import (
	"errors"
	"io/fs"
	"time"
)

// abandonedAfter is how long a pod or container that was finished after its
// client had given up waits for somebody to ask for it, over restarts: those of a daemon
// that is killed again and again would pile up. Who comes too late gets a new one.
const abandonedAfter = 5 * time.Minute

// patience is what is left of it at a start.
func patience(abandonedAt time.Time) time.Duration {
	if abandonedAt.IsZero() { // the record is of a version that did not say
		return abandonedAfter
	}
	return min(max(0, abandonedAfter-time.Since(abandonedAt)), abandonedAfter) // the clock may have been set
}

// abandonPod removes a pod that was finished for nobody, unless somebody asks
// for it in time.
func (m *Manager) abandonPod(p *sandbox) {
	m.awaitPodsClient(p, abandonedAfter)
	m.noteAbandoned(p.id, m.updatePod(p, false, p.noteAbandoned))
}

func (m *Manager) awaitPodsClient(p *sandbox, patience time.Duration) {
	m.o.Log.Warn("pod finished after its client gave up; waiting for it to come back", "pod", p.id, "name", p.what, "for", patience)
	p.mu.Lock()
	p.abandoned = time.AfterFunc(patience, func() {
		if err := m.joinRemovePod(m.life, p).wait(m.life); err != nil {
			m.o.Log.Error("remove abandoned pod", "pod", p.id, "error", err)
		}
	})
	p.mu.Unlock()
}

// abandonContainer is abandonPod for a container that was never started.
func (m *Manager) abandonContainer(c *container) {
	m.awaitContainersClient(c, abandonedAfter)
	m.noteAbandoned(c.id, m.updateContainer(c, false, c.noteAbandoned))
}

func (m *Manager) awaitContainersClient(c *container, patience time.Duration) {
	m.o.Log.Warn("container finished after its client gave up; waiting for it to come back", "container", c.id, "name", c.what, "for", patience)
	c.pod.mu.Lock()
	c.abandoned = time.AfterFunc(patience, func() {
		if err := m.joinRemove(m.life, c).wait(m.life); err != nil {
			m.o.Log.Error("remove abandoned container", "container", c.id, "error", err)
		}
	})
	c.pod.mu.Unlock()
}

// claimPod counts as a pod's client having come back for it.
func (m *Manager) claimPod(p *sandbox) {
	p.mu.Lock()
	was := claim(&p.abandoned)
	p.mu.Unlock()
	if was { // a status is not to wait for the disk
		m.retries.Go(func() { m.noteAbandoned(p.id, m.updatePod(p, false, p.noteAbandoned)) })
	}
}

// claimContainer is claimPod for a container.
func (m *Manager) claimContainer(c *container) {
	c.pod.mu.Lock()
	was := claim(&c.abandoned)
	c.pod.mu.Unlock()
	if was {
		m.retries.Go(func() { m.noteAbandoned(c.id, m.updateContainer(c, false, c.noteAbandoned)) })
	}
}

func claim(t **time.Timer) (was bool) {
	if *t == nil {
		return false
	}
	(*t).Stop()
	*t = nil
	return true
}

// noteAbandoned writes what memory has, whoever comes first: the pod's mu is held.
func (p *sandbox) noteAbandoned(r *podRecord) {
	r.Abandoned, r.AbandonedAt = p.abandoned != nil, abandonedAt(p.abandoned)
}

func (c *container) noteAbandoned(r *containerRecord) {
	r.Abandoned, r.AbandonedAt = c.abandoned != nil, abandonedAt(c.abandoned)
}

func abandonedAt(t *time.Timer) time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Now()
}

// noteAbandoned reports what became of that. One that has been removed meanwhile has
// no record.
func (m *Manager) noteAbandoned(id string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.o.Log.Error("write whether somebody has asked for it", "id", id, "error", err)
	}
}

// abandonAgain goes on waiting for the clients that had not come back when the
// daemon ended. Who has made containers in a pod, or started one, has.
func (m *Manager) abandonAgain() {
	for _, p := range m.allPods() {
		containers := p.all()
		p.mu.Lock()
		abandoned, at := p.record.Abandoned && len(containers) == 0, p.record.AbandonedAt
		p.mu.Unlock()
		if abandoned {
			m.awaitPodsClient(p, patience(at))
		}
		for _, c := range containers {
			p.mu.Lock()
			abandoned, at := c.record.Abandoned && c.record.State == ContainerCreated, c.record.AbandonedAt
			p.mu.Unlock()
			if abandoned {
				m.awaitContainersClient(c, patience(at))
			}
		}
	}
}
