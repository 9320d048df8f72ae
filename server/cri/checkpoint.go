package cri

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Checkpoints of CRI are archives that another node can read. The monitor makes and
// restores CRIU's images (checkpoint of the Task API); there is nothing here yet that
// packs them with what else belongs to a container, so they are refused, and the
// kubelet's ContainerCheckpoint feature says so to whoever asks.
func noCheckpoints(what string) error {
	return status.Errorf(codes.Unimplemented, "%s: not supported: there are no checkpoint archives yet", what)
}

func (s *runtimeService) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return nil, noCheckpoints("CheckpointContainer")
}

func (s *runtimeService) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, noCheckpoints("CheckpointPod")
}

func (s *runtimeService) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, noCheckpoints("RestorePod")
}
