package cgroup

import (
	"fmt"
	"maps"
	"slices"
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

func cpuV1(r *specs.LinuxResources) ([]setting, error) {
	cpu := r.CPU
	if cpu == nil {
		return nil, nil
	}
	var s []setting
	add := func(file, field string, value any) {
		s = append(s, setting{file: file, value: fmt.Sprint(value), field: "cpu." + field})
	}
	idle := cpu.Idle != nil && *cpu.Idle == 1
	if isSet(cpu.Shares) && !idle { // an idle group has no shares
		add("cpu.shares", "shares", *cpu.Shares)
	}
	if isSet(cpu.Period) {
		add("cpu.cfs_period_us", "period", *cpu.Period)
	}
	if isSet(cpu.Quota) {
		add("cpu.cfs_quota_us", "quota", *cpu.Quota)
	}
	if cpu.Burst != nil {
		add("cpu.cfs_burst_us", "burst", *cpu.Burst)
	}
	if isSet(cpu.RealtimePeriod) {
		add("cpu.rt_period_us", "realtimePeriod", *cpu.RealtimePeriod)
	}
	if isSet(cpu.RealtimeRuntime) {
		add("cpu.rt_runtime_us", "realtimeRuntime", *cpu.RealtimeRuntime)
	}
	if cpu.Idle != nil {
		add("cpu.idle", "idle", *cpu.Idle)
	}
	return s, nil
}

func blockV1(r *specs.LinuxResources) ([]setting, error) {
	b := r.BlockIO
	if b == nil {
		return nil, nil
	}
	// The weight's file carries the name of the I/O scheduler that honours it.
	var s []setting
	add := func(file, other, field, value string) {
		s = append(s, setting{file: file, other: other, value: value, field: "blockIO." + field})
	}
	if isSet(b.Weight) {
		add("blkio.weight", "blkio.bfq.weight", "weight", fmt.Sprint(*b.Weight))
	}
	if isSet(b.LeafWeight) {
		add("blkio.leaf_weight", "", "leafWeight", fmt.Sprint(*b.LeafWeight))
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("weightDevice[%d]", i)
		if d.Weight != nil {
			add("blkio.weight_device", "blkio.bfq.weight_device", field, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
		if d.LeafWeight != nil {
			add("blkio.leaf_weight_device", "", field, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight))
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			add("blkio.throttle."+t.v1, "", fmt.Sprintf("%s[%d]", t.field, i), fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
	return s, nil
}

// throttle is one of the four kinds of I/O limit.
type throttle struct {
	field, v1, v2 string
	devices       []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func hugetlbV1(r *specs.LinuxResources) ([]setting, error) {
	return pageSizes(r, func(size string) [2]string {
		return [2]string{"hugetlb." + size + ".limit_in_bytes", "hugetlb." + size + ".rsvd.limit_in_bytes"}
	})
}

func networkClassV1(r *specs.LinuxResources) ([]setting, error) {
	if r.Network == nil || r.Network.ClassID == nil {
		return nil, nil
	}
	return []setting{{file: "net_cls.classid", value: fmt.Sprint(*r.Network.ClassID), field: "network.classID"}}, nil
}

func networkPriorityV1(r *specs.LinuxResources) ([]setting, error) {
	if r.Network == nil {
		return nil, nil
	}
	var s []setting
	for i, p := range r.Network.Priorities {
		field := fmt.Sprintf("network.priorities[%d]", i)
		if p.Name == "" || strings.ContainsAny(p.Name, " \t\n/") {
			return nil, fmt.Errorf("linux.resources.%s.name: %.40q is not an interface name", field, p.Name)
		}
		s = append(s, setting{file: "net_prio.ifpriomap", value: fmt.Sprintf("%s %d", p.Name, p.Priority), field: field})
	}
	return s, nil
}

func unifiedV1(r *specs.LinuxResources) ([]setting, error) {
	if len(r.Unified) == 0 {
		return nil, nil
	}
	return nil, fmt.Errorf("linux.resources.unified: invalid configuration: %q is a cgroup v2 file and this host's controllers are v1: %w", sortedKeys(r.Unified)[0], ErrUnsupported)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
