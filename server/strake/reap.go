package strake

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// reaper removes the pods with strakev1.AutoRemove as they end, beginning with
// those that ended while no daemon ran, unless somebody holds them.
type reaper struct {
	pods Pods
	log  *slog.Logger
	wg   sync.WaitGroup

	mu   sync.Mutex      // a leaf
	busy map[string]bool // pods that are being removed
	held map[string]int  // pods, and how many hold each
}

func newReaper(pods Pods, log *slog.Logger) *reaper {
	return &reaper{pods: pods, log: log, busy: map[string]bool{}, held: map[string]int{}}
}

// start begins. Done is closed when ctx has ended and no removal is under way.
func (r *reaper) start(ctx context.Context) (done <-chan struct{}) {
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for ctx.Err() == nil {
			r.follow(ctx)
		}
		r.wg.Wait()
	}()
	return finished
}

// hold keeps a pod until release.
func (r *reaper) hold(podID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[podID]++
}

// release ends a hold; the last one removes the pod if it has ended meanwhile, or
// if who made it went away before anything ran in it.
func (r *reaper) release(ctx context.Context, podID string) {
	r.mu.Lock()
	r.held[podID]--
	last := r.held[podID] == 0
	if last {
		delete(r.held, podID)
	}
	r.mu.Unlock()
	if !last {
		return
	}
	if p, err := r.pods.Pod(podID); err == nil { // else it has been removed
		running := func(c pod.ContainerStatus) bool { return c.State == pod.ContainerRunning }
		if !slices.ContainsFunc(r.pods.Containers(pod.ContainerFilter{PodID: podID}), running) {
			r.remove(ctx, p)
		}
	}
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

// check removes the pod if it has containers, all of which have ended.
func (r *reaper) check(ctx context.Context, p pod.PodStatus, containers []pod.ContainerStatus) {
	lives := func(c pod.ContainerStatus) bool { return c.State != pod.ContainerExited }
	if len(containers) > 0 && !slices.ContainsFunc(containers, lives) {
		r.remove(ctx, p)
	}
}

// remove removes the pod in the background if it wants that and nobody holds it.
func (r *reaper) remove(ctx context.Context, p pod.PodStatus) {
	if ctx.Err() != nil || p.Config.Annotations[strakev1.AutoRemove] != "true" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[p.ID] || r.held[p.ID] > 0 {
		return
	}
	r.busy[p.ID] = true
	r.wg.Go(func() {
		err := r.pods.StopPod(ctx, p.ID)
		if err == nil {
			err = r.pods.RemovePod(ctx, p.ID)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("a pod of strake run --rm stays: remove it with strake rm -f", "pod", p.Config.Name, "id", p.ID, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, p.ID)
	})
}
