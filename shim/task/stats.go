package task

import (
	"context"
	"time"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/wire"
)

// limit turns the runtime's "no limit" into ours.
func limit(v uint64) uint64 {
	if v == cgroup.NoLimit {
		return 0
	}
	return v
}

// statsMessage is a reading as strake.monitor.v1 carries it.
func statsMessage(s *cgroup.Stats) *cgroupStats {
	m := s.Memory
	a := &cgroupStats{
		Time: time.Now().UnixNano(),
		CPU: &cpuStats{
			Usage: s.CPU.Usage, User: s.CPU.User, System: s.CPU.System,
			Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: s.CPU.ThrottledTime,
		},
		Memory: &memoryStats{
			Usage: m.Usage, MaxUsage: m.MaxUsage, Limit: limit(m.Limit), WorkingSet: m.WorkingSet, RSS: m.RSS,
			Cache: m.Cache, InactiveFile: m.InactiveFile, Kernel: m.Kernel, SwapUsage: m.Swap, SwapLimit: limit(m.SwapLimit),
			PageFaults: m.PageFaults, MajorPageFaults: m.MajorFaults, MappedFile: m.MappedFile,
			LimitHits: m.LimitHits, OOMKills: m.OOMKills,
		},
		PidsCurrent: s.Pids.Current, PidsLimit: limit(s.Pids.Limit),
		CPUPressure: pressureMessage(s.CPU.Pressure), MemoryPressure: pressureMessage(m.Pressure), IOPressure: pressureMessage(s.IO.Pressure),
	}
	for _, d := range s.IO.Devices {
		a.IO = append(a.IO, &ioStats{d.Major, d.Minor, d.ReadBytes, d.WriteBytes, d.ReadOps, d.WriteOps})
	}
	for _, h := range s.Hugetlb {
		a.Hugetlb = append(a.Hugetlb, &hugetlbStats{h.PageSize, h.Usage, h.MaxUsage, limit(h.Limit)})
	}
	return a
}

func pressureMessage(p *cgroup.Pressure) *pressure {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *pressureLine {
		return &pressureLine{l.Avg10, l.Avg60, l.Avg300, l.Total * uint64(time.Microsecond)}
	}
	return &pressure{line(p.Some), line(p.Full)}
}

// stats answers containerd, in the message that it expects of the host's cgroups.
func (s *Service) stats(ctx context.Context, r *idRequest) (*statsResponse, error) {
	t, err := s.find(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := t.container.Stats(ctx)
	if err != nil {
		if isGone(err) {
			return nil, t.notRunning()
		}
		return nil, t.explain(err)
	}
	metrics, err := metricsAny(stats)
	if err != nil {
		return nil, err
	}
	return &statsResponse{Stats: metrics}, nil
}

// metricsAny packs a reading as io.containerd.cgroups.v1.Metrics or v2.
func metricsAny(s *cgroup.Stats) (*wire.Any, error) {
	mode, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	url, message := metricsV1Name, any(metricsV1(s))
	if mode == cgroup.Unified {
		url, message = metricsV2Name, any(metricsV2(s))
	}
	value, err := pb.Marshal(message)
	return &wire.Any{TypeURL: url, Value: value}, err
}

// The messages of containerd's cgroups module that have a meaning here.

type v1Metrics struct {
	Hugetlb []*v1Hugetlb  `pb:"1"`
	Pids    *metricPids   `pb:"2"`
	CPU     *v1CPU        `pb:"3"`
	Memory  *v1Memory     `pb:"4"`
	BlkIO   *v1BlkIO      `pb:"5"`
	OOM     *v1OOMControl `pb:"9"`
}

type v1Hugetlb struct {
	Usage    uint64 `pb:"1"`
	Max      uint64 `pb:"2"`
	Failcnt  uint64 `pb:"3"`
	Pagesize string `pb:"4"`
}

type metricPids struct {
	Current uint64 `pb:"1"`
	Limit   uint64 `pb:"2"`
}

type v1CPU struct {
	Usage      *v1CPUUsage `pb:"1"`
	Throttling *v1Throttle `pb:"2"`
}

type v1CPUUsage struct {
	Total  uint64 `pb:"1"`
	Kernel uint64 `pb:"2"`
	User   uint64 `pb:"3"`
}

type v1Throttle struct {
	Periods          uint64 `pb:"1"`
	ThrottledPeriods uint64 `pb:"2"`
	ThrottledTime    uint64 `pb:"3"`
}

type v1Memory struct {
	Cache             uint64         `pb:"1"`
	RSS               uint64         `pb:"2"`
	MappedFile        uint64         `pb:"4"`
	PageFaults        uint64         `pb:"9"`
	MajorFaults       uint64         `pb:"10"`
	InactiveFile      uint64         `pb:"13"`
	ActiveFile        uint64         `pb:"14"`
	TotalCache        uint64         `pb:"18"`
	TotalRSS          uint64         `pb:"19"`
	TotalPageFaults   uint64         `pb:"26"`
	TotalMajorFaults  uint64         `pb:"27"`
	TotalInactiveFile uint64         `pb:"30"`
	TotalActiveFile   uint64         `pb:"31"`
	Usage             *v1MemoryEntry `pb:"33"`
	Swap              *v1MemoryEntry `pb:"34"`
	Kernel            *v1MemoryEntry `pb:"35"`
}

type v1MemoryEntry struct {
	Limit   uint64 `pb:"1"`
	Usage   uint64 `pb:"2"`
	Max     uint64 `pb:"3"`
	Failcnt uint64 `pb:"4"`
}

type v1OOMControl struct {
	OOMKill uint64 `pb:"3"`
}

type v1BlkIO struct {
	Bytes []*v1BlkIOEntry `pb:"1"`
	Ops   []*v1BlkIOEntry `pb:"2"`
}

type v1BlkIOEntry struct {
	Op    string `pb:"1"`
	Major uint64 `pb:"3"`
	Minor uint64 `pb:"4"`
	Value uint64 `pb:"5"`
}

func metricsV1(s *cgroup.Stats) *v1Metrics {
	m := s.Memory
	a := &v1Metrics{
		Pids: &metricPids{s.Pids.Current, limit(s.Pids.Limit)},
		CPU: &v1CPU{
			&v1CPUUsage{s.CPU.Usage, s.CPU.System, s.CPU.User},
			&v1Throttle{s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime},
		},
		Memory: &v1Memory{
			Cache: m.Cache, RSS: m.RSS, MappedFile: m.MappedFile, PageFaults: m.PageFaults, MajorFaults: m.MajorFaults,
			InactiveFile: m.InactiveFile, ActiveFile: m.ActiveFile,
			TotalCache: m.Cache, TotalRSS: m.RSS, TotalPageFaults: m.PageFaults, TotalMajorFaults: m.MajorFaults,
			TotalInactiveFile: m.InactiveFile, TotalActiveFile: m.ActiveFile,
			Usage: &v1MemoryEntry{m.Limit, m.Usage, m.MaxUsage, m.LimitHits},
			// v1 counts memory and swap together.
			Swap:   &v1MemoryEntry{Limit: m.SwapLimit, Usage: m.Usage + m.Swap},
			Kernel: &v1MemoryEntry{Limit: cgroup.NoLimit, Usage: m.Kernel},
		},
		BlkIO: &v1BlkIO{},
		OOM:   &v1OOMControl{m.OOMKills},
	}
	for _, h := range s.Hugetlb {
		a.Hugetlb = append(a.Hugetlb, &v1Hugetlb{h.Usage, h.MaxUsage, h.LimitHits, h.PageSize})
	}
	for _, d := range s.IO.Devices {
		a.BlkIO.Bytes = append(a.BlkIO.Bytes,
			&v1BlkIOEntry{"Read", d.Major, d.Minor, d.ReadBytes}, &v1BlkIOEntry{"Write", d.Major, d.Minor, d.WriteBytes})
		a.BlkIO.Ops = append(a.BlkIO.Ops,
			&v1BlkIOEntry{"Read", d.Major, d.Minor, d.ReadOps}, &v1BlkIOEntry{"Write", d.Major, d.Minor, d.WriteOps})
	}
	return a
}

type v2Metrics struct {
	Pids    *metricPids     `pb:"1"`
	CPU     *v2CPU          `pb:"2"`
	Memory  *v2Memory       `pb:"4"`
	IO      *v2IO           `pb:"6"`
	Hugetlb []*v2Hugetlb    `pb:"7"`
	Events  *v2MemoryEvents `pb:"8"`
}

type v2CPU struct {
	Usage         uint64 `pb:"1"`
	User          uint64 `pb:"2"`
	System        uint64 `pb:"3"`
	Periods       uint64 `pb:"4"`
	Throttled     uint64 `pb:"5"`
	ThrottledTime uint64 `pb:"6"`
}

type v2Memory struct {
	Anon         uint64 `pb:"1"`
	File         uint64 `pb:"2"`
	FileMapped   uint64 `pb:"7"`
	InactiveFile uint64 `pb:"13"`
	ActiveFile   uint64 `pb:"14"`
	PageFaults   uint64 `pb:"18"`
	MajorFaults  uint64 `pb:"19"`
	Usage        uint64 `pb:"32"`
	UsageLimit   uint64 `pb:"33"`
	SwapUsage    uint64 `pb:"34"`
	SwapLimit    uint64 `pb:"35"`
	MaxUsage     uint64 `pb:"36"`
}

type v2MemoryEvents struct {
	Max     uint64 `pb:"3"`
	OOMKill uint64 `pb:"5"`
}

type v2IO struct {
	Usage []*ioStats `pb:"1"`
}

type v2Hugetlb struct {
	Current  uint64 `pb:"1"`
	Max      uint64 `pb:"2"`
	Pagesize string `pb:"3"`
}

func metricsV2(s *cgroup.Stats) *v2Metrics {
	m := s.Memory
	const micro = uint64(time.Microsecond)
	a := &v2Metrics{
		Pids: &metricPids{s.Pids.Current, limit(s.Pids.Limit)},
		CPU: &v2CPU{
			s.CPU.Usage / micro, s.CPU.User / micro, s.CPU.System / micro,
			s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime / micro,
		},
		Memory: &v2Memory{
			Anon: m.RSS, File: m.Cache, FileMapped: m.MappedFile, InactiveFile: m.InactiveFile, ActiveFile: m.ActiveFile,
			PageFaults: m.PageFaults, MajorFaults: m.MajorFaults, Usage: m.Usage, UsageLimit: m.Limit,
			SwapUsage: m.Swap, SwapLimit: m.SwapLimit, MaxUsage: m.MaxUsage,
		},
		IO:     &v2IO{},
		Events: &v2MemoryEvents{m.LimitHits, m.OOMKills},
	}
	for _, h := range s.Hugetlb {
		a.Hugetlb = append(a.Hugetlb, &v2Hugetlb{h.Usage, h.MaxUsage, h.PageSize})
	}
	for _, d := range s.IO.Devices {
		a.IO.Usage = append(a.IO.Usage, &ioStats{d.Major, d.Minor, d.ReadBytes, d.WriteBytes, d.ReadOps, d.WriteOps})
	}
	return a
}
