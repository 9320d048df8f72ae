package pod

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/strake-containers/strake/pod/bundle"
)

// Classes of errors. The front translates them; errors.Is finds them.
var (
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("invalid request")          // the caller's mistake; names the field
	ErrUnsupported = errors.New("not supported")            // names the field, says what lacks
	ErrState       = errors.New("not in the right state")   // e.g. exec in an exited container
	ErrExists      = errors.New("already exists otherwise") // same identity, different content
	ErrTimeout     = errors.New("timed out")
	ErrClosed      = errors.New("daemon is shutting down")
)

// Options is what a Manager needs.
type Options struct {
	Root  string // durable state: Root/pods
	State string // dies with the boot: State/pods, State/netns, State/runtime

	Images   Images
	Network  Network
	Runtimes map[string]Runtime
	// DefaultRuntime is the handler that "" means. Required.
	DefaultRuntime string
	// StartMonitor and ConnectMonitor are shim/client's; tests put faults there.
	Monitors Monitors

	// MaxPids limits each container that asks for no limit of its own; 0: no limit.
	MaxPids int64
	// MaxLogBytes stops a container's log at that size; 0: no limit.
	MaxLogBytes int64

	Log *slog.Logger
}

// Runtime is a runtime handler.
type Runtime struct {
	Monitor string   // path of the monitor program
	Env     []string // added to the monitor's environment
	// PrivilegedWithoutHostDevices leaves host devices out of privileged containers.
	PrivilegedWithoutHostDevices bool
}

// Host tells the facts of the host that requests are checked against.
type Host = bundle.Host

// Open recovers what is on disk and returns a Manager that owns it. It returns
// as soon as every pod is known; monitors are asked in parallel.
func Open(ctx context.Context, o Options) (*Manager, error) { panic("being written") }

// Manager owns the pods and containers of one root.
type Manager struct{}

// Close stops watching; pods go on. Verbs under way end first, or at ctx's end.
func (m *Manager) Close(ctx context.Context) error { panic("being written") }

// Info tells how many there are and what is going on.
func (m *Manager) Info() Info { panic("being written") }

// NetworkStatus is nil when new pods can get a network.
func (m *Manager) NetworkStatus() error { panic("being written") }

func (m *Manager) RunPod(ctx context.Context, c PodConfig, runtimeHandler string) (string, error) {
	panic("being written")
}
func (m *Manager) StopPod(ctx context.Context, id string) error   { panic("being written") }
func (m *Manager) RemovePod(ctx context.Context, id string) error { panic("being written") }
func (m *Manager) Pod(id string) (PodStatus, error)               { panic("being written") }
func (m *Manager) Pods(f PodFilter) []PodStatus                   { panic("being written") }
func (m *Manager) UpdatePod(ctx context.Context, id string, overhead, resources *Resources) error {
	panic("being written")
}

func (m *Manager) CreateContainer(ctx context.Context, podID string, c ContainerConfig) (string, error) {
	panic("being written")
}
func (m *Manager) StartContainer(ctx context.Context, id string) error { panic("being written") }

// StopContainer sends the stop signal, and SIGKILL after grace; 0 kills at once.
func (m *Manager) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	panic("being written")
}
func (m *Manager) RemoveContainer(ctx context.Context, id string) error { panic("being written") }
func (m *Manager) Container(id string) (ContainerStatus, error)         { panic("being written") }
func (m *Manager) Containers(f ContainerFilter) []ContainerStatus       { panic("being written") }
func (m *Manager) WaitContainer(ctx context.Context, id string) (ContainerStatus, error) {
	panic("being written")
}
func (m *Manager) UpdateContainer(ctx context.Context, id string, r Resources, annotations map[string]string) error {
	panic("being written")
}
func (m *Manager) ReopenLog(ctx context.Context, id string) error       { panic("being written") }
func (m *Manager) PauseContainer(ctx context.Context, id string) error  { panic("being written") }
func (m *Manager) ResumeContainer(ctx context.Context, id string) error { panic("being written") }

// SignalContainer sends a signal ("SIGHUP", "HUP", "1") to a container's init process.
func (m *Manager) SignalContainer(ctx context.Context, id, signal string) error {
	panic("being written")
}

// ExecSync runs cmd to its end; timeout 0 is none. ErrTimeout after it.
func (m *Manager) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (ExecResult, error) {
	panic("being written")
}

// Exec runs a process with the caller's streams and returns its exit code.
func (m *Manager) Exec(ctx context.Context, id string, c ExecConfig, s Streams) (int, error) {
	panic("being written")
}

// Attach connects the caller's streams to the container's.
func (m *Manager) Attach(ctx context.Context, id string, s Streams) error { panic("being written") }

// PortForward connects conn to port of localhost in the pod's network namespace.
func (m *Manager) PortForward(ctx context.Context, podID string, port int32, conn io.ReadWriteCloser) error {
	panic("being written")
}

func (m *Manager) ContainerStats(ctx context.Context, id string) (ContainerStats, error) {
	panic("being written")
}
func (m *Manager) ContainersStats(ctx context.Context, f ContainerFilter) ([]ContainerStats, error) {
	panic("being written")
}
func (m *Manager) PodStats(ctx context.Context, id string) (PodStats, error) { panic("being written") }
func (m *Manager) PodsStats(ctx context.Context, f PodFilter) ([]PodStats, error) {
	panic("being written")
}

// Subscribe returns the events from now on, and the function that ends them. A
// subscriber that falls far behind is ended: its channel is closed.
func (m *Manager) Subscribe() (events <-chan Event, cancel func()) { panic("being written") }
