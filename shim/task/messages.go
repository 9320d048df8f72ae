package task

import (
	"time"

	"github.com/strake-containers/strake/shim/wire"
)

// The messages of containerd.task.v2 and v3 (the same on the wire), of
// containerd.runtime.sandbox.v1, of containerd's events and of our own
// shim/api/monitor.proto, reduced to the fields that have a meaning here. The
// numbers are those of the .proto files.

type timestamp struct {
	Seconds int64 `pb:"1"`
	Nanos   int32 `pb:"2"`
}

// time is now for one that a shim has left out.
func (t *timestamp) time() time.Time {
	if t == nil {
		return time.Now()
	}
	return time.Unix(t.Seconds, int64(t.Nanos))
}

// stamp is nil for the zero time.
func stamp(t time.Time) *timestamp {
	if t.IsZero() {
		return nil
	}
	return &timestamp{t.Unix(), int32(t.Nanosecond())}
}

type mount struct {
	Type    string   `pb:"1"`
	Source  string   `pb:"2"`
	Target  string   `pb:"3"`
	Options []string `pb:"4"`
}

type createTaskRequest struct {
	ID               string    `pb:"1"`
	Bundle           string    `pb:"2"`
	Rootfs           []*mount  `pb:"3"`
	Terminal         bool      `pb:"4"`
	Stdin            string    `pb:"5"`
	Stdout           string    `pb:"6"`
	Stderr           string    `pb:"7"`
	Checkpoint       string    `pb:"8"`
	ParentCheckpoint string    `pb:"9"`
	Options          *wire.Any `pb:"10"`
}

// processRequest addresses a process: an exec, or init where ExecID is "". It
// serves State, Start, Delete and Wait, whose requests are the same.
type processRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
}

// pidResponse answers Create and Start.
type pidResponse struct {
	Pid uint32 `pb:"1"`
}

type deleteResponse struct {
	Pid        uint32     `pb:"1"`
	ExitStatus uint32     `pb:"2"`
	ExitedAt   *timestamp `pb:"3"`
}

type execRequest struct {
	ID       string    `pb:"1"`
	ExecID   string    `pb:"2"`
	Terminal bool      `pb:"3"`
	Stdin    string    `pb:"4"`
	Stdout   string    `pb:"5"`
	Stderr   string    `pb:"6"`
	Spec     *wire.Any `pb:"7"`
}

type resizePtyRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Width  uint32 `pb:"3"`
	Height uint32 `pb:"4"`
}

// The values of containerd.v1.types.Status.
const (
	statusCreated = 1
	statusRunning = 2
	statusStopped = 3
	statusPaused  = 4
)

type stateResponse struct {
	ID         string     `pb:"1"`
	Bundle     string     `pb:"2"`
	Pid        uint32     `pb:"3"`
	Status     int32      `pb:"4"`
	Stdin      string     `pb:"5"`
	Stdout     string     `pb:"6"`
	Stderr     string     `pb:"7"`
	Terminal   bool       `pb:"8"`
	ExitStatus uint32     `pb:"9"`
	ExitedAt   *timestamp `pb:"10"`
	ExecID     string     `pb:"11"`
}

type killRequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Signal uint32 `pb:"3"`
	All    bool   `pb:"4"`
}

type closeIORequest struct {
	ID     string `pb:"1"`
	ExecID string `pb:"2"`
	Stdin  bool   `pb:"3"`
}

// idRequest serves Pids, Pause, Resume, Stats and Connect, and our ReopenLog and
// ContainerStatus.
type idRequest struct {
	ID string `pb:"1"`
}

type pidsResponse struct {
	Processes []*processInfo `pb:"1"`
}

type processInfo struct {
	Pid  uint32    `pb:"1"`
	Info *wire.Any `pb:"2"`
}

// processDetails is containerd.runc.v1.ProcessDetails: which exec a pid is.
type processDetails struct {
	ExecID string `pb:"1"`
}

type updateRequest struct {
	ID        string    `pb:"1"`
	Resources *wire.Any `pb:"2"`
}

// exitResponse answers Wait and WaitSandbox.
type exitResponse struct {
	ExitStatus uint32     `pb:"1"`
	ExitedAt   *timestamp `pb:"2"`
}

type statsResponse struct {
	Stats *wire.Any `pb:"1"`
}

type connectResponse struct {
	ShimPid uint32 `pb:"1"`
	TaskPid uint32 `pb:"2"`
	Version string `pb:"3"`
}

type shutdownRequest struct {
	ID  string `pb:"1"`
	Now bool   `pb:"2"`
}

// runcOptions is containerd.runc.v1.Options, as far as it means something here.
type runcOptions struct {
	NoPivotRoot   bool   `pb:"1"`
	NoNewKeyring  bool   `pb:"2"`
	Root          string `pb:"7"`
	CriuPath      string `pb:"8"`
	SystemdCgroup bool   `pb:"9"`
}

// checkpointRequest is CheckpointTaskRequest.
type checkpointRequest struct {
	ID      string    `pb:"1"`
	Path    string    `pb:"2"`
	Options *wire.Any `pb:"3"`
}

// checkpointOptions is containerd.runc.v1.CheckpointOptions. Its image_path is
// containerd's own: the path is in the request.
type checkpointOptions struct {
	Exit                bool     `pb:"1"`
	OpenTCP             bool     `pb:"2"`
	ExternalUnixSockets bool     `pb:"3"`
	Terminal            bool     `pb:"4"`
	FileLocks           bool     `pb:"5"`
	EmptyNamespaces     []string `pb:"6"`
	CgroupsMode         string   `pb:"7"`
	WorkPath            string   `pb:"9"`
}

// createOptions is strake.monitor.v1.CreateOptions.
type createOptions struct {
	RuntimeStateRoot string `pb:"1"`
	StdinOnce        bool   `pb:"2"`
	LogMaxBytes      int64  `pb:"3"`
	CountForbidden   bool   `pb:"4"`
	StopForbidden    bool   `pb:"5"`
}

// ---- sandbox

type createSandboxRequest struct {
	SandboxID  string    `pb:"1"`
	BundlePath string    `pb:"2"`
	Options    *wire.Any `pb:"4"`
	NetnsPath  string    `pb:"5"`
}

// sandboxRequest serves every other rpc of the service.
type sandboxRequest struct {
	SandboxID string `pb:"1"`
}

// sandboxStatusRequest asks for Info as well.
type sandboxStatusRequest struct {
	SandboxID string `pb:"1"`
	Verbose   bool   `pb:"2"`
}

type startSandboxResponse struct {
	Pid       uint32     `pb:"1"`
	CreatedAt *timestamp `pb:"2"`
}

type platformResponse struct {
	Platform *platform `pb:"1"`
}

type platform struct {
	OS           string `pb:"1"`
	Architecture string `pb:"2"`
}

type sandboxStatusResponse struct {
	SandboxID string            `pb:"1"`
	Pid       uint32            `pb:"2"`
	State     string            `pb:"3"`
	Info      map[string]string `pb:"4"`
	CreatedAt *timestamp        `pb:"5"`
	ExitedAt  *timestamp        `pb:"6"`
}

type sandboxMetricsResponse struct {
	Metrics *metric `pb:"1"`
}

type metric struct {
	Timestamp *timestamp `pb:"1"`
	ID        string     `pb:"2"`
	Data      *wire.Any  `pb:"3"`
}

// ---- strake.monitor.v1

type execSyncRequest struct {
	ID        string `pb:"1"`
	Process   []byte `pb:"2"`
	Timeout   int64  `pb:"3"`
	MaxOutput int64  `pb:"4"`
}

type execSyncResponse struct {
	Stdout     []byte `pb:"1"`
	Stderr     []byte `pb:"2"`
	ExitCode   int32  `pb:"3"`
	TimedOut   bool   `pb:"4"`
	OutputFile string `pb:"5"`
	StdoutSize int64  `pb:"6"`
}

type containerStatusResponse struct {
	ID           string `pb:"1"`
	Bundle       string `pb:"2"`
	Pid          int32  `pb:"3"`
	State        string `pb:"4"`
	CreatedAt    int64  `pb:"5"`
	StartedAt    int64  `pb:"6"`
	ExitedAt     int64  `pb:"7"`
	ExitStatus   uint32 `pb:"8"`
	Signal       int32  `pb:"9"`
	OOMKilled    bool   `pb:"10"`
	LogLostBytes uint64 `pb:"11"`
	LogError     string `pb:"12"`
}

type statsRequest struct {
	IDs       []string `pb:"1"`
	PodCgroup string   `pb:"2"`
	Processes bool     `pb:"3"`
}

type updateCgroupRequest struct {
	Cgroup    string `pb:"1"`
	Resources []byte `pb:"2"`
}

type podStatsResponse struct {
	Containers []*containerStats `pb:"1"`
	Pod        *cgroupStats      `pb:"2"`
}

type podsStatsRequest struct {
	Pods []*statsRequest `pb:"1"`
}

type podsStatsResponse struct {
	Pods []*podStats `pb:"1"`
}

type podStats struct {
	Stats *podStatsResponse `pb:"1"`
	Error string            `pb:"2"`
}

type containerStats struct {
	ID        string        `pb:"1"`
	Stats     *cgroupStats  `pb:"2"`
	Processes *processStats `pb:"3"`
}

type processStats struct {
	Processes       uint64 `pb:"1"`
	FileDescriptors uint64 `pb:"2"`
	Sockets         uint64 `pb:"3"`
	MaxOpenFiles    uint64 `pb:"4"`
}

type cgroupStats struct {
	Time           int64           `pb:"1"`
	CPU            *cpuStats       `pb:"2"`
	Memory         *memoryStats    `pb:"3"`
	PidsCurrent    uint64          `pb:"4"`
	PidsLimit      uint64          `pb:"5"`
	IO             []*ioStats      `pb:"6"`
	Hugetlb        []*hugetlbStats `pb:"7"`
	CPUPressure    *pressure       `pb:"8"`
	MemoryPressure *pressure       `pb:"9"`
	IOPressure     *pressure       `pb:"10"`
}

type cpuStats struct {
	Usage            uint64 `pb:"1"`
	User             uint64 `pb:"2"`
	System           uint64 `pb:"3"`
	Periods          uint64 `pb:"4"`
	ThrottledPeriods uint64 `pb:"5"`
	ThrottledTime    uint64 `pb:"6"`
}

type memoryStats struct {
	Usage           uint64 `pb:"1"`
	MaxUsage        uint64 `pb:"2"`
	Limit           uint64 `pb:"3"`
	WorkingSet      uint64 `pb:"4"`
	RSS             uint64 `pb:"5"`
	Cache           uint64 `pb:"6"`
	InactiveFile    uint64 `pb:"7"`
	Kernel          uint64 `pb:"8"`
	SwapUsage       uint64 `pb:"9"`
	SwapLimit       uint64 `pb:"10"`
	PageFaults      uint64 `pb:"11"`
	MajorPageFaults uint64 `pb:"12"`
	MappedFile      uint64 `pb:"13"`
	LimitHits       uint64 `pb:"14"`
	OOMKills        uint64 `pb:"15"`
}

type ioStats struct {
	Major      uint64 `pb:"1"`
	Minor      uint64 `pb:"2"`
	ReadBytes  uint64 `pb:"3"`
	WriteBytes uint64 `pb:"4"`
	ReadOps    uint64 `pb:"5"`
	WriteOps   uint64 `pb:"6"`
}

type hugetlbStats struct {
	PageSize string `pb:"1"`
	Usage    uint64 `pb:"2"`
	MaxUsage uint64 `pb:"3"`
	Limit    uint64 `pb:"4"`
}

type pressure struct {
	Some *pressureLine `pb:"1"`
	Full *pressureLine `pb:"2"`
}

type pressureLine struct {
	Avg10  float64 `pb:"1"`
	Avg60  float64 `pb:"2"`
	Avg300 float64 `pb:"3"`
	Total  uint64  `pb:"4"`
}

type adoptRequest struct {
	SandboxID  string `pb:"1"`
	BundlePath string `pb:"2"`
}

// ---- containerd's events

type forwardRequest struct {
	Envelope *envelope `pb:"1"`
}

type envelope struct {
	Timestamp *timestamp `pb:"1"`
	Namespace string     `pb:"2"`
	Topic     string     `pb:"3"`
	Event     *wire.Any  `pb:"4"`
}

type taskCreate struct {
	ContainerID string   `pb:"1"`
	Bundle      string   `pb:"2"`
	Rootfs      []*mount `pb:"3"`
	IO          *taskIO  `pb:"4"`
	Pid         uint32   `pb:"6"`
}

type taskIO struct {
	Stdin    string `pb:"1"`
	Stdout   string `pb:"2"`
	Stderr   string `pb:"3"`
	Terminal bool   `pb:"4"`
}

type taskStart struct {
	ContainerID string `pb:"1"`
	Pid         uint32 `pb:"2"`
}

type taskDelete struct {
	ContainerID string     `pb:"1"`
	Pid         uint32     `pb:"2"`
	ExitStatus  uint32     `pb:"3"`
	ExitedAt    *timestamp `pb:"4"`
	ID          string     `pb:"5"`
}

type taskExit struct {
	ContainerID string     `pb:"1"`
	ID          string     `pb:"2"`
	Pid         uint32     `pb:"3"`
	ExitStatus  uint32     `pb:"4"`
	ExitedAt    *timestamp `pb:"5"`
}

// taskEvent is TaskOOM, TaskPaused and TaskResumed.
type taskEvent struct {
	ContainerID string `pb:"1"`
}

type taskExecAdded struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
}

type taskExecStarted struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
	Pid         uint32 `pb:"3"`
}
