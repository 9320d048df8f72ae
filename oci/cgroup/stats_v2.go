package cgroup

import "strings"

func (s *Stats) readV2(dir, controller string) error {
	r := &reader{dir: dir}
	switch controller {
	case "memory":
		s.Memory.readV2(r)
	case "pids":
		s.Pids = PidsStats{Current: r.number("pids.current"), Limit: r.number("pids.max")}
	case "io":
		s.IO.readV2(r.text("io.stat"))
		s.IO.Pressure = r.pressure("io.pressure")
	case "hugetlb":
		r.pageSizes(".current", func(size, prefix string) {
			h := HugetlbStats{
				PageSize: size,
				Usage:    r.number(prefix + ".current"),
				Limit:    r.number(prefix + ".max"),
			}
			flatKeyed(r.text(prefix+".events"), func(key string, value uint64) {
				if key == "max" {
					h.LimitHits = value
				}
			})
			s.Hugetlb = append(s.Hugetlb, h)
		})
	}
	return r.err
}

func (s *Stats) readCPUV2(dir string) error {
	r := &reader{dir: dir}
	const µs = 1000 // nanoseconds
	flatKeyed(r.text("cpu.stat"), func(key string, value uint64) {
		switch key {
		case "usage_usec":
			s.CPU.Usage = value * µs
		case "user_usec":
			s.CPU.User = value * µs
		case "system_usec":
			s.CPU.System = value * µs
		case "nr_periods":
			s.CPU.Periods = value
		case "nr_throttled":
			s.CPU.ThrottledPeriods = value
		case "throttled_usec":
			s.CPU.ThrottledTime = value * µs
		case "nr_bursts":
			s.CPU.Bursts = value
		case "burst_usec":
			s.CPU.BurstTime = value * µs
		}
	})
	s.CPU.Pressure = r.pressure("cpu.pressure")
	return r.err
}

func (m *MemoryStats) readV2(r *reader) {
	m.Usage = r.number("memory.current")
	m.MaxUsage = r.number("memory.peak") // Linux 5.19
	m.Limit = r.number("memory.max")
	m.Swap = r.number("memory.swap.current")
	m.SwapLimit = NoLimit
	if text := strings.TrimSpace(r.text("memory.swap.max")); text != "" {
		limit, err := parseUint(text)
		r.note(err)
		m.SwapLimit = limit
	}
	m.Stat = map[string]uint64{}
	flatKeyed(r.text("memory.stat"), func(key string, value uint64) { m.Stat[key] = value })
	m.RSS, m.Cache, m.MappedFile = m.Stat["anon"], m.Stat["file"], m.Stat["file_mapped"]
	m.InactiveFile, m.ActiveFile = m.Stat["inactive_file"], m.Stat["active_file"]
	m.PageFaults, m.MajorFaults = m.Stat["pgfault"], m.Stat["pgmajfault"]
	m.Kernel = m.Stat["kernel"] // Linux 5.18
	if m.Kernel == 0 {
		m.Kernel = m.Stat["slab"] + m.Stat["kernel_stack"] + m.Stat["pagetables"] + m.Stat["percpu"]
	}
	flatKeyed(r.text("memory.events"), func(key string, value uint64) {
		switch key {
		case "max":
			m.LimitHits = value
		case "oom_kill":
			m.OOMKills = value
		}
	})
	m.Pressure = r.pressure("memory.pressure")
}

// readV2 reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func (s *IOStats) readV2(text string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		d := s.device(fields[0])
		if d == nil {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			n, err := parseUint(value)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			case "dbytes":
				d.DiscardBytes = n
			case "dios":
				d.DiscardOps = n
			}
		}
	}
}
