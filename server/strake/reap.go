package strake

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// startReaper removes the pods with strakev1.AutoRemove as they end, beginning with those
// that ended while no daemon ran. Done is closed when ctx has ended and no
// removal is under way.
func startReaper(ctx context.Context, pods Pods, log *slog.Logger) (done <-chan struct{}) {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r := &reaper{pods: pods, log: log, busy: map[string]bool{}}
		for ctx.Err() == nil {
			r.follow(ctx)
		}
		r.wg.Wait()
	}()
	return finished
}

type reaper struct {
	pods Pods
	log  *slog.Logger
	wg   sync.WaitGroup

	mu   sync.Mutex
	busy map[string]bool // pods that are being removed
}

// follow removes what has ended and then what ends, until ctx does or the
// events stop because we were slow: the caller then begins again.
func (r *reaper) follow(ctx context.Context) {
	events, cancel := r.pods.Subscribe()
	defer cancel()
	for _, p := range r.pods.Pods(pod.PodFilter{}) {
		r.check(ctx, p, r.pods.Containers(pod.ContainerFilter{PodID: p.ID}))
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if e.Type == pod.EventStopped {
				r.check(ctx, e.Pod, e.Containers)
			}
		case <-ctx.Done():
			return
		}
	}
}

// check removes the pod in the background if it wants that and has containers,
// all of which have ended.
func (r *reaper) check(ctx context.Context, p pod.PodStatus, containers []pod.ContainerStatus) {
	if p.Config.Annotations[strakev1.AutoRemove] != "true" || len(containers) == 0 {
		return
	}
	if slices.ContainsFunc(containers, func(c pod.ContainerStatus) bool { return c.State != pod.ContainerExited }) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[p.ID] {
		return
	}
	r.busy[p.ID] = true
	r.wg.Go(func() {
		err := r.pods.StopPod(ctx, p.ID)
		if err == nil {
			err = r.pods.RemovePod(ctx, p.ID)
		}
		if err != nil {
			r.log.Warn("a pod of strake run --rm stays: remove it with strake rm -f", "pod", p.Config.Name, "id", p.ID, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, p.ID)
	})
}
