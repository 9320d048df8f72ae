// Package task is the monitor: it serves containerd's Task API (v2 and v3), the
// sandbox API and strake.monitor.v1 for the containers of a pod, and is the
// parent of their processes.
//
// Who owns what. A Service has the containers by id and at most one sandbox. Each
// container (task) owns the state of its processes; nothing else changes it. What
// a process does on its own, its exit, arrives in one place (task.exited); an
// exit that comes while a verb is still starting the process is kept until the
// verb is through (process.busy), so Create and Start always answer first and
// events keep containerd's order: create, start, exec-added, exec-started, oom,
// exit, delete; and the exits of execs before that of init.
//
// Before Wait returns and before the exit event, all output has been passed on
// and the bundle has its exit.json.
//
// Locks, in order: task.verbs, Service.mu, task.mu, publisher's. Only verbs may
// be held across something that blocks; it serialises start, pause, resume and
// delete of one container, so that a hung container never blocks another, nor
// its own State, Wait, Kill and Exec.
package task

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/wire"
)

// Options describe a monitor.
type Options struct {
	Namespace string // of containerd's events, and part of the default state root
	// StateRoot is where oci/container keeps the state of containers whose
	// create options name no place.
	StateRoot string
	// EventsAddress is the unix socket of containerd's ttrpc server; "" publishes
	// nothing.
	EventsAddress string
	// Shutdown ends the process; it is called once, after the answer to the
	// request that asked for it.
	Shutdown func()
}

// Service is a monitor's state.
type Service struct {
	options Options
	reaper  *reap.Reaper
	events  *publisher
	trimmer *time.Timer // reset by every verb that uses memory
	stop    sync.Once

	mu       sync.Mutex
	tasks    map[string]*task
	creating map[string]chan struct{} // ids that will be in tasks, or not; closed then
	sandbox  *sandbox
	closing  bool // no container may be created any more
}

// New makes a Service. There is one per process, since it collects all children.
func New(o Options) (*Service, error) {
	reaper, err := reap.New()
	if err != nil {
		return nil, err
	}
	return &Service{
		options:  o,
		reaper:   reaper,
		events:   newPublisher(o.EventsAddress, o.Namespace),
		trimmer:  newTrimmer(),
		tasks:    map[string]*task{},
		creating: map[string]chan struct{}{},
	}, nil
}

// Register adds all methods to a server.
func (s *Service) Register(srv *wire.Server) {
	// The two versions differ in nothing but their name.
	for _, service := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		for name, h := range map[string]wire.Handler{
			"Create":     wire.Method(s.create),
			"Start":      wire.Method(s.start),
			"Exec":       wire.Method(s.exec),
			"Kill":       wire.Method(s.kill),
			"Wait":       wire.Method(s.wait),
			"Delete":     wire.Method(s.delete),
			"State":      wire.Method(s.state),
			"Pids":       wire.Method(s.pids),
			"Pause":      wire.Method(s.pause),
			"Resume":     wire.Method(s.resume),
			"ResizePty":  wire.Method(s.resizePty),
			"CloseIO":    wire.Method(s.closeIO),
			"Update":     wire.Method(s.update),
			"Stats":      wire.Method(s.stats),
			"Connect":    wire.Method(s.connect),
			"Checkpoint": wire.Method(s.checkpoint),
			"Shutdown":   wire.Method(s.shutdown),
		} {
			srv.Handle(service, name, h)
		}
	}
	for name, h := range map[string]wire.Handler{
		"CreateSandbox":   wire.Method(s.createSandbox),
		"StartSandbox":    wire.Method(s.startSandbox),
		"Platform":        wire.Method(s.platform),
		"StopSandbox":     wire.Method(s.stopSandbox),
		"WaitSandbox":     wire.Method(s.waitSandbox),
		"SandboxStatus":   wire.Method(s.sandboxStatus),
		"PingSandbox":     wire.Method(s.pingSandbox),
		"ShutdownSandbox": wire.Method(s.shutdownSandbox),
		"SandboxMetrics":  wire.Method(s.sandboxMetrics),
	} {
		srv.Handle("containerd.runtime.sandbox.v1.Sandbox", name, h)
	}
	for name, h := range map[string]wire.Handler{
		"ExecSync":        wire.Method(s.execSync),
		"ReopenLog":       wire.Method(s.reopenLog),
		"ContainerStatus": wire.Method(s.containerStatus),
		"Stats":           wire.Method(s.podStats),
		"UpdateCgroup":    wire.Method(s.updateCgroup),
	} {
		srv.Handle("strake.monitor.v1.Monitor", name, h)
	}
}

// find returns a container. One that is being created is waited for, within ctx:
// to say that there is none would leave it behind for a caller who has come to
// end it.
func (s *Service) find(ctx context.Context, id string) (*task, error) {
	for {
		s.mu.Lock()
		t, settled := s.tasks[id], s.creating[id]
		s.mu.Unlock()
		switch {
		case t != nil:
			return t, nil
		case settled == nil:
			return nil, wire.Errorf(wire.NotFound, "container %s: not found", id)
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, fmt.Errorf("container %s is still being created: %w", id, ctx.Err())
		}
	}
}

// findProcess returns a container and one of its processes.
func (s *Service) findProcess(ctx context.Context, id, execID string) (*task, *process, error) {
	t, err := s.find(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	p, err := t.process(execID)
	return t, p, err
}

// created returns a container, or nil if it has not been created.
func (s *Service) created(id string) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[id]
}

// all returns the containers that have been created.
func (s *Service) all() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.tasks))
}

// reserve takes an id for a container that is being created.
func (s *Service) reserve(id string) error {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return wire.Errorf(wire.InvalidArgument, "container id %q: it must be a plain name", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[id] != nil || s.creating[id] != nil {
		return wire.Errorf(wire.AlreadyExists, "container %s already exists", id)
	}
	if s.closing {
		return wire.Errorf(wire.FailedPrecondition, "its pod is being stopped")
	}
	s.creating[id] = make(chan struct{})
	return nil
}

// settleID ends what reserve began: the container is there, or (nil) is not.
func (s *Service) settleID(id string, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t != nil {
		s.tasks[id] = t
	}
	close(s.creating[id])
	delete(s.creating, id)
}

// release forgets a container that has been removed.
func (s *Service) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

// close lets no new container in and waits for those that are being created: to
// be there, so that they can be ended, or to have failed.
func (s *Service) close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	creating := maps.Clone(s.creating)
	s.mu.Unlock()
	for id, settled := range creating {
		select {
		case <-settled:
		case <-ctx.Done():
			return fmt.Errorf("container %s is still being created: %w", id, ctx.Err())
		}
	}
	return nil
}

func (s *Service) connect(_ context.Context, r *idRequest) (*connectResponse, error) {
	answer := &connectResponse{ShimPid: uint32(os.Getpid()), Version: "3"}
	if t := s.created(r.ID); t != nil {
		answer.TaskPid = uint32(t.init.pid)
	}
	return answer, nil
}

func (s *Service) checkpoint(_ context.Context, r *idRequest) (*wire.Empty, error) {
	return nil, wire.Errorf(wire.Unimplemented, "checkpoint is not implemented by strake")
}

// shutdown ends the monitor, unless it still has containers: containerd asks
// after each one.
func (s *Service) shutdown(_ context.Context, r *shutdownRequest) (*wire.Empty, error) {
	s.mu.Lock()
	empty := len(s.tasks)+len(s.creating) == 0
	s.mu.Unlock()
	if empty || r.Now {
		s.end()
	}
	return &wire.Empty{}, nil
}

func (s *Service) end() {
	s.stop.Do(func() {
		go func() {
			s.events.flush()
			s.options.Shutdown()
		}()
	})
}

// runtimeRootFile, in a bundle, says where the container's state.json is, for the
// delete command of a monitor that has crashed.
const runtimeRootFile = "runtime-root"
