package task

import (
	"context"
	"encoding/json"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/wire"
)

// task is a container with its processes.
type task struct {
	service    *Service
	pod        *sandbox // nil without one
	id, bundle string
	record     taskRecord // guarded by verbs once it is created
	container  handled
	privatePID bool // it has a PID namespace of its own, which ends with init
	idMaps     idMaps
	criu       string // CRIU's program, "" for that in $PATH
	restored   bool   // of a checkpoint: it runs before Start
	createdAt  time.Time
	init       *process
	oom        oomWatch
	counts     counts     // of its cgroup
	forbidden  *forbidden // nil: its forbidden calls are not counted

	verbs sync.Mutex // see the package comment

	mu        sync.Mutex
	execs     map[string]*process
	paused    bool
	starting  bool // init is being started
	startErr  error
	cutOff    bool // a start was, after which init may run all the same
	ending    bool // init has ended and no exec may outlive it
	oomKilled bool
	forbade   bool // it was killed for its forbidden calls
	silent    int  // numbers the execs of ExecSync
}

// name is how errors call a process.
func (t *task) name(p *process) string {
	if p.execID == "" || p.silent {
		return "container " + t.id
	}
	return "container " + t.id + ": exec " + p.execID
}

// notRunning is the error of what needs a live container.
func (t *task) notRunning() error {
	return wire.Errorf(wire.FailedPrecondition, "container %s is not running", t.id)
}

func (t *task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[execID]; p != nil && !p.silent {
		return p, nil
	}
	return nil, wire.Errorf(wire.NotFound, "container %s: exec %s: not found", t.id, execID)
}

// exited takes the news of a process's end, from its own goroutine.
func (t *task) exited(p *process, e reap.Exit) {
	if p == t.init && t.oom.ended(e.Signal == int(syscall.SIGKILL)) {
		t.tellOOM()
	}
	t.mu.Lock()
	if p.ending { // a foreign shim's, that was discarded and whose end is reported, too
		t.mu.Unlock()
		return
	}
	p.ending = true
	if p.busy {
		p.held = &e
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	t.finish(p, e)
}

// settle ends the time in which a verb starts p: what it did becomes visible (fn
// runs under mu), then an exit that was kept back.
func (t *task) settle(p *process, fn func()) {
	t.mu.Lock()
	fn()
	p.busy = false
	held := p.held
	p.held = nil
	late := t.ending && p.phase == running
	t.mu.Unlock()
	if late { // it joined after everything in the container had been killed
		t.killLeft()
	}
	if held != nil {
		go t.finish(p, *held) // it may take time, and the verb's caller waits
	}
}

// finish makes an exit final: output passed on, record written, everybody told.
func (t *task) finish(p *process, e reap.Exit) {
	if p == t.init {
		t.counts.end()
		t.finishInit(e)
	}
	p.io.Finish()
	t.service.kept.drop(t.keepName(p))
	if p == t.init {
		t.checkOOM()
		t.ranUnseen(e)
		t.writeExit(e)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p.exit, p.phase = e, stopped
	close(p.done)
	if !p.silent {
		id := p.execID
		if id == "" {
			id = t.id
		}
		t.service.events.publish("/tasks/exit", "containerd.events.TaskExit", &taskExit{
			ContainerID: t.id, ID: id, Pid: uint32(e.Pid), ExitStatus: uint32(e.Status), ExitedAt: stamp(e.At),
		})
	}
}

// exitNotExecuted is how an init ends that cannot execute its program.
const exitNotExecuted = 127

// ranUnseen notes that init has run where nobody saw its start, since the monitor that was
// asked for it was killed: at the gate it ends by a signal, or as one that cannot execute its
// program. Who asks for its start again would hear that it cannot be, and its exit be lost.
func (t *task) ranUnseen(e reap.Exit) {
	_, ours := t.container.(native) // another's init ends as it likes
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.init
	if ours && t.startErr == nil && p.startedAt.IsZero() && !p.lost && e.Signal == 0 && e.Status != exitNotExecuted {
		p.startedAt = e.At
	}
}

// finishInit sees to it that nothing of the container outlives its init, and that
// the execs' exits come first.
func (t *task) finishInit(e reap.Exit) {
	t.mu.Lock()
	t.ending = true
	t.mu.Unlock()
	t.killLeft()
	t.mu.Lock()
	var left []*process
	for _, p := range t.execs {
		if p.phase == running || p.busy {
			left = append(left, p)
		}
	}
	t.mu.Unlock()
	for _, p := range left {
		<-p.done
	}
}

// killLeft kills what has no PID namespace that would end with init.
func (t *task) killLeft() {
	if !t.privatePID {
		_ = t.container.Kill(context.Background(), syscall.SIGKILL, true) // an empty cgroup is no error
	}
}

// exitFile is the name of an exitRecord's file in the bundle (client.ReadExit).
const exitFile = "exit.json"

// exitRecord is how a container ended.
type exitRecord struct {
	ExitStatus int       `json:"exitStatus"`
	Signal     int       `json:"signal"`
	ExitedAt   time.Time `json:"exitedAt"`
	OOMKilled  bool      `json:"oomKilled"`
	Pid        int       `json:"pid"`
	Lost       bool      `json:"lost,omitempty"`      // nobody has seen it: ExitStatus is a guess
	StartedAt  time.Time `json:"startedAt,omitzero"`  // zero: never; a straked with a full disk has no other record of it
	Forbidden  bool      `json:"forbidden,omitempty"` // killed for calls that its seccomp profile forbids
}

// writeExit leaves the exit where it is found without a monitor. Not fsynced: it
// is below /run and dies with the boot, as the container does.
func (t *task) writeExit(e reap.Exit) {
	t.mu.Lock()
	record := exitRecord{
		ExitStatus: e.Status, Signal: e.Signal, ExitedAt: e.At.UTC(), OOMKilled: t.oomKilled, Pid: e.Pid, Lost: t.init.lost,
		StartedAt: t.init.startedAt.UTC(), Forbidden: t.forbade && e.Signal == int(syscall.SIGKILL),
	}
	t.mu.Unlock()
	data, err := json.Marshal(record)
	if err == nil {
		err = atomicfile.WriteVolatile(filepath.Join(t.bundle, exitFile), data, 0o600)
	}
	if err != nil {
		// A full disk or a bundle that is gone; Wait still tells.
		logf("container %s: record exit: %v", t.id, err)
	}
}
