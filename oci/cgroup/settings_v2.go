package cgroup

import (
	"fmt"
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

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

func cpuV2(r *specs.LinuxResources) ([]setting, error) {
	cpu := r.CPU
	if cpu == nil {
		return nil, nil
	}
	if isSet(cpu.RealtimeRuntime) || isSet(cpu.RealtimePeriod) {
		return nil, notV2("cpu.realtimeRuntime and realtimePeriod")
	}
	var s []setting
	idle := cpu.Idle != nil && *cpu.Idle == 1
	if isSet(cpu.Shares) && !idle {
		s = append(s, setting{file: "cpu.weight", value: fmt.Sprint(cpuWeight(*cpu.Shares)), field: "cpu.shares"})
	}
	if isSet(cpu.Quota) || isSet(cpu.Period) {
		value := "max"
		if cpu.Quota != nil && *cpu.Quota > 0 {
			value = fmt.Sprint(*cpu.Quota)
		}
		if isSet(cpu.Period) {
			value += fmt.Sprintf(" %d", *cpu.Period)
		}
		s = append(s, setting{file: "cpu.max", value: value, field: "cpu.quota"})
	}
	if cpu.Burst != nil {
		s = append(s, setting{file: "cpu.max.burst", value: fmt.Sprint(*cpu.Burst), field: "cpu.burst"})
	}
	if cpu.Idle != nil {
		s = append(s, setting{file: "cpu.idle", value: fmt.Sprint(*cpu.Idle), field: "cpu.idle"})
	}
	return s, nil
}

// cpuWeight maps v1's shares (2 to 262144, 1024 by default) to v2's weight (1 to
// 10000, 100 by default) along the curve on which the ends and the defaults
// meet, as Kubernetes, runc 1.4 and crun 1.23 do.
func cpuWeight(shares uint64) uint64 {
	if shares <= 2 {
		return 1
	}
	if shares >= 262144 {
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func blockV2(r *specs.LinuxResources) ([]setting, error) {
	b := r.BlockIO
	if b == nil {
		return nil, nil
	}
	if isSet(b.LeafWeight) {
		return nil, notV2("blockIO.leafWeight")
	}
	var s []setting
	if isSet(b.Weight) {
		one, err := weightV2("blockIO.weight", "", *b.Weight)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		if d.LeafWeight != nil {
			return nil, notV2(field + ".leafWeight")
		}
		if d.Weight == nil {
			continue
		}
		one, err := weightV2(field, fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = fmt.Sprint(d.Rate)
			}
			s = append(s, setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate), field: fmt.Sprintf("blockIO.%s[%d]", t.field, i)})
		}
	}
	return s, nil
}

// weightV2 is a weight for the BFQ scheduler, whose file takes v1's numbers as
// they are (1 to 1000), or for io.cost, whose weights go from 1 to 10000.
func weightV2(field, device string, weight uint16) (setting, error) {
	if weight < 1 || weight > 1000 {
		return setting{}, fmt.Errorf("linux.resources.%s: %d is not 1 to 1000", field, weight)
	}
	scaled := 1 + (max(int(weight), 10)-10)*9999/990
	return setting{
		file: "io.bfq.weight", value: fmt.Sprintf("%s%d", device, weight),
		other: "io.weight", otherValue: fmt.Sprintf("%s%d", device, scaled),
		field: field,
	}, nil
}

func hugetlbV2(r *specs.LinuxResources) ([]setting, error) {
	return pageSizes(r, func(size string) [2]string {
		return [2]string{"hugetlb." + size + ".max", "hugetlb." + size + ".rsvd.max"}
	})
}

func networkV2(r *specs.LinuxResources) ([]setting, error) {
	if r.Network != nil && (r.Network.ClassID != nil && *r.Network.ClassID != 0 || len(r.Network.Priorities) > 0) {
		return nil, notV2("network")
	}
	return nil, nil
}

func unifiedV2(r *specs.LinuxResources) ([]setting, error) {
	var s []setting
	for _, file := range sortedKeys(r.Unified) {
		field := fmt.Sprintf("unified[%q]", file)
		if strings.ContainsAny(file, "/\x00\n") || !strings.Contains(file, ".") || strings.HasPrefix(file, ".") {
			return nil, fmt.Errorf("linux.resources.%.60s: is not the name of a cgroup file such as memory.high", field)
		}
		if strings.HasPrefix(file, "cgroup.") && file != "cgroup.max.depth" && file != "cgroup.max.descendants" {
			return nil, fmt.Errorf("linux.resources.%s: is the runtime's own to write", field)
		}
		s = append(s, setting{file: file, value: strings.TrimRight(r.Unified[file], "\n"), field: field})
	}
	return s, nil
}

func maxOr(n int64) string {
	if n < 0 {
		return "max"
	}
	return fmt.Sprint(n)
}

func notV2(field string) error {
	return fmt.Errorf("linux.resources.%s: has no counterpart on cgroup v2; remove it from the config: %w", field, ErrUnsupported)
}
