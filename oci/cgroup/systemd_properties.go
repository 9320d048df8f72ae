package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/dbus"
)

// The limits that systemd knows, as properties of the scope. They are written to
// the cgroup's files too, with those that it does not know; see
// systemd.resource-control(5). systemd's 2^64-1 is "infinity".

// Versions of systemd that know more than Linux 5.14's contemporaries.
const (
	systemdIdle      = 252 // CPUWeight=idle
	systemdOOMPolicy = 253 // OOMPolicy= of a scope
)

const (
	defaultPeriod = 100000 // of CPU time, in µs
	secondµs      = 1000000
	// quotaStep is the precision of systemd's CPU quota, one per cent.
	quotaStep = secondµs / 100
)

// forUnit returns the resources as systemd will have them in force: a CPU quota
// that is not a whole number of per cent is rounded up.
func forUnit(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || r.CPU == nil || r.CPU.Quota == nil || *r.CPU.Quota <= 0 {
		return r
	}
	period := uint64(defaultPeriod)
	if isSet(r.CPU.Period) {
		period = *r.CPU.Period
	}
	quota := int64(perSecond(*r.CPU.Quota, period)) * int64(period) / secondµs
	rounded, cpu := *r, *r.CPU
	cpu.Quota, rounded.CPU = &quota, &cpu
	return &rounded
}

// perSecond is a quota of CPU time in µs for a second, as precise as systemd is.
func perSecond(quota int64, period uint64) uint64 {
	µs := uint64(quota) * secondµs / period
	return (µs + quotaStep - 1) / quotaStep * quotaStep
}

// unitProperties turns resources into properties; version is asked for where it
// matters. What unified asks for in the words of the kernel comes last and wins.
func unitProperties(r *specs.LinuxResources, v2 bool, version func() (int, error)) ([]property, error) {
	if r == nil {
		return nil, nil
	}
	var all []property
	add := func(name string, value dbus.Value) { all = append(all, property{name, value}) }
	if err := memoryProperties(r.Memory, v2, add); err != nil {
		return nil, err
	}
	if err := cpuProperties(r, v2, version, add); err != nil {
		return nil, err
	}
	if !v2 && r.BlockIO != nil && isSet(r.BlockIO.Weight) {
		add("BlockIOWeight", dbus.Uint64(uint64(*r.BlockIO.Weight)))
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		limit := uint64(max(1, *r.Pids.Limit)) // systemd has no 0
		if *r.Pids.Limit < 0 {
			limit = math.MaxUint64
		}
		add("TasksMax", dbus.Uint64(limit))
	}
	for _, file := range sortedKeys(r.Unified) {
		if isShares(file) && isIdle(r) {
			continue // LeftOut says so
		}
		if err := unifiedProperty(file, strings.TrimSpace(r.Unified[file]), add); err != nil {
			return nil, fmt.Errorf("linux.resources.unified[%q]: %w", file, err)
		}
	}
	return all, nil
}

func memoryProperties(m *specs.LinuxMemory, v2 bool, add func(string, dbus.Value)) error {
	if m == nil {
		return nil
	}
	if !v2 {
		if isSet(m.Limit) {
			add("MemoryLimit", dbus.Uint64(uint64(*m.Limit)))
		}
		return nil
	}
	if isSet(m.Limit) {
		add("MemoryMax", dbus.Uint64(uint64(*m.Limit)))
	}
	if isSet(m.Reservation) {
		add("MemoryLow", dbus.Uint64(uint64(*m.Reservation)))
	}
	if !isSet(m.Swap) {
		if m.Limit != nil && *m.Limit == -1 {
			add("MemorySwapMax", dbus.Uint64(NoLimit)) // as memoryV2 has it
		}
		return nil
	}
	swap, err := swapV2(m)
	if err != nil {
		return err
	}
	n, err := parseUint(swap.value)
	if err == nil {
		add("MemorySwapMax", dbus.Uint64(n))
	}
	return err
}

func cpuProperties(r *specs.LinuxResources, v2 bool, version func() (int, error), add func(string, dbus.Value)) error {
	idle := v2 && isIdle(r)
	if idle {
		if err := addIdle(version, add); err != nil {
			return err
		}
	}
	cpu := r.CPU
	if cpu == nil {
		return nil
	}
	switch {
	case !v2 && isSet(cpu.Shares):
		add("CPUShares", dbus.Uint64(*cpu.Shares))
	case !idle && isSet(cpu.Shares):
		add("CPUWeight", dbus.Uint64(cpuWeight(*cpu.Shares)))
	}
	if isSet(cpu.Quota) || isSet(cpu.Period) {
		quota, period := int64(-1), uint64(0)
		if isSet(cpu.Quota) {
			quota = *cpu.Quota
		}
		if cpu.Period != nil {
			period = *cpu.Period
		}
		addQuota(quota, period, add)
	}
	for _, set := range []struct{ list, field, name string }{
		{cpu.Cpus, "cpu.cpus", "AllowedCPUs"}, {cpu.Mems, "cpu.mems", "AllowedMemoryNodes"},
	} {
		if set.list == "" {
			continue
		}
		mask, err := bitmask(set.list)
		if err != nil {
			return fmt.Errorf("linux.resources.%s: %w", set.field, err)
		}
		add(set.name, dbus.Bytes(mask))
	}
	return nil
}

// addIdle has systemd leave cpu.idle alone: it has no number for that but 0. One
// that is too old leaves it alone anyway.
func addIdle(version func() (int, error), add func(string, dbus.Value)) error {
	n, err := version()
	if err == nil && n >= systemdIdle {
		add("CPUWeight", dbus.Uint64(0))
	}
	return err
}

func addQuota(quota int64, period uint64, add func(string, dbus.Value)) {
	if period != 0 {
		add("CPUQuotaPeriodUSec", dbus.Uint64(period))
	} else {
		period = defaultPeriod
	}
	limit := uint64(math.MaxUint64)
	if quota > 0 {
		limit = perSecond(quota, period)
	}
	add("CPUQuotaPerSecUSec", dbus.Uint64(limit))
}

// bitmask is a list such as "0-3,7" in systemd's form: bit n of the bytes.
func bitmask(list string) ([]byte, error) {
	numbers, err := parseList(list)
	if err != nil {
		return nil, err
	}
	var mask []byte
	for _, n := range numbers {
		for int(n)/8 >= len(mask) {
			mask = append(mask, 0)
		}
		mask[n/8] |= 1 << (n % 8)
	}
	return mask, nil
}

// unifiedProperty is what systemd calls the limit that is in a v2 file. A file
// that it does not know is written all the same, and so is not its business.
func unifiedProperty(file, value string, add func(string, dbus.Value)) error {
	plain := map[string]string{
		"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
	}
	switch file {
	case "cpu.max":
		limit, rest, _ := strings.Cut(value, " ")
		quota, period := int64(-1), uint64(defaultPeriod)
		var err error
		if limit != "max" {
			quota, err = strconv.ParseInt(limit, 10, 64)
		}
		if rest = strings.TrimSpace(rest); err == nil && rest != "" {
			period, err = strconv.ParseUint(rest, 10, 64)
		}
		if err != nil || period == 0 {
			return fmt.Errorf("%.60q is not a quota and a period", value)
		}
		addQuota(quota, period, add)
	case "cpuset.cpus", "cpuset.mems":
		mask, err := bitmask(value)
		if err != nil || len(mask) == 0 {
			return fmt.Errorf("%.60q is not a list such as 0-3,7", value)
		}
		add(map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[file], dbus.Bytes(mask))
	default:
		name := plain[file]
		if name == "" {
			return nil
		}
		n, err := parseUint(value)
		if err != nil {
			return fmt.Errorf("%.60q is not a number", value)
		}
		if file == "pids.max" {
			n = max(1, n)
		}
		add(name, dbus.Uint64(n))
	}
	return nil
}

// oomPolicy is what memory.oom.group means to systemd, which takes it only when
// the scope starts.
func oomPolicy(r *specs.LinuxResources, version func() (int, error)) ([]property, error) {
	if r == nil || r.Unified["memory.oom.group"] == "" {
		return nil, nil
	}
	n, err := version()
	if err != nil || n < systemdOOMPolicy {
		return nil, err
	}
	policy := "continue"
	if strings.TrimSpace(r.Unified["memory.oom.group"]) == "1" {
		policy = "kill"
	}
	return []property{{"OOMPolicy", dbus.String(policy)}}, nil
}

// deviceProperties has systemd put the same filter in place, for when it is
// reloaded. Groups of devices have names there, by /proc/devices, whose text is
// given. A filter that cannot be said so is left to us alone (on v2, where
// systemd touches no filter that it does not have).
func deviceProperties(f deviceFilter, procDevices string) []property {
	open := []property{
		{"DevicePolicy", dbus.String("auto")},
		{"DeviceAllow", dbus.Array("(ss)")},
	}
	if f.allow {
		return open
	}
	var rules []dbus.Value
	for _, e := range f.exceptions {
		name := systemdDevice(e.nodes, procDevices)
		switch {
		case name != "":
			rules = append(rules, dbus.Struct(dbus.String(name), dbus.String(e.access.String())))
		case e.nodes.major == any64:
			return open
		}
		// A group that the host does not have (yet) is none to allow.
	}
	return []property{{"DevicePolicy", dbus.String("strict")}, {"DeviceAllow", dbus.Array("(ss)", rules...)}}
}

// systemdDevice is systemd's name of devices, or "".
func systemdDevice(d deviceNodes, procDevices string) string {
	kind, section := "char", "Character devices:"
	if d.kind == 'b' {
		kind, section = "block", "Block devices:"
	}
	switch {
	case d.major == any64 && d.minor == any64:
		return kind + "-*"
	case d.major == any64:
		return ""
	case d.minor != any64:
		return fmt.Sprintf("/dev/%s/%d:%d", kind, d.major, d.minor)
	}
	in := false
	for line := range strings.Lines(procDevices) {
		line = strings.TrimSpace(line)
		if strings.HasSuffix(line, ":") {
			in = line == section
			continue
		}
		fields := strings.Fields(line)
		if in && len(fields) == 2 && !strings.Contains(fields[1], "/") && fields[0] == strconv.FormatInt(d.major, 10) {
			return kind + "-" + fields[1]
		}
	}
	return ""
}
