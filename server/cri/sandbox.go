package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

func (s *runtimeService) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	config, err := podConfig(r.GetConfig())
	if err != nil {
		return nil, err
	}
	id, err := s.Pods.RunPod(ctx, config, r.GetRuntimeHandler())
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *runtimeService) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := unlessGone(s.Pods.StopPod(ctx, r.PodSandboxId)); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (s *runtimeService) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := unlessGone(s.Pods.RemovePod(ctx, r.PodSandboxId)); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (s *runtimeService) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.Pods.Pod(r.PodSandboxId)
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status:    podStatus(p),
		Timestamp: time.Now().UnixNano(),
	}
	for _, c := range s.Pods.Containers(pod.ContainerFilter{PodID: p.ID}) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, containerStatus(c))
	}
	if r.Verbose {
		if resp.Info, err = s.podInfo(p); err != nil {
			return nil, asStatus(err)
		}
	}
	return resp, nil
}

// pods lists what a filter selects.
func (s *runtimeService) pods(f *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	filter := pod.PodFilter{ID: f.GetId(), Labels: f.GetLabelSelector()}
	if state := f.GetState(); state != nil {
		filter.State = pod.PodReady
		if state.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			filter.State = pod.PodNotReady
		}
	}
	found := s.Pods.Pods(filter)
	items := make([]*runtimeapi.PodSandbox, 0, len(found))
	for _, p := range found {
		items = append(items, podItem(p))
	}
	return items
}

func (s *runtimeService) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: s.pods(r.GetFilter())}, nil
}

func (s *runtimeService) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	return inChunks(s.pods(r.GetFilter()), func(items []*runtimeapi.PodSandbox) error {
		return to.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: items})
	})
}

func (s *runtimeService) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := s.Pods.UpdatePod(ctx, r.PodSandboxId, resources(r.Overhead), resources(r.Resources)); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// chunkSize is how many items of a list go into one message of a stream: far
// below the message limit whatever an item's labels hold, yet few messages.
const chunkSize = 64

// inChunks sends items in order, chunkSize at a time; nothing for no items.
func inChunks[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(len(items), chunkSize)
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
