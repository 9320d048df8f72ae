package cgroup

import (
	"strings"
)

// noLimitV1 is the least number that v1 shows for "no limit": the largest
// multiple of the largest page size below 1<<63.
const noLimitV1 = 1<<63 - 1<<16

func limitV1(n uint64) uint64 {
	if n >= noLimitV1 {
		return NoLimit
	}
	return n
}

func (s *Stats) readV1(dir, controller string) error {
	r := &reader{dir: dir}
	switch controller {
	case "cpu":
		flatKeyed(r.text("cpu.stat"), func(key string, value uint64) {
			switch key {
			case "nr_periods":
				s.CPU.Periods = value
			case "nr_throttled":
				s.CPU.ThrottledPeriods = value
			case "throttled_time":
				s.CPU.ThrottledTime = value
			case "nr_bursts":
				s.CPU.Bursts = value
			case "burst_time":
				s.CPU.BurstTime = value
			}
		})
	case "cpuacct":
		s.CPU.Usage = r.number("cpuacct.usage")
		s.CPU.User = r.number("cpuacct.usage_user")
		s.CPU.System = r.number("cpuacct.usage_sys")
		for field := range strings.FieldsSeq(r.text("cpuacct.usage_percpu")) {
			n, err := parseUint(field)
			r.note(err)
			s.CPU.PerCPU = append(s.CPU.PerCPU, n)
		}
	case "memory":
		s.Memory.readV1(r)
	case "pids":
		s.Pids = PidsStats{Current: r.number("pids.current"), Limit: r.number("pids.max")}
	case "blkio":
		s.IO.readV1(r)
	case "hugetlb":
		r.pageSizes(".limit_in_bytes", func(size, prefix string) {
			s.Hugetlb = append(s.Hugetlb, HugetlbStats{
				PageSize:  size,
				Usage:     r.number(prefix + ".usage_in_bytes"),
				MaxUsage:  r.number(prefix + ".max_usage_in_bytes"),
				Limit:     limitV1(r.number(prefix + ".limit_in_bytes")),
				LimitHits: r.number(prefix + ".failcnt"),
			})
		})
	}
	return r.err
}

func (m *MemoryStats) readV1(r *reader) {
	m.Usage = r.number("memory.usage_in_bytes")
	m.MaxUsage = r.number("memory.max_usage_in_bytes")
	m.Limit = limitV1(r.number("memory.limit_in_bytes"))
	m.LimitHits = r.number("memory.failcnt")
	m.Kernel = r.number("memory.kmem.usage_in_bytes")
	m.Stat = map[string]uint64{}
	flatKeyed(r.text("memory.stat"), func(key string, value uint64) { m.Stat[key] = value })
	m.RSS, m.Cache, m.MappedFile = m.Stat["total_rss"], m.Stat["total_cache"], m.Stat["total_mapped_file"]
	m.InactiveFile, m.ActiveFile = m.Stat["total_inactive_file"], m.Stat["total_active_file"]
	m.PageFaults, m.MajorFaults = m.Stat["total_pgfault"], m.Stat["total_pgmajfault"]
	m.Swap = m.Stat["total_swap"]
	m.SwapLimit = NoLimit
	// v1 limits the sum of memory and swap.
	if both := limitV1(r.number("memory.memsw.limit_in_bytes")); both != NoLimit && m.Limit != NoLimit {
		m.SwapLimit = both - min(both, m.Limit)
	}
	flatKeyed(r.text("memory.oom_control"), func(key string, value uint64) {
		if key == "oom_kill" {
			m.OOMKills = value
		}
	})
}

// readV1 takes what the BFQ scheduler counts, or else what went through
// throttling, which counts any device.
func (s *IOStats) readV1(r *reader) {
	for _, prefix := range []string{"blkio.bfq.", "blkio.throttle."} {
		s.readOperations(r.text(prefix+"io_service_bytes_recursive"), true)
		s.readOperations(r.text(prefix+"io_serviced_recursive"), false)
		if len(s.Devices) > 0 {
			return
		}
	}
}

// readOperations reads lines such as "8:0 Read 4096".
func (s *IOStats) readOperations(text string, bytes bool) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue // "Total 4096"
		}
		n, err := parseUint(fields[2])
		if err != nil {
			continue
		}
		d := s.device(fields[0])
		if d == nil {
			continue
		}
		switch {
		case fields[1] == "Read" && bytes:
			d.ReadBytes = n
		case fields[1] == "Read":
			d.ReadOps = n
		case fields[1] == "Write" && bytes:
			d.WriteBytes = n
		case fields[1] == "Write":
			d.WriteOps = n
		case fields[1] == "Discard" && bytes:
			d.DiscardBytes = n
		case fields[1] == "Discard":
			d.DiscardOps = n
		}
	}
}
