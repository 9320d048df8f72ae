package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/strake-containers/strake/internal/span"
)

const verbRemove = "remove container"

// RemoveContainer removes a container, killing it first if it has not exited.
// One that is gone is no error.
func (m *Manager) RemoveContainer(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.joinRemove(ctx, c).wait(ctx)
}

func (m *Manager) joinRemove(ctx context.Context, c *container) *work {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return m.join(ctx, &c.pod.mu, c.lane, verbRemove, c.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.removeContainer(ctx, w, c)
	})
}

func (m *Manager) removeContainer(ctx context.Context, w *work, c *container) (err error) {
	p := c.pod
	span.Describe(ctx, c.attributes()...)

	// 1. No verb begins on it any more, and those under way end.
	w.enter("stop")
	p.mu.Lock()
	c.removing = true
	p.mu.Unlock()
	defer func() {
		if err != nil {
			p.mu.Lock()
			c.removing = false // so that a start or a stop says what is the matter
			p.mu.Unlock()
		}
	}()
	if err := m.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	p.mu.Lock()
	others := c.lane.others(w)
	p.mu.Unlock()
	if err := settle(ctx, others); err != nil {
		return err
	}

	// 2. Its monitor has forgotten it: no mount of its layers is left.
	w.enter("monitor")
	select {
	case <-c.reaped:
	case <-ctx.Done():
		p.mu.Lock()
		why := c.unreaped
		p.mu.Unlock()
		return fmt.Errorf("its cgroup or mounts are not gone: %w", errors.Join(context.Cause(ctx), why))
	}

	// 3. What it had.
	w.enter("files")
	if err := os.RemoveAll(m.containerState(p.id, c.id)); err != nil {
		return err
	}
	if err := m.removeRecord(c); err != nil {
		return err
	}
	if err := m.releaseImages(&c.record); err != nil {
		return err
	}

	// 4. It is not known any more.
	w.enter("forget")
	m.withdraw(ctx, c, func() {
		p.mu.Lock()
		delete(p.containers, c.id)
		if p.names[c.key] == c {
			delete(p.names, c.key)
		}
		p.mu.Unlock()
		m.mu.Lock()
		delete(m.containers, c.id)
		m.mu.Unlock()
	})
	m.publish(p, Event{Type: EventDeleted, ContainerID: c.id})
	return nil
}

// removeRecord removes the container's directory while nobody writes to it.
func (m *Manager) removeRecord(c *container) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	return m.store.RemoveContainer(c.pod.id, c.id)
}
