package task

import (
	"context"
	"encoding/json"
	"syscall"
	"time"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// exec registers a process to be started later.
func (s *Service) exec(ctx context.Context, r *execRequest) (*wire.Empty, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" || r.Spec == nil {
		return nil, wire.Errorf(wire.InvalidArgument, "an exec needs an id and a process")
	}
	p := &process{
		execID: r.ExecID, terminal: r.Terminal, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr,
		done: make(chan struct{}), phase: created,
	}
	if err := json.Unmarshal(r.Spec.Value, &p.spec); err != nil || p.spec == nil {
		return nil, wire.Errorf(wire.InvalidArgument, "process: %w", err)
	}
	p.spec.Terminal = r.Terminal
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.init.phase == stopped || t.ending {
		return nil, t.notRunning()
	}
	if t.execs[r.ExecID] != nil {
		return nil, wire.Errorf(wire.AlreadyExists, "container %s: exec %s: already exists", r.ID, r.ExecID)
	}
	t.execs[r.ExecID] = p
	s.events.publish("/tasks/exec-added", "containerd.events.TaskExecAdded", &taskExecAdded{ContainerID: t.id, ExecID: r.ExecID})
	return &wire.Empty{}, nil
}

// startExec starts a registered exec. One that cannot be started counts as ended.
func (t *task) startExec(ctx context.Context, p *process) (err error) {
	if err := t.begin(p); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	p.giveUp = cancel
	t.mu.Unlock()
	defer func() {
		t.settle(p, func() {
			p.giveUp = nil
			if err == nil {
				t.running(p, time.Now())
				t.service.events.publish("/tasks/exec-started", "containerd.events.TaskExecStarted", &taskExecStarted{
					ContainerID: t.id, ExecID: p.execID, Pid: uint32(p.pid),
				})
				return
			}
			if !p.exists() { // there is no process whose exit will come
				p.exit, p.phase = reap.Exit{Status: 255, At: time.Now()}, stopped
				close(p.done)
			}
		})
	}()
	uid, gid := t.idMaps.host(p.spec)
	streams, err := stdio.Open(ctx, t.named(p, stdio.Config{
		ContainerID: t.id, Namespace: t.service.options.Namespace, Dir: t.bundle, Terminal: p.terminal,
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr,
		UID: uid, GID: gid, StartChild: t.service.reaper.Start,
	}))
	if err != nil {
		return err
	}
	return t.launchExec(ctx, p, streams)
}

// launchExec makes the process of an exec that is marked busy, with its streams,
// which it takes over.
func (t *task) launchExec(ctx context.Context, p *process, streams *stdio.IO) error {
	t.mu.Lock()
	alive, paused := t.init.phase == running && !t.ending, t.paused
	p.io = streams
	t.mu.Unlock()
	switch {
	case !alive:
		return t.notRunning()
	case paused:
		return wire.Errorf(wire.FailedPrecondition, "container %s is paused: resume it first", t.id)
	}
	if f := t.foreign(); f != nil {
		if err := t.execForeign(ctx, f, p); err != nil {
			return t.explain(err)
		}
		return streams.Started(nil)
	}
	options := container.ExecOptions{Process: p.spec}
	options.Stdin, options.Stdout, options.Stderr = streams.Files()
	console, err := t.service.launch(p, t, func() (*container.Process, error) {
		return t.container.Exec(ctx, options)
	})
	if err != nil {
		return t.explain(err)
	}
	p.spec = nil
	if err := t.recordExec(p); err != nil {
		logf("%s: record it: %v", t.name(p), err) // a full /run; it runs all the same
	}
	if err := streams.Started(console); err != nil {
		_ = t.signal(p, syscall.SIGKILL) // its exit comes
		return err
	}
	return nil
}
