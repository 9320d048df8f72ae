package pod

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/pod/bundle"
)

// phase is where a pod is in its life.
type phase string

const (
	phaseCreating phase = "creating" // a crash now is undone
	phaseReady    phase = "ready"
	phaseStopped  phase = "stopped"
)

// podRecord is pod.json.
type podRecord struct {
	ID        string    `json:"id"`
	Config    PodConfig `json:"config"`
	Runtime   string    `json:"runtime"`
	CreatedAt time.Time `json:"createdAt"`
	Phase     phase     `json:"phase"`
	// NetNS is the path of the pod's network namespace; "" with the host's.
	NetNS string `json:"netns,omitempty"`
	// Attached says that Network.Setup was begun and Teardown has not succeeded.
	Attached bool         `json:"attached,omitempty"`
	IPs      []netip.Addr `json:"ips,omitempty"`
	// Labels are the pod's, of SELinux.
	Labels bundle.Labels `json:"labels,omitzero"`
	// Abandoned: its client had given up when it was finished, at AbandonedAt, and was not
	// seen since. A record from before AbandonedAt has Abandoned alone.
	Abandoned   bool      `json:"abandoned,omitempty"`
	AbandonedAt time.Time `json:"abandonedAt,omitzero"`
}

// sandbox is a pod. Its fields are guarded by mu, but for those set at its birth.
type sandbox struct {
	id   string
	key  podKey
	what string // for people: "default/web"

	saving sync.Mutex // see doc.go

	// ending is cancelled when the pod is being stopped: no making goes on.
	ending context.Context
	end    context.CancelFunc

	mu         sync.Mutex
	record     podRecord
	unwritten  bool           // the disk has not got all of record
	monitor    Monitor        // nil before it is started, after it ended and when it is lost
	crew       *crew          // that monitor is of
	shared     bundle.Sandbox // what containers join
	containers map[string]*container
	names      map[containerKey]*container
	lane       lane
	stopping   bool // no new containers
	removing   bool // its record need not be written any more
	stopTold   bool // plugins know that it is stopped
	endTold    bool // subscribers know that it is not ready any more
	left       bool // its network could not be torn down
	ended      bool // its sandbox has, by itself or when it was stopped
	flushed    bool // its record outlives a power cut
	making     *work
	abandoned  *time.Timer // removes a pod that nobody came back for
}

// podKey identifies a pod for its caller.
type podKey struct {
	name, namespace, uid string
	attempt              uint32
}

func keyOf(c *PodConfig) podKey { return podKey{c.Name, c.Namespace, c.UID, c.Attempt} }

func newSandbox(r podRecord) *sandbox {
	p := &sandbox{
		id: r.ID, key: keyOf(&r.Config), what: r.Config.Namespace + "/" + r.Config.Name, record: r,
		containers: map[string]*container{}, names: map[containerKey]*container{}, lane: lane{},
	}
	p.ending, p.end = context.WithCancel(context.Background())
	return p
}

// attributes describe the pod in traces.
func (p *sandbox) attributes() []attribute.KeyValue {
	c := &p.record.Config // never changes after its birth
	return []attribute.KeyValue{
		span.PodID.String(p.id), span.Namespace.String(c.Namespace), span.PodName.String(c.Name), span.PodUID.String(c.UID),
	}
}

// network is what the network is told about the pod.
func (r *podRecord) network() network.Pod {
	c := &r.Config
	p := network.Pod{
		ID: r.ID, Name: c.Name, Namespace: c.Namespace, UID: c.UID, NetNS: r.NetNS,
		Labels: c.Labels, Annotations: c.Annotations, CgroupParent: c.CgroupParent,
	}
	for _, m := range c.PortMappings {
		if m.HostPort != 0 {
			p.PortMappings = append(p.PortMappings, network.PortMapping{
				HostIP: m.HostIP, HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort), Protocol: m.Protocol,
			})
		}
	}
	if d := c.DNS; d != nil {
		p.DNS = network.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	return p
}

// wantsNetwork: neither the host's nor loopback alone.
func (r *podRecord) wantsNetwork() bool {
	return r.NetNS != "" && r.Config.Annotations[bundle.NetworkAnnotation] != bundle.NetworkNone
}

// status is a copy of the pod's state; p.mu is held.
func (p *sandbox) status() PodStatus {
	s := PodStatus{
		ID: p.id, Config: p.record.Config, RuntimeHandler: p.record.Runtime, State: PodNotReady,
		CreatedAt: p.record.CreatedAt, IPs: slices.Clone(p.record.IPs), NetNS: p.record.NetNS,
	}
	if p.record.Phase == phaseReady && p.monitor != nil && !p.ended {
		s.State = PodReady
	}
	for _, w := range p.lane {
		s.Stage = w.what + ": " + w.current()
	}
	return s
}

// containerStatuses are copies, oldest first; p.mu is held.
func (p *sandbox) containerStatuses() []ContainerStatus {
	var all []ContainerStatus
	for _, c := range p.containers {
		all = append(all, c.status())
	}
	slices.SortFunc(all, func(a, b ContainerStatus) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all
}

// live returns the monitor, or an error that says why there is none.
func (p *sandbox) live() (Monitor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.monitor == nil {
		return nil, errorf(ErrState, "pod %s: %w", p.id, errMonitorGone)
	}
	return p.monitor, nil
}

// errMonitorGone: the pod has no monitor any more, and what it had is ended.
var errMonitorGone = errors.New("its monitor is gone")

// update changes the record and writes it.
func (m *Manager) updatePod(p *sandbox, durable bool, change func(*podRecord)) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.mu.Lock()
	change(&p.record)
	r := p.record
	p.mu.Unlock()
	err := m.store.SavePod(p.id, &r, durable)
	p.mu.Lock()
	p.unwritten = err != nil
	p.mu.Unlock()
	return err
}

// updateEnding is updatePod while the pod is being stopped, for which a full disk is no
// hindrance: the next start finds that it has no sandbox, and stopping it is repeated.
func (m *Manager) updateEnding(p *sandbox, change func(*podRecord)) {
	err := m.updatePod(p, false, change)
	p.mu.Lock()
	removing := p.removing
	p.mu.Unlock()
	if err != nil && !removing {
		m.o.Log.Error("write that the pod is stopped", "pod", p.id, "error", err)
	}
}

// Paths of a pod in the directory that dies with the boot.
func (m *Manager) podState(id string) string { return filepath.Join(m.o.State, "pods", id) }
func (m *Manager) netnsPath(id string) string {
	return filepath.Join(m.o.State, "netns", id)
}
func (m *Manager) runtimeState() string { return filepath.Join(m.o.State, "runtime") }
func (m *Manager) programState(handler string) string {
	return filepath.Join(m.o.State, "runtimes", handler)
}
func (m *Manager) containerState(pod, id string) string { return filepath.Join(m.podState(pod), id) }

// specFile is the OCI spec of a pod, or of a container, in its bundle.
const specFile = "config.json"

// monitorSocket is the name that the monitor gives its socket in its bundle.
const monitorSocket = "monitor.sock"

// sameConfig: two requests are one if they say the same.
func sameConfig[T any](a, b *T) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// matches reports whether labels has all of want.
func matches(labels, want map[string]string) bool {
	for k, v := range maps.All(want) {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
