// Package strake serves strake.v1, the small service that straked has beside
// CRI on the same socket: what the strake command needs and CRI does not have.
//
// It translates and decides nothing, with one exception: a pod that says so in
// an annotation is removed when its container has ended, whether or not the
// `strake run --rm` that made it is still there, and a pod whose `strake run` is
// killed before anything runs in it goes with it (see reap.go).
package strake

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// Pods is what the service needs of a pod.Manager.
type Pods interface {
	Info() pod.Info
	Dump() pod.Dump
	NetworkStatus() error
	Pod(id string) (pod.PodStatus, error)
	Pods(pod.PodFilter) []pod.PodStatus
	Containers(pod.ContainerFilter) []pod.ContainerStatus
	WaitContainer(ctx context.Context, id string) (pod.ContainerStatus, error)
	SignalContainer(ctx context.Context, id, signal string) error
	Exec(ctx context.Context, id string, c pod.ExecConfig, s pod.Streams) (int, error)
	Attach(ctx context.Context, id string, s pod.Streams) error
	ExportContainer(ctx context.Context, id string, out io.Writer) error
	DiffContainer(ctx context.Context, id string) ([]image.Change, error)
	StopPod(ctx context.Context, id string) error
	RemovePod(ctx context.Context, id string) error
	Subscribe() (events <-chan *pod.Event, cancel func())
}

// Images is what the service needs of an image.Store.
type Images interface {
	Pull(ctx context.Context, ref string, o image.PullOptions) (image.Image, error)
	Get(ref string) (image.Image, error)
	RawConfig(ref string) ([]byte, error)
	List() []image.Image
	Usage() (bytes, inodes uint64, err error)
	ShowTrust(ref, namespace string) (file string, scopes []image.TrustScope, decision *image.TrustDecision, err error)
	DiskUsage() []image.ImageUsage
	Push(ctx context.Context, ref string, o image.PushOptions) (digest.Digest, error)
	Tag(ref, to string) error
	Untag(names ...string) error
	Remove(ctx context.Context, ref string) error
	Prune(o image.PruneOptions) (removed []image.Image, freed int64, err error)
	Save(ctx context.Context, to io.Writer, format image.Format, refs ...string) error
	Load(ctx context.Context, in io.Reader, nameless string) ([]image.Image, error)
	Import(ctx context.Context, in io.Reader, to, comment string, config v1.ImageConfig) (image.Image, error)
	Verify(ctx context.Context, ref string, tell func(image.Finding)) error
	Mount(ref string) (dir string, err error)
	Unmount(ref string) error
	Mounts() []image.Mounted
	Sign(ctx context.Context, ref string, o image.SignOptions, signer func(payload []byte) ([]byte, error)) ([]image.Signed, error)
	Referrers(ctx context.Context, ref, artifactType string, auth *image.Auth) (digest.Digest, []v1.Descriptor, error)
	Repair(ctx context.Context, findings []image.Finding, auth func(name string) *image.Auth) error
}

// Deps is what straked puts together for the service. The texts are shown as
// they are.
type Deps struct {
	Pods   Pods
	Images Images

	Root, State, Address string
	Config               string // the configuration file; "" = none
	CgroupMode           string // unified, hybrid or legacy
	Storage              string // the name of the images driver, and whether files have fs-verity
	NetworkName          func() string
	Runtimes             func() (all []*strakev1.Runtime, byDefault string)
	Reload               func() (*strakev1.ReloadResponse, error)

	Log *slog.Logger
}

// Register adds the service to a gRPC server and starts what it does by itself.
// Both end with ctx, calls that wait or stream too; wait for done before the
// Manager is closed.
func Register(ctx context.Context, r grpc.ServiceRegistrar, d Deps) (done <-chan struct{}) {
	reaper := newReaper(d.Pods, d.Log)
	strakev1.RegisterStrakeServer(r, &service{Deps: d, started: time.Now(), ending: ctx, reaper: reaper})
	return reaper.start(ctx)
}

// service implements strakev1.StrakeServer: a verb of the service that is not here does
// not compile.
type service struct {
	strakev1.UnsafeStrakeServer
	Deps
	started time.Time
	ending  context.Context // over when the daemon stops
	reaper  *reaper
}

// errEnding tells a client to ask the next daemon.
var errEnding = status.Error(codes.Unavailable, "straked is stopping")

// untilEnd is the context of a call that may take long: it ends with the daemon
// as well, with the cause errEnding.
func (s *service) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ending, func() { cancel(errEnding) })
	return ctx, func() { stop(); cancel(nil) }
}

func (s *service) System(context.Context, *strakev1.SystemRequest) (*strakev1.SystemResponse, error) {
	info := s.Pods.Info()
	images := s.Images.List()
	size, _, err := s.Images.Usage()
	if err != nil {
		return nil, asStatus(err)
	}
	network := &strakev1.Network{Name: s.NetworkName(), Ready: true}
	if err := s.Pods.NetworkStatus(); err != nil {
		network.Ready, network.Problem = false, err.Error()
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, asStatus(err)
	}
	runtimes, byDefault := s.Runtimes()
	return &strakev1.SystemResponse{
		Version:           version.Version,
		Root:              s.Root,
		State:             s.State,
		Address:           s.Address,
		Config:            s.Config,
		Pid:               int32(os.Getpid()),
		StartedAt:         s.started.UnixNano(),
		Kernel:            strings.TrimSpace(string(kernel)),
		CgroupMode:        s.CgroupMode,
		Storage:           s.Storage,
		DefaultRuntime:    byDefault,
		Runtimes:          runtimes,
		Network:           network,
		Pods:              uint32(info.Pods),
		Containers:        uint32(info.Containers),
		ContainersRunning: uint32(info.Running),
		Images:            uint32(len(images)),
		ImageBytes:        size,
		Stages:            info.Stages,
		Unreadable:        info.Unreadable,
	}, nil
}

func (s *service) Reload(context.Context, *strakev1.ReloadRequest) (*strakev1.ReloadResponse, error) {
	r, err := s.Deps.Reload()
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return r, nil
}

func (s *service) InspectImage(_ context.Context, r *strakev1.InspectImageRequest) (*strakev1.InspectImageResponse, error) {
	img, err := s.Images.Get(r.Reference)
	if err != nil {
		return nil, asStatus(err)
	}
	config, err := s.Images.RawConfig(img.ID)
	if err != nil {
		return nil, asStatus(err)
	}
	res := &strakev1.InspectImageResponse{
		Image:          imageMessage(img),
		ManifestDigest: img.Manifest.String(),
		Architecture:   img.Arch,
		Os:             img.OS,
		DiffIds:        img.DiffIDs,
		Config:         config,
		LayerSizes:     img.LayerSizes,
	}
	if !img.Created.IsZero() {
		res.CreatedAt = img.Created.UnixNano()
	}
	return res, nil
}

func (s *service) WaitContainer(ctx context.Context, r *strakev1.WaitContainerRequest) (*strakev1.WaitContainerResponse, error) {
	ctx, end := s.untilEnd(ctx)
	defer end()
	c, err := s.Pods.WaitContainer(ctx, r.ContainerId)
	if err != nil {
		return nil, callError(ctx, err)
	}
	return &strakev1.WaitContainerResponse{
		ExitCode:   c.ExitCode,
		FinishedAt: c.FinishedAt.UnixNano(),
		Reason:     c.Reason,
		Message:    c.Message,
	}, nil
}

func (s *service) KillContainer(ctx context.Context, r *strakev1.KillContainerRequest) (*strakev1.KillContainerResponse, error) {
	if err := s.Pods.SignalContainer(ctx, r.ContainerId, r.Signal); err != nil {
		return nil, asStatus(err)
	}
	return &strakev1.KillContainerResponse{}, nil
}

func (s *service) Hold(r *strakev1.HoldRequest, stream grpc.ServerStreamingServer[strakev1.HoldResponse]) error {
	key := r.Owner
	if key == "" {
		key = r.PodId
	}
	s.reaper.hold(key)
	defer s.reaper.release(s.ending, key)
	if r.Owner == "" {
		if _, err := s.Pods.Pod(r.PodId); err != nil {
			return asStatus(err)
		}
	}
	if err := stream.Send(&strakev1.HoldResponse{}); err != nil {
		return err
	}
	ctx, end := s.untilEnd(stream.Context())
	defer end()
	<-ctx.Done()
	return callError(ctx, ctx.Err())
}

func imageMessage(img image.Image) *strakev1.Image {
	return &strakev1.Image{Id: img.ID, Tags: img.RepoTags, Digests: img.RepoDigests, Size: img.Size}
}

// classes says which gRPC code the classes of errors have; the first that fits.
var classes = []struct {
	err  error
	code codes.Code
}{
	{pod.ErrNotFound, codes.NotFound},
	{pod.ErrInvalid, codes.InvalidArgument},
	{pod.ErrUnsupported, codes.Unimplemented},
	{pod.ErrState, codes.FailedPrecondition},
	{pod.ErrExists, codes.AlreadyExists},
	{pod.ErrTimeout, codes.DeadlineExceeded},
	{pod.ErrClosed, codes.Unavailable},
	{pod.ErrUnavailable, codes.Unavailable},
	{image.ErrNotFound, codes.NotFound},
	{image.ErrInvalidReference, codes.InvalidArgument},
	{image.ErrAmbiguous, codes.InvalidArgument},
	{image.ErrUnauthorized, codes.Unauthenticated},
	{image.ErrDigestMismatch, codes.DataLoss},
	{image.ErrUnsupported, codes.Unimplemented},
	{image.ErrUnavailable, codes.Unavailable},
	{image.ErrSignature, codes.PermissionDenied},
	{image.ErrBlocked, codes.PermissionDenied},
	{image.ErrNotKept, codes.FailedPrecondition},
	{image.ErrInUse, codes.FailedPrecondition},
	{image.ErrInvalidImage, codes.InvalidArgument},
	{fs.ErrNotExist, codes.NotFound},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

// callError is asStatus for a call whose context ended with the daemon.
func callError(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errEnding) {
		return errEnding
	}
	return asStatus(err)
}

// asStatus gives an error the code of its class, and keeps its text.
func asStatus(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
