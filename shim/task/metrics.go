package task

import (
	"time"

	"github.com/strake-containers/strake/oci/cgroup"
)

// The types of the metrics that Stats answers with.
const (
	metricsV1Name = "io.containerd.cgroups.v1.Metrics"
	metricsV2Name = "io.containerd.cgroups.v2.Metrics"
)

// stats is metricsV1's inverse, as far as one can be.
func (m *v1Metrics) stats() *cgroup.Stats {
	s := &cgroup.Stats{}
	if p := m.Pids; p != nil {
		s.Pids = cgroup.PidsStats{Current: p.Current, Limit: p.Limit}
	}
	if c := m.CPU; c != nil {
		if u := c.Usage; u != nil {
			s.CPU.Usage, s.CPU.System, s.CPU.User = u.Total, u.Kernel, u.User
		}
		if t := c.Throttling; t != nil {
			s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime = t.Periods, t.ThrottledPeriods, t.ThrottledTime
		}
	}
	if mem := m.Memory; mem != nil {
		s.Memory.RSS, s.Memory.Cache, s.Memory.MappedFile = mem.TotalRSS, mem.TotalCache, mem.MappedFile
		s.Memory.PageFaults, s.Memory.MajorFaults = mem.TotalPageFaults, mem.TotalMajorFaults
		s.Memory.InactiveFile, s.Memory.ActiveFile = mem.TotalInactiveFile, mem.TotalActiveFile
		if u := mem.Usage; u != nil {
			s.Memory.Usage, s.Memory.Limit, s.Memory.MaxUsage, s.Memory.LimitHits = u.Usage, u.Limit, u.Max, u.Failcnt
		}
		if u := mem.Swap; u != nil {
			s.Memory.Swap, s.Memory.SwapLimit = u.Usage-min(u.Usage, s.Memory.Usage), u.Limit
		}
		if u := mem.Kernel; u != nil {
			s.Memory.Kernel = u.Usage
		}
	}
	if o := m.OOM; o != nil {
		s.Memory.OOMKills = o.OOMKill
	}
	workingSet(s)
	for _, h := range m.Hugetlb {
		s.Hugetlb = append(s.Hugetlb, cgroup.HugetlbStats{PageSize: h.Pagesize, Usage: h.Usage, MaxUsage: h.Max, LimitHits: h.Failcnt})
	}
	return s
}

// stats is metricsV2's inverse, as far as one can be.
func (m *v2Metrics) stats() *cgroup.Stats {
	s := &cgroup.Stats{}
	const micro = uint64(time.Microsecond)
	if p := m.Pids; p != nil {
		s.Pids = cgroup.PidsStats{Current: p.Current, Limit: p.Limit}
	}
	if c := m.CPU; c != nil {
		s.CPU.Usage, s.CPU.User, s.CPU.System = c.Usage*micro, c.User*micro, c.System*micro
		s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime = c.Periods, c.Throttled, c.ThrottledTime*micro
	}
	if mem := m.Memory; mem != nil {
		s.Memory.RSS, s.Memory.Cache, s.Memory.MappedFile = mem.Anon, mem.File, mem.FileMapped
		s.Memory.PageFaults, s.Memory.MajorFaults = mem.PageFaults, mem.MajorFaults
		s.Memory.InactiveFile, s.Memory.ActiveFile = mem.InactiveFile, mem.ActiveFile
		s.Memory.Usage, s.Memory.Limit, s.Memory.MaxUsage = mem.Usage, mem.UsageLimit, mem.MaxUsage
		s.Memory.Swap, s.Memory.SwapLimit = mem.SwapUsage, mem.SwapLimit
	}
	if e := m.Events; e != nil {
		s.Memory.LimitHits, s.Memory.OOMKills = e.Max, e.OOMKill
	}
	workingSet(s)
	if m.IO != nil {
		for _, d := range m.IO.Usage {
			s.IO.Devices = append(s.IO.Devices, cgroup.IODevice{
				Major: d.Major, Minor: d.Minor, ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, ReadOps: d.ReadOps, WriteOps: d.WriteOps,
			})
		}
	}
	for _, h := range m.Hugetlb {
		s.Hugetlb = append(s.Hugetlb, cgroup.HugetlbStats{PageSize: h.Pagesize, Usage: h.Current, Limit: h.Max})
	}
	return s
}

// workingSet is what the kernel could not take back at once.
func workingSet(s *cgroup.Stats) {
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, s.Memory.InactiveFile)
}
