package pod

import (
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.opentelemetry.io/otel/attribute"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

// Exit codes that are ours, as everywhere else.
const (
	exitStartError = 128 // the command could not be executed
	exitLost       = 137 // ended unseen: 128 + SIGKILL
)

// containerRecord is container.json. It is first written when the container is
// finished being made; a directory without it is undone.
type containerRecord struct {
	ID        string          `json:"id"`
	PodID     string          `json:"podID"`
	Config    ContainerConfig `json:"config"`
	ImageID   string          `json:"imageID"`
	ImageName string          `json:"imageName"`
	ImageRef  string          `json:"imageRef"`
	// MountImages has, by index into Config.Mounts, the id of a mounted image.
	MountImages map[int]string `json:"mountImages,omitempty"`
	LogPath     string         `json:"logPath"` // "": its driver writes no file
	LogDriver   string         `json:"logDriver,omitempty"`
	User        User           `json:"user"`
	StopSignal  string         `json:"stopSignal"`
	Resources   Resources      `json:"resources"` // in force

	// Restore is what its process is made of at its start; nil: it has been since its
	// creation.
	Restore *restoring `json:"restore,omitempty"`

	// CountForbidden and StopForbidden say what becomes of system calls that its seccomp
	// profile forbids; Forbidden is how often it made which, once it has ended.
	CountForbidden bool              `json:"countForbidden,omitempty"`
	StopForbidden  bool              `json:"stopForbidden,omitempty"`
	Forbidden      map[string]uint64 `json:"forbidden,omitempty"`

	// Abandoned and AbandonedAt are as in podRecord.
	Abandoned   bool      `json:"abandoned,omitempty"`
	AbandonedAt time.Time `json:"abandonedAt,omitzero"`

	State      ContainerState `json:"state"`
	Pid        int            `json:"pid,omitempty"`
	CreatedAt  time.Time      `json:"createdAt"`
	StartedAt  time.Time      `json:"startedAt,omitzero"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	ExitCode   int32          `json:"exitCode,omitempty"`
	Reason     string         `json:"reason,omitempty"`
	Message    string         `json:"message,omitempty"`
}

// container is a container. Its fields are guarded by its pod's mu, but for
// those set at its birth.
type container struct {
	id   string
	key  containerKey
	pod  *sandbox
	what string // for people: "default/web/nginx"

	saving sync.Mutex // see doc.go

	record    containerRecord
	unwritten bool // the disk has not got all of record
	lane      lane
	making    *work
	removing  bool // no verb may begin
	cancelled bool // nothing is restored any more
	abandoned *time.Timer
	process   *specs.Process // of config.json, what exec starts from; nil: read it
	stop      *stopOrder     // while it is being stopped
	// startError says why its command was not executed; "" if it was, or may yet be.
	startError string
	unreaped   error // why the monitor could not forget it when it was asked last
	usage      FilesystemUsage
	announced  bool         // plugins know of it
	spec       *specs.Spec  // for plugins; nil: read it, or there are none
	held       *client.Held // its FIFOs, until its end is recorded; nil: not held

	ending sync.Once     // its end is recorded once
	exited chan struct{} // closed when State is ContainerExited
	forget sync.Once
	reaped chan struct{} // closed when the monitor has forgotten it
}

// forgotten says that no monitor has anything of the container any more.
func (c *container) forgotten() { c.forget.Do(func() { close(c.reaped) }) }

// containerKey identifies a container for its caller, within its pod.
type containerKey struct {
	name    string
	attempt uint32
}

func newContainer(p *sandbox, r containerRecord) *container {
	return &container{
		id: r.ID, key: containerKey{r.Config.Name, r.Config.Attempt}, pod: p, what: p.what + "/" + r.Config.Name,
		record: r, lane: lane{}, exited: make(chan struct{}), reaped: make(chan struct{}),
	}
}

// holders are the names of the container's image leases.
func (r *containerRecord) holders() []string {
	h := []string{r.ID}
	for i := range r.Config.Mounts {
		if r.Config.Mounts[i].Image != "" {
			h = append(h, imageMountHolder(r.ID, i))
		}
	}
	return h
}

func imageMountHolder(id string, mount int) string { return id + "-mount-" + strconv.Itoa(mount) }

// attributes describe the container, and its pod, in traces.
func (c *container) attributes() []attribute.KeyValue {
	return append(c.pod.attributes(), span.ContainerID.String(c.id), span.ContainerName.String(c.key.name))
}

// status is a copy of the container's state; the pod's mu is held.
func (c *container) status() ContainerStatus {
	r := &c.record
	s := ContainerStatus{
		ID: c.id, PodID: c.pod.id, Config: r.Config, State: r.State, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
		FinishedAt: r.FinishedAt, ExitCode: r.ExitCode, Reason: r.Reason, Message: r.Message,
		ImageID: r.ImageID, ImageName: r.ImageName, ImageRef: r.ImageRef, MountImages: r.MountImages,
		LogPath: r.LogPath, LogDriver: r.LogDriver, StopSignal: r.StopSignal, User: r.User, Resources: r.Resources,
	}
	s.User.Groups = slices.Clone(r.User.Groups)
	if r.State != ContainerExited {
		s.Pid = r.Pid
	}
	for _, w := range c.lane {
		s.Stage = w.what + ": " + w.current()
	}
	return s
}

// updateContainer changes the record and writes it.
func (m *Manager) updateContainer(c *container, durable bool, change func(*containerRecord)) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.pod.mu.Lock()
	change(&c.record)
	r := c.record
	c.pod.mu.Unlock()
	err := m.store.SaveContainer(c.pod.id, c.id, &r, durable)
	c.pod.mu.Lock()
	c.unwritten = err != nil
	c.pod.mu.Unlock()
	return err
}

// writeEnds writes what a full disk had no room for of how the pod's containers
// ended, and returns those for which there still is none: their exit.json has to stay.
func (m *Manager) writeEnds(p *sandbox) (unwritten []*container) {
	for _, c := range p.all() {
		p.mu.Lock()
		write := c.unwritten && c.record.State == ContainerExited && !c.removing && !p.removing
		p.mu.Unlock()
		if !write {
			continue
		}
		if err := m.updateContainer(c, false, func(*containerRecord) {}); err != nil {
			m.o.Log.Error("write how container ended", "container", c.id, "error", err)
			unwritten = append(unwritten, c)
		}
	}
	return unwritten
}

// unseen is why an exit code is not known although there is a monitor (ADR 31).
const unseen = "it ended when its monitor had been killed: before Linux 6.15 the kernel keeps no exit code for the next one"

// ended writes into the record how the container's process ended.
func (r *containerRecord) ended(e client.Exit) {
	r.State, r.FinishedAt, r.ExitCode = ContainerExited, e.At.UTC(), int32(e.Status)
	if e.At.IsZero() {
		r.FinishedAt = time.Now().UTC().Round(0)
	}
	if r.StartedAt.IsZero() { // the disk was full when it was, and the daemon was killed
		r.StartedAt = e.StartedAt.UTC()
	}
	switch {
	case e.OOMKilled:
		r.Reason = ReasonOOMKilled
	case e.Forbidden:
		r.Reason, r.Message = ReasonForbidden, usedForbidden(r.Forbidden)
	case e.Lost:
		r.ExitCode, r.Reason, r.Message = exitLost, ReasonUnknown, unseen
	case e.Status == 0:
		r.Reason = ReasonCompleted
	default:
		r.Reason = ReasonError
	}
}

// lost is how a container ended whose end nobody saw.
func (r *containerRecord) lost(why string) {
	r.State, r.FinishedAt, r.ExitCode = ContainerExited, time.Now().UTC().Round(0), exitLost
	r.Reason, r.Message = ReasonUnknown, why
}

// running returns the monitor of a container that runs.
func (c *container) running() (Monitor, error) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.record.State != ContainerRunning || c.removing || c.pod.monitor == nil {
		return nil, errorf(ErrState, "container %s is %s, not running", c.id, c.record.State)
	}
	return c.pod.monitor, nil
}

// signal is the number of the container's stop signal.
func (r *containerRecord) signal() syscall.Signal {
	n, err := bundle.ParseSignal(r.StopSignal)
	if err != nil {
		n = bundle.SIGTERM
	}
	return syscall.Signal(n)
}
