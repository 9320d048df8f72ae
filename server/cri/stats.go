package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

func (s *runtimeService) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	if err := checkID("container_id", r.GetContainerId()); err != nil {
		return nil, err
	}
	c, err := s.Pods.ContainerStats(ctx, r.ContainerId)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(c)}, nil
}

// allContainerStats are those of the running containers that a filter selects.
func (s *runtimeService) allContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	found, err := s.Pods.ContainersStats(ctx, pod.ContainerFilter{
		ID: f.GetId(), PodID: f.GetPodSandboxId(), Labels: f.GetLabelSelector(), State: pod.ContainerRunning,
	})
	if err != nil {
		return nil, asStatus(err)
	}
	items := make([]*runtimeapi.ContainerStats, 0, len(found))
	for _, c := range found {
		items = append(items, s.containerStats(c))
	}
	return items, nil
}

func (s *runtimeService) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	items, err := s.allContainerStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: items}, nil
}

func (s *runtimeService) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	items, err := s.allContainerStats(to.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(items, func(items []*runtimeapi.ContainerStats) error {
		return to.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: items})
	})
}

func (s *runtimeService) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	if err := checkID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	p, err := s.Pods.PodStats(ctx, r.PodSandboxId)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.podStats(p)}, nil
}

// allPodStats are those of the ready pods that a filter selects.
func (s *runtimeService) allPodStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	found, err := s.Pods.PodsStats(ctx, pod.PodFilter{ID: f.GetId(), Labels: f.GetLabelSelector(), State: pod.PodReady})
	if err != nil {
		return nil, asStatus(err)
	}
	items := make([]*runtimeapi.PodSandboxStats, 0, len(found))
	for _, p := range found {
		items = append(items, s.podStats(p))
	}
	return items, nil
}

func (s *runtimeService) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	items, err := s.allPodStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: items}, nil
}

func (s *runtimeService) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	items, err := s.allPodStats(to.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inChunks(items, func(items []*runtimeapi.PodSandboxStats) error {
		return to.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: items})
	})
}

func (s *runtimeService) containerStats(c pod.ContainerStats) *runtimeapi.ContainerStats {
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id:          c.Container.ID,
			Metadata:    &runtimeapi.ContainerMetadata{Name: c.Container.Config.Name, Attempt: c.Container.Config.Attempt},
			Labels:      c.Container.Config.Labels,
			Annotations: c.Container.Config.Annotations,
		},
		WritableLayer: filesystem(c.WritableLayer),
	}
	if g := c.Cgroup; g != nil {
		out.Cpu = s.cpu(c.Container.ID, g)
		out.Memory = memory(g)
		out.Swap = swap(g)
		out.Io = ioUsage(g)
	}
	return out
}

func (s *runtimeService) podStats(p pod.PodStats) *runtimeapi.PodSandboxStats {
	linux := &runtimeapi.LinuxPodSandboxStats{Network: network(p.Network)}
	if g := p.Cgroup; g != nil {
		linux.Cpu = s.cpu(p.Pod.ID, g)
		linux.Memory = memory(g)
		linux.Io = ioUsage(g)
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: nanos(g.Time), ProcessCount: number(g.Pids.Current)}
	}
	for _, c := range p.Containers {
		linux.Containers = append(linux.Containers, s.containerStats(c))
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id:          p.Pod.ID,
			Metadata:    podMetadata(p.Pod.Config),
			Labels:      p.Pod.Config.Labels,
			Annotations: p.Pod.Config.Annotations,
		},
		Linux: linux,
	}
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (s *runtimeService) cpu(id string, g *pod.CgroupStats) *runtimeapi.CpuUsage {
	out := &runtimeapi.CpuUsage{
		Timestamp:            nanos(g.Time),
		UsageCoreNanoSeconds: number(g.CPU.Usage),
		Psi:                  pressure(g.CPUPressure),
	}
	if rate, ok := s.rates.nanocores(id, g.CPU.Usage, g.Time); ok {
		out.UsageNanoCores = number(rate)
	}
	return out
}

func memory(g *pod.CgroupStats) *runtimeapi.MemoryUsage {
	m := g.Memory
	out := &runtimeapi.MemoryUsage{
		Timestamp:       nanos(g.Time),
		WorkingSetBytes: number(m.WorkingSet),
		UsageBytes:      number(m.Usage),
		RssBytes:        number(m.RSS),
		PageFaults:      number(m.PageFaults),
		MajorPageFaults: number(m.MajorPageFaults),
		Psi:             pressure(g.MemoryPressure),
	}
	if m.Limit > 0 {
		out.AvailableBytes = number(m.Limit - min(m.WorkingSet, m.Limit))
	}
	return out
}

func swap(g *pod.CgroupStats) *runtimeapi.SwapUsage {
	m := g.Memory
	out := &runtimeapi.SwapUsage{Timestamp: nanos(g.Time), SwapUsageBytes: number(m.SwapUsage)}
	if m.SwapLimit > 0 {
		out.SwapAvailableBytes = number(m.SwapLimit - min(m.SwapUsage, m.SwapLimit))
	}
	return out
}

func ioUsage(g *pod.CgroupStats) *runtimeapi.IoUsage {
	return &runtimeapi.IoUsage{Timestamp: nanos(g.Time), Psi: pressure(g.IOPressure)}
}

// pressure translates PSI: the kernel counts microseconds, CRI nanoseconds.
func pressure(p *pod.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l pod.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total * uint64(time.Microsecond), Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

func filesystem(u pod.FilesystemUsage) *runtimeapi.FilesystemUsage {
	if u.Path == "" {
		return nil
	}
	return &runtimeapi.FilesystemUsage{
		Timestamp:  nanos(u.Time),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: u.Path},
		UsedBytes:  number(u.Bytes),
		InodesUsed: number(u.Inodes),
	}
}

func network(interfaces []pod.InterfaceStats) *runtimeapi.NetworkUsage {
	if len(interfaces) == 0 {
		return nil
	}
	out := &runtimeapi.NetworkUsage{Timestamp: time.Now().UnixNano()}
	for i, n := range interfaces {
		usage := &runtimeapi.NetworkInterfaceUsage{
			Name:     n.Name,
			RxBytes:  number(n.RxBytes),
			RxErrors: number(n.RxErrors),
			TxBytes:  number(n.TxBytes),
			TxErrors: number(n.TxErrors),
		}
		if i == 0 {
			out.DefaultInterface = usage
			continue
		}
		out.Interfaces = append(out.Interfaces, usage)
	}
	return out
}
