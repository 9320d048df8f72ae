package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/pod/store"
	"github.com/strake-containers/strake/shim/client"
)

// minPrefix is how much of an id finds an object.
const minPrefix = 4

// Options is what a Manager needs.
type Options struct {
	Root  string // durable state
	State string // dies with the boot

	Images   Images
	Network  Network
	Monitors Monitors // nil: ShimMonitors
	NetNS    NetNS    // nil: HostNetNS
	SELinux  SELinux  // nil: nothing is labelled; see KernelSELinux

	Settings             // as of Open
	NRI      *nri.Config // nil: no plugins

	MaxPids     int64 // limits a container that asks for no limit; 0: no limit
	MaxLogBytes int64 // stops a log in CRI's format at that size; 0: no limit
	// LogDriver keeps the output of containers that name neither a driver nor a place
	// for a log; the zero value is a file in CRI's format.
	LogDriver logdriver.Config

	Log *slog.Logger // nil: slog.Default()
}

// Settings is what Change may change. It is for what is made from then on.
type Settings struct {
	Runtimes       map[string]Runtime
	DefaultRuntime string // the handler that "" means

	CDIDirs   []string // of CDI's device files
	HooksDirs []string // of OCI hooks' files; see pod/hooks
	Workloads []Workload

	MonitorPods int  // how many pods a monitor holds at most; 0: one
	Debug       bool // monitors log more
}

// Runtime is a runtime handler.
type Runtime struct {
	Monitor string   // path of the monitor program
	Env     []string // added to the monitor's environment
	// SeccompProfile is the file of the profile that RuntimeDefault means; "" is docker's.
	SeccompProfile string
	// Handler is who makes its containers, if not the monitor. Its Root and Events are
	// the Manager's to choose.
	Handler client.Handler
	// AllowedAnnotations are what else a pod may ask for: of annotation.Notifier.
	AllowedAnnotations []string
	// PrivilegedWithoutHostDevices leaves host devices out of privileged containers.
	PrivilegedWithoutHostDevices bool
}

// Manager owns the pods and containers of one root. All methods may be used
// concurrently.
type Manager struct {
	o       Options                  // but for its Settings, which are those of Open
	now     atomic.Pointer[Settings] // written under mu
	host    bundle.Host
	store   *store.Store[podRecord, containerRecord]
	tracker *tracker
	hub     hub
	opened  time.Time // when Open began: what is older comes from another Manager
	nri     atomic.Pointer[nri.Plugins]
	// What has happened since Open, for metrics.
	oomKilled, monitorsReplaced atomic.Uint64
	// life ends when verbs and watchers are to stop: at the end of Close.
	life  context.Context
	crews crewSet
	pins  string // directory of the pins; "" with monitors that are not ours
	end   context.CancelFunc
	// retries are of undoLater, and writes that nobody waits for.
	retries sync.WaitGroup

	mu         sync.Mutex
	pods       map[string]*sandbox
	containers map[string]*container
	names      map[podKey]*sandbox // ready, or being made
	// Pods that an earlier life has half made, until they are undone: by id and, until
	// that has failed once, by name.
	halfMade   map[string]*work
	undoing    map[podKey]*work
	recovered  chan struct{} // closed when recover knows all pods
	collecting *work         // of what the network holds for pods that are gone; set by recover
	unreadable []string
}

// Open recovers what is on disk and in the monitors, and returns a Manager that
// owns it. What was half made is undone, what is unreadable set aside.
func Open(ctx context.Context, o Options) (*Manager, error) {
	if _, ok := o.Runtimes[o.DefaultRuntime]; !ok {
		return nil, errorf(ErrInvalid, "pods: default runtime %q is not among the runtimes", o.DefaultRuntime)
	}
	if o.Monitors == nil {
		o.Monitors = ShimMonitors{}
	}
	if o.NetNS == nil {
		o.NetNS = &HostNetNS{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.LogDriver.Driver == "" {
		o.LogDriver = logdriver.Config{Driver: logdriver.K8sFile, MaxFiles: 1}
	}
	for _, dir := range []string{filepath.Join(o.State, "pods"), filepath.Join(o.State, "netns"), filepath.Join(o.State, "runtime"), filepath.Join(o.State, "monitors"), filepath.Join(o.State, "events")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("pods: %w", err)
		}
	}
	s, err := store.Open[podRecord, containerRecord](o.Root)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, host: hostFacts(), store: s, tracker: newTracker(), opened: now(), recovered: make(chan struct{}),
		crews: crewSet{all: map[string]*crew{}},
		pods:  map[string]*sandbox{}, containers: map[string]*container{}, names: map[podKey]*sandbox{},
		undoing: map[podKey]*work{}, halfMade: map[string]*work{},
	}
	m.now.Store(&o.Settings)
	warnUnconfined(o.Log, m.host)
	m.life, m.end = context.WithCancel(context.WithoutCancel(ctx))
	if _, ours := o.Monitors.(ShimMonitors); ours {
		m.pins = filepath.Join(o.State, "pins")
		if err := errors.Join(os.MkdirAll(m.pins, 0o700), sys.MakePins(m.pins)); err != nil {
			m.end()
			return nil, fmt.Errorf("pods: %w", err)
		}
	}
	if err := m.recover(ctx); err != nil {
		m.end()
		return nil, err
	}
	if err := m.startPlugins(o.NRI); err != nil {
		m.end()
		return nil, err
	}
	return m, nil
}

// Close lets verbs under way finish, until ctx ends, and stops watching. Pods
// and their monitors go on; one without pods ends.
func (m *Manager) Close(ctx context.Context) error {
	err := m.tracker.close(ctx)
	m.end()
	m.plugins().Close()
	m.retries.Wait() // each of them sees the end, or has a time limit
	m.mu.Lock()
	pods := make([]*sandbox, 0, len(m.pods))
	for _, p := range m.pods {
		pods = append(pods, p)
	}
	m.mu.Unlock()
	for _, p := range pods {
		p.mu.Lock()
		timers := []*time.Timer{p.abandoned}
		var held []*client.Held
		for _, c := range p.containers {
			timers = append(timers, c.abandoned)
			held = append(held, c.held)
		}
		p.mu.Unlock()
		for _, h := range held {
			h.Close()
		}
		for _, t := range timers {
			if t != nil {
				t.Stop()
			}
		}
	}
	err = errors.Join(err, m.closeCrews(ctx))
	if m.pins != "" && len(pods) == 0 { // nothing is pinned
		err = errors.Join(err, sys.RemovePins(m.pins))
	}
	m.hub.close()
	return err
}

// NetworkStatus is nil when new pods can get a network.
func (m *Manager) NetworkStatus() error { return m.o.Network.Status(m.life) }

// Info tells how many there are and what is going on.
func (m *Manager) Info() Info {
	i := Info{Stages: m.tracker.stages(), OOMKilled: m.oomKilled.Load(), MonitorsReplaced: m.monitorsReplaced.Load()}
	i.Pods = len(m.Pods(PodFilter{}))
	for _, c := range m.Containers(ContainerFilter{}) {
		i.Containers++
		if c.State == ContainerRunning {
			i.Running++
		}
	}
	m.mu.Lock()
	i.Unreadable = slices.Clone(m.unreadable)
	m.mu.Unlock()
	return i
}

// Pod finds a pod by its id or a unique prefix of it.
func (m *Manager) Pod(id string) (PodStatus, error) {
	p, err := m.findPod(id)
	if err != nil {
		return PodStatus{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status(), nil
}

// Pods lists pods, newest first.
func (m *Manager) Pods(f PodFilter) []PodStatus {
	var out []PodStatus
	for _, p := range m.allPods() {
		if !strings.HasPrefix(p.id, f.ID) {
			continue
		}
		p.mu.Lock()
		s := p.status()
		p.mu.Unlock()
		if (f.State == "" || f.State == s.State) && matches(s.Config.Labels, f.Labels) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b PodStatus) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out
}

// Container finds a container by its id or a unique prefix of it.
func (m *Manager) Container(id string) (ContainerStatus, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return ContainerStatus{}, err
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.status(), nil
}

// Containers lists containers, newest first.
func (m *Manager) Containers(f ContainerFilter) []ContainerStatus {
	var out []ContainerStatus
	for _, p := range m.allPods() {
		if !strings.HasPrefix(p.id, f.PodID) {
			continue
		}
		p.mu.Lock()
		all := p.containerStatuses()
		p.mu.Unlock()
		for _, s := range all {
			if strings.HasPrefix(s.ID, f.ID) && (f.State == "" || f.State == s.State) && matches(s.Config.Labels, f.Labels) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b ContainerStatus) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out
}

// WaitContainer returns when the container has exited, with its status.
func (m *Manager) WaitContainer(ctx context.Context, id string) (ContainerStatus, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return ContainerStatus{}, err
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		return ContainerStatus{}, fmt.Errorf("wait for container %s: %w", c.id, context.Cause(ctx))
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.status(), nil
}

func (m *Manager) allPods() []*sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	pods := make([]*sandbox, 0, len(m.pods))
	for _, p := range m.pods {
		pods = append(pods, p)
	}
	return pods
}

// findPod finds a pod, and counts as its client having come back for it.
func (m *Manager) findPod(id string) (*sandbox, error) {
	m.mu.Lock()
	p, err := find(m.pods, "pod", id)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.claimPod(p)
	return p, nil
}

// findContainer is findPod for a container.
func (m *Manager) findContainer(id string) (*container, error) {
	m.mu.Lock()
	c, err := find(m.containers, "container", id)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.claimContainer(c)
	return c, nil
}

func find[T any](all map[string]*T, kind, id string) (*T, error) {
	if o := all[id]; o != nil {
		return o, nil
	}
	var found *T
	if len(id) >= minPrefix {
		for full, o := range all {
			if !strings.HasPrefix(full, id) {
				continue
			}
			if found != nil {
				return nil, errorf(ErrInvalid, "%s id %q is ambiguous: give more of it", kind, id)
			}
			found = o
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s %q: %w", kind, id, ErrNotFound)
	}
	return found, nil
}

// newID is 256 random bits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func now() time.Time { return time.Now().UTC().Round(0) }
