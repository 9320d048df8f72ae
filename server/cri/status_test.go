package cri

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
)

func check(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", prototext.Format(got), prototext.Format(want))
	}
}

func at(seconds int64) time.Time { return time.Unix(seconds, 5) }

func TestPodStatus(t *testing.T) {
	p := pod.PodStatus{
		ID: "p1", RuntimeHandler: "strake", State: pod.PodReady, CreatedAt: at(100),
		Config: pod.PodConfig{Name: "web", Namespace: "prod", UID: "u", Attempt: 1, Labels: map[string]string{"a": "b"},
			Annotations: map[string]string{"c": "d"}, Namespaces: bundle.Namespaces{PID: bundle.NamespaceContainer}},
		IPs: []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd00::2")},
	}
	check(t, podStatus(p), &runtimeapi.PodSandboxStatus{
		Id: "p1", RuntimeHandler: "strake", State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: 100_000_000_005,
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "prod", Uid: "u", Attempt: 1},
		Labels:   map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.88.0.2", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::2"}}},
		Linux:   &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	})
	p.State, p.IPs = pod.PodNotReady, nil
	if s := podStatus(p); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || s.Network == nil || s.Network.Ip != "" {
		t.Errorf("stopped: %s", prototext.Format(s))
	}
}

func TestContainerStatus(t *testing.T) {
	c := pod.ContainerStatus{
		ID: "c1", PodID: "p1", State: pod.ContainerExited, CreatedAt: at(1), StartedAt: at(2), FinishedAt: at(3),
		ExitCode: 137, Reason: pod.ReasonOOMKilled, Message: "m",
		Config: pod.ContainerConfig{Name: "n", Attempt: 3, Image: "busybox:1", UserImage: "busybox", Mounts: []bundle.Mount{
			{ContainerPath: "/a", HostPath: "/b", Propagation: bundle.PropagationHostToContainer},
			{ContainerPath: "/run", Tmpfs: 1},
		}},
		ImageID: "sha256:1", ImageName: "docker.io/library/busybox:1", ImageRef: "docker.io/library/busybox@sha256:2",
		LogPath: "/l/0.log", StopSignal: "SIGRTMIN+3", User: pod.User{UID: 1, GID: 2, Groups: []uint32{2, 3}},
		Resources: pod.Resources{CPUShares: 512},
	}
	check(t, containerStatus(c), &runtimeapi.ContainerStatus{
		Id: "c1", Metadata: &runtimeapi.ContainerMetadata{Name: "n", Attempt: 3}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
		CreatedAt: 1_000_000_005, StartedAt: 2_000_000_005, FinishedAt: 3_000_000_005,
		ExitCode: 137, Reason: "OOMKilled", Message: "m",
		Image:    &runtimeapi.ImageSpec{Image: "docker.io/library/busybox:1", UserSpecifiedImage: "busybox"},
		ImageRef: "docker.io/library/busybox@sha256:2", ImageId: "sha256:1",
		Mounts:     []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/b", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}},
		LogPath:    "/l/0.log",
		Resources:  &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512}},
		User:       &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 1, Gid: 2, SupplementalGroups: []int64{2, 3}}},
		StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
	})
	created := containerStatus(pod.ContainerStatus{State: pod.ContainerCreated})
	if created.StartedAt != 0 || created.FinishedAt != 0 || created.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("created: %s", prototext.Format(created))
	}
}

// TestSignals takes every signal of CRI there and back.
func TestSignals(t *testing.T) {
	aliases := map[runtimeapi.Signal]runtimeapi.Signal{
		runtimeapi.Signal_SIGNAL_SIGCLD:  runtimeapi.Signal_SIGNAL_SIGCHLD,
		runtimeapi.Signal_SIGNAL_SIGIOT:  runtimeapi.Signal_SIGNAL_SIGABRT,
		runtimeapi.Signal_SIGNAL_SIGPOLL: runtimeapi.Signal_SIGNAL_SIGIO,
	}
	for n := range runtimeapi.Signal_name {
		s := runtimeapi.Signal(n)
		want := s
		if a, ok := aliases[s]; ok {
			want = a
		}
		if got := signalToCRI(signalName(s)); got != want {
			t.Errorf("%s became %s", s, got)
		}
	}
	if got := signalToCRI("15"); got != runtimeapi.Signal_SIGNAL_SIGTERM {
		t.Errorf("15 is %s", got)
	}
}

// A kubelet takes nothing but a semantic version; git describe has others.
func TestSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"v0.1.0":                  "v0.1.0",
		"v1.2.3-4-gc834d4e-dirty": "v1.2.3-4-gc834d4e-dirty",
		"1.2.3":                   "1.2.3",
		"c834d4e-dirty":           "0.0.0+c834d4e-dirty",
		"1234567":                 "0.0.0+1234567",
		"dev":                     "0.0.0+dev",
	} {
		if got := semantic(version); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}
