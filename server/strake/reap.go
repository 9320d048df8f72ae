package strake

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// ownerTimeout is how long the owners of pods may take to come back after a start
// of the daemon: they try again every moment.
const ownerTimeout = 15 * time.Second

// reaper removes the pods with strakev1.AutoRemove as they end, beginning with
// those that ended while no daemon ran, unless somebody holds them; and the pods
// with strakev1.Owner whose owner has gone before anything ran in them.
type reaper struct {
	pods Pods
	log  *slog.Logger
	wg   sync.WaitGroup

	mu     sync.Mutex      // a leaf
	busy   map[string]bool // pods that are being removed
	held   map[string]int  // pods and owners, and how many hold each
	waited bool            // for the owners of pods that were there at the start
}

func newReaper(pods Pods, log *slog.Logger) *reaper {
	return &reaper{pods: pods, log: log, busy: map[string]bool{}, held: map[string]int{}}
}

// start begins. Done is closed when ctx has ended and no removal is under way.
func (r *reaper) start(ctx context.Context) (done <-chan struct{}) {
	finished := make(chan struct{})
	owners := time.AfterFunc(ownerTimeout, func() {
		r.mu.Lock()
		r.waited = true
		r.mu.Unlock()
		r.checkAll(ctx)
	})
	go func() {
		defer close(finished)
		for ctx.Err() == nil {
			r.follow(ctx)
		}
		owners.Stop()
		r.wg.Wait()
	}()
	return finished
}

// hold keeps a pod, or the pods of an owner, until release.
func (r *reaper) hold(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[key]++
}

// release ends a hold; the last one removes what has ended meanwhile, or what its
// maker leaves before anything ran in it.
func (r *reaper) release(ctx context.Context, key string) {
	r.mu.Lock()
	r.held[key]--
	last := r.held[key] == 0
	if last {
		delete(r.held, key)
	}
	r.mu.Unlock()
	if !last {
		return
	}
	for _, p := range r.pods.Pods(pod.PodFilter{}) {
		if p.ID != key && owner(p) != key {
			continue
		}
		containers := r.pods.Containers(pod.ContainerFilter{PodID: p.ID})
		running := func(c pod.ContainerStatus) bool { return c.State == pod.ContainerRunning }
		if autoRemove(p) && !slices.ContainsFunc(containers, running) || ofNoUse(p, containers) {
			r.remove(ctx, p)
		}
	}
}

// follow removes what has ended and then what ends, until ctx does or the
// events stop because we were slow: the caller then begins again.
func (r *reaper) follow(ctx context.Context) {
	events, cancel := r.pods.Subscribe()
	defer cancel()
	r.checkAll(ctx)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			// A pod may be finished after its maker has gone.
			if e.Type == pod.EventStopped || e.Type == pod.EventStarted && e.ContainerID == e.PodID {
				r.check(ctx, e.Pod, e.Containers)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *reaper) checkAll(ctx context.Context) {
	for _, p := range r.pods.Pods(pod.PodFilter{}) {
		r.check(ctx, p, r.pods.Containers(pod.ContainerFilter{PodID: p.ID}))
	}
}

// check removes the pod if it has containers, all of which have ended, and wants
// that; or if it is of no use and its owner must have come back by now.
func (r *reaper) check(ctx context.Context, p pod.PodStatus, containers []pod.ContainerStatus) {
	r.mu.Lock()
	waited := r.waited
	r.mu.Unlock()
	lives := func(c pod.ContainerStatus) bool { return c.State != pod.ContainerExited }
	if autoRemove(p) && len(containers) > 0 && !slices.ContainsFunc(containers, lives) || waited && ofNoUse(p, containers) {
		r.remove(ctx, p)
	}
}

func owner(p pod.PodStatus) string    { return p.Config.Annotations[strakev1.Owner] }
func autoRemove(p pod.PodStatus) bool { return p.Config.Annotations[strakev1.AutoRemove] == "true" }

// ofNoUse is a pod with an owner in which nothing ever ran.
func ofNoUse(p pod.PodStatus, containers []pod.ContainerStatus) bool {
	ran := func(c pod.ContainerStatus) bool { return !c.StartedAt.IsZero() }
	return owner(p) != "" && !slices.ContainsFunc(containers, ran)
}

// remove removes the pod in the background if nobody holds it.
func (r *reaper) remove(ctx context.Context, p pod.PodStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil || r.busy[p.ID] || r.held[p.ID] > 0 || r.held[owner(p)] > 0 {
		return
	}
	r.busy[p.ID] = true
	r.wg.Go(func() {
		err := r.pods.StopPod(ctx, p.ID)
		if err == nil {
			err = r.pods.RemovePod(ctx, p.ID)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("a pod of strake run stays: remove it with strake rm -f", "pod", p.Config.Name, "id", p.ID, "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, p.ID)
	})
}
