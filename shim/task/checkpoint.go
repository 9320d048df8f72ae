package task

import (
	"context"
	"path/filepath"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/wire"
)

// criuWork is the directory in the bundle for CRIU's logs, if the caller names none.
const criuWork = "criu-work"

// checkpoint saves a container as CRIU images. With Exit it ends; it is then
// stopped, and its caller's to delete.
func (s *Service) checkpoint(ctx context.Context, r *checkpointRequest) (*wire.Empty, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if t.forbidden != nil {
		return nil, wire.Errorf(wire.Unimplemented, "checkpoint: a container whose forbidden calls are counted has a seccomp listener, which CRIU cannot restore")
	}
	var o checkpointOptions
	if r.Options != nil {
		if err := pb.Unmarshal(r.Options.Value, &o); err != nil {
			return nil, wire.Errorf(wire.InvalidArgument, "checkpoint: options: %w", err)
		}
	}
	if o.WorkPath == "" {
		o.WorkPath = filepath.Join(t.bundle, criuWork)
	}
	t.verbs.Lock()
	defer t.verbs.Unlock()
	release := s.reaper.Hold() // CRIU is a child
	defer release()
	if err := t.container.Checkpoint(ctx, container.CheckpointOptions{
		Images: container.Images{
			Path: r.Path, Work: o.WorkPath, Program: t.criu, TCPEstablished: o.OpenTCP, ExtUnixSockets: o.ExternalUnixSockets,
			ShellJob: o.Terminal, FileLocks: o.FileLocks, EmptyNS: o.EmptyNamespaces, CgroupsMode: o.CgroupsMode,
		},
		LeaveRunning: !o.Exit,
	}); err != nil {
		return nil, t.explain(err)
	}
	return &wire.Empty{}, nil
}
