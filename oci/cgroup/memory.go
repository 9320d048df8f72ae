package cgroup

import (
	"fmt"
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// As runc has always done, a zero of the older fields means "not set", and the
// deprecated kernel and useHierarchy are not looked at.

func memoryV1(r *specs.LinuxResources) ([]setting, error) {
	m := r.Memory
	if m == nil {
		return nil, nil
	}
	var s []setting
	add := func(file, field string, value any) {
		s = append(s, setting{file: file, value: fmt.Sprint(value), field: "memory." + field})
	}
	if isSet(m.Limit) {
		add("memory.limit_in_bytes", "limit", *m.Limit)
	}
	switch {
	case isSet(m.Swap):
		add("memory.memsw.limit_in_bytes", "swap", *m.Swap)
	case m.Limit != nil && *m.Limit == -1:
		// No limit on memory is refused below a limit on memory and swap.
		s = append(s, setting{file: "memory.memsw.limit_in_bytes", value: "-1", field: "memory.limit", optional: true})
	}
	if isSet(m.Reservation) {
		add("memory.soft_limit_in_bytes", "reservation", *m.Reservation)
	}
	if isSet(m.KernelTCP) {
		add("memory.kmem.tcp.limit_in_bytes", "kernelTCP", *m.KernelTCP)
	}
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			return nil, fmt.Errorf("linux.resources.memory.swappiness: %d is not 0 to 100", *m.Swappiness)
		}
		add("memory.swappiness", "swappiness", *m.Swappiness)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		add("memory.oom_control", "disableOOMKiller", 1)
	}
	return s, nil
}

// The config's fields are v1's. What v2 has no file for is refused by name,
// unless the value asks for nothing.

func memoryV2(r *specs.LinuxResources) ([]setting, error) {
	m := r.Memory
	if m == nil {
		return nil, nil
	}
	switch {
	case isSet(m.KernelTCP) && *m.KernelTCP != -1:
		return nil, notV2("memory.kernelTCP")
	case m.Swappiness != nil:
		return nil, notV2("memory.swappiness")
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		return nil, notV2("memory.disableOOMKiller")
	}
	var s []setting
	if isSet(m.Swap) {
		one, err := swapV2(m)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	} else if m.Limit != nil && *m.Limit == -1 {
		s = append(s, setting{file: "memory.swap.max", value: "max", field: "memory.limit", optional: true})
	}
	if isSet(m.Limit) {
		s = append(s, setting{file: "memory.max", value: maxOr(*m.Limit), field: "memory.limit"})
	}
	if isSet(m.Reservation) {
		s = append(s, setting{file: "memory.low", value: maxOr(*m.Reservation), field: "memory.reservation"})
	}
	return s, nil
}

// swapV2 turns v1's "memory plus swap" into v2's "swap".
func swapV2(m *specs.LinuxMemory) (setting, error) {
	s := setting{file: "memory.swap.max", field: "memory.swap"}
	switch swap := *m.Swap; {
	case swap == -1:
		s.value, s.optional = "max", true // a kernel without swap accounting limits nothing either
	case !isSet(m.Limit) || *m.Limit < 0:
		return s, fmt.Errorf("linux.resources.memory.swap: is the sum of memory and swap, so it needs memory.limit too")
	case swap < *m.Limit:
		return s, fmt.Errorf("linux.resources.memory.swap: %d is less than memory.limit, %d, of which it is the sum with swap", swap, *m.Limit)
	default:
		s.value = fmt.Sprint(swap - *m.Limit)
		s.optional = swap == *m.Limit
	}
	return s, nil
}

// completeMemory adds the limit of memory that is in force to a new one of memory
// and swap, which on v2 are two.
func (c *Cgroup) completeMemory(m *specs.LinuxMemory) (*specs.LinuxMemory, error) {
	h, ok := c.find("memory")
	if m == nil || !ok || !h.v2 || isSet(m.Limit) || !isSet(m.Swap) || *m.Swap < 0 {
		return m, nil
	}
	limit, err := readUint(c.dir(h) + "/memory.max")
	if err != nil || limit > math.MaxInt64 {
		return m, err
	}
	full, signed := *m, int64(limit)
	full.Limit = &signed
	return &full, nil
}

// checkBeforeUpdate refuses a memory limit below what is in use, where the
// config asks for that check: v2 would kill processes to get there, v1 refuses
// by itself.
func (c *Cgroup) checkBeforeUpdate(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil || r.Memory.CheckBeforeUpdate == nil || !*r.Memory.CheckBeforeUpdate ||
		r.Memory.Limit == nil || *r.Memory.Limit <= 0 {
		return nil
	}
	h, ok := c.find("memory")
	if !ok || !h.v2 {
		return nil
	}
	used, err := readUint(c.dir(h) + "/memory.current")
	if err != nil {
		return err
	}
	if used > uint64(*r.Memory.Limit) {
		return fmt.Errorf("linux.resources.memory.limit: %d is less than the %d bytes in use", *r.Memory.Limit, used)
	}
	return nil
}

// MemoryStats are bytes, but for the counts that say so.
type MemoryStats struct {
	Usage, MaxUsage, Limit   uint64
	WorkingSet               uint64 // usage less the file cache that can go first
	RSS                      uint64 // anonymous memory
	Cache, MappedFile        uint64
	InactiveFile, ActiveFile uint64
	Kernel                   uint64
	PageFaults, MajorFaults  uint64            // counts
	Swap, SwapLimit          uint64            // swap alone, without memory
	LimitHits                uint64            // count: how often the limit was met
	OOMKills                 uint64            // count of processes killed
	Stat                     map[string]uint64 // memory.stat as it stands
	Pressure                 *Pressure         // v2 only

	// Both is memory and swap together; on v2, their sum. The others are v1's.
	Both, KernelMemory, KernelTCP MemoryCounter
}

// MemoryCounter is one of v1's limits with what there is of it, in bytes but for
// the count of LimitHits.
type MemoryCounter struct{ Usage, MaxUsage, Limit, LimitHits uint64 }

func (r *reader) memoryCounter(prefix string) MemoryCounter {
	return MemoryCounter{
		Usage:     r.number(prefix + ".usage_in_bytes"),
		MaxUsage:  r.number(prefix + ".max_usage_in_bytes"),
		Limit:     limitV1(r.number(prefix + ".limit_in_bytes")),
		LimitHits: r.number(prefix + ".failcnt"),
	}
}

// noLimitV1 is the least number that v1 shows for "no limit": the largest
// multiple of the largest page size below 1<<63.
const noLimitV1 = 1<<63 - 1<<16

func limitV1(n uint64) uint64 {
	if n >= noLimitV1 {
		return NoLimit
	}
	return n
}

func (m *MemoryStats) readV1(r *reader) {
	if r.usage {
		m.Usage = r.number("memory.usage_in_bytes")
	} else {
		own := r.memoryCounter("memory")
		m.Usage, m.MaxUsage, m.Limit, m.LimitHits = own.Usage, own.MaxUsage, own.Limit, own.LimitHits
		m.Both, m.KernelMemory, m.KernelTCP = r.memoryCounter("memory.memsw"), r.memoryCounter("memory.kmem"), r.memoryCounter("memory.kmem.tcp")
		m.Kernel = m.KernelMemory.Usage
	}
	var limit, both uint64 // the least of the cgroup's own and those above it
	m.readStat(r, func(key []byte) *uint64 {
		switch string(key) {
		case "total_rss":
			return &m.RSS
		case "total_cache":
			return &m.Cache
		case "total_mapped_file":
			return &m.MappedFile
		case "total_swap":
			return &m.Swap
		case "total_inactive_file":
			return &m.InactiveFile
		case "total_active_file":
			return &m.ActiveFile
		case "total_pgfault":
			return &m.PageFaults
		case "total_pgmajfault":
			return &m.MajorFaults
		case "hierarchical_memory_limit":
			return &limit
		case "hierarchical_memsw_limit":
			return &both
		}
		return nil
	})
	if r.usage {
		m.Limit, m.Both.Limit = NoLimit, NoLimit
		if limit < noLimitV1 {
			m.Limit = limitV1(r.number("memory.limit_in_bytes"))
		}
		if both < noLimitV1 && m.Limit != NoLimit { // else it says nothing of swap
			m.Both.Limit = limitV1(r.number("memory.memsw.limit_in_bytes"))
		}
	}
	m.SwapLimit = NoLimit
	// v1 limits the sum of memory and swap.
	if m.Both.Limit != NoLimit && m.Limit != NoLimit {
		m.SwapLimit = m.Both.Limit - min(m.Both.Limit, m.Limit)
	}
	if r.usage {
		m.Both = MemoryCounter{}
		return
	}
	flatKeyed(r.bytes("memory.oom_control"), func(key []byte, value uint64) {
		if string(key) == "oom_kill" {
			m.OOMKills = value
		}
	})
}

// readStat reads memory.stat: each value goes where named says and, but for Usage,
// into Stat.
func (m *MemoryStats) readStat(r *reader, named func(key []byte) *uint64) {
	if !r.usage {
		m.Stat = map[string]uint64{}
	}
	flatKeyed(r.bytes("memory.stat"), func(key []byte, value uint64) {
		if to := named(key); to != nil {
			*to = value
		}
		if !r.usage {
			m.Stat[string(key)] = value
		}
	})
}

func (m *MemoryStats) readV2(r *reader) {
	m.Usage = r.number("memory.current")
	m.Limit = r.number("memory.max")
	m.Swap = r.number("memory.swap.current")
	m.SwapLimit = NoLimit
	if text := strings.TrimSpace(r.text("memory.swap.max")); text != "" {
		limit, err := parseUint(text)
		r.note(err)
		m.SwapLimit = limit
	}
	m.Both = MemoryCounter{Usage: m.Usage + m.Swap, Limit: NoLimit}
	if m.Limit != NoLimit && m.SwapLimit != NoLimit {
		m.Both.Limit = m.Limit + m.SwapLimit
	}
	m.readStat(r, func(key []byte) *uint64 {
		switch string(key) {
		case "anon":
			return &m.RSS
		case "file":
			return &m.Cache
		case "file_mapped":
			return &m.MappedFile
		case "inactive_file":
			return &m.InactiveFile
		case "active_file":
			return &m.ActiveFile
		case "pgfault":
			return &m.PageFaults
		case "pgmajfault":
			return &m.MajorFaults
		case "kernel": // Linux 5.18
			return &m.Kernel
		}
		return nil
	})
	m.Pressure = r.pressure("memory.pressure")
	if r.usage {
		m.Both, m.Kernel = MemoryCounter{}, 0
		return
	}
	if m.Kernel == 0 {
		m.Kernel = m.Stat["slab"] + m.Stat["kernel_stack"] + m.Stat["pagetables"] + m.Stat["percpu"]
	}
	m.MaxUsage = r.number("memory.peak") // Linux 5.19
	flatKeyed(r.bytes("memory.events"), func(key []byte, value uint64) {
		switch string(key) {
		case "max":
			m.LimitHits = value
		case "oom_kill":
			m.OOMKills = value
		}
	})
}
