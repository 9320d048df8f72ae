package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodConfig is a pod on the host's network, or on the node's.
func (n *Node) PodConfig(name string, hostNetwork bool) *cri.PodSandboxConfig {
	mode := cri.NamespaceMode_POD
	if hostNetwork {
		mode = cri.NamespaceMode_NODE
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name + "-uid"},
		LogDirectory: filepath.Join(n.Logs, name),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: n.Parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: mode, Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

// ContainerConfig is a container that runs a busybox command.
func (n *Node) ContainerConfig(name string, command ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: n.Image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

// Call calls a method of CRI's with an empty request and returns its error. Of a
// stream that has no end it sees the beginning.
func (n *Node) Call(ctx context.Context, m protoreflect.MethodDescriptor) error {
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingServer() {
		return n.conn.Invoke(ctx, name, in, out)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(in), stream.CloseSend()); err != nil {
		return err
	}
	if header, err := stream.Header(); err != nil || header.Len() > 0 {
		return err // a refusal has none
	}
	if err := stream.RecvMsg(out); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Pull pulls Image.
func (n *Node) Pull(ctx context.Context) error {
	_, err := n.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: n.Image}})
	return err
}

// RemoveImage removes the image, of those there are the only one, and waits until its
// layers are gone: they go when no power cut can bring it back any more (ADR 35).
func (n *Node) RemoveImage(ctx context.Context) error {
	if _, err := n.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: n.Image}}); err != nil {
		return err
	}
	for {
		fs, err := n.Images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
		if err != nil || fs.ImageFilesystems[0].UsedBytes.Value == 0 {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
}

// RunPod runs a pod; its log directory is made as the kubelet does.
func (n *Node) RunPod(ctx context.Context, config *cri.PodSandboxConfig) (string, error) {
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return "", err
	}
	r, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	return r.GetPodSandboxId(), err
}

// RunContainer creates and starts a container.
func (n *Node) RunContainer(ctx context.Context, pod string, podConfig *cri.PodSandboxConfig, config *cri.ContainerConfig) (string, error) {
	r, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig})
	if err != nil {
		return "", err
	}
	_, err = n.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId})
	return r.ContainerId, err
}

// Status is the status of a container.
func (n *Node) Status(ctx context.Context, id string) (*cri.ContainerStatus, error) {
	r, err := n.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	return r.GetStatus(), err
}

// WaitExit waits until a container has exited. It asks again every few
// milliseconds, as crictl would: tests may.
func (n *Node) WaitExit(ctx context.Context, id string) (*cri.ContainerStatus, error) {
	for {
		s, err := n.Status(ctx, id)
		if err != nil || s.State == cri.ContainerState_CONTAINER_EXITED {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
