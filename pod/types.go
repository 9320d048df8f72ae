package pod

import (
	"io"
	"net/netip"
	"time"

	"github.com/strake-containers/strake/pod/bundle"
)

// What can be asked for. The types live beside their pure compiler.
type (
	PodConfig       = bundle.PodConfig
	ContainerConfig = bundle.ContainerConfig
	Resources       = bundle.Resources
	User            = bundle.User
	KeyValue        = bundle.KeyValue
)

// PodState is Ready until the pod is stopped or its sandbox is lost.
type PodState string

const (
	PodReady    PodState = "ready"
	PodNotReady PodState = "notready"
)

// ContainerState is where a container is in its life.
type ContainerState string

const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
	ContainerUnknown ContainerState = "unknown" // its monitor does not answer
)

// Reasons of a ContainerStatus whose container has exited.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError" // the process could not be executed
	ReasonUnknown    = "Unknown"    // lost with a reboot or with its monitor
	// ReasonForbidden is of one that was ended for calls that its seccomp profile forbids,
	// as CRI-O calls it.
	ReasonForbidden = "seccomp killed"
)

// PodStatus is a pod as it is now. It shares no memory with the Manager's own
// state, but callers do not write to the maps and slices of its Config.
type PodStatus struct {
	ID             string
	Config         PodConfig
	RuntimeHandler string
	State          PodState
	CreatedAt      time.Time
	IPs            []netip.Addr // primary first; none with the host's network
	NetNS          string       // path; "" with the host's network
	// Stage names the step a verb is in right now, for whoever waits; "" when idle.
	Stage string
}

// ContainerStatus is a container as it is now; see PodStatus for its memory.
type ContainerStatus struct {
	ID     string
	PodID  string
	Config ContainerConfig

	State      ContainerState
	CreatedAt  time.Time
	StartedAt  time.Time // zero: never
	FinishedAt time.Time // zero: not yet
	ExitCode   int32
	Reason     string
	Message    string
	Pid        int // of init in the daemon's PID namespace; 0 unless created or running

	ImageID   string // config digest
	ImageName string // as the user wrote it, or a tag of the image
	ImageRef  string // a repo digest, or ImageID
	// MountImages has, by index into Config.Mounts, the id of a mounted image.
	MountImages map[int]string

	LogPath    string // absolute; "" if its driver writes no file
	LogDriver  string // as internal/logdriver has it; "" of a container older than that
	StopSignal string // the one that StopContainer sends
	User       User
	Resources  Resources // in force, after updates
	Stage      string
}

// PodFilter selects pods; zero fields select all.
type PodFilter struct {
	ID     string // a prefix
	State  PodState
	Labels map[string]string
}

// ContainerFilter selects containers; zero fields select all.
type ContainerFilter struct {
	ID     string // a prefix
	PodID  string // a prefix
	State  ContainerState
	Labels map[string]string
}

// ExecResult is what ExecSync brings back; the outputs are capped at 16 MiB each.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int32
}

// ExecConfig is a process to run in a container, as its user and with its
// environment unless said otherwise.
type ExecConfig struct {
	Cmd        []string
	TTY        bool
	Env        []bundle.KeyValue // added to the container's
	WorkingDir string            // "" is the container's
	User       string            // "" is the container's; else as RunAsUsername
	Privileged bool              // all capabilities
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Streams are the caller's ends. A nil one is not connected. The verb that takes
// them returns when the outputs have been written out; it never closes them, and
// a Stdin that blocks in Read does not hold it up.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size // nil, or closed when no more will come
	// Connected, if not nil, is called once the streams are connected and before
	// anything is copied: who attaches before StartContainer then misses nothing.
	Connected func()
}

// EventType is what happened to a container, or to a pod's sandbox.
type EventType string

const (
	EventCreated EventType = "created"
	EventStarted EventType = "started"
	EventStopped EventType = "stopped"
	EventDeleted EventType = "deleted"
)

// Event is one change. ContainerID is the pod's own ID when it is about the sandbox.
type Event struct {
	Type        EventType
	ContainerID string
	PodID       string
	Time        time.Time
	OOM         bool // with EventStopped
	Pod         PodStatus
	Containers  []ContainerStatus // all of the pod, after the change
}

// ContainerStats is a container's use of resources; Cgroup is nil when it does
// not run.
type ContainerStats struct {
	Container     ContainerStatus
	Cgroup        *CgroupStats
	Processes     ProcessStats // of PodsMetrics only
	WritableLayer FilesystemUsage
}

// ProcessStats is what only a look at each of a container's processes tells.
type ProcessStats struct {
	Processes, FileDescriptors uint64
	Sockets                    uint64 // of the descriptors
	MaxOpenFiles               uint64 // soft limit of the container's init
}

// PodStats is a pod's. Cgroup is that of its cgroup parent (nil if it has none of
// its own), Network that of its namespace.
type PodStats struct {
	Pod        PodStatus
	Cgroup     *CgroupStats
	Network    []InterfaceStats // primary first; nil with the host's network
	Containers []ContainerStats
}

// CgroupStats are one cgroup's counters at Time. Durations are in nanoseconds,
// sizes in bytes; a limit of 0 is "none".
type CgroupStats struct {
	Time   time.Time
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	IO     []IOStats
	Huge   []HugetlbStats
	// Pressure of the three kinds; nil where the kernel does not tell (cgroup v1).
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// CPUStats counts CPU time.
type CPUStats struct {
	Usage, User, System       uint64
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64
}

// MemoryStats counts memory.
type MemoryStats struct {
	Usage, MaxUsage, Limit      uint64
	WorkingSet, RSS, Cache      uint64
	InactiveFile, Kernel        uint64
	SwapUsage, SwapLimit        uint64
	PageFaults, MajorPageFaults uint64
	MappedFile                  uint64
	LimitHits, OOMKills         uint64 // how often the limit was met; processes killed
}

// PidsStats counts tasks.
type PidsStats struct{ Current, Limit uint64 }

// IOStats counts block I/O on one device.
type IOStats struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// HugetlbStats counts huge pages of one size.
type HugetlbStats struct {
	PageSize               string
	Usage, MaxUsage, Limit uint64
}

// Pressure is the kernel's PSI; averages are percentages, Total is in µs.
type Pressure struct{ Some, Full PressureLine }

// PressureLine is one line of it.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// FilesystemUsage is what lies below Path.
type FilesystemUsage struct {
	Path   string
	Time   time.Time
	Bytes  uint64
	Inodes uint64
}

// DiskCapacity is that of a whole file system.
type DiskCapacity struct{ Bytes, Inodes, FreeInodes uint64 }

// InterfaceStats are a network interface's counters.
type InterfaceStats struct {
	Name               string
	RxBytes, RxPackets uint64
	RxErrors, RxDrops  uint64
	TxBytes, TxPackets uint64
	TxErrors, TxDrops  uint64
}

// Info is what the Manager says about itself.
type Info struct {
	Pods, Containers, Running int
	// OOMKilled and MonitorsReplaced count since Open.
	OOMKilled, MonitorsReplaced uint64
	// Stages are the verbs under way and the step each is in: "RunPod NAME: network".
	Stages []string
	// Unreadable are the entries that were set aside at start, with the reason.
	Unreadable []string
}
