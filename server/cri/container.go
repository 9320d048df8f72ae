package cri

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

func (s *runtimeService) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	config, err := containerConfig(r.GetConfig())
	if err != nil {
		return nil, asStatus(err)
	}
	id, err := s.Pods.CreateContainer(ctx, r.PodSandboxId, config)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (s *runtimeService) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.Pods.StartContainer(ctx, r.ContainerId); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (s *runtimeService) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	grace, err := seconds("timeout", r.Timeout)
	if err != nil {
		return nil, err
	}
	if err := unlessGone(s.Pods.StopContainer(ctx, r.ContainerId, grace)); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (s *runtimeService) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := unlessGone(s.Pods.RemoveContainer(ctx, r.ContainerId)); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (s *runtimeService) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.Pods.Container(r.ContainerId)
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c)}
	if r.Verbose {
		if resp.Info, err = s.containerInfo(c); err != nil {
			return nil, asStatus(err)
		}
	}
	return resp, nil
}

// containers lists what a filter selects.
func (s *runtimeService) containers(f *runtimeapi.ContainerFilter) []*runtimeapi.Container {
	filter := pod.ContainerFilter{ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
	if state := f.GetState(); state != nil {
		filter.State = stateToPod(state.State)
	}
	found := s.Pods.Containers(filter)
	items := make([]*runtimeapi.Container, 0, len(found))
	for _, c := range found {
		items = append(items, containerItem(c))
	}
	return items
}

func (s *runtimeService) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: s.containers(r.GetFilter())}, nil
}

func (s *runtimeService) StreamContainers(r *runtimeapi.StreamContainersRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	return inChunks(s.containers(r.GetFilter()), func(items []*runtimeapi.Container) error {
		return to.Send(&runtimeapi.StreamContainersResponse{Containers: items})
	})
}

func (s *runtimeService) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if r.Windows != nil {
		return nil, unsupported("windows")
	}
	if err := checkMaps(nil, r.Annotations); err != nil {
		return nil, err
	}
	limits := pod.Resources{}
	if l := resources(r.Linux); l != nil {
		limits = *l
	}
	if err := s.Pods.UpdateContainer(ctx, r.ContainerId, limits, r.Annotations); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

func (s *runtimeService) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	if err := s.Pods.ReopenLog(ctx, r.ContainerId); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// seconds is a duration that CRI gives in seconds.
func seconds(field string, n int64) (time.Duration, error) {
	if n < 0 {
		return 0, invalid(field, "is negative")
	}
	return time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second, nil
}
