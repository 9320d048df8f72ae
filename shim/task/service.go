// Package task is the monitor: it serves containerd's Task API (v2 and v3), the
// sandbox API and strake.monitor.v1 for the containers of a pod, and is the
// parent of their processes.
//
// Who owns what. A Service has the containers by id and the sandboxes (pods) that
// they belong to: any number with straked, one with containerd. Each container (task) owns the state of its processes; nothing else changes it. What
// a process does on its own, its exit, arrives in one place (task.exited); an
// exit that comes while a verb is still starting the process is kept until the
// verb is through (process.busy), so Create and Start always answer first and
// events keep containerd's order: create, start, exec-added, exec-started, oom,
// exit, delete; and the exits of execs before that of init.
//
// A monitor that is killed harms nobody: what it would be needed for is in names,
// pins and records, from which the next one goes on (adopt.go).
//
// Before Wait returns and before the exit event, all output has been passed on
// and the bundle has its exit.json.
//
// Locks, in order: sandbox.verbs, task.verbs, Service.mu, task.mu, publisher's and
// keeper's. Only verbs may be held across something that blocks; it serialises
// start, pause, resume and delete of one container (or start and stop of one pod),
// so that a hung container never blocks another, nor its own State, Wait, Kill and
// Exec, and no pod another.
package task

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/idle"
	"github.com/strake-containers/strake/internal/sys"

	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/wire"
)

// restAfter is how long nothing must have been asked of the monitor before it rests. A
// verb uses memory, a config.json takes a megabyte to read, and monitors are many.
const restAfter = 2 * time.Second

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
	// Pins is the directory of straked's pins (sys.MakePins), "" for containerd.
	// With them, another monitor can adopt what this one has, if it is killed.
	Pins string
	// Publisher is the program that foreign shims call to publish an event: this one.
	Publisher string
	Debug     bool // foreign shims log more
	// Dir is the directory that the monitor was started in. A pod whose bundle it
	// is takes the monitor along when it is shut down.
	Dir string
}

// Service is a monitor's state.
type Service struct {
	options Options
	reaper  *reap.Reaper
	events  *publisher
	pins    *sys.Pins // nil under containerd
	kept    *keeper
	rest    *idle.Rest // ended by every verb that uses memory

	proc   func() *os.File // a procfs for sysctls, made at the first use; nil: the host's
	second secondProcessor
	stop   sync.Once

	mu        sync.Mutex
	tasks     map[string]*task
	creating  map[string]creation // ids that will be in tasks, or not
	sandboxes map[string]*sandbox
	eventsAt  string // where foreign shims publish; "" before there are any
}

// creation is a container that is being created.
type creation struct {
	settled chan struct{} // closed when it is there, or has failed
	pod     *sandbox
}

// New makes a Service. There is one per process, since it collects all children.
func New(o Options) (*Service, error) {
	reaper, err := reap.New()
	if err != nil {
		return nil, err
	}
	s := &Service{
		options:   o,
		reaper:    reaper,
		events:    newPublisher(o.EventsAddress, o.Namespace),
		kept:      newKeeper(),
		rest:      idle.After(restAfter),
		tasks:     map[string]*task{},
		creating:  map[string]creation{},
		sandboxes: map[string]*sandbox{},
		proc:      sync.OnceValue(newProc),
	}
	if o.Pins != "" {
		if s.pins, err = sys.OpenPins(o.Pins); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// newProc makes a procfs of this monitor's own. In the host's, setting a pod's sysctls takes
// longer the more pods the node has.
func newProc() *os.File {
	f, err := sys.NewProc()
	if err != nil {
		logf("sysctls are set by way of the host's /proc: %v", err)
		return nil
	}
	return f
}

// adoptable: another monitor can go on with what this one has.
func (s *Service) adoptable() bool { return s.pins != nil }

// ServeKept serves wire.KeepSocket until the listener is closed.
func (s *Service) ServeKept(l *net.UnixListener) { s.kept.serve(l) }

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
		"PodsStats":       wire.Method(s.podsStats),
		"Adopt":           wire.Method(s.adopt),
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
		t, settled := s.tasks[id], s.creating[id].settled
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

// all returns the containers of a pod that have been created; nil is no pod.
func (s *Service) all(pod *sandbox) []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tasks []*task
	for _, t := range s.tasks {
		if t.pod == pod {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// podOf returns the pod of a container with that bundle: straked's are below the
// pod's own; with containerd all are of the one pod that it has told us of, if any.
func (s *Service) podOf(bundle string) *sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.sandboxes {
		if dir := filepath.Clean(bundle); filepath.Dir(dir) == b.bundle || dir == b.bundle || !s.adoptable() {
			return b
		}
	}
	return nil
}

// reserve takes an id for a container of a pod that is being created.
func (s *Service) reserve(id string, pod *sandbox) error {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return wire.Errorf(wire.InvalidArgument, "container id %q: it must be a plain name", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[id] != nil || s.creating[id].settled != nil {
		return wire.Errorf(wire.AlreadyExists, "container %s already exists", id)
	}
	if pod != nil && pod.closing {
		return wire.Errorf(wire.FailedPrecondition, "its pod is being stopped")
	}
	s.creating[id] = creation{make(chan struct{}), pod}
	return nil
}

// settleID ends what reserve began: the container is there, or (nil) is not.
func (s *Service) settleID(id string, t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t != nil {
		s.tasks[id] = t
	}
	close(s.creating[id].settled)
	delete(s.creating, id)
}

// release forgets a container that has been removed.
func (s *Service) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

// close lets no new container into a pod and waits for those that are being
// created: to be there, so that they can be ended, or to have failed.
func (s *Service) close(ctx context.Context, pod *sandbox) error {
	s.mu.Lock()
	if pod != nil {
		pod.closing = true
	}
	creating := maps.Clone(s.creating)
	s.mu.Unlock()
	for id, c := range creating {
		if c.pod != pod {
			continue
		}
		select {
		case <-c.settled:
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

// shutdown ends the monitor, unless it still has containers: containerd asks
// after each one. straked never does: its pods are shut down one by one.
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
