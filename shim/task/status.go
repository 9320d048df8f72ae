package task

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/wire"
)

// reopenLog opens a running container's log path again.
func (s *Service) reopenLog(ctx context.Context, r *idRequest) (*wire.Empty, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	streams, err := t.streams(t.init)
	if err != nil {
		return nil, err
	}
	if err := streams.ReopenLog(); err != nil {
		return nil, wire.Errorf(wire.Unknown, "reopen log: %w", err)
	}
	return &wire.Empty{}, nil
}

// containerStatus tells everything about a container's init.
func (s *Service) containerStatus(ctx context.Context, r *idRequest) (*containerStatusResponse, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	t.checkOOM()
	t.catchUp(ctx)
	lost, lossErr := t.init.io.LogLoss()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.init
	a := &containerStatusResponse{
		ID: t.id, Bundle: t.bundle, Pid: int32(p.pid), State: p.phase.String(),
		CreatedAt: nanos(t.createdAt), StartedAt: nanos(p.startedAt), ExitedAt: nanos(p.exit.At),
		ExitStatus: uint32(p.exit.Status), Signal: int32(p.exit.Signal), OOMKilled: t.oomKilled,
		LogLostBytes: lost,
	}
	switch {
	case p.phase == running && t.paused:
		a.State = "paused"
	case p.phase == created && t.starting:
		a.State = "starting"
	}
	if lossErr != nil {
		a.LogError = lossErr.Error()
	}
	return a, nil
}

// nanos is 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// manyPods are worth a second processor: a pod takes a tenth of a millisecond.
const manyPods = 16

// podsStats is podStats for each of several pods.
func (s *Service) podsStats(ctx context.Context, r *podsStatsRequest) (*podsStatsResponse, error) {
	s.rest.Busy()
	parts := 1
	if len(r.Pods) >= manyPods {
		parts = 2
		defer s.second.use()()
	}
	a := &podsStatsResponse{Pods: make([]*podStats, len(r.Pods))}
	var next atomic.Int64
	var reading sync.WaitGroup
	for range parts {
		reading.Go(func() {
			var bases cgroup.Bases // for one at a time
			defer bases.Close()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(r.Pods) {
					return
				}
				stats, err := s.readPod(ctx, r.Pods[i], &bases)
				a.Pods[i] = &podStats{Stats: stats}
				if err != nil {
					a.Pods[i].Error = err.Error()
				}
			}
		})
	}
	reading.Wait()
	return a, ctx.Err() // nobody waits any more
}

// podStats reads several cgroups at once: with processes, all of their counters. A container that has none, any more or
// yet, is left out.
func (s *Service) podStats(ctx context.Context, r *statsRequest) (*podStatsResponse, error) {
	s.rest.Busy()
	return s.readPod(ctx, r, nil)
}

func (s *Service) readPod(ctx context.Context, r *statsRequest, bases *cgroup.Bases) (*podStatsResponse, error) {
	a := &podStatsResponse{}
	for _, id := range r.IDs {
		t := s.created(id)
		if t == nil {
			continue
		}
		var stats *cgroup.Stats
		var err error
		if r.Processes {
			stats, err = t.container.Stats(ctx)
		} else {
			stats, err = t.usage(ctx, bases)
		}
		if err != nil {
			if gone := isGone(err); !gone {
				logf("container %s: stats: %v", id, err)
			}
			continue
		}
		c := &containerStats{ID: id, Stats: statsMessage(stats)}
		if r.Processes {
			c.Processes = t.processStats(ctx)
		}
		a.Containers = append(a.Containers, c)
	}
	if r.PodCgroup == "" {
		return a, nil
	}
	var stats *cgroup.Stats
	var err error
	if r.Processes {
		stats, err = statsOf(r.PodCgroup)
	} else {
		stats, err = s.podUsage(r, bases)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	a.Pod = statsMessage(stats)
	return a, nil
}

// updateCgroup changes the limits of a cgroup that is there: a pod's.
func (s *Service) updateCgroup(_ context.Context, r *updateCgroupRequest) (*wire.Empty, error) {
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources, &resources); err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "update cgroup %s: resources: %w", r.Cgroup, err)
	}
	cg, err := cgroupAt(r.Cgroup)
	if err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "update: %w", err)
	}
	if !cg.Exists() {
		return nil, wire.Errorf(wire.NotFound, "update cgroup %s: there is none", r.Cgroup)
	}
	if err := cg.Set(&resources); err != nil {
		return nil, wire.Errorf(wire.Unknown, "update cgroup %s: %w", r.Cgroup, err)
	}
	return &wire.Empty{}, nil
}

// statsOf reads the cgroup at a path below the root of each hierarchy.
func statsOf(path string) (*cgroup.Stats, error) {
	cg, err := cgroupAt(path)
	if err != nil {
		return nil, err
	}
	return cg.Stats()
}

// cgroupAt is a cgroup of a pod's: a path, of a slice too, or slice:prefix:name.
func cgroupAt(path string) (*cgroup.Cgroup, error) {
	switch {
	case cgroup.IsScope(path):
		return cgroup.Name(cgroup.Config{Path: path, Systemd: true})
	case strings.HasSuffix(path, ".slice"):
		return cgroup.Open(cgroup.Saved{Path: path, Unit: path[strings.LastIndexByte(path, '/')+1:]})
	}
	return cgroup.Open(cgroup.Saved{Path: path})
}
