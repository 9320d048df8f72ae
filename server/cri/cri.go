// Package cri serves the Container Runtime Interface, v1 as of cri-api 0.37: the
// kubelet's and crictl's side of Strake.
//
// It translates and does nothing else. A verb turns its request into pod's or
// image's own types (config.go), calls one method, and turns the answer
// (status.go, stats.go) or the error (errors.go, the one place with gRPC codes)
// back. What pod cannot do it refuses itself, by the name of the CRI field.
//
// It holds no state but the last CPU sample of each container (rate.go), so it
// takes no lock around a call and a stuck pod delays only those who ask for it.
package cri

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod"
)

// Pods is what the runtime service needs; *pod.Manager has it.
type Pods interface {
	Info() pod.Info
	NetworkStatus() error

	RunPod(ctx context.Context, c pod.PodConfig, runtimeHandler string) (string, error)
	StopPod(ctx context.Context, id string) error
	RemovePod(ctx context.Context, id string) error
	Pod(id string) (pod.PodStatus, error)
	Pods(f pod.PodFilter) []pod.PodStatus
	UpdatePod(ctx context.Context, id string, overhead, resources *pod.Resources) error

	CreateContainer(ctx context.Context, podID string, c pod.ContainerConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	Container(id string) (pod.ContainerStatus, error)
	Containers(f pod.ContainerFilter) []pod.ContainerStatus
	UpdateContainer(ctx context.Context, id string, r pod.Resources, annotations map[string]string) error
	ReopenLog(ctx context.Context, id string) error
	CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error
	CheckpointPod(ctx context.Context, id, out string, containers []string) error
	RestorePod(ctx context.Context, from string, c pod.PodConfig, runtimeHandler string, containers []pod.ContainerConfig) (id string, ids map[string]string, err error)

	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (pod.ExecResult, error)

	ContainerStats(ctx context.Context, id string) (pod.ContainerStats, error)
	ContainersStats(ctx context.Context, f pod.ContainerFilter) ([]pod.ContainerStats, error)
	PodStats(ctx context.Context, id string) (pod.PodStats, error)
	PodsStats(ctx context.Context, f pod.PodFilter) ([]pod.PodStats, error)
	PodsMetrics(ctx context.Context) ([]pod.PodStats, error)
	DiskCapacity() (pod.DiskCapacity, error)

	Subscribe() (events <-chan *pod.Event, cancel func())
	Recovered() []pod.Event
}

// Images is what the image service needs; *image.Store has it.
type Images interface {
	Pull(ctx context.Context, ref string, o image.PullOptions) (image.Image, error)
	Get(ref string) (image.Image, error)
	List() []image.Image
	Remove(ctx context.Context, ref string) error
	Usage() (bytes, inodes uint64, err error)
	Root() string
}

// Streams makes single-use URLs; *stream.Server has it.
type Streams interface {
	Exec(r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error)
	Attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error)
	PortForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error)
}

// Handler is a runtime handler as Status tells of it.
type Handler struct {
	Name                   string
	RecursiveReadOnlyMount bool
	UserNamespaces         bool
}

// Options is what the services are made of.
type Options struct {
	Pods    Pods
	Images  Images
	Streams Streams

	// Handlers are the runtime handlers of this moment, and the one that "" means.
	Handlers func() (all []Handler, byDefault string)
	// SystemdCgroup is told to the kubelet: whether it is to have systemd make
	// cgroups. Pods may have either kind of parent whatever it says.
	SystemdCgroup bool
	// State is straked's state directory: verbose container status reads the
	// bundle's config.json there.
	State string
	// Config is shown by a verbose Status, as JSON.
	Config func() any
	// NetworkName is what a verbose Status calls the network.
	NetworkName func() string

	Log *slog.Logger
}

// Register adds RuntimeService and ImageService to a gRPC server. Streams of
// events end when done is closed, so that the server can stop.
func Register(s grpc.ServiceRegistrar, o Options, done <-chan struct{}) {
	runtimeapi.RegisterRuntimeServiceServer(s, &runtimeService{Options: o, done: done, rates: newRates()})
	runtimeapi.RegisterImageServiceServer(s, &imageService{Images: o.Images, handlers: o.Handlers})
}

// runtimeService implements runtimeapi.RuntimeServiceServer. What a later version of
// CRI adds does not compile until it is here: no default answers in its place.
type runtimeService struct {
	runtimeapi.UnsafeRuntimeServiceServer
	Options
	done  <-chan struct{}
	rates *rates
}

// imageService implements runtimeapi.ImageServiceServer.
type imageService struct {
	runtimeapi.UnsafeImageServiceServer
	Images
	handlers func() (all []Handler, byDefault string)
}
