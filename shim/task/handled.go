package task

import (
	"context"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
)

// handled is a container as its handler has it: oci/container in this process
// (native), an OCI runtime's program (shim/program) or a foreign shim (foreign.go).
// Delete removes it, alive or not.
type handled interface {
	Start(ctx context.Context) error
	Runs(ctx context.Context) bool // its command has been executed and has not ended
	Kill(ctx context.Context, sig syscall.Signal, all bool) error
	Delete(ctx context.Context) error
	Exec(ctx context.Context, o container.ExecOptions) (*container.Process, error)
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, r *specs.LinuxResources) error
	Pids(ctx context.Context) ([]int, error)
	Cgroup() (*cgroup.Cgroup, error)
	Stats(ctx context.Context) (*cgroup.Stats, error)
	Checkpoint(ctx context.Context, o container.CheckpointOptions) error
}

// native is a container that this process makes. What has no context is over at once.
type native struct{ *container.Container }

func (n native) Kill(_ context.Context, sig syscall.Signal, all bool) error {
	return n.Container.Kill(sig, all)
}

func (n native) Runs(context.Context) bool {
	status, err := n.Status()
	return err == nil && (status == specs.StateRunning || status == container.StatePaused)
}

func (n native) Delete(ctx context.Context) error { return n.Container.Delete(ctx, true) }
func (n native) Resume(context.Context) error     { return n.Container.Resume() }

func (n native) Update(_ context.Context, r *specs.LinuxResources) error {
	return n.Container.Update(r)
}

func (n native) Pids(context.Context) ([]int, error)          { return n.Container.Pids() }
func (n native) Stats(context.Context) (*cgroup.Stats, error) { return n.Container.Stats() }
