package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/strake-containers/strake/shim/api"
)

// Status is all that the monitor knows about a container's init process.
type Status struct {
	ID, Bundle   string
	Pid          int
	State        string // "created", StateStarting, "running", StatePaused or "stopped"
	CreatedAt    time.Time
	StartedAt    time.Time // zero if it was never started
	ExitedAt     time.Time // zero while it runs
	ExitStatus   int
	Signal       int
	OOMKilled    bool
	LogLostBytes uint64 // could not be written to the log
	LogError     string // the last error of writing the log
}

// StateStarting is the state of a container whose Start is under way, which another Start
// waits for: its process may run, and may have ended.
const StateStarting = "starting"

// StatePaused is the state of a container that is frozen.
const StatePaused = "paused"

// ContainerStatus asks for the state of a container.
func (m *Monitor) ContainerStatus(ctx context.Context, id string) (Status, error) {
	r, err := m.monitor.ContainerStatus(ctx, &api.ContainerStatusRequest{Id: id})
	if err != nil {
		return Status{}, call("status of", id, "", err)
	}
	return Status{
		ID: r.Id, Bundle: r.Bundle, Pid: int(r.Pid), State: r.State,
		CreatedAt: unixTime(r.CreatedAt), StartedAt: unixTime(r.StartedAt), ExitedAt: unixTime(r.ExitedAt),
		ExitStatus: int(r.ExitStatus), Signal: int(r.Signal), OOMKilled: r.OomKilled,
		LogLostBytes: r.LogLostBytes, LogError: r.LogError,
	}, nil
}

// ReopenLog makes the monitor open the container's log path again. It is
// ErrNotRunning once the container has stopped.
func (m *Monitor) ReopenLog(ctx context.Context, id string) error {
	_, err := m.monitor.ReopenLog(ctx, &api.ReopenLogRequest{Id: id})
	return call("reopen log of", id, "", err)
}

// Stats is one answer: Containers has an entry for each id that is there, Pod is
// nil without a pod cgroup.
type Stats struct {
	Containers map[string]*CgroupStats
	Processes  map[string]ProcessStats // by container; only if asked for
	Pod        *CgroupStats
}

// ProcessStats is what only a look at each process tells.
type ProcessStats struct {
	Processes, FileDescriptors uint64
	Sockets                    uint64 // of the descriptors
	MaxOpenFiles               uint64 // soft limit of the container's init
}

// CgroupStats is what one cgroup counts. Sizes are in bytes, limits 0 where there
// is none, pressure nil where the kernel has none.
type CgroupStats struct {
	Time                                    time.Time
	CPU                                     CPUStats
	Memory                                  MemoryStats
	PidsCurrent, PidsLimit                  uint64
	IO                                      []IOStats
	Hugetlb                                 []HugetlbStats
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// CPUStats counts since the cgroup was made.
type CPUStats struct {
	Usage, User, System       time.Duration
	Periods, ThrottledPeriods uint64
	ThrottledTime             time.Duration
}

// MemoryStats are bytes and counts; WorkingSet is Usage without InactiveFile, as the kubelet reckons.
type MemoryStats struct {
	Usage, MaxUsage, Limit     uint64
	WorkingSet, RSS, Cache     uint64
	InactiveFile, Kernel       uint64
	SwapUsage, SwapLimit       uint64
	PageFaults, MajorPageFault uint64
	MappedFile                 uint64
	LimitHits, OOMKills        uint64 // how often the limit was met; processes killed
}

// IOStats counts one block device.
type IOStats struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// HugetlbStats counts one size of huge pages, such as "2MB".
type HugetlbStats struct {
	PageSize               string
	Usage, MaxUsage, Limit uint64
}

// Pressure is the kernel's PSI.
type Pressure struct{ Some, Full PressureLine }

// PressureLine has averages in percent over 10, 60 and 300 seconds; the stall time
// since the cgroup was made.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// Stats reads the cgroups of containers and, unless podCgroup is "", that of the
// pod, a path below the cgroup root; with processes, it looks at each process too.
func (m *Monitor) Stats(ctx context.Context, ids []string, podCgroup string, processes bool) (Stats, error) {
	r, err := m.monitor.Stats(ctx, &api.StatsRequest{Ids: ids, PodCgroup: podCgroup, Processes: processes})
	if err != nil {
		return Stats{}, call("stats", podCgroup, "", err)
	}
	return podStats(r), nil
}

// StatsQuery is what Stats is asked for.
type StatsQuery struct {
	IDs       []string
	PodCgroup string
}

// PodStats is an answer to a StatsQuery, or why there is none.
type PodStats struct {
	Stats
	Err error
}

// PodsStats is Stats, without processes, for each of the queries, in their order.
func (m *Monitor) PodsStats(ctx context.Context, queries []StatsQuery) ([]PodStats, error) {
	req := &api.PodsStatsRequest{}
	for _, q := range queries {
		req.Pods = append(req.Pods, &api.StatsRequest{Ids: q.IDs, PodCgroup: q.PodCgroup})
	}
	r, err := m.monitor.PodsStats(ctx, req)
	if status.Code(err) == codes.Unimplemented { // a monitor that was started by an older straked
		return m.podsStatsOneByOne(ctx, queries)
	}
	if err == nil && len(r.Pods) != len(queries) {
		err = fmt.Errorf("%d pods were asked for, %d answered", len(queries), len(r.Pods))
	}
	if err != nil {
		return nil, call("stats", "", "", err)
	}
	all := make([]PodStats, len(queries))
	for i, p := range r.Pods {
		if p.Error != "" {
			all[i].Err = errors.New(p.Error)
		} else {
			all[i].Stats = podStats(p.GetStats())
		}
	}
	return all, nil
}

func (m *Monitor) podsStatsOneByOne(ctx context.Context, queries []StatsQuery) ([]PodStats, error) {
	all := make([]PodStats, len(queries))
	for i, q := range queries {
		all[i].Stats, all[i].Err = m.Stats(ctx, q.IDs, q.PodCgroup, false)
	}
	return all, ctx.Err()
}

func podStats(r *api.StatsResponse) Stats {
	s := Stats{Containers: make(map[string]*CgroupStats, len(r.GetContainers())), Pod: cgroupStats(r.GetPod())}
	for _, c := range r.GetContainers() {
		s.Containers[c.Id] = cgroupStats(c.Stats)
		if p := c.Processes; p != nil {
			if s.Processes == nil {
				s.Processes = make(map[string]ProcessStats, len(r.Containers))
			}
			s.Processes[c.Id] = ProcessStats{
				Processes: p.Processes, FileDescriptors: p.FileDescriptors, Sockets: p.Sockets, MaxOpenFiles: p.MaxOpenFiles,
			}
		}
	}
	return s
}

// UpdateCgroup changes the limits of a cgroup, a path below the cgroup root;
// fields that are unset stay. It is ErrNotFound where there is no such cgroup.
func (m *Monitor) UpdateCgroup(ctx context.Context, cgroup string, r *specs.LinuxResources) error {
	resources, err := json.Marshal(r)
	if err == nil {
		_, err = m.monitor.UpdateCgroup(ctx, &api.UpdateCgroupRequest{Cgroup: cgroup, Resources: resources})
	}
	return call("update cgroup", cgroup, "", err)
}

func cgroupStats(s *api.CgroupStats) *CgroupStats {
	if s == nil {
		return nil
	}
	c, m := s.GetCpu(), s.GetMemory()
	out := &CgroupStats{
		Time: unixTime(s.Time),
		CPU: CPUStats{
			Usage: time.Duration(c.GetUsage()), User: time.Duration(c.GetUser()), System: time.Duration(c.GetSystem()),
			Periods: c.GetPeriods(), ThrottledPeriods: c.GetThrottledPeriods(), ThrottledTime: time.Duration(c.GetThrottledTime()),
		},
		Memory: MemoryStats{
			Usage: m.GetUsage(), MaxUsage: m.GetMaxUsage(), Limit: m.GetLimit(),
			WorkingSet: m.GetWorkingSet(), RSS: m.GetRss(), Cache: m.GetCache(),
			InactiveFile: m.GetInactiveFile(), Kernel: m.GetKernel(),
			SwapUsage: m.GetSwapUsage(), SwapLimit: m.GetSwapLimit(),
			PageFaults: m.GetPageFaults(), MajorPageFault: m.GetMajorPageFaults(),
			MappedFile: m.GetMappedFile(), LimitHits: m.GetLimitHits(), OOMKills: m.GetOomKills(),
		},
		PidsCurrent: s.PidsCurrent, PidsLimit: s.PidsLimit,
		CPUPressure: pressure(s.CpuPressure), MemoryPressure: pressure(s.MemoryPressure), IOPressure: pressure(s.IoPressure),
	}
	for _, io := range s.Io {
		out.IO = append(out.IO, IOStats{
			Major: io.Major, Minor: io.Minor, ReadBytes: io.ReadBytes, WriteBytes: io.WriteBytes,
			ReadOps: io.ReadOps, WriteOps: io.WriteOps,
		})
	}
	for _, h := range s.Hugetlb {
		out.Hugetlb = append(out.Hugetlb, HugetlbStats{PageSize: h.PageSize, Usage: h.Usage, MaxUsage: h.MaxUsage, Limit: h.Limit})
	}
	return out
}

func pressure(p *api.Pressure) *Pressure {
	if p == nil {
		return nil
	}
	line := func(l *api.PressureLine) PressureLine {
		return PressureLine{Avg10: l.GetAvg10(), Avg60: l.GetAvg60(), Avg300: l.GetAvg300(), Total: time.Duration(l.GetTotal())}
	}
	return &Pressure{Some: line(p.Some), Full: line(p.Full)}
}

// unixTime turns nanoseconds since 1970 into a time, 0 into the zero time.
func unixTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
