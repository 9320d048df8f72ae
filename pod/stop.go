package pod

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/shim/client"
)

const verbStop = "stop container"

// killTimeout is how long a monitor may take to send a signal, and a killed
// process to end, in the kernel.
const killTimeout = 2 * time.Minute

// stopOrder is a stop under way; it is guarded by the pod's mu.
type stopOrder struct {
	deadline time.Time     // when SIGKILL is due
	earlier  chan struct{} // has a token when deadline was moved
}

// StopContainer sends the container's stop signal, and SIGKILL to all of it
// after grace, or at once if that is 0. Of several stops the one that is due
// first counts. A container that has exited, or is gone, is no error.
func (m *Manager) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	c, err := m.findContainer(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.stopContainer(ctx, c, grace)
}

func (m *Manager) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	p := c.pod
	deadline := time.Now().Add(max(grace, 0))
	p.mu.Lock()
	if c.record.State == ContainerExited {
		p.mu.Unlock()
		return nil
	}
	if c.lane[verbStop] == nil {
		c.stop = &stopOrder{deadline: deadline, earlier: make(chan struct{}, 1)}
	} else if deadline.Before(c.stop.deadline) {
		c.stop.deadline = deadline
		select {
		case c.stop.earlier <- struct{}{}:
		default: // a token is there
		}
	}
	// No limit: a grace period may be hours.
	w := m.join(ctx, &p.mu, c.lane, verbStop, c.what, 0, func(ctx context.Context, w *work) error {
		return m.endContainer(ctx, w, c)
	})
	p.mu.Unlock()
	return w.wait(ctx)
}

func (m *Manager) endContainer(ctx context.Context, w *work, c *container) error {
	span.Describe(ctx, c.attributes()...)
	if cancelled, err := m.cancelRestore(ctx, c); cancelled || err != nil {
		return err
	}

	// 1. Ask it to end, and give it its time.
	c.pod.mu.Lock()
	order, signal, started, pid := c.stop, c.record.signal(), c.record.State == ContainerRunning, c.record.Pid
	c.pod.mu.Unlock()
	if started && signal != syscall.SIGKILL && m.remaining(c, order) > 0 {
		w.enter("stop signal")
		if err := m.signal(ctx, c, signal); err != nil && !ended(err) {
			return err
		}
		w.enter("grace period")
		if m.graceful(ctx, c, order) {
			return nil
		}
	}

	// 2. Kill it, with everything that it started.
	w.enter("kill")
	if err := m.kill(ctx, c); err != nil && !ended(err) {
		return err
	}
	w.awaitEnd("kill", pid)
	timeout := time.NewTimer(killTimeout)
	defer timeout.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timeout.C:
		return errorf(ErrTimeout, "%s: it did not end within %s of SIGKILL", w.at(), killTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// graceful waits for the container's end until the order's deadline.
func (m *Manager) graceful(ctx context.Context, c *container, order *stopOrder) bool {
	for {
		timer := time.NewTimer(m.remaining(c, order))
		select {
		case <-c.exited:
			timer.Stop()
			return true
		case <-timer.C:
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-order.earlier:
			timer.Stop()
		}
	}
}

func (m *Manager) remaining(c *container, order *stopOrder) time.Duration {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return time.Until(order.deadline)
}

// signal sends the stop signal to the container's init.
func (m *Manager) signal(ctx context.Context, c *container, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return m.onMonitor(ctx, c.pod, func(monitor Monitor) error { return monitor.Kill(ctx, c.id, "", sig, false) })
}

// kill kills all of a container; the monitor thaws a frozen one to die.
func (m *Manager) kill(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return m.onMonitor(ctx, c.pod, func(monitor Monitor) error { return monitor.Kill(ctx, c.id, "", syscall.SIGKILL, true) })
}

// ended is an error that says that there is nothing left to signal. Whoever took
// the monitor away says how the container ended.
func ended(err error) bool {
	return gone(err) || errors.Is(err, client.ErrNotRunning) || errors.Is(err, errMonitorGone)
}
