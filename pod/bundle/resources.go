package bundle

import (
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxOOMScoreAdj bounds oom_score_adj both ways (proc(5)).
const maxOOMScoreAdj = 1000

// LinuxResources turns limits into the runtime's form. What was not asked for is
// absent from it, so it serves updates too.
func LinuxResources(r *Resources, h *Host) (*specs.LinuxResources, error) {
	const field = "linux.resources"
	out := &specs.LinuxResources{}
	if r == nil {
		return out, nil
	}
	switch {
	case r.CPUShares < 0:
		return nil, invalid(field+".cpu_shares", "%d is negative", r.CPUShares)
	case r.CPUPeriod < 0:
		return nil, invalid(field+".cpu_period", "%d is negative", r.CPUPeriod)
	case r.MemoryLimit < 0:
		return nil, invalid(field+".memory_limit_in_bytes", "%d is negative", r.MemoryLimit)
	case r.OOMScoreAdj < -maxOOMScoreAdj || r.OOMScoreAdj > maxOOMScoreAdj:
		return nil, invalid(field+".oom_score_adj", "%d is not within ±%d", r.OOMScoreAdj, maxOOMScoreAdj)
	case r.MemorySwapLimit > 0 && r.MemoryLimit > r.MemorySwapLimit:
		return nil, invalid(field+".memory_swap_limit_in_bytes", "%d is less than the memory limit", r.MemorySwapLimit)
	}
	out.CPU = cpu(r)
	out.Memory = memory(r, h)
	if r.PidsLimit != 0 {
		limit := r.PidsLimit
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	for i, l := range r.HugepageLimits {
		if !h.Hugetlb {
			// The kubelet sends a 0 for each size that the CPU knows.
			if l.Limit > 0 {
				return nil, unsupported(index(field+".hugepage_limits", i), "the host has no hugetlb cgroup controller")
			}
			continue
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.PageSize, Limit: l.Limit})
	}
	for key, value := range r.Unified {
		if !h.CgroupV2 {
			return nil, unsupported(field+".unified["+key+"]", "the host has no unified cgroup hierarchy (v2)")
		}
		if strings.Contains(key, "/") || !strings.Contains(key, ".") || hasControl(value) {
			return nil, invalid(field+".unified["+key+"]", "is no cgroup v2 file")
		}
	}
	if len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out, nil
}

func cpu(r *Resources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCPUs, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		shares := uint64(r.CPUShares)
		c.Shares = &shares
	}
	if r.CPUQuota != 0 {
		quota := r.CPUQuota
		c.Quota = &quota
	}
	if r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		c.Period = &period
	}
	if c.Shares == nil && c.Quota == nil && c.Period == nil && c.Cpus == "" && c.Mems == "" {
		return nil
	}
	return c
}

// memory limits swap to nothing unless asked otherwise: what a container may use
// is its memory limit. OCI counts memory and swap together.
func memory(r *Resources, h *Host) *specs.LinuxMemory {
	if r.MemoryLimit == 0 && r.MemorySwapLimit == 0 {
		return nil
	}
	m := &specs.LinuxMemory{}
	if r.MemoryLimit > 0 {
		limit := r.MemoryLimit
		m.Limit = &limit
	}
	if swap := r.MemorySwapLimit; h.SwapLimit {
		if swap == 0 {
			swap = r.MemoryLimit
		}
		m.Swap = &swap
	}
	return m
}

// Sum returns limits for a group whose members have those: of what several of
// them limit, the sum. A quota below zero is "no limit", and so is a sum with one.
func Sum(parts ...*Resources) Resources {
	var sum Resources
	for _, r := range parts {
		if r == nil {
			continue
		}
		was := sum
		sum = Merge(sum, *r)
		sum.CPUShares = was.CPUShares + r.CPUShares
		sum.MemoryLimit = was.MemoryLimit + r.MemoryLimit
		sum.MemorySwapLimit = was.MemorySwapLimit + r.MemorySwapLimit
		sum.PidsLimit = was.PidsLimit + r.PidsLimit
		sum.CPUQuota = was.CPUQuota + r.CPUQuota
		if was.CPUQuota < 0 || r.CPUQuota < 0 {
			sum.CPUQuota = -1
		}
	}
	return sum
}

// Merge returns the resources in force after an update: zero fields of change
// stay as they were.
func Merge(was, change Resources) Resources {
	now := was
	set := func(dst *int64, v int64) {
		if v != 0 {
			*dst = v
		}
	}
	set(&now.CPUPeriod, change.CPUPeriod)
	set(&now.CPUQuota, change.CPUQuota)
	set(&now.CPUShares, change.CPUShares)
	set(&now.MemoryLimit, change.MemoryLimit)
	set(&now.MemorySwapLimit, change.MemorySwapLimit)
	set(&now.OOMScoreAdj, change.OOMScoreAdj)
	set(&now.PidsLimit, change.PidsLimit)
	if change.CpusetCPUs != "" {
		now.CpusetCPUs = change.CpusetCPUs
	}
	if change.CpusetMems != "" {
		now.CpusetMems = change.CpusetMems
	}
	if len(change.HugepageLimits) > 0 {
		now.HugepageLimits = change.HugepageLimits
	}
	if len(change.Unified) > 0 {
		unified := make(map[string]string, len(was.Unified)+len(change.Unified))
		for k, v := range was.Unified {
			unified[k] = v
		}
		for k, v := range change.Unified {
			unified[k] = v
		}
		now.Unified = unified
	}
	return now
}

// Applied returns was with what else of it an OCI runtime has been told: what r does
// not say stays.
func Applied(was Resources, r *specs.LinuxResources) Resources {
	now := was
	if r == nil {
		return now
	}
	if c := r.CPU; c != nil {
		if c.Shares != nil {
			now.CPUShares = int64(min(*c.Shares, math.MaxInt64)) //nolint:gosec // limited
		}
		if c.Quota != nil {
			now.CPUQuota = *c.Quota
		}
		if c.Period != nil {
			now.CPUPeriod = int64(min(*c.Period, math.MaxInt64)) //nolint:gosec // limited
		}
		if c.Cpus != "" {
			now.CpusetCPUs = c.Cpus
		}
		if c.Mems != "" {
			now.CpusetMems = c.Mems
		}
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		now.MemoryLimit = *m.Limit
	}
	return now
}
