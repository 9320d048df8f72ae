package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// start lets a container's command run, or starts an exec.
func (s *Service) start(ctx context.Context, r *processRequest) (*pidResponse, error) {
	s.rest.Busy()
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p == t.init {
		err = t.startInit(ctx)
	} else {
		err = t.startExec(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	return &pidResponse{Pid: uint32(p.pid)}, nil
}

// begin marks p as being started, which only one caller can.
func (t *task) begin(p *process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.phase != created || p.busy {
		if p == t.init && t.startErr != nil {
			return wire.Errorf(wire.FailedPrecondition, "%s has been started already, which failed: %w", t.name(p), t.startErr)
		}
		return wire.Errorf(wire.FailedPrecondition, "%s has been started already", t.name(p))
	}
	p.busy = true
	return nil
}

// startInit lets init go on. Once begun that is finished, until the caller's deadline: a
// daemon that is killed meanwhile is no reason to end the hooks, and the container with
// them. The next daemon asks again, and hears when it is over what came of it.
func (t *task) startInit(ctx context.Context) error {
	ctx, cancel := untilDeadline(ctx)
	defer cancel()
	t.verbs.Lock()
	defer t.verbs.Unlock()
	if err := t.begin(t.init); err != nil {
		return err
	}
	t.mu.Lock()
	t.starting = true
	t.mu.Unlock()
	began := time.Now() // before the fact: it may end before its hooks do
	var err error
	if !t.restored {
		if err = t.container.Start(ctx); errors.Is(err, container.ErrNotExist) && t.startErr != nil {
			err = t.startErr // after which nothing was left to be started
		}
	}
	if err == nil && t.service.adoptable() {
		t.record.StartedAt = began
		if err := writeRecord(t.recordPath(), &t.record); err != nil {
			logf("container %s: record its start: %v", t.id, err) // a full /run; it runs all the same
		}
	}
	// On an error init is dead, or still waits and can be started again.
	t.settle(t.init, func() {
		t.starting, t.startErr = false, err
		t.cutOff = t.cutOff || ctx.Err() != nil
		if err == nil {
			t.running(t.init, began)
			t.service.events.publish("/tasks/start", "containerd.events.TaskStart", &taskStart{
				ContainerID: t.id, Pid: uint32(t.init.pid),
			})
		}
	})
	if err != nil {
		return t.explain(err)
	}
	return nil
}

// untilDeadline is a call's context without the end of the connection that it came by.
func untilDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline)
}

// catchUp finds out whether init runs after a start that was cut off: its caller, or
// the monitor that it had asked, was gone before init came out of the gate.
func (t *task) catchUp(ctx context.Context) {
	t.mu.Lock()
	late := t.cutOff && t.init.phase == created && !t.init.busy
	t.mu.Unlock()
	if !late || !t.container.Runs(ctx) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.init.phase == created {
		t.running(t.init, time.Now())
	}
}

// running is called under mu.
func (t *task) running(p *process, since time.Time) {
	p.phase = running
	p.startedAt = since
}

func (s *Service) kill(ctx context.Context, r *killRequest) (*wire.Empty, error) {
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	sig := syscall.Signal(r.Signal)
	if r.Signal > 64 {
		return nil, wire.Errorf(wire.InvalidArgument, "%s: there is no signal %d", t.name(p), r.Signal)
	}
	if p == t.init && r.All {
		err = t.killAll(ctx, sig)
	} else {
		err = t.signal(p, sig)
	}
	if err != nil && p == t.init && sig == syscall.SIGKILL {
		err = t.discard(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	if sig == syscall.SIGKILL {
		t.thaw(ctx)
	}
	return &wire.Empty{}, nil
}

// discard ends a container that was never started and that its foreign shim cannot
// signal: some can only delete such a one, and gVisor's only when it is called anew
// after its serving process has died. Cause is what became of the signal.
func (t *task) discard(ctx context.Context, cause error) error {
	c := t.foreign()
	t.mu.Lock()
	waits := c != nil && t.init.phase == created
	t.mu.Unlock()
	if !waits {
		return cause
	}
	if c.own {
		return c.shim.kill(ctx, t.id) // and its end is the container's
	}
	if err := c.Delete(ctx); err != nil {
		return errors.Join(cause, err)
	}
	t.exited(t.init, lostExit(t.init.pid))
	return nil
}

// killAll signals every process of the container.
func (t *task) killAll(ctx context.Context, sig syscall.Signal) error {
	t.mu.Lock()
	over := t.init.phase == stopped
	t.mu.Unlock()
	if over {
		return errFinished(t, t.init)
	}
	if err := t.container.Kill(ctx, sig, true); err != nil {
		if isGone(err) || errors.Is(err, container.ErrNotRunning) {
			return errFinished(t, t.init)
		}
		return t.explain(err)
	}
	return nil
}

// thaw lets a paused container die: frozen processes of cgroup v1 do not.
func (t *task) thaw(ctx context.Context) {
	t.mu.Lock()
	paused := t.paused
	t.mu.Unlock()
	if !paused {
		return
	}
	if err := t.container.Resume(ctx); err != nil {
		logf("container %s: thaw to kill: %v", t.id, err)
		return
	}
	t.mu.Lock()
	t.paused = false
	t.mu.Unlock()
}

// wait returns how a process ended, when it has.
func (s *Service) wait(ctx context.Context, r *processRequest) (*exitResponse, error) {
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		if p.lost && p != t.init { // of init, the record says so
			return nil, t.lostError(p)
		}
		return &exitResponse{ExitStatus: uint32(p.exit.Status), ExitedAt: stamp(p.exit.At)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// delete forgets an exec, or removes a container.
func (s *Service) delete(ctx context.Context, r *processRequest) (*deleteResponse, error) {
	s.rest.Busy()
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p == t.init {
		err = t.remove(ctx)
	} else {
		err = t.removeExec(p)
	}
	if err != nil {
		return nil, err
	}
	e := p.exit
	d := &deleteResponse{Pid: uint32(p.pid), ExitStatus: uint32(e.Status), ExitedAt: stamp(e.At)}
	s.events.publish("/tasks/delete", "containerd.events.TaskDelete", &taskDelete{
		ContainerID: t.id, ID: p.execID, Pid: d.Pid, ExitStatus: d.ExitStatus, ExitedAt: d.ExitedAt,
	})
	return d, nil
}

func (t *task) removeExec(p *process) error {
	t.mu.Lock()
	if p.phase == running || p.busy {
		t.mu.Unlock()
		return wire.Errorf(wire.FailedPrecondition, "%s is running", t.name(p))
	}
	delete(t.execs, p.execID)
	t.mu.Unlock()
	t.releaseExec(p)
	return nil
}

// releaseExec gives back what is left of an exec that nobody can find any more.
func (t *task) releaseExec(p *process) {
	if p.shim != nil {
		ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
		defer cancel()
		if err := p.shim.deleteExec(ctx, p.execID); err != nil && p.shim.shim.alive(ctx) {
			logf("%s: %v", t.name(p), err) // its shim keeps a little more than it had to
		}
	}
	t.forgetExec(p)
	p.close()
}

// remove removes a container that has ended or was never started.
func (t *task) remove(ctx context.Context) error {
	t.verbs.Lock()
	defer t.verbs.Unlock()
	t.mu.Lock()
	at := t.init.phase
	t.mu.Unlock()
	switch at {
	case running:
		return wire.Errorf(wire.FailedPrecondition, "container %s is running", t.id)
	case created:
		if err := t.signal(t.init, syscall.SIGKILL); err != nil && t.discard(ctx, err) != nil {
			logf("%v", err) // it has ended meanwhile, and its exit comes
		}
		select {
		case <-t.init.done:
		case <-ctx.Done():
			return fmt.Errorf("kill it before removal: %w", ctx.Err())
		}
	}
	// Retried by whoever gets an error; Delete can be. Its hooks are children.
	release := t.service.reaper.Hold()
	err := t.container.Delete(ctx)
	release()
	if errors.Is(err, container.ErrPoststop) {
		logf("%v", err)
	} else if err != nil {
		return t.explain(err)
	}
	t.oom.close()
	t.forbidden.close()
	t.init.close()
	t.service.unpinProcess(t)
	t.mu.Lock()
	execs := t.execs
	t.execs = map[string]*process{}
	t.mu.Unlock()
	for _, p := range execs {
		p.close()
	}
	t.service.release(t.id)
	return nil
}

func (s *Service) state(ctx context.Context, r *processRequest) (*stateResponse, error) {
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &stateResponse{
		ID: t.id, ExecID: p.execID, Bundle: t.bundle, Pid: uint32(p.pid),
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, Terminal: p.terminal,
		ExitStatus: uint32(p.exit.Status), ExitedAt: stamp(p.exit.At),
	}
	switch p.phase {
	case created:
		a.Status = statusCreated
	case running:
		a.Status = statusRunning
		if t.paused {
			a.Status = statusPaused
		}
	case stopped:
		a.Status = statusStopped
	}
	return a, nil
}

func (s *Service) pids(ctx context.Context, r *idRequest) (*pidsResponse, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := t.container.Pids(ctx)
	if err != nil && !isGone(err) {
		return nil, t.explain(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	execOf := make(map[int]string, len(t.execs))
	for id, p := range t.execs {
		if !p.silent {
			execOf[p.pid] = id
		}
	}
	answer := &pidsResponse{}
	for _, pid := range pids {
		info := &processInfo{Pid: uint32(pid)}
		if id, ok := execOf[pid]; ok {
			value, err := pb.Marshal(&processDetails{ExecID: id})
			if err != nil {
				return nil, err
			}
			info.Info = &wire.Any{TypeURL: "containerd.runc.v1.ProcessDetails", Value: value}
		}
		answer.Processes = append(answer.Processes, info)
	}
	return answer, nil
}

func (s *Service) pause(ctx context.Context, r *idRequest) (*wire.Empty, error) {
	return s.freeze(ctx, r.ID, true, "/tasks/paused", "containerd.events.TaskPaused", func(t *task) error {
		return t.container.Pause(ctx)
	})
}

func (s *Service) resume(ctx context.Context, r *idRequest) (*wire.Empty, error) {
	return s.freeze(ctx, r.ID, false, "/tasks/resumed", "containerd.events.TaskResumed", func(t *task) error {
		return t.container.Resume(ctx)
	})
}

// freeze pauses or resumes a running container.
func (s *Service) freeze(ctx context.Context, id string, pause bool, topic, event string, act func(*task) error) (*wire.Empty, error) {
	t, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	t.verbs.Lock()
	defer t.verbs.Unlock()
	t.mu.Lock()
	alive := t.init.phase == running
	t.mu.Unlock()
	if !alive {
		return nil, t.notRunning()
	}
	if err := act(t); err != nil {
		return nil, t.explain(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = pause
	s.events.publish(topic, event, &taskEvent{ContainerID: id})
	return &wire.Empty{}, nil
}

func (s *Service) resizePty(ctx context.Context, r *resizePtyRequest) (*wire.Empty, error) {
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	streams, err := t.streams(p)
	if err != nil {
		return nil, err
	}
	if r.Width > math.MaxUint16 || r.Height > math.MaxUint16 {
		return nil, wire.Errorf(wire.InvalidArgument, "%s: resize to %d×%d: the limit is %d", t.name(p), r.Width, r.Height, math.MaxUint16)
	}
	if err := streams.Resize(uint16(r.Width), uint16(r.Height)); err != nil {
		return nil, wire.Errorf(wire.FailedPrecondition, "%s: resize: %w", t.name(p), err)
	}
	return &wire.Empty{}, nil
}

// streams returns the streams of a process that has some.
func (t *task) streams(p *process) (*stdio.IO, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.io == nil || p.phase == stopped {
		return nil, wire.Errorf(wire.FailedPrecondition, "%s is not running", t.name(p))
	}
	return p.io, nil
}

// attachStdin is a stdin that is fed by attached clients; see stdio.Config.
const attachStdin = "attach:"

func (s *Service) closeIO(ctx context.Context, r *closeIORequest) (*wire.Empty, error) {
	t, p, err := s.findProcess(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	// A process that has ended has no stdin to close: what was asked is so.
	if streams, err := t.streams(p); err == nil && r.Stdin {
		if p.shim != nil && p.stdin != attachStdin { // it is between the shim and the caller
			t.closeForeignInput(p)
		} else {
			streams.CloseStdin()
		}
	}
	return &wire.Empty{}, nil
}

func (s *Service) update(ctx context.Context, r *updateRequest) (*wire.Empty, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if r.Resources == nil {
		return nil, wire.Errorf(wire.InvalidArgument, "update: no resources")
	}
	if err := json.Unmarshal(r.Resources.Value, &resources); err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "update: resources: %w", err)
	}
	if err := t.container.Update(ctx, &resources); err != nil {
		return nil, t.explain(err)
	}
	return &wire.Empty{}, nil
}
