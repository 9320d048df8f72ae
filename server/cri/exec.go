package cri

import (
	"context"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/server/stream"
)

// maxArgs bounds a command's arguments, as ARG_MAX does in the end.
const maxArgs = 2 << 20

func checkCommand(cmd []string) error {
	if len(cmd) == 0 || cmd[0] == "" {
		return invalid("cmd", "is empty")
	}
	size := 0
	for _, a := range cmd {
		if size += len(a) + 1; size > maxArgs {
			return invalid("cmd", "longer than 2 MiB")
		}
	}
	return nil
}

func (s *runtimeService) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := checkCommand(r.Cmd); err != nil {
		return nil, err
	}
	timeout, err := seconds("timeout", r.Timeout)
	if err != nil {
		return nil, err
	}
	result, err := s.Pods.ExecSync(ctx, r.ContainerId, r.Cmd, timeout)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: result.Stdout, Stderr: result.Stderr, ExitCode: result.ExitCode}, nil
}

// Exec says at once what would otherwise break the stream later: a container
// that is not there or does not run.
func (s *runtimeService) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := checkCommand(r.Cmd); err != nil {
		return nil, err
	}
	c, err := s.Pods.Container(r.ContainerId)
	if err != nil {
		return nil, asStatus(err)
	}
	if c.State != pod.ContainerRunning {
		return nil, wrongState(c)
	}
	resp, err := s.Streams.Exec(r)
	return resp, asStatus(err)
}

// Attach is as Exec; a container that is created can be attached to as well, so
// that nothing of its output is missed.
func (s *runtimeService) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.Pods.Container(r.ContainerId)
	if err != nil {
		return nil, asStatus(err)
	}
	if c.State != pod.ContainerRunning && c.State != pod.ContainerCreated {
		return nil, wrongState(c)
	}
	resp, err := s.Streams.Attach(r)
	return resp, asStatus(err)
}

func wrongState(c pod.ContainerStatus) error {
	return status.Errorf(codes.FailedPrecondition, "container %s is %s, not running", c.ID, c.State)
}

func (s *runtimeService) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.Pods.Pod(r.PodSandboxId)
	if err != nil {
		return nil, asStatus(err)
	}
	if p.State != pod.PodReady {
		return nil, status.Errorf(codes.FailedPrecondition, "pod %s is %s", p.ID, p.State)
	}
	resp, err := s.Streams.PortForward(r)
	return resp, asStatus(err)
}

// Sessions is what streaming sessions need; *pod.Manager has it.
type Sessions interface {
	Exec(ctx context.Context, id string, c pod.ExecConfig, s pod.Streams) (int, error)
	Attach(ctx context.Context, id string, s pod.Streams) error
	PortForward(ctx context.Context, podID string, port int32, conn io.ReadWriteCloser) error
}

// StreamRuntime lets a stream.Server reach pods.
func StreamRuntime(s Sessions) stream.Runtime { return sessions{s} }

type sessions struct{ Sessions }

func (s sessions) Exec(ctx context.Context, id string, cmd []string, tty bool, to stream.Streams) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.Sessions.Exec(ctx, id, pod.ExecConfig{Cmd: cmd, TTY: tty}, podStreams(ctx, to))
}

func (s sessions) Attach(ctx context.Context, id string, _ bool, to stream.Streams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.Sessions.Attach(ctx, id, podStreams(ctx, to))
}

// podStreams gives the streams pod's types; sizes are relayed until ctx ends.
func podStreams(ctx context.Context, from stream.Streams) pod.Streams {
	to := pod.Streams{Stdin: from.Stdin}
	if from.Stdout != nil { // a nil WriteCloser would be a Writer that is not nil
		to.Stdout = from.Stdout
	}
	if from.Stderr != nil {
		to.Stderr = from.Stderr
	}
	if from.Resize == nil {
		return to
	}
	sizes := make(chan pod.Size)
	to.Resize = sizes
	go func() {
		defer close(sizes)
		for size := range from.Resize {
			select {
			case sizes <- pod.Size(size):
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}
