package pod

import (
	"slices"
	"sync"
)

// eventBacklog is how far a subscriber may fall behind before it is ended. An event
// has half a kilobyte: what nobody has fallen behind with is to cost nothing.
const eventBacklog = 4096

// hub hands events to subscribers and never waits for one.
type hub struct {
	mu     sync.Mutex
	subs   map[chan *Event]struct{}
	closed bool
}

// Subscribe returns the events from now on, and the function that ends them. A
// subscriber that falls far behind is ended: its channel is closed, and it has to
// list and subscribe again. Events belong to all subscribers: nobody changes them.
func (m *Manager) Subscribe() (events <-chan *Event, cancel func()) {
	h := &m.hub
	ch := make(chan *Event, eventBacklog)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(ch)
		return ch, func() {}
	}
	if h.subs == nil {
		h.subs = map[chan *Event]struct{}{}
	}
	h.subs[ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(ch)
	}
}

// Recovered is the last change of each container that is older than this Manager,
// as an Event with the time of that change, oldest first. Whoever followed the
// events of the daemon before may have been told of it, or not: a container may have
// ended with nobody there to see it, and the news of another have been on its way
// when that daemon was killed.
func (m *Manager) Recovered() []Event {
	var out []Event
	for _, p := range m.allPods() {
		p.mu.Lock()
		pod, containers := p.status(), p.containerStatuses()
		p.mu.Unlock()
		for _, c := range containers {
			if c.CreatedAt.Before(m.opened) {
				e := lastChange(&c)
				e.Pod, e.Containers = pod, containers
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b Event) int { return a.Time.Compare(b.Time) })
	return out
}

// lastChange is the event that a container's state comes from.
func lastChange(c *ContainerStatus) Event {
	e := Event{Type: EventCreated, ContainerID: c.ID, PodID: c.PodID, Time: c.CreatedAt}
	switch c.State {
	case ContainerExited:
		e.Type, e.Time, e.OOM = EventStopped, c.FinishedAt, c.Reason == ReasonOOMKilled
	case ContainerRunning:
		e.Type, e.Time = EventStarted, c.StartedAt
	}
	return e
}

func (h *hub) drop(ch chan *Event) {
	if _, ok := h.subs[ch]; ok {
		delete(h.subs, ch)
		close(ch)
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for ch := range h.subs {
		h.drop(ch)
	}
}

// publish completes an event with the state of its pod after the change. It
// copies that state only if somebody listens.
func (m *Manager) publish(p *sandbox, e Event) {
	h := &m.hub
	h.mu.Lock()
	listening := len(h.subs) > 0
	h.mu.Unlock()
	if !listening {
		return
	}
	e.PodID, e.Time = p.id, now()
	p.mu.Lock()
	e.Pod, e.Containers = p.status(), p.containerStatuses()
	p.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs {
		select {
		case ch <- &e:
		default:
			h.drop(ch)
		}
	}
}
