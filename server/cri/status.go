package cri

import (
	"cmp"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
)

// nanos is CRI's time: nanoseconds since 1970, 0 for "never".
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func podMetadata(c pod.PodConfig) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: c.Name, Uid: c.UID, Namespace: c.Namespace, Attempt: c.Attempt}
}

func podState(s pod.PodState) runtimeapi.PodSandboxState {
	if s == pod.PodReady {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func podItem(p pod.PodStatus) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id:             p.ID,
		Metadata:       podMetadata(p.Config),
		State:          podState(p.State),
		CreatedAt:      nanos(p.CreatedAt),
		Labels:         p.Config.Labels,
		Annotations:    p.Config.Annotations,
		RuntimeHandler: p.RuntimeHandler,
	}
}

func podStatus(p pod.PodStatus) *runtimeapi.PodSandboxStatus {
	ns := p.Config.Namespaces
	return &runtimeapi.PodSandboxStatus{
		Id:        p.ID,
		Metadata:  podMetadata(p.Config),
		State:     podState(p.State),
		CreatedAt: nanos(p.CreatedAt),
		Network:   podNetwork(p),
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network:       modeToCRI(ns.Network),
			Pid:           modeToCRI(ns.PID),
			Ipc:           modeToCRI(ns.IPC),
			TargetId:      ns.TargetID,
			UsernsOptions: userNamespace(ns.User),
		}}},
		Labels:         p.Config.Labels,
		Annotations:    p.Config.Annotations,
		RuntimeHandler: p.RuntimeHandler,
	}
}

// podNetwork is empty, but there, for the host's network: the kubelet reports
// the node's addresses for such pods itself.
func podNetwork(p pod.PodStatus) *runtimeapi.PodSandboxNetworkStatus {
	n := &runtimeapi.PodSandboxNetworkStatus{}
	for i, ip := range p.IPs {
		if i == 0 {
			n.Ip = ip.String()
			continue
		}
		n.AdditionalIps = append(n.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return n
}

func modeToCRI(m bundle.NamespaceMode) runtimeapi.NamespaceMode {
	for theirs, ours := range modes {
		if ours == m {
			return theirs
		}
	}
	return runtimeapi.NamespaceMode_POD
}

func userNamespace(u *bundle.UserNamespace) *runtimeapi.UserNamespace {
	if u == nil {
		return nil
	}
	return &runtimeapi.UserNamespace{Mode: modeToCRI(u.Mode), Uids: mappingsToCRI(u.UIDs), Gids: mappingsToCRI(u.GIDs)}
}

func mappingsToCRI(in []bundle.IDMapping) []*runtimeapi.IDMapping {
	var out []*runtimeapi.IDMapping
	for _, m := range in {
		out = append(out, &runtimeapi.IDMapping{HostId: m.HostID, ContainerId: m.ContainerID, Length: m.Length})
	}
	return out
}

// states of a container in both vocabularies.
var states = map[runtimeapi.ContainerState]pod.ContainerState{
	runtimeapi.ContainerState_CONTAINER_CREATED: pod.ContainerCreated,
	runtimeapi.ContainerState_CONTAINER_RUNNING: pod.ContainerRunning,
	runtimeapi.ContainerState_CONTAINER_EXITED:  pod.ContainerExited,
	runtimeapi.ContainerState_CONTAINER_UNKNOWN: pod.ContainerUnknown,
}

func stateToPod(s runtimeapi.ContainerState) pod.ContainerState { return states[s] }

func stateToCRI(s pod.ContainerState) runtimeapi.ContainerState {
	for theirs, ours := range states {
		if ours == s {
			return theirs
		}
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

func containerItem(c pod.ContainerStatus) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id:           c.ID,
		PodSandboxId: c.PodID,
		Metadata:     &runtimeapi.ContainerMetadata{Name: c.Config.Name, Attempt: c.Config.Attempt},
		Image:        &runtimeapi.ImageSpec{Image: c.Config.Image, UserSpecifiedImage: c.Config.UserImage, RuntimeHandler: c.Config.RuntimeHandler},
		ImageRef:     cmp.Or(c.ImageRef, c.ImageID),
		ImageId:      c.ImageID,
		State:        stateToCRI(c.State),
		CreatedAt:    nanos(c.CreatedAt),
		Labels:       c.Config.Labels,
		Annotations:  c.Config.Annotations,
	}
}

func containerStatus(c pod.ContainerStatus) *runtimeapi.ContainerStatus {
	s := &runtimeapi.ContainerStatus{
		Id:          c.ID,
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Config.Name, Attempt: c.Config.Attempt},
		State:       stateToCRI(c.State),
		CreatedAt:   nanos(c.CreatedAt),
		StartedAt:   nanos(c.StartedAt),
		FinishedAt:  nanos(c.FinishedAt),
		ExitCode:    c.ExitCode,
		Image:       &runtimeapi.ImageSpec{Image: cmp.Or(c.ImageName, c.Config.Image), UserSpecifiedImage: c.Config.UserImage, RuntimeHandler: c.Config.RuntimeHandler},
		ImageRef:    cmp.Or(c.ImageRef, c.ImageID),
		ImageId:     c.ImageID,
		Reason:      c.Reason,
		Message:     c.Message,
		Labels:      c.Config.Labels,
		Annotations: c.Config.Annotations,
		LogPath:     c.LogPath,
		Resources:   &runtimeapi.ContainerResources{Linux: resourcesToCRI(c.Resources)},
		User:        userToCRI(c.User),
		StopSignal:  signalToCRI(c.StopSignal),
	}
	for i, m := range c.Config.Mounts {
		if m.Tmpfs == 0 {
			mount := mountToCRI(m)
			if mount.Image != nil {
				mount.Image.ImageRef = c.MountImages[i]
			}
			s.Mounts = append(s.Mounts, mount)
		}
	}
	return s
}

func mountToCRI(m bundle.Mount) *runtimeapi.Mount {
	out := &runtimeapi.Mount{
		ContainerPath:     m.ContainerPath,
		HostPath:          m.HostPath,
		Readonly:          m.Readonly,
		RecursiveReadOnly: m.RecursiveReadOnly,
		SelinuxRelabel:    m.SELinuxRelabel,
		UidMappings:       mappingsToCRI(m.UIDMappings),
		GidMappings:       mappingsToCRI(m.GIDMappings),
		ImageSubPath:      m.ImageSubPath,
		MountOptions:      m.Options,
	}
	if m.Image != "" {
		out.Image = &runtimeapi.ImageSpec{Image: m.Image}
	}
	switch m.Propagation {
	case bundle.PropagationHostToContainer:
		out.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case bundle.PropagationBidirectional:
		out.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return out
}

func resourcesToCRI(r pod.Resources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuPeriod:              r.CPUPeriod,
		CpuQuota:               r.CPUQuota,
		CpuShares:              r.CPUShares,
		MemoryLimitInBytes:     r.MemoryLimit,
		MemorySwapLimitInBytes: r.MemorySwapLimit,
		OomScoreAdj:            r.OOMScoreAdj,
		CpusetCpus:             r.CpusetCPUs,
		CpusetMems:             r.CpusetMems,
		Unified:                r.Unified,
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: h.PageSize, Limit: h.Limit})
	}
	return out
}

func userToCRI(u pod.User) *runtimeapi.ContainerUser {
	out := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Groups {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: out}
}

// signalToCRI finds the enum value of "SIGTERM", "15" or "SIGRTMIN+3".
func signalToCRI(name string) runtimeapi.Signal {
	n, err := bundle.ParseSignal(name)
	if err != nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return signals[n]
}

// signals are the enum's values by signal number. Of two names for one number
// the first in CRI's order stands (SIGABRT and SIGIOT, SIGCHLD and SIGCLD).
var signals = signalNumbers()

func signalNumbers() map[int]runtimeapi.Signal {
	numbers := map[int]runtimeapi.Signal{}
	for v := range runtimeapi.Signal(len(runtimeapi.Signal_name)) {
		n, err := bundle.ParseSignal(signalName(v))
		if _, taken := numbers[n]; err == nil && !taken {
			numbers[n] = v
		}
	}
	return numbers
}
