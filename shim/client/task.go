package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/strake-containers/strake/shim/api"
)

// The type URLs that containerd's Task API uses for JSON in an Any.
const (
	processURL   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	resourcesURL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// alreadyFinished is in the error of a Kill that comes too late, by which Task API
// clients tell it from that of an unknown container: both have the code NotFound.
const alreadyFinished = "process already finished"

// Mount is one mount of a container's root file system, in order.
type Mount struct {
	Type, Source string
	Options      []string
	Target       string // below the root; "" is the root itself
}

// CreateOptions describes a container to create. Bundle has its config.json.
//
// Stdin, Stdout and Stderr are "" for none, the path of a FIFO, or a URI:
// cri:///path/0.log (the monitor writes that log; Stdout and Stderr alike),
// file:///path, binary:///path; Stdin may be "attach:", fed by the clients of
// Bundle/attach.sock.
type CreateOptions struct {
	ID, Bundle            string
	Rootfs                []Mount
	Terminal              bool
	Stdin, Stdout, Stderr string
	StdinOnce             bool
	RuntimeRoot           string // where oci/container keeps its state
	LogMaxBytes           int64  // 0: no cap
	// CountForbidden counts the system calls that the seccomp profile forbids (Forbidden),
	// and StopForbidden also ends the container, some seconds after the last of them.
	CountForbidden, StopForbidden bool
	// Checkpoint is a directory of CRIU's images that the container goes on from, at
	// once: Start then only says so. "" is a new one.
	Checkpoint string
}

// Create creates a container and its init process, which waits for Start.
func (m *Monitor) Create(ctx context.Context, o CreateOptions) (pid int, err error) {
	options, err := messageAny(&api.CreateOptions{
		RuntimeStateRoot: o.RuntimeRoot,
		StdinOnce:        o.StdinOnce,
		LogMaxBytes:      o.LogMaxBytes,
		CountForbidden:   o.CountForbidden,
		StopForbidden:    o.StopForbidden,
	})
	if err != nil {
		return 0, call("create", o.ID, "", err)
	}
	rootfs := make([]*types.Mount, len(o.Rootfs))
	for i, r := range o.Rootfs {
		rootfs[i] = &types.Mount{Type: r.Type, Source: r.Source, Options: r.Options, Target: r.Target}
	}
	r, err := m.task.Create(ctx, &taskapi.CreateTaskRequest{
		ID: o.ID, Bundle: o.Bundle, Rootfs: rootfs, Terminal: o.Terminal,
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Options: options, Checkpoint: o.Checkpoint,
	})
	return int(r.GetPid()), call("create", o.ID, "", err)
}

// Start lets the container's command run.
func (m *Monitor) Start(ctx context.Context, id string) (pid int, err error) {
	return m.StartExec(ctx, id, "")
}

// ExecOptions describes a process to add to a running container; its stdio is as
// in CreateOptions, without cri: and attach:.
type ExecOptions struct {
	ExecID                string
	Process               *specs.Process
	Terminal              bool
	Stdin, Stdout, Stderr string
}

// Exec registers a process; StartExec starts it.
func (m *Monitor) Exec(ctx context.Context, id string, o ExecOptions) error {
	process, err := jsonAny(processURL, o.Process)
	if err != nil {
		return call("exec in", id, o.ExecID, err)
	}
	_, err = m.task.Exec(ctx, &taskapi.ExecProcessRequest{
		ID: id, ExecID: o.ExecID, Terminal: o.Terminal,
		Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Spec: process,
	})
	return call("exec in", id, o.ExecID, err)
}

// StartExec starts a process that Exec registered.
func (m *Monitor) StartExec(ctx context.Context, id, execID string) (pid int, err error) {
	r, err := m.task.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: execID})
	return int(r.GetPid()), call("start", id, execID, err)
}

// ExecResult is what a process wrote and how it ended.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int
}

// ExecSync runs a process to its end. Past maxOutput bytes of stdout, or of
// stderr, the rest is dropped. After timeout (0: none) the process and all that
// it started are killed and the error is ErrTimeout, with what it had written.
func (m *Monitor) ExecSync(ctx context.Context, id string, p *specs.Process, timeout time.Duration, maxOutput int) (ExecResult, error) {
	process, err := json.Marshal(p)
	if err != nil {
		return ExecResult{}, call("exec in", id, "", err)
	}
	r, err := m.monitor.ExecSync(ctx, &api.ExecSyncRequest{
		Id: id, Process: process, Timeout: int64(timeout), MaxOutput: int64(maxOutput),
	})
	if err != nil {
		return ExecResult{}, call("exec in", id, "", err)
	}
	result := ExecResult{Stdout: r.Stdout, Stderr: r.Stderr, ExitCode: int(r.ExitCode)}
	if r.OutputFile != "" {
		if result.Stdout, result.Stderr, err = takeOutput(r.OutputFile, r.StdoutSize); err != nil {
			return ExecResult{}, call("exec in", id, "", err)
		}
	}
	if r.TimedOut {
		return result, fmt.Errorf("command %q: %w after %s", p.Args, ErrTimeout, timeout)
	}
	return result, nil
}

// takeOutput reads and removes the file that the monitor puts large output into:
// stdout, then stderr.
func takeOutput(path string, stdoutSize int64) (stdout, stderr []byte, err error) {
	data, err := os.ReadFile(path)
	if err = errors.Join(err, os.Remove(path)); err != nil {
		return nil, nil, err
	}
	n := min(max(stdoutSize, 0), int64(len(data)))
	return data[:n], data[n:], nil
}

// Wait returns when the process has ended; at once if it has already.
func (m *Monitor) Wait(ctx context.Context, id, execID string) (Exit, error) {
	r, err := m.task.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		return Exit{}, call("wait for", id, execID, err)
	}
	return Exit{Status: int(r.ExitStatus), At: timeOf(r.ExitedAt)}, nil
}

// Delete forgets a process that has ended, or a container with all it has in the
// kernel, and returns how it had ended.
func (m *Monitor) Delete(ctx context.Context, id, execID string) (Exit, error) {
	r, err := m.task.Delete(ctx, &taskapi.DeleteRequest{ID: id, ExecID: execID})
	if err != nil {
		return Exit{}, call("delete", id, execID, err)
	}
	return Exit{Status: int(r.ExitStatus), At: timeOf(r.ExitedAt), Pid: int(r.Pid)}, nil
}

// Kill signals a process, or with all every process of the container. It is
// ErrNotRunning for one that has ended.
func (m *Monitor) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	_, err := m.task.Kill(ctx, &taskapi.KillRequest{ID: id, ExecID: execID, Signal: uint32(sig), All: all})
	if err != nil && strings.Contains(message(err), alreadyFinished) {
		err = status.Error(codes.FailedPrecondition, message(err))
	}
	return call("kill", id, execID, err)
}

// ResizePty sets the size of a process's terminal, in characters.
func (m *Monitor) ResizePty(ctx context.Context, id, execID string, width, height uint32) error {
	_, err := m.task.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: id, ExecID: execID, Width: width, Height: height})
	return call("resize", id, execID, err)
}

// CloseStdin ends a process's input.
func (m *Monitor) CloseStdin(ctx context.Context, id, execID string) error {
	_, err := m.task.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, ExecID: execID, Stdin: true})
	return call("close stdin of", id, execID, err)
}

// Pids lists the container's processes, by their numbers on the host.
func (m *Monitor) Pids(ctx context.Context, id string) ([]int, error) {
	r, err := m.task.Pids(ctx, &taskapi.PidsRequest{ID: id})
	if err != nil {
		return nil, call("list processes of", id, "", err)
	}
	pids := make([]int, len(r.Processes))
	for i, p := range r.Processes {
		pids[i] = int(p.Pid)
	}
	return pids, nil
}

// Checkpoint saves the container's processes as CRIU's images in the directory images,
// and CRIU's log and statistics in work; both are there. The container goes on, or
// stays paused.
func (m *Monitor) Checkpoint(ctx context.Context, id, images, work string) error {
	options, err := messageAny(&runcoptions.CheckpointOptions{WorkPath: work})
	if err == nil {
		_, err = m.task.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: id, Path: images, Options: options})
	}
	return call("checkpoint", id, "", err)
}

// Pause freezes the container; Resume thaws it.
func (m *Monitor) Pause(ctx context.Context, id string) error {
	_, err := m.task.Pause(ctx, &taskapi.PauseRequest{ID: id})
	return call("pause", id, "", err)
}

// Resume thaws a paused container.
func (m *Monitor) Resume(ctx context.Context, id string) error {
	_, err := m.task.Resume(ctx, &taskapi.ResumeRequest{ID: id})
	return call("resume", id, "", err)
}

// Update changes the container's limits; fields that are unset stay.
func (m *Monitor) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	resources, err := jsonAny(resourcesURL, r)
	if err == nil {
		_, err = m.task.Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: resources})
	}
	return call("update", id, "", err)
}

// State is a process's state by the Task API.
type State struct {
	Pid    int
	Status string // "created", "running", "paused" or "stopped"
	Bundle string
	Exit   Exit // once stopped
}

// State asks for the state of a process.
func (m *Monitor) State(ctx context.Context, id, execID string) (State, error) {
	r, err := m.task.State(ctx, &taskapi.StateRequest{ID: id, ExecID: execID})
	if err != nil {
		return State{}, call("state of", id, execID, err)
	}
	s := State{Pid: int(r.Pid), Bundle: r.Bundle}
	switch r.Status {
	case tasktypes.Status_CREATED:
		s.Status = "created"
	case tasktypes.Status_RUNNING:
		s.Status = "running"
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		s.Status = "paused"
	case tasktypes.Status_STOPPED:
		s.Status = "stopped"
		s.Exit = Exit{Status: int(r.ExitStatus), At: timeOf(r.ExitedAt), Pid: int(r.Pid)}
	default:
		return State{}, fmt.Errorf("monitor: state of %s: unknown status %s", id, r.Status)
	}
	return s, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func jsonAny(url string, v any) (*anypb.Any, error) {
	data, err := json.Marshal(v)
	return &anypb.Any{TypeUrl: url, Value: data}, err
}

// messageAny packs a message as containerd does: its bare name is the URL.
func messageAny(m proto.Message) (*anypb.Any, error) {
	data, err := proto.Marshal(m)
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data}, err
}
