package pod

import (
	"context"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/nri"
)

// Plugins are told what happens by way of the functions here. None is called under
// a lock, and what a plugin says of an end cannot prevent it.

// plugins are those of the node; nil until all is recovered, and without any.
func (m *Manager) plugins() *nri.Plugins { return m.nri.Load() }

// startPlugins starts them; nil is a node without.
func (m *Manager) startPlugins(c *nri.Config) error {
	if c == nil {
		return nil
	}
	c.Log = m.o.Log
	p, err := nri.Start(*c, pluginView{m})
	if err == nil {
		m.nri.Store(p)
	}
	return err
}

// tellPod is one event of a pod.
func (m *Manager) tellPod(ctx context.Context, p *sandbox, tell func(*nri.Plugins, context.Context, nri.Pod) error) error {
	plugins := m.plugins()
	if !plugins.Active() {
		return nil
	}
	return tell(plugins, ctx, m.seenPod(p))
}

// tellContainer is one event of a container.
func (m *Manager) tellContainer(ctx context.Context, c *container, tell func(*nri.Plugins, context.Context, nri.Pod, nri.Container) error) error {
	plugins := m.plugins()
	if !plugins.Active() {
		return nil
	}
	m.readSpec(c)
	return tell(plugins, ctx, m.seenPod(c.pod), m.seenContainer(c))
}

// told logs what a plugin says of what has happened already.
func (m *Manager) told(what string, err error) {
	if err != nil {
		m.o.Log.Warn("nri: "+what, "error", err)
	}
}

// adjust lets plugins change the spec of a container that is about to be made. From
// then on plugins know the container, also those that register meanwhile.
func (m *Manager) adjust(ctx context.Context, c *container, spec *specs.Spec) error {
	plugins := m.plugins()
	if plugins == nil {
		return nil
	}
	release := plugins.Hold()
	defer release()
	c.pod.mu.Lock()
	c.announced, c.spec = true, spec
	c.pod.mu.Unlock()
	if !plugins.Active() {
		return nil
	}
	seen := m.seenContainer(c)
	if err := plugins.CreateContainer(ctx, m.seenPod(c.pod), seen, m.injectDevices); err != nil {
		return fmt.Errorf("nri: %w", err)
	}
	r := &c.record.Resources
	if l := spec.Linux; l != nil {
		*r = bundle.Applied(*r, l.Resources)
	}
	return nil
}

// withdraw tells plugins that a container is no more, and forgets what they know.
func (m *Manager) withdraw(ctx context.Context, c *container, forget func()) {
	plugins := m.plugins()
	release := plugins.Hold()
	defer release()
	ctx, cancel := undoContext(ctx)
	defer cancel()
	m.told("remove container "+c.what, m.tellContainer(ctx, c, (*nri.Plugins).RemoveContainer))
	c.pod.mu.Lock()
	c.announced = false
	c.pod.mu.Unlock()
	forget()
}

func (m *Manager) seenPod(p *sandbox) nri.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.record.Config
	seen := nri.Pod{
		ID: p.id, Name: c.Name, UID: c.UID, Namespace: c.Namespace, Labels: c.Labels, Annotations: c.Annotations,
		Handler: p.record.Runtime, CgroupParent: c.CgroupParent, IPs: addresses(p.record.IPs),
	}
	for kind, path := range p.shared.Namespaces {
		if kind != "shm" {
			seen.Namespaces = append(seen.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
		}
	}
	for from, to := range map[*Resources]**specs.LinuxResources{c.Overhead: &seen.Overhead, c.Resources: &seen.Resources} {
		if from != nil {
			if r, err := bundle.LinuxResources(from, &m.host); err == nil { // they were in force
				*to = r
			}
		}
	}
	return seen
}

func (m *Manager) seenContainer(c *container) nri.Container {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	r := &c.record
	seen := nri.Container{
		ID: c.id, PodID: c.pod.id, Name: r.Config.Name, Labels: r.Config.Labels, Annotations: r.Config.Annotations,
		CDIDevices: r.Config.CDIDevices, Image: r.ImageName, ImageDigest: r.ImageRef, ConfigDigest: r.ImageID,
		Created: r.CreatedAt, Started: r.StartedAt, Finished: r.FinishedAt, ExitCode: r.ExitCode, Reason: r.Reason, Message: r.Message,
		Spec: c.spec,
	}
	switch r.State {
	case ContainerRunning:
		seen.State, seen.Pid = nri.Running, r.Pid
	case ContainerExited:
		seen.State = nri.Stopped
	case ContainerCreated, ContainerUnknown:
	}
	return seen
}

// pluginView is what plugins may ask for.
type pluginView struct{ m *Manager }

// List is every pod that is known, and every container that plugins have been told
// of.
func (v pluginView) List() ([]nri.Pod, []nri.Container) {
	var pods []nri.Pod
	var containers []nri.Container
	for _, p := range v.m.allPods() {
		p.mu.Lock()
		told := map[*container]bool{}
		for _, c := range p.containers {
			told[c] = true
		}
		for _, c := range p.names {
			if c.announced {
				told[c] = true
			}
		}
		p.mu.Unlock()
		pods = append(pods, v.m.seenPod(p))
		for c := range told {
			v.m.readSpec(c)
			containers = append(containers, v.m.seenContainer(c))
		}
	}
	return pods, containers
}

// readSpec remembers the spec of a container of an earlier life; the bundle of one
// that has ended with a boot is gone.
func (m *Manager) readSpec(c *container) {
	c.pod.mu.Lock()
	known := c.spec != nil
	c.pod.mu.Unlock()
	if known {
		return
	}
	spec, err := readSpec(m.containerState(c.pod.id, c.id))
	if err != nil {
		return
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.spec = spec
}

func (v pluginView) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	c, monitor, err := v.m.alive(id)
	if err != nil {
		return err
	}
	return v.m.applyLimits(ctx, c, monitor, r, func(rec *containerRecord) { rec.Resources = bundle.Applied(rec.Resources, r) })
}

func (v pluginView) Evict(ctx context.Context, id, reason string) error {
	v.m.o.Log.Warn("nri: a plugin evicts a container", "container", id, "reason", reason)
	return v.m.StopContainer(ctx, id, 0)
}
