package pod

import (
	"context"
	"errors"
	"os"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/pod/nri"
)

const (
	verbStopPod   = "stop pod"
	verbRemovePod = "remove pod"
)

// StopPod kills a pod's containers and gives back its network and namespaces;
// the records stay. One that is stopped, or gone, is no error: a repeated request
// finishes what is left.
func (m *Manager) StopPod(ctx context.Context, id string) error {
	p, err := m.findPod(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.joinStopPod(ctx, p).wait(ctx)
}

func (m *Manager) joinStopPod(ctx context.Context, p *sandbox) *work {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.join(ctx, &p.mu, p.lane, verbStopPod, p.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.stopPod(ctx, w, p)
	})
}

func (m *Manager) stopPod(ctx context.Context, w *work, p *sandbox) error {
	span.Describe(ctx, p.attributes()...)

	// 1. No container begins any more; those in the making are undone. Its name
	// is free for the next attempt.
	w.enter("mark")
	p.mu.Lock()
	first := p.record.Phase != phaseStopped
	unwritten := p.unwritten
	p.stopping = true
	var making []*work
	for verb, other := range p.lane {
		if verb != verbStopPod && verb != verbRemovePod {
			making = append(making, other)
		}
	}
	p.mu.Unlock()
	p.end()
	m.forgetPodName(p)
	if first || unwritten {
		m.updateEnding(p, func(r *podRecord) { r.Phase = phaseStopped })
	}
	if err := settle(ctx, making); err != nil {
		return err
	}

	// 2. Its containers, which go on filling a disk that is full. How they ended is
	// written before what says so too is removed; where there is no room, that stays.
	w.enter("containers")
	if err := m.killContainers(ctx, p); err != nil {
		return err
	}
	ends := m.writeEnds(p)

	// 3. Its network and its sandbox, at once.
	w.enter("network and sandbox")
	network := make(chan error, 1)
	go func() { network <- m.detach(ctx, p) }()
	sandboxErr := m.endSandbox(ctx, p, ends...)
	if err := errors.Join(<-network, sandboxErr); err != nil {
		return err
	}

	// 4. Its network namespace, which the network has left.
	w.enter("network namespace")
	if p.record.NetNS != "" {
		if err := m.o.NetNS.Remove(p.record.NetNS); err != nil {
			return err
		}
	}
	m.publishEnd(p)
	p.mu.Lock()
	told := p.stopTold
	p.stopTold = true
	p.mu.Unlock()
	if !told {
		m.told("pod stopped", m.tellPod(ctx, p, (*nri.Plugins).StopPod))
	}
	return nil
}

// killContainers ends all containers of a pod and waits until its monitor has
// forgotten them.
func (m *Manager) killContainers(ctx context.Context, p *sandbox) error {
	containers := p.all()
	errs := make(chan error, len(containers))
	for _, c := range containers {
		go func() {
			err := m.stopContainer(ctx, c, 0)
			if err == nil {
				select {
				case <-c.reaped:
				case <-ctx.Done():
					err = context.Cause(ctx)
				}
			}
			errs <- err
		}()
	}
	var err error
	for range containers {
		err = errors.Join(err, <-errs)
	}
	return err
}

func (p *sandbox) all() []*container {
	p.mu.Lock()
	defer p.mu.Unlock()
	containers := make([]*container, 0, len(p.containers))
	for _, c := range p.containers {
		containers = append(containers, c)
	}
	return containers
}

// RemovePod removes a pod with its containers, stopping it first. One that is
// gone is no error.
func (m *Manager) RemovePod(ctx context.Context, id string) error {
	p, err := m.findPod(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.joinRemovePod(ctx, p).wait(ctx)
}

func (m *Manager) joinRemovePod(ctx context.Context, p *sandbox) *work {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.join(ctx, &p.mu, p.lane, verbRemovePod, p.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.removePod(ctx, w, p)
	})
}

func (m *Manager) removePod(ctx context.Context, w *work, p *sandbox) (err error) {
	span.Describe(ctx, p.attributes()...)

	// 1. Stop it; nothing begins in it afterwards.
	w.enter("stop")
	p.setRemoving(true)
	defer func() {
		if err != nil {
			p.setRemoving(false)
		}
	}()
	if err := m.joinStopPod(ctx, p).wait(ctx); err != nil {
		return err
	}

	// 2. Its containers.
	w.enter("containers")
	var removals []*work
	for _, c := range p.all() {
		removals = append(removals, m.joinRemove(ctx, c))
	}
	for _, r := range removals {
		if err := r.wait(ctx); err != nil {
			return err
		}
	}

	// 3. Its record, with what a stop had no room to write in it, and it is not known
	// any more.
	w.enter("record")
	if err := os.RemoveAll(m.podState(p.id)); err != nil {
		return err
	}
	p.saving.Lock()
	err = m.store.RemovePod(p.id)
	p.saving.Unlock()
	if err != nil {
		return err
	}
	release := m.plugins().Hold()
	m.told("remove pod", m.tellPod(ctx, p, (*nri.Plugins).RemovePod))
	m.mu.Lock()
	delete(m.pods, p.id)
	m.mu.Unlock()
	m.unlabelPod(p)
	release()
	m.publish(p, Event{Type: EventDeleted, ContainerID: p.id})
	return nil
}

func (p *sandbox) setRemoving(v bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removing = v
}
