package cri

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

// CheckpointContainer writes a checkpoint archive, which CreateContainer takes for an
// image.
func (s *runtimeService) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	timeout, err := seconds("timeout", r.Timeout)
	if err != nil {
		return nil, err
	}
	if err := s.Pods.CheckpointContainer(ctx, r.ContainerId, r.Location, timeout); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// noOptions refuses options of a pod's checkpoint: there are none.
func noOptions(o map[string]string) error {
	for key := range o {
		return invalid("options", fmt.Sprintf("%q is no option: there are none", key))
	}
	return nil
}

func (s *runtimeService) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if err := noOptions(r.Options); err != nil {
		return nil, err
	}
	if err := s.Pods.CheckpointPod(ctx, r.PodSandboxId, r.OutputPath, r.ContainerIds); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

func (s *runtimeService) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	config, err := podConfig(r.GetConfig())
	if err != nil {
		return nil, err
	}
	if err := noOptions(r.Options); err != nil {
		return nil, err
	}
	var configs []pod.ContainerConfig
	for i, c := range r.ContainerConfigs {
		config, err := containerConfig(c)
		if err != nil {
			return nil, asStatus(fmt.Errorf("container_configs[%d]: %w", i, err))
		}
		configs = append(configs, config)
	}
	id, ids, err := s.Pods.RestorePod(ctx, r.CheckpointPath, config, r.RuntimeHandler, configs)
	if err != nil {
		return nil, asStatus(err)
	}
	out := &runtimeapi.RestorePodResponse{PodSandboxId: id}
	for _, c := range configs {
		out.RestoredContainers = append(out.RestoredContainers, &runtimeapi.RestoredContainer{Name: c.Name, ContainerId: ids[c.Name]})
	}
	return out, nil
}
