package task

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/foreign"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/wire"
)

// foreignShim is the connection to a pod's foreign shim. Mu is a leaf; it is not
// held over a call.
type foreignShim struct {
	shim      *foreign.Shim
	endpoint  foreign.Endpoint
	namespace string

	mu   sync.Mutex
	conn *wire.Mux
	dead bool // nobody listens any more
}

// signalTimeout bounds a signal that goes over a foreign shim, which may hang.
const signalTimeout = 10 * time.Second

// errShimGone is what every call says once the shim has died.
func (f *foreignShim) errGone(err error) error {
	return wire.Errorf(wire.Unavailable, "shim %s at %s: %w", f.shim.Path, f.endpoint.Address, err)
}

// connection is one that works, as far as is known.
func (f *foreignShim) connection(ctx context.Context) (*wire.Mux, error) {
	f.mu.Lock()
	conn, dead := f.conn, f.dead
	f.mu.Unlock()
	if conn != nil {
		select {
		case <-conn.Done():
		default:
			return conn, nil
		}
	}
	if dead {
		return nil, f.errGone(wire.ErrClosed)
	}
	fresh, err := f.endpoint.Dial(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.dead = ctx.Err() == nil; f.dead {
			if err := f.endpoint.Forget(err); err != nil {
				logf("shim %s: %v", f.shim.Path, err)
			}
		}
		return nil, f.errGone(err)
	}
	if f.conn != nil && f.conn != conn { // somebody was quicker
		_ = fresh.Close() // unused
		return f.conn, nil
	}
	f.conn = fresh
	return fresh, nil
}

// call calls a method of the Task service.
func (f *foreignShim) call(ctx context.Context, method string, req, answer any) error {
	return f.callService(ctx, f.endpoint.Service(), method, req, answer)
}

func (f *foreignShim) callService(ctx context.Context, service, method string, req, answer any) error {
	conn, err := f.connection(ctx)
	if err != nil {
		return err
	}
	err = conn.Call(ctx, service, method, req, answer, "containerd-namespace-ttrpc", f.namespace)
	if errors.Is(err, wire.ErrClosed) {
		return f.errGone(err)
	}
	return err
}

// alive asks whether the shim still listens.
func (f *foreignShim) alive(ctx context.Context) bool {
	_, err := f.connection(ctx)
	return err == nil
}

func (f *foreignShim) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	if f.conn != nil {
		_ = f.conn.Close() // nothing is under way
	}
}

// wait waits for the end of a process. Of a shim that dies meanwhile its delete
// command says how the task ended; of an exec nobody does.
func (f *foreignShim) wait(id, execID, bundle string) (e reap.Exit, known bool) {
	ctx := context.Background()
	for {
		var r exitResponse
		err := f.call(ctx, "Wait", &processRequest{id, execID}, &r)
		if err == nil {
			return reap.Exit{Status: int(r.ExitStatus), Signal: signalOf(r.ExitStatus), At: r.ExitedAt.time()}, true
		}
		if f.alive(ctx) && isUnavailable(err) {
			continue // the connection broke, and the shim is there
		}
		logf("container %s: wait for its end: %v", id, err)
		if execID != "" || bundle == "" {
			break
		}
		out, err := f.shim.Delete(ctx, id, bundle)
		var d deleteResponse
		if err == nil {
			err = pb.Unmarshal(out, &d)
		}
		if err != nil {
			logf("container %s: remove what its shim has left: %v", id, err)
			break
		}
		return reap.Exit{Status: int(d.ExitStatus), Signal: signalOf(d.ExitStatus), At: d.ExitedAt.time()}, true
	}
	return reap.Exit{Status: 128 + int(syscall.SIGKILL), At: time.Now()}, false
}

// signalOf is the signal behind an exit status, as shims give it.
func signalOf(status uint32) int {
	if status > 128 && status <= 128+64 {
		return int(status - 128)
	}
	return 0
}

func isUnavailable(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code == wire.Unavailable || errors.Is(err, wire.ErrClosed)
}

// foreignContainer is a container of a foreign shim.
type foreignContainer struct {
	shim       *foreignShim
	id, cgroup string
	systemd    bool
	own        bool // the shim has no other: it ends with it
}

func (c *foreignContainer) Start(ctx context.Context) error {
	return c.shim.call(ctx, "Start", &processRequest{ID: c.id}, &pidResponse{})
}

// Runs says whether its command has been executed and has not ended.
func (c *foreignContainer) Runs(ctx context.Context) bool {
	var a stateResponse
	err := c.shim.call(ctx, "State", &processRequest{ID: c.id}, &a)
	return err == nil && (a.Status == statusRunning || a.Status == statusPaused)
}

func (c *foreignContainer) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	return c.kill(ctx, "", sig, all)
}

// kill signals a process. It is ErrNotRunning if that has ended, for which shims
// have words.
func (c *foreignContainer) kill(ctx context.Context, execID string, sig syscall.Signal, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, signalTimeout)
	defer cancel()
	err := c.shim.call(ctx, "Kill", &killRequest{ID: c.id, ExecID: execID, Signal: uint32(sig), All: all}, &wire.Empty{})
	if err != nil && strings.Contains(err.Error(), "process already finished") {
		return errors.Join(container.ErrNotRunning, err)
	}
	return err
}

// Delete has the shim forget the container. One that it does not know is no error,
// nor one of a shim that is gone: its delete command has removed it.
func (c *foreignContainer) Delete(ctx context.Context) error {
	err := c.shim.call(ctx, "Delete", &processRequest{ID: c.id}, &deleteResponse{})
	var e *wire.Error
	if errors.As(err, &e) && e.Code == wire.NotFound || err != nil && !c.shim.alive(ctx) {
		err = nil
	}
	if err == nil && c.own {
		err = c.shim.end(ctx, c.id)
	}
	return err
}

func (c *foreignContainer) deleteExec(ctx context.Context, execID string) error {
	return c.shim.call(ctx, "Delete", &processRequest{c.id, execID}, &deleteResponse{})
}

// Exec is not how a foreign shim is asked: see task.launchForeign.
func (c *foreignContainer) Exec(context.Context, container.ExecOptions) (*container.Process, error) {
	return nil, errors.New("a foreign shim makes its own processes")
}

func (c *foreignContainer) Pause(ctx context.Context) error {
	return c.shim.call(ctx, "Pause", &idRequest{c.id}, &wire.Empty{})
}

func (c *foreignContainer) Resume(ctx context.Context) error {
	return c.shim.call(ctx, "Resume", &idRequest{c.id}, &wire.Empty{})
}

func (c *foreignContainer) Update(ctx context.Context, r *specs.LinuxResources) error {
	resources, err := jsonAny("LinuxResources", r)
	if err != nil {
		return err
	}
	return c.shim.call(ctx, "Update", &updateRequest{ID: c.id, Resources: resources}, &wire.Empty{})
}

func (c *foreignContainer) Pids(ctx context.Context) ([]int, error) {
	var r pidsResponse
	if err := c.shim.call(ctx, "Pids", &idRequest{c.id}, &r); err != nil {
		return nil, err
	}
	pids := make([]int, len(r.Processes))
	for i, p := range r.Processes {
		pids[i] = int(p.Pid)
	}
	return pids, nil
}

// Cgroup is the host's, if the shim puts anything into the one of the spec.
func (c *foreignContainer) Cgroup() (*cgroup.Cgroup, error) {
	cg, err := cgroup.Name(cgroup.Config{Path: c.cgroup, Systemd: c.systemd})
	if err != nil {
		return nil, err
	}
	return cg.Existing()
}

func (c *foreignContainer) Stats(ctx context.Context) (*cgroup.Stats, error) {
	var r statsResponse
	if err := c.shim.call(ctx, "Stats", &idRequest{c.id}, &r); err != nil {
		return nil, err
	}
	return statsOfMetrics(r.Stats)
}

func (c *foreignContainer) Checkpoint(ctx context.Context, o container.CheckpointOptions) error {
	options, err := pb.Marshal(&checkpointOptions{
		Exit: !o.LeaveRunning, OpenTCP: o.Images.TCPEstablished, ExternalUnixSockets: o.Images.ExtUnixSockets,
		Terminal: o.Images.ShellJob, FileLocks: o.Images.FileLocks, EmptyNamespaces: o.Images.EmptyNS,
		CgroupsMode: o.Images.CgroupsMode, WorkPath: o.Images.Work,
	})
	if err != nil {
		return err
	}
	return c.shim.call(ctx, "Checkpoint", &checkpointRequest{
		ID: c.id, Path: o.Images.Path, Options: &wire.Any{TypeURL: "containerd.runc.v1.CheckpointOptions", Value: options},
	}, &wire.Empty{})
}

// statsOfMetrics understands what shims answer to Stats.
func statsOfMetrics(a *wire.Any) (*cgroup.Stats, error) {
	if a == nil {
		return nil, errors.New("the shim has no metrics")
	}
	switch name := a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:]; name {
	case metricsV1Name:
		var m v1Metrics
		if err := pb.Unmarshal(a.Value, &m); err != nil {
			return nil, err
		}
		return m.stats(), nil
	case metricsV2Name:
		var m v2Metrics
		if err := pb.Unmarshal(a.Value, &m); err != nil {
			return nil, err
		}
		return m.stats(), nil
	default:
		return nil, fmt.Errorf("the shim's metrics are %q: cgroups' v1 and v2 are understood", name)
	}
}
