package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/shim/client"
)

// StartContainer lets a created container's process run. One that runs already
// is no error: the request may be a retry.
func (m *Manager) StartContainer(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	p := c.pod
	p.mu.Lock()
	if c.record.State == ContainerRunning {
		p.mu.Unlock()
		return nil
	}
	if c.record.State != ContainerCreated || c.removing || p.stopping {
		defer p.mu.Unlock()
		return errorf(ErrState, "start container %s: it is %s, not created", c.what, c.record.State)
	}
	w := m.join(ctx, &p.mu, c.lane, verbStart, c.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.startContainer(ctx, w, c)
	})
	p.mu.Unlock()
	return w.wait(ctx)
}

const verbStart = "start container"

func (m *Manager) startContainer(ctx context.Context, w *work, c *container) error {
	span.Describe(ctx, c.attributes()...)

	w.enter("plugins") // which may object
	if err := m.tellContainer(ctx, c, (*nri.Plugins).StartContainer); err != nil {
		return fmt.Errorf("nri: %w", err)
	}
	if err := m.restore(ctx, w, c); err != nil {
		return err
	}
	return m.startProcess(ctx, w, c)
}

// resumeStart goes on with a start that the monitor was busy with when the daemon before
// this one was killed.
func (m *Manager) resumeStart(c *container) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	m.join(m.life, &c.pod.mu, c.lane, verbStart, c.what, verbTimeout, func(ctx context.Context, w *work) error {
		err := m.startProcess(ctx, w, c)
		if err != nil { // nobody may wait for it
			m.o.Log.Error("go on with a start", "error", err)
		}
		return err
	})
}

// startProcess lets a container's process run and writes that it does.
func (m *Manager) startProcess(ctx context.Context, w *work, c *container) error {
	w.enter("process")
	started := now() // before the fact: the process may end before the answer comes
	pid, again := 0, false
	err := m.onMonitor(ctx, c.pod, func(monitor Monitor) (err error) {
		if again { // the monitor was killed: perhaps after the fact
			s, err := monitor.ContainerStatus(ctx, c.id)
			if err == nil && s.State != string(ContainerCreated) && s.State != client.StateStarting {
				pid = s.Pid
				return nil
			}
		}
		again = true
		if pid, err = monitor.Start(ctx, c.id); err != nil {
			// Or a daemon was killed before it could write so, and perhaps a monitor.
			if s, e := monitor.ContainerStatus(ctx, c.id); e == nil && !s.StartedAt.IsZero() {
				pid, started = s.Pid, s.StartedAt
				return nil
			}
		}
		return err
	})
	if err != nil && ctx.Err() != nil && m.startedLate(ctx, c, started) {
		return err
	}
	if err != nil {
		m.startFailed(ctx, c, err)
		return err
	}

	// So it is written. It may have ended already: its watcher waits for this.
	w.enter("record")
	err = m.updateContainer(c, false, func(r *containerRecord) {
		r.State, r.StartedAt = ContainerRunning, started
		if pid > 0 {
			r.Pid = pid
		}
	})
	m.publish(c.pod, Event{Type: EventStarted, ContainerID: c.id})
	m.told("container started", m.tellContainer(ctx, c, (*nri.Plugins).ContainerStarted))
	return err
}

// startedLate finds out whether a start that was cut off has happened all the same:
// then the container ends as one that ran. At the end of a daemon that is left to the
// next one.
func (m *Manager) startedLate(ctx context.Context, c *container, started time.Time) bool {
	if m.life.Err() != nil {
		return true
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	var s client.Status
	err := m.onMonitor(ctx, c.pod, func(monitor Monitor) (err error) {
		s, err = monitor.ContainerStatus(ctx, c.id)
		return err
	})
	// By itself it cannot end before: it waits at the gate.
	if err != nil || s.StartedAt.IsZero() && s.ExitedAt.IsZero() {
		return false
	}
	err = m.updateContainer(c, false, func(r *containerRecord) { r.State, r.StartedAt = ContainerRunning, started })
	m.publish(c.pod, Event{Type: EventStarted, ContainerID: c.id})
	if e := m.kill(ctx, c); e != nil && !ended(e) {
		err = errors.Join(err, e)
	}
	if err != nil {
		m.o.Log.Error("kill container that started too late", "container", c.id, "error", err)
	}
	return true
}

// startFailed makes a container whose command cannot be executed an exited one
// that says so.
func (m *Manager) startFailed(ctx context.Context, c *container, cause error) {
	c.pod.mu.Lock()
	c.startError = cause.Error()
	c.pod.mu.Unlock()
	ctx, cancel := undoContext(ctx)
	defer cancel()
	// What is left of it dies; its watcher sees the end.
	if err := m.kill(ctx, c); err != nil && !ended(err) {
		m.o.Log.Error("kill container that did not start", "container", c.id, "error", errors.Join(err, cause))
	}
}
