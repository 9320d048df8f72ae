package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/foreign"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// foreign is the task as its foreign shim's, or nil.
func (t *task) foreign() *foreignContainer {
	c, _ := t.container.(*foreignContainer)
	return c
}

// named has a foreign shim open the process's ends of its streams.
func (t *task) named(p *process, cfg stdio.Config) stdio.Config {
	if podHandler(t.pod).Shim == "" {
		return cfg
	}
	cfg.Named = true
	cfg.Resize = func(width, height uint16) error {
		ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
		defer cancel()
		c := t.foreign()
		if c == nil {
			return errors.New("the process is still being made")
		}
		return c.shim.call(ctx, "ResizePty",
			&resizePtyRequest{ID: t.id, ExecID: p.execID, Width: uint32(width), Height: uint32(height)}, &wire.Empty{})
	}
	cfg.InputEnded = func() { go t.closeForeignInput(p) } // its caller holds the input
	return cfg
}

// closeForeignInput tells the shim that a process's input has ended. The writer's end
// of the FIFO is closed by then, and shims keep one of their own until they are told:
// what is in it still arrives.
func (t *task) closeForeignInput(p *process) {
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	c := t.foreign()
	if c == nil {
		return // still being made
	}
	err := c.shim.call(ctx, "CloseIO", &closeIORequest{ID: t.id, ExecID: p.execID, Stdin: true}, &wire.Empty{})
	if err != nil {
		logf("%s: end its input: %v", t.name(p), err) // it has ended, most likely
	}
}

// foreignTask is what a foreign shim at endpoint has of a container; the zero endpoint
// is its pod's.
func (b *sandbox) foreignTask(id string, endpoint foreign.Endpoint, linux *specs.Linux) *foreignContainer {
	c := &foreignContainer{shim: b.shim, id: id}
	if endpoint != (foreign.Endpoint{}) {
		c.own = true
		c.shim = &foreignShim{shim: b.shim.shim, endpoint: endpoint, namespace: b.shim.namespace}
	}
	if linux != nil {
		c.cgroup, c.systemd = linux.CgroupsPath, cgroup.IsScope(linux.CgroupsPath)
	}
	return c
}

// startShim calls the shim's start command for a container, as the contract has it: a
// shim that groups containers by their pod's annotation answers with the one that there
// is, others start another.
func (t *task) startShim(ctx context.Context) error {
	h := &t.pod.handler
	if h.ShimSandboxes {
		return nil // the sandbox API's containers are its sandbox's
	}
	if err := t.service.makeLog(t.bundle); err != nil {
		return err
	}
	options, err := marshalAny(h.any())
	if err != nil {
		return err
	}
	endpoint, err := t.pod.shim.shim.Launch(ctx, t.id, t.bundle, options)
	if err != nil || endpoint == h.Endpoint {
		return err
	}
	t.record.Endpoint = endpoint
	return writeRecord(t.recordPath(), &t.record)
}

// createForeign has the pod's shim make the container, and waits for its end.
func (t *task) createForeign(ctx context.Context, r *createTaskRequest, spec *specs.Spec) error {
	if err := t.startShim(ctx); err != nil {
		return err
	}
	p, c := t.init, t.pod.foreignTask(r.ID, t.record.Endpoint, spec.Linux)
	create := *r
	create.Stdin, create.Stdout, create.Stderr = p.io.Names()
	create.Options = t.pod.handler.any()
	var answer pidResponse
	if err := c.shim.call(ctx, "Create", &create, &answer); err != nil {
		if c.own {
			err = errors.Join(err, c.shim.end(context.WithoutCancel(ctx), c.id))
		}
		return err
	}
	t.container = c
	t.mu.Lock()
	p.pid, p.shim = int(answer.Pid), c
	t.mu.Unlock()
	t.watchForeign(p)
	return nil
}

// execForeign has the shim make and start an exec.
func (t *task) execForeign(ctx context.Context, c *foreignContainer, p *process) error {
	spec, err := jsonAny("Process", p.spec)
	if err != nil {
		return err
	}
	r := &execRequest{ID: t.id, ExecID: p.execID, Terminal: p.terminal, Spec: spec}
	r.Stdin, r.Stdout, r.Stderr = p.io.Names()
	if err := c.shim.call(ctx, "Exec", r, &wire.Empty{}); err != nil {
		return err
	}
	t.mu.Lock()
	p.shim = c // to be deleted, if nothing else
	t.mu.Unlock()
	if err := t.recordExec(p); err != nil {
		logf("%s: record it: %v", t.name(p), err) // a full /run; it runs all the same
	}
	var answer pidResponse
	err = c.shim.call(ctx, "Start", &processRequest{t.id, p.execID}, &answer)
	t.mu.Lock()
	if err != nil {
		p.shim = nil // it never ran
	}
	p.pid = int(answer.Pid)
	t.mu.Unlock()
	if err != nil {
		_ = c.deleteExec(context.WithoutCancel(ctx), p.execID) // its error counts
		return err
	}
	p.spec = nil
	t.watchForeign(p)
	return nil
}

// watchForeign waits for the end of a process.
func (t *task) watchForeign(p *process) {
	c := p.shim
	go func() {
		bundle := t.bundle
		if p.execID != "" {
			bundle = ""
		}
		e, known := c.shim.wait(t.id, p.execID, bundle)
		if bundle != "" && !c.shim.alive(context.Background()) {
			c.removeCgroup()
		}
		e.Pid = p.pid
		t.mu.Lock()
		p.lost = !known
		t.mu.Unlock()
		t.exited(p, e)
	}()
}

// removeCgroup removes what a shim that has died has left of the container's cgroup:
// not all do in their delete command.
func (c *foreignContainer) removeCgroup() {
	cg, err := c.Cgroup()
	if err != nil {
		return // there is none
	}
	if err := errors.Join(cg.Kill(syscall.SIGKILL), cg.Delete()); err != nil {
		logf("container %s: remove its cgroup: %v", c.id, err)
	}
	if c.systemd || !filepath.IsAbs(c.cgroup) {
		return
	}
	// Also in hierarchies of v1 that nobody here uses.
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + filepath.Clean(c.cgroup)) // ids have nothing that would be a pattern
	for _, dir := range dirs {
		_ = os.Remove(dir) // empty, or somebody's
	}
}

// adoptForeign takes over a process that the shim has: running, or ended.
func (t *task) adoptForeign(ctx context.Context, p *process, c *foreignContainer) error {
	var state stateResponse
	err := c.shim.call(ctx, "State", &processRequest{t.id, p.execID}, &state)
	if err != nil && c.shim.alive(ctx) {
		return err
	}
	t.mu.Lock()
	p.pid, p.shim = int(state.Pid), c
	if state.Status == statusCreated {
		p.phase = created
	}
	t.paused = t.paused || state.Status == statusPaused
	t.mu.Unlock()
	t.watchForeign(p) // also of one that has ended: the shim keeps that
	return nil
}

// lostExit is the end of a process that nobody has seen.
func lostExit(pid int) reap.Exit { return reap.Exit{Pid: pid, Status: 128 + 9, At: time.Now()} }

// adoptForeignExec takes over an exec of a container that is adopted. One of ExecSync,
// whose caller has been told that the monitor died, is ended.
func (t *task) adoptForeignExec(p *process, c *foreignContainer) error {
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	if p.silent {
		p.shim = c
		t.killTree(p)
		go func() {
			c.shim.wait(t.id, p.execID, "")
			t.releaseExec(p)
		}()
		return nil
	}
	t.execs[p.execID] = p
	return t.adoptForeign(ctx, p, c)
}
