package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/shim/client"
)

// UpdateContainer changes the limits of a container that has not exited; zero
// fields stay. Annotations are added to its own.
func (m *Manager) UpdateContainer(ctx context.Context, id string, r Resources, annotations map[string]string) error {
	c, monitor, err := m.alive(id)
	if err != nil {
		return err
	}
	limits, err := bundle.LinuxResources(&r, &m.host)
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.what, err)
	}
	w, leave := m.tracker.call("update container "+c.what, "plugins")
	defer leave()
	plugins := m.plugins()
	adjusted := plugins.Active()
	if adjusted {
		if limits, err = plugins.UpdateContainer(ctx, m.seenPod(c.pod), m.seenContainer(c), limits); err != nil {
			return fmt.Errorf("update container %s: nri: %w", c.what, err)
		}
	}
	w.enter("limits")
	if err := m.applyLimits(ctx, c, monitor, limits, func(rec *containerRecord) {
		rec.Resources = bundle.Merge(rec.Resources, r)
		if adjusted {
			rec.Resources = bundle.Applied(rec.Resources, limits)
		}
		if len(annotations) > 0 {
			all := maps.Clone(rec.Config.Annotations) // statuses share the old one
			if all == nil {
				all = map[string]string{}
			}
			maps.Copy(all, annotations)
			rec.Config.Annotations = all
		}
	}); err != nil {
		return err
	}
	m.told("container updated", m.tellContainer(ctx, c, (*nri.Plugins).ContainerUpdated))
	return nil
}

// applyLimits puts limits in force, and into the record by change. A memory limit
// below what is in use is refused: cgroup v2 would kill the container to get there.
func (m *Manager) applyLimits(ctx context.Context, c *container, monitor Monitor, limits *specs.LinuxResources, change func(*containerRecord)) error {
	if limits.Memory != nil {
		limits.Memory.CheckBeforeUpdate = new(true)
	}
	if err := monitor.Update(ctx, c.id, limits); err != nil {
		return fmt.Errorf("update container %s: %w", c.what, m.class(c, err))
	}
	return m.updateContainer(c, false, change)
}

// UpdatePod changes the limits of a ready pod as a whole: resources is the sum of
// its containers', overhead what the sandbox needs beside them; nil and zero
// fields stay. They are written to the pod's cgroup, which it needs to have: a
// pod without cgroup_parent shares one with others.
func (m *Manager) UpdatePod(ctx context.Context, id string, overhead, resources *Resources) error {
	p, err := m.findPod(id)
	if err != nil {
		return err
	}
	parent := bundle.CgroupParentPath(&p.record.Config)
	if parent == "" {
		return errorf(ErrState, "update pod %s: it has no cgroup of its own: it was run without linux.cgroup_parent", p.what)
	}
	sum := bundle.Sum(overhead, resources)
	limits, err := bundle.LinuxResources(&sum, &m.host)
	if err != nil {
		return fmt.Errorf("update pod %s: %w", p.what, err)
	}
	monitor, err := p.live()
	if err != nil {
		return fmt.Errorf("update pod %s: %w", p.what, err)
	}
	w, leave := m.tracker.call("update pod "+p.what, "plugins")
	defer leave()
	err = m.tellPod(ctx, p, func(plugins *nri.Plugins, ctx context.Context, seen nri.Pod) error {
		var parts [2]*specs.LinuxResources
		for i, r := range []*Resources{overhead, resources} {
			if r == nil {
				continue
			}
			if parts[i], err = bundle.LinuxResources(r, &m.host); err != nil {
				return err
			}
		}
		return plugins.UpdatePod(ctx, seen, parts[0], parts[1])
	})
	if err != nil {
		return fmt.Errorf("update pod %s: nri: %w", p.what, err)
	}
	w.enter("limits")
	if err := monitor.UpdateCgroup(ctx, parent, limits); err != nil {
		m.suspect(p, monitor, err)
		return fmt.Errorf("update pod %s: %w", p.what, err)
	}
	m.told("pod updated", m.tellPod(ctx, p, (*nri.Plugins).PodUpdated))
	return nil
}

// PauseContainer freezes a running container.
func (m *Manager) PauseContainer(ctx context.Context, id string) error {
	return m.freeze(ctx, id, true)
}

// ResumeContainer thaws a paused container.
func (m *Manager) ResumeContainer(ctx context.Context, id string) error {
	return m.freeze(ctx, id, false)
}

func (m *Manager) freeze(ctx context.Context, id string, paused bool) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	monitor, err := c.running()
	if err != nil {
		return err
	}
	verb, what := monitor.Resume, "resume"
	if paused {
		verb, what = monitor.Pause, "pause"
	}
	_, leave := m.tracker.call(what+" container "+c.what, "freezer")
	defer leave()
	if err := verb(ctx, c.id); err != nil {
		return fmt.Errorf("container %s: %w", c.what, m.class(c, err))
	}
	return nil
}

// ReopenLog makes the log of a running container be opened again, after it was
// rotated. It never waits for another verb.
func (m *Manager) ReopenLog(ctx context.Context, id string) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	monitor, err := c.running()
	if err != nil {
		return err
	}
	_, leave := m.tracker.call("reopen log of container "+c.what, "monitor")
	defer leave()
	if err := monitor.ReopenLog(ctx, c.id); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", c.what, m.class(c, err))
	}
	return nil
}

// SignalContainer sends a signal ("SIGHUP", "HUP", "1") to the container's init
// process.
func (m *Manager) SignalContainer(ctx context.Context, id, signal string) error {
	n, err := bundle.ParseSignal(signal)
	if err != nil {
		return err
	}
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	monitor, err := c.running()
	if err != nil {
		return err
	}
	_, leave := m.tracker.call("signal container "+c.what, "monitor")
	defer leave()
	if err := monitor.Kill(ctx, c.id, "", syscall.Signal(n), false); err != nil {
		return fmt.Errorf("signal container %s: %w", c.what, m.class(c, err))
	}
	return nil
}

// alive finds a container that has not exited.
func (m *Manager) alive(id string) (*container, Monitor, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return nil, nil, err
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.record.State == ContainerExited || c.removing || c.pod.monitor == nil {
		return nil, nil, errorf(ErrState, "container %s is %s", c.id, c.record.State)
	}
	return c, c.pod.monitor, nil
}

// class gives a monitor's error the class that the Manager's callers know, and
// looks after a monitor that does not answer any more.
func (m *Manager) class(c *container, err error) error {
	switch {
	case errors.Is(err, client.ErrUnavailable):
		if monitor, e := c.pod.live(); e == nil {
			m.suspect(c.pod, monitor, err)
		}
		return err
	case errors.Is(err, client.ErrNotRunning), errors.Is(err, client.ErrNotFound):
		return &classed{ErrState, err}
	case errors.Is(err, client.ErrTimeout):
		return &classed{ErrTimeout, err}
	default:
		return err
	}
}

// suspect looks after a monitor that did not answer.
func (m *Manager) suspect(p *sandbox, monitor Monitor, err error) {
	if errors.Is(err, client.ErrUnavailable) {
		go m.monitorLost(p, monitor)
	}
}
