package task

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/program"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// adopt takes over a pod whose monitor has been killed: its namespaces, which are
// pinned, and its containers, which run on. What the kernel and the records say
// is the truth. A pod that is here already is no error.
//
// It must not run while another monitor has the pod: straked asks for it once
// that does not listen any more.
func (s *Service) adopt(ctx context.Context, r *adoptRequest) (_ *wire.Empty, err error) {
	if !s.adoptable() {
		return nil, wire.Errorf(wire.FailedPrecondition, "sandbox %s: this monitor was started without pins", r.SandboxID)
	}
	b := newSandbox(r.SandboxID, r.BundlePath, nil)
	b.adopted = make(chan struct{})
	s.mu.Lock()
	other := s.sandboxes[b.id] != nil
	if !other {
		s.sandboxes[b.id] = b
	}
	s.mu.Unlock()
	if other {
		_, err := s.findSandbox(r.SandboxID)
		return &wire.Empty{}, err
	}
	// Once begun it is finished: its daemon may be killed, and the next one finds
	// the pod here.
	ctx = context.WithoutCancel(ctx)
	defer close(b.adopted)
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("forget sandbox", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sandboxes, b.id)
		return nil
	})

	// 1. The pod. One without a record was never finished.
	var record sandboxRecord
	if err := readRecord(filepath.Join(r.BundlePath, sandboxFile), &record); errors.Is(err, fs.ErrNotExist) {
		return nil, wire.Errorf(wire.NotFound, "sandbox %s: it was never started", r.SandboxID)
	} else if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", r.SandboxID, err)
	}
	spec, err := readSpec(r.BundlePath)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", r.SandboxID, err)
	}
	if b.handler, err = loadHandler(b.bundle); err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", r.SandboxID, err)
	}
	b.spec, b.createdAt, b.started = spec, record.CreatedAt, true
	b.verbs.Lock()
	defer b.verbs.Unlock()

	// 2. Its namespaces.
	ns, pidfds, err := s.pinned(b)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, wire.Errorf(wire.NotFound, "sandbox %s: its namespaces are gone: it was being stopped", b.id)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	undo.Push("close namespaces", ns.Close)
	defer func() {
		for _, f := range pidfds { // those that nobody has taken
			_ = f.Close() // only opened
		}
	}()
	take := func(name string) *os.File {
		f := pidfds[name]
		delete(pidfds, name)
		return f
	}
	if b.handler.Shim != "" {
		if err := s.adoptForeignPod(ctx, b); err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
		}
	} else if hasPrivatePID(spec) {
		if b.pause, err = s.adoptPause(b, take(pausePin)); err != nil {
			return nil, fmt.Errorf("sandbox %s: pause process: %w", b.id, err)
		}
		if b.pause.ns != nil {
			ns[specs.PIDNamespace] = b.pause.ns
		}
	}
	b.ns = ns
	entries, err := os.ReadDir(b.bundle)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", b.id, err)
	}
	undo.Release()

	// 3. Its containers, each for itself: one that cannot be adopted is no reason
	// to lose the others.
	for _, e := range entries {
		bundle := filepath.Join(b.bundle, e.Name())
		var record taskRecord
		if err := readRecord(filepath.Join(bundle, b.handler.taskFile()), &record); err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				logf("container %s: adopt: %v", e.Name(), err)
			}
			continue
		}
		if err := s.adoptTask(ctx, b, e.Name(), bundle, record, take(pidPin+e.Name())); err != nil {
			logf("container %s: adopt: %v", e.Name(), err)
			s.endLost(ctx, e.Name(), bundle, record.StateRoot)
		}
	}
	return &wire.Empty{}, nil
}

// endLost ends a container that cannot be adopted: straked is told that there is none, and
// nobody could end it afterwards.
func (s *Service) endLost(ctx context.Context, id, bundle, stateRoot string) {
	release := s.reaper.Hold() // its hooks are children
	defer release()
	if err := RemoveCrashed(ctx, s.options.Namespace, id, bundle, stateRoot, true, io.Discard); err != nil {
		logf("container %s: end what cannot be adopted: %v", id, err)
	}
}

// adoptPause takes over the pause process.
func (s *Service) adoptPause(b *sandbox, pidfd *os.File) (*pause, error) {
	c, err := container.Load(s.podStateRoot(b), b.id+"-pause")
	if err != nil {
		return nil, err
	}
	p := &pause{container: c, done: make(chan struct{})}
	var opened *os.File
	p.pid, opened, err = c.Init()
	switch {
	case pidfd != nil && opened != nil:
		_ = opened.Close() // the same again
	case pidfd == nil:
		pidfd = opened
	}
	if err != nil && !errors.Is(err, container.ErrNotRunning) {
		return nil, err
	}
	if p.pidfd = pidfd; pidfd == nil { // somebody has killed it, and with it the pod's processes
		close(p.done)
		return p, nil
	}
	if err == nil {
		if p.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/pid", p.pid)); err != nil {
			return nil, err
		}
	}
	return p, reap.WatchOther(p.pid, p.pidfd, func(reap.Exit, bool) { close(p.done) })
}

// adoptTask takes over a container. One that its monitor was killed over while it
// created it is removed: nobody was told of it. So is what is left of one that it was removing.
func (s *Service) adoptTask(ctx context.Context, pod *sandbox, id, bundle string, record taskRecord, pidfd *os.File) (err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("close pidfd", func() error {
		if pidfd != nil {
			return pidfd.Close()
		}
		return nil
	})
	t := &task{
		service: s, pod: pod, id: id, bundle: bundle, record: record, createdAt: record.CreatedAt, execs: map[string]*process{},
	}
	status, err := t.find(ctx)
	undo.Push("count no forbidden calls", func() error { t.forbidden.close(); return nil })
	if err != nil || status == "" {
		return err
	}
	t.paused = status == container.StatePaused
	p := &process{
		terminal: record.Terminal, stdin: record.Stdin, stdout: record.Stdout, stderr: record.Stderr,
		done: make(chan struct{}), phase: running, busy: true, startedAt: record.StartedAt,
	}
	if status == specs.StateCreated {
		p.phase, t.cutOff = created, true
	}
	t.init = p

	// How it has ended is written already.
	var e exitRecord
	if readRecord(filepath.Join(bundle, exitFile), &e) == nil {
		p.exit = reap.Exit{Pid: e.Pid, Status: e.ExitStatus, Signal: e.Signal, At: e.ExitedAt}
		p.pid, p.phase, p.busy, t.oomKilled, t.ending = e.Pid, stopped, false, e.OOMKilled, true
		p.io = &stdio.IO{}
		close(p.done)
		undo.Release()
		p.pidfd = pidfd
		s.own(t)
		return nil
	}

	// Or it can be watched; or nobody knows.
	var opened *os.File
	p.pid, opened, err = t.openInit()
	if err != nil && !errors.Is(err, container.ErrNotRunning) {
		return err
	}
	if pidfd == nil {
		pidfd = opened
	} else if opened != nil {
		_ = opened.Close() // the same again
	}
	p.pidfd = pidfd
	p.io, err = stdio.Open(ctx, t.named(p, stdio.Config{
		ContainerID: id, Namespace: s.options.Namespace, Dir: bundle, Terminal: record.Terminal,
		Stdin: record.Stdin, Stdout: record.Stdout, Stderr: record.Stderr,
		StdinOnce: record.StdinOnce, LogMaxBytes: record.LogMaxBytes, Adopt: true, StartChild: s.reaper.Start,
	}))
	if err != nil {
		return err
	}
	undo.Push("close streams", p.io.Close)
	if err := t.resume(p); err != nil {
		return err
	}
	if f := t.foreign(); f != nil {
		if err := t.adoptForeign(ctx, p, f); err != nil {
			return err
		}
	}
	if err := t.watchOOM(true); err != nil && !isGone(err) && pod.handler.native() {
		return err
	}
	t.adoptExecs()
	undo.Release()
	s.own(t)
	if !p.exists() {
		p.lost = true
		t.exited(p, lostExit(p.pid))
	}
	t.settle(p, func() {})
	return nil
}

// find finds out who has a container that a monitor has left, and how far it is. The
// status is "" if there is nothing to take over.
func (t *task) find(ctx context.Context) (status specs.ContainerState, err error) {
	h := podHandler(t.pod)
	if h.native() {
		return t.findNative(ctx)
	}
	spec, err := readSpec(t.bundle)
	if err != nil {
		return "", err
	}
	if h.Shim != "" {
		t.container, t.privatePID = t.pod.foreignTask(t.id, t.record.Endpoint, spec.Linux), true
		return specs.StateRunning, nil // the shim says more
	}
	c := program.Open(h.runtime(spec.Linux.CgroupsPath, t.service.reaper.Start), t.id, t.bundle, spec.Linux.CgroupsPath)
	t.container, t.privatePID, t.idMaps = c, hasPrivatePID(spec), idMapsOf(spec)
	state, err := c.State(ctx)
	if err != nil || state.Status == specs.StateCreating || t.record.Pid == 0 {
		return "", c.Delete(ctx)
	}
	return state.Status, nil
}

func (t *task) findNative(ctx context.Context) (status specs.ContainerState, err error) {
	c, err := container.Load(t.record.StateRoot, t.id)
	if errors.Is(err, container.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	status, err = c.Status()
	if err != nil || status == specs.StateCreating {
		return "", c.Delete(ctx, true)
	}
	spec, err := c.Spec()
	if errors.Is(err, fs.ErrNotExist) && status == specs.StateStopped { // its removal was cut off
		return "", c.Delete(ctx, true)
	}
	if err != nil {
		return "", err
	}
	t.container, t.privatePID, t.idMaps = native{c}, hasPrivatePID(spec), idMapsOf(spec)
	if t.record.CountForbidden {
		asked, err := readSpec(t.bundle) // the container has what was made of it
		if err == nil {
			err = t.adoptForbidden(asked)
		}
		if err != nil {
			return "", err
		}
		if t.forbidden != nil {
			c.SetAgent(t.forbidden.agent)
		}
	}
	return status, nil
}

// openInit is the container's init, if it has one on this host. The error is
// container.ErrNotRunning if that has ended.
func (t *task) openInit() (pid int, pidfd *os.File, err error) {
	switch c := t.container.(type) {
	case native:
		return c.Init()
	case *program.Container:
		pidfd, err = container.OpenProcess(t.record.Pid, t.record.StartTime)
		return t.record.Pid, pidfd, err
	default:
		return 0, nil, nil
	}
}

// own makes an adopted container one of ours.
func (s *Service) own(t *task) {
	if !t.privatePID {
		s.reaper.AdoptOrphans()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks[t.id] = t
}

// resume lets an adopted process's streams flow again, and watches it.
func (t *task) resume(p *process) error {
	console := t.service.kept.take(t.keepName(p))
	if console != nil {
		if err := t.service.kept.keep(t.keepName(p), console); err != nil {
			return errors.Join(err, console.Close())
		}
	}
	if err := p.io.Started(console); err != nil || p.pidfd == nil {
		return err
	}
	return reap.WatchOther(p.pid, p.pidfd, func(e reap.Exit, known bool) {
		t.mu.Lock()
		p.lost = !known
		t.mu.Unlock()
		t.exited(p, e)
	})
}

// adoptExecs takes over the processes that were added to a container. Those of
// ExecSync, whose callers have been told that the monitor died, are killed.
func (t *task) adoptExecs() {
	entries, err := os.ReadDir(filepath.Join(t.bundle, execsDir))
	if err != nil {
		return // none ever ran
	}
	for _, e := range entries {
		id, err := hex.DecodeString(e.Name())
		if err != nil {
			continue // not yet a record: its caller has been told nothing
		}
		var r execRecord
		if err := readRecord(filepath.Join(t.bundle, execsDir, e.Name()), &r); err != nil {
			logf("container %s: adopt exec: %v", t.id, err)
			continue
		}
		p := &process{
			execID: string(id), silent: r.Silent, terminal: r.Terminal, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr,
			done: make(chan struct{}), phase: running, pid: r.Pid, startedAt: r.StartedAt, io: &stdio.IO{},
		}
		if f := t.foreign(); f != nil {
			if err := t.adoptForeignExec(p, f); err != nil {
				logf("%s: adopt it: %v", t.name(p), err)
			}
			continue
		}
		p.pidfd, err = container.OpenProcess(r.Pid, r.StartTime)
		if r.Silent {
			if err == nil {
				t.killTree(p)
			}
			t.forgetExec(p)
			p.close()
			continue
		}
		t.execs[p.execID] = p
		if err == nil {
			err = t.resumeExec(p)
		}
		if err != nil {
			p.lost, p.phase = true, stopped
			p.exit = lostExit(p.pid)
			close(p.done)
		}
	}
}

// resumeExec lets the output of an exec's terminal flow again, if that was kept,
// and watches it. Its other streams need nobody but the process and its client.
func (t *task) resumeExec(p *process) error {
	if p.terminal && p.stdout != "" {
		ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
		defer cancel()
		streams, err := stdio.Open(ctx, stdio.Config{
			ContainerID: t.id, Namespace: t.service.options.Namespace, Dir: t.bundle, Terminal: true,
			Stdin: p.stdin, Stdout: p.stdout, StartChild: t.service.reaper.Start,
		})
		if err != nil {
			logf("%s: adopt its terminal: %v", t.name(p), err) // its client has gone; its exit counts
		} else {
			p.io = streams
		}
	}
	return t.resume(p)
}

// adoptTimeout is how long the client of an exec may take to open its FIFO; it
// has it open, or has gone.
const adoptTimeout = time.Second

// podStateRoot is where oci/container keeps a pod's own containers.
func (s *Service) podStateRoot(b *sandbox) string {
	if s.adoptable() {
		return filepath.Join(b.bundle, "runtime")
	}
	return s.options.StateRoot
}

// lostError is what Wait says of an exec whose exit nobody has seen.
func (t *task) lostError(p *process) error {
	return wire.Errorf(wire.Unknown, "%s: it ended while its monitor was being replaced: how is not known", t.name(p))
}
