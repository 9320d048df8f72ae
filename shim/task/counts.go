package task

import (
	"context"
	"sync"

	"github.com/strake-containers/strake/oci/cgroup"
)

// counts are the cgroup.Counters of a container or a pod: there are none before somebody has
// asked, and none after the end.
type counts struct {
	mu       sync.Mutex
	path     string // what was asked for first; "" for a container
	counters *cgroup.Counters
	ended    bool
}

// usage is cgroup.Usage of the cgroup that find finds, at path if it is a pod's: a pod has
// counters of one.
func (c *counts) usage(path string, find func() (*cgroup.Cgroup, error), bases *cgroup.Bases) (*cgroup.Stats, error) {
	counters, err := c.of(path, find)
	if err != nil {
		return nil, err
	}
	return counters.Usage(bases)
}

func (c *counts) of(path string, find func() (*cgroup.Cgroup, error)) (*cgroup.Counters, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counters != nil && c.path == path {
		return c.counters, nil
	}
	cg, err := find()
	if err != nil {
		return nil, err
	}
	counters := cg.Counters(path != "")
	if c.ended || c.counters != nil {
		counters.Close()
		return counters, nil
	}
	c.path, c.counters = path, counters
	return counters, nil
}

// end is told that the cgroup is going to be removed.
func (c *counts) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.counters != nil {
		c.counters.Close()
	}
}

// usage is cgroup.Usage, or all of a foreign shim's, which has nothing less.
func (t *task) usage(ctx context.Context, bases *cgroup.Bases) (*cgroup.Stats, error) {
	if _, foreign := t.container.(*foreignContainer); foreign {
		return t.container.Stats(ctx)
	}
	return t.counts.usage("", t.container.Cgroup, bases)
}

// podUsage is cgroup.Usage of a pod's cgroup, by the counters of the pod whose containers are
// asked for with it.
func (s *Service) podUsage(r *statsRequest, bases *cgroup.Bases) (*cgroup.Stats, error) {
	find := func() (*cgroup.Cgroup, error) { return cgroupAt(r.PodCgroup) }
	for _, id := range r.IDs {
		if t := s.created(id); t != nil && t.pod != nil {
			return t.pod.counts.usage(r.PodCgroup, find, bases)
		}
	}
	cg, err := find()
	if err != nil {
		return nil, err
	}
	return cg.Usage(bases, true)
}
