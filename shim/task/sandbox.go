package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/wire"
)

// sandbox is the pod that the monitor's containers belong to: its namespaces,
// which the monitor holds open, and a pause process only if the containers share
// a PID namespace, which cannot be without a process.
type sandbox struct {
	id, bundle string
	spec       *specs.Spec
	handler    handler
	shim       *foreignShim // the handler's, if that is one; nil before it is started

	verbs   sync.Mutex // one start or stop at a time; see the package comment
	closing bool       // no container may be created any more; guarded by Service.mu
	counts  counts     // of the cgroup above it, which is the pod's

	mu        sync.Mutex // a leaf
	started   bool
	createdAt time.Time
	stoppedAt time.Time // zero until it is stopped
	ns        container.Namespaces
	shmPath   string        // where its /dev/shm is mounted, if it has to be; see adoptShm
	pause     *pause        // nil without one
	done      chan struct{} // closed when stopped
	adopted   chan struct{} // closed when it has been adopted, or cannot be; nil: it was made here

	// Of a foreign shim's sandbox: its process, if it has one, and what SandboxStatus
	// says of it.
	foreignPid int
	info       map[string]string
}

// findSandbox returns the monitor's sandbox if it has that id, once it is all
// there.
func (s *Service) findSandbox(id string) (*sandbox, error) {
	for {
		b := s.sandbox(id)
		switch {
		case b == nil:
			return nil, wire.Errorf(wire.NotFound, "sandbox %s: not found", id)
		case b.adopted == nil:
			return b, nil
		}
		<-b.adopted
		if s.sandbox(id) == b { // else it could not be
			return b, nil
		}
	}
}

func (s *Service) sandbox(id string) *sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sandboxes[id]
}

func newSandbox(id, bundle string, spec *specs.Spec) *sandbox {
	return &sandbox{id: id, bundle: filepath.Clean(bundle), spec: spec, createdAt: time.Now(), done: make(chan struct{})}
}

// createSandbox reads what the pod is to be.
func (s *Service) createSandbox(_ context.Context, r *createSandboxRequest) (*wire.Empty, error) {
	spec, err := readSpec(r.BundlePath)
	if err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "sandbox %s: %w", r.SandboxID, err)
	}
	h, err := decodeHandler(r.Options)
	if err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "sandbox %s: options: %w", r.SandboxID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandboxes[r.SandboxID] != nil {
		return nil, wire.Errorf(wire.AlreadyExists, "sandbox %s: already exists", r.SandboxID)
	}
	if !s.adoptable() && len(s.sandboxes) > 0 {
		return nil, wire.Errorf(wire.AlreadyExists, "sandbox %s: the monitor has another", r.SandboxID)
	}
	b := newSandbox(r.SandboxID, r.BundlePath, spec)
	b.handler = h
	s.sandboxes[r.SandboxID] = b
	return &wire.Empty{}, nil
}

// startSandbox makes the pod's namespaces.
func (s *Service) startSandbox(ctx context.Context, r *sandboxRequest) (*startSandboxResponse, error) {
	s.rest.Busy()
	b, err := s.findSandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	b.verbs.Lock()
	defer b.verbs.Unlock()
	b.mu.Lock()
	again := b.started
	b.mu.Unlock()
	if again {
		return nil, wire.Errorf(wire.FailedPrecondition, "sandbox %s: it has been started already", b.id)
	}
	if b.handler.Shim != "" {
		if err := s.startForeign(ctx, b); err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
		}
		b.mu.Lock()
		b.started = true
		b.mu.Unlock()
		if err := s.pinSandbox(b, nil, nil); err != nil {
			return nil, err
		}
		return &startSandboxResponse{Pid: uint32(b.foreignPid), CreatedAt: stamp(b.createdAt)}, nil
	}
	if err := b.handler.save(b.bundle); err != nil {
		return nil, err
	}
	release := s.reaper.Hold()
	defer release()
	ns, err := container.PinNamespaces(pinned(b.spec), s.proc())
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	if err := s.keepLent(b, ns); err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox %s: %w", b.id, err), ns.Close())
	}
	sharedMemory, err := makeShm(b.spec)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox %s: /dev/shm: %w", b.id, err), ns.Close())
	}
	var p *pause
	if hasPrivatePID(b.spec) {
		if p, err = s.startPause(ctx, b, ns); err != nil {
			err = errors.Join(fmt.Errorf("sandbox %s: pause process: %w", b.id, err), ns.Close())
			if sharedMemory != nil {
				err = errors.Join(err, sharedMemory.Close())
			}
			return nil, err
		}
		ns[specs.PIDNamespace] = p.ns
	}
	if sharedMemory != nil {
		ns[shm] = sharedMemory
	}
	b.mu.Lock()
	b.ns, b.pause, b.started = ns, p, true
	b.mu.Unlock()
	// From here on StopSandbox undoes it.
	if err := s.pinSandbox(b, ns, p); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &startSandboxResponse{Pid: uint32(b.pid()), CreatedAt: stamp(b.createdAt)}, nil
}

// pinned is the part of a pod's spec whose namespaces last without a process:
// not the mount namespace, which each container has for itself, nor the PID
// namespace, which ends with its first process.
func pinned(spec *specs.Spec) *specs.Spec {
	if spec.Linux == nil {
		return spec
	}
	linux := *spec.Linux
	linux.Namespaces = slices.DeleteFunc(slices.Clone(linux.Namespaces), func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.MountNamespace || ns.Type == specs.PIDNamespace
	})
	only := *spec
	only.Linux = &linux
	return &only
}

// pid is called under mu. Without a pause process the pod's is the monitor's.
func (b *sandbox) pid() int {
	switch {
	case b.pause != nil:
		return b.pause.pid
	case b.shim != nil:
		return b.foreignPid
	}
	return os.Getpid()
}

func (s *Service) sandboxStatus(_ context.Context, r *sandboxRequest) (*sandboxStatusResponse, error) {
	b, err := s.findSandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	a := &sandboxStatusResponse{
		SandboxID: b.id, Pid: uint32(b.pid()), State: "SANDBOX_NOTREADY",
		CreatedAt: stamp(b.createdAt), ExitedAt: stamp(b.stoppedAt), Info: map[string]string{},
	}
	if b.started && b.stoppedAt.IsZero() {
		a.State = "SANDBOX_READY"
	}
	for kind, f := range b.ns {
		path, err := fdPath(f)
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: %s namespace: %w", b.id, kind, err)
		}
		a.Info["ns."+string(kind)] = path
	}
	if b.shim != nil {
		a.Info = b.foreignInfo()
	}
	if b.shmPath != "" {
		a.Info["ns."+string(shm)] = b.shmPath
	}
	return a, nil
}

// fdPath is where other processes find a file that this one has open.
func fdPath(f *os.File) (path string, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	err = raw.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) })
	return path, err
}

// stopSandbox kills all containers and lets the namespaces go. No container can
// be created afterwards.
func (s *Service) stopSandbox(ctx context.Context, r *sandboxRequest) (*wire.Empty, error) {
	b, err := s.findSandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	return &wire.Empty{}, s.stopPod(ctx, b)
}

func (s *Service) stopPod(ctx context.Context, b *sandbox) error {
	b.verbs.Lock()
	defer b.verbs.Unlock()
	if err := s.killAll(ctx, b); err != nil {
		return fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	b.mu.Lock()
	p := b.pause
	b.mu.Unlock()
	if p != nil {
		if err := s.stopPause(ctx, p); err != nil {
			return fmt.Errorf("sandbox %s: pause process: %w", b.id, err)
		}
	}
	if b.shim != nil {
		// Its shim goes last: the containers are its to remove.
		for _, t := range s.all(b) {
			if err := t.remove(ctx); err != nil {
				return fmt.Errorf("sandbox %s: %w", b.id, err)
			}
		}
		if err := b.stopForeign(ctx); err != nil {
			return fmt.Errorf("sandbox %s: %w", b.id, err)
		}
	}
	b.counts.end()
	if err := s.unpinSandbox(b); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.ns.Close() // of p too
	b.ns, b.pause = nil, nil
	b.ended()
	return err
}

// waitSandbox waits until the sandbox is stopped.
func (s *Service) waitSandbox(ctx context.Context, r *sandboxRequest) (*exitResponse, error) {
	b, err := s.findSandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.done:
		b.mu.Lock()
		defer b.mu.Unlock()
		return &exitResponse{ExitedAt: stamp(b.stoppedAt)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// killAll ends all containers of a pod, those that are being created too.
func (s *Service) killAll(ctx context.Context, pod *sandbox) error {
	if err := s.close(ctx, pod); err != nil {
		return err
	}
	// Kill all before waiting for any: one that hangs holds up no other.
	tasks := s.all(pod)
	for _, t := range tasks {
		if err := t.signal(t.init, syscall.SIGKILL); err == nil {
			t.thaw(ctx)
		} else if err := t.discard(ctx, err); err != nil {
			logf("%v", err) // it has ended meanwhile, and its exit comes
		}
	}
	for _, t := range tasks {
		select {
		case <-t.init.done:
		case <-ctx.Done():
			return fmt.Errorf("container %s does not end: %w", t.id, ctx.Err())
		}
	}
	return nil
}

// shutdownSandbox stops what is left of a pod and forgets it. A monitor without
// pods ends if that is asked of it again, since its daemon may be about to give it
// another; one that was started for this pod ends with it.
func (s *Service) shutdownSandbox(ctx context.Context, r *sandboxRequest) (*wire.Empty, error) {
	b, _ := s.findSandbox(r.SandboxID) // nil if it is not there
	s.mu.Lock()
	others := len(s.sandboxes) > 0
	s.mu.Unlock()
	if b == nil && others {
		return nil, wire.Errorf(wire.NotFound, "sandbox %s: not found", r.SandboxID)
	}
	if err := s.endPod(ctx, b); err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.sandboxes, r.SandboxID)
	last := len(s.sandboxes) == 0 && (b == nil || !s.adoptable() || b.bundle == filepath.Clean(s.options.Dir))
	s.mu.Unlock()
	if last {
		s.end()
	}
	return &wire.Empty{}, nil
}

// Abandon is what a monitor does whose socket has been removed, so that nobody
// can ask it to: it ends and removes everything, then itself.
func (s *Service) Abandon() {
	s.mu.Lock()
	pods := append(slices.Collect(maps.Values(s.sandboxes)), nil)
	s.mu.Unlock()
	for _, b := range pods {
		if b != nil && b.adopted != nil {
			<-b.adopted
		}
		if err := s.endPod(context.Background(), b); err != nil {
			logf("abandoned: %v", err)
			return
		}
	}
	s.end()
}

// Alone is what a monitor of straked's does when nobody is connected with it any more. One
// that has pods waits for the next straked. One that has none ends: it was the spare of one
// that has been killed, and the next starts its own.
func (s *Service) Alone() {
	s.mu.Lock()
	empty := len(s.sandboxes)+len(s.tasks)+len(s.creating) == 0
	s.mu.Unlock()
	if empty {
		s.end()
	}
}

// endPod kills and removes the containers of a pod and stops it; nil is no pod.
func (s *Service) endPod(ctx context.Context, b *sandbox) error {
	var err error
	if b != nil {
		err = s.stopPod(ctx, b)
	} else {
		err = s.killAll(ctx, nil)
	}
	if err != nil {
		return err // whoever asked may ask again
	}
	for _, t := range s.all(b) {
		err = errors.Join(err, t.remove(ctx))
	}
	return err
}

func (s *Service) pingSandbox(context.Context, *sandboxRequest) (*wire.Empty, error) {
	return &wire.Empty{}, nil
}

func (s *Service) platform(context.Context, *sandboxRequest) (*platformResponse, error) {
	return &platformResponse{Platform: &platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

// sandboxMetrics reads the pod's cgroup.
func (s *Service) sandboxMetrics(_ context.Context, r *sandboxRequest) (*sandboxMetricsResponse, error) {
	b, err := s.findSandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	if b.spec.Linux == nil || b.spec.Linux.CgroupsPath == "" {
		return nil, wire.Errorf(wire.FailedPrecondition, "sandbox %s: it has no cgroup", b.id)
	}
	stats, err := statsOf(b.spec.Linux.CgroupsPath)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	data, err := metricsAny(stats)
	if err != nil {
		return nil, err
	}
	return &sandboxMetricsResponse{Metrics: &metric{Timestamp: stamp(time.Now()), ID: b.id, Data: data}}, nil
}
