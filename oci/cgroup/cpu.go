package cgroup

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// LeftOut says what of a container's limits is not applied beside others of them: an idle
// group has no shares (cgroup-v2.rst, cpu.idle).
func LeftOut(r *specs.LinuxResources) []string {
	if r == nil || !isIdle(r) {
		return nil
	}
	var all []string
	say := func(field string) {
		all = append(all, "linux.resources."+field+": unable to apply both shares and idle: an idle cgroup has no shares")
	}
	if r.CPU != nil && isSet(r.CPU.Shares) {
		say("cpu.shares")
	}
	for _, file := range sortedKeys(r.Unified) {
		if isShares(file) {
			say(fmt.Sprintf("unified[%q]", file))
		}
	}
	return all
}

// isIdle reports whether the limits make a group idle. The files of unified are written last.
func isIdle(r *specs.LinuxResources) bool {
	if value, ok := r.Unified["cpu.idle"]; ok {
		return strings.TrimSpace(value) == "1"
	}
	return r.CPU != nil && r.CPU.Idle != nil && *r.CPU.Idle == 1
}

// isShares reports whether a file of version 2 holds a group's shares.
func isShares(file string) bool { return file == "cpu.weight" || file == "cpu.weight.nice" }

func cpuV1(r *specs.LinuxResources) ([]setting, error) {
	cpu := r.CPU
	if cpu == nil {
		return nil, nil
	}
	var s []setting
	add := func(file, field string, value any) {
		s = append(s, setting{file: file, value: fmt.Sprint(value), field: "cpu." + field})
	}
	if isSet(cpu.Shares) && !isIdle(r) { // LeftOut says so
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

func cpuV2(r *specs.LinuxResources) ([]setting, error) {
	cpu := r.CPU
	if cpu == nil {
		return nil, nil
	}
	if isSet(cpu.RealtimeRuntime) || isSet(cpu.RealtimePeriod) {
		return nil, notV2("cpu.realtimeRuntime and realtimePeriod")
	}
	var s []setting
	if isSet(cpu.Shares) && !isIdle(r) {
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

// completeCPU adds the quota or the period that is in force to the other one.
func (c *Cgroup) completeCPU(cpu *specs.LinuxCPU) (*specs.LinuxCPU, error) {
	h, ok := c.find("cpu")
	if cpu == nil || isSet(cpu.Quota) == isSet(cpu.Period) || !ok {
		return cpu, nil
	}
	quota, period, err := cpuLimit(c.dir(h), h.v2)
	if err != nil {
		return nil, err
	}
	full := *cpu
	if !isSet(full.Quota) {
		full.Quota = &quota
	} else {
		full.Period = &period
	}
	return &full, nil
}

// cpuLimit reads the quota, -1 for none, and the period that are in force.
func cpuLimit(dir string, v2 bool) (quota int64, period uint64, err error) {
	text := ""
	if v2 {
		text, err = readFile(dir + "/cpu.max") // "50000 100000", "max 100000"
	} else {
		var q, p string
		if q, err = readFile(dir + "/cpu.cfs_quota_us"); err == nil {
			p, err = readFile(dir + "/cpu.cfs_period_us")
		}
		text = q + " " + p
	}
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("%s: the CPU limit reads %.60q", dir, text)
	}
	quota = -1
	if fields[0] != "max" {
		if quota, err = strconv.ParseInt(fields[0], 10, 64); err != nil {
			return 0, 0, err
		}
	}
	period, err = strconv.ParseUint(fields[1], 10, 64)
	return quota, period, err
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

// CPUStats are times in nanoseconds since the cgroup was made.
type CPUStats struct {
	Usage, User, System       uint64
	PerCPU                    []uint64 // v1 only, and so are its parts
	PerCPUSystem, PerCPUUser  []uint64
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64
	Bursts, BurstTime         uint64
	Pressure                  *Pressure // v2 only
}

// readV1 reads the cpu controller's part.
func (c *CPUStats) readV1(r *reader) {
	if r.usage {
		return
	}
	flatKeyed(r.bytes("cpu.stat"), func(key []byte, value uint64) {
		switch string(key) {
		case "nr_periods":
			c.Periods = value
		case "nr_throttled":
			c.ThrottledPeriods = value
		case "throttled_time":
			c.ThrottledTime = value
		case "nr_bursts":
			c.Bursts = value
		case "burst_time":
			c.BurstTime = value
		}
	})
}

// readAccountV1 reads the cpuacct controller's part. Each line of usage_all is a
// CPU's number and its times in user and in kernel mode.
func (c *CPUStats) readAccountV1(r *reader) {
	c.Usage = r.number("cpuacct.usage")
	if r.usage {
		return
	}
	c.User = r.number("cpuacct.usage_user")
	c.System = r.number("cpuacct.usage_sys")
	for field := range strings.FieldsSeq(r.text("cpuacct.usage_percpu")) {
		n, err := parseUint(field)
		r.note(err)
		c.PerCPU = append(c.PerCPU, n)
	}
	for line := range strings.Lines(r.text("cpuacct.usage_all")) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] == "cpu" {
			continue
		}
		user, err := parseUint(fields[1])
		r.note(err)
		system, err := parseUint(fields[2])
		r.note(err)
		c.PerCPUUser, c.PerCPUSystem = append(c.PerCPUUser, user), append(c.PerCPUSystem, system)
	}
}

// readV2 reads cpu.stat, which is there without the controller too.
func (c *CPUStats) readV2(r *reader) {
	const µs = 1000 // nanoseconds
	flatKeyed(r.bytes("cpu.stat"), func(key []byte, value uint64) {
		switch string(key) {
		case "usage_usec":
			c.Usage = value * µs
		case "user_usec":
			c.User = value * µs
		case "system_usec":
			c.System = value * µs
		case "nr_periods":
			c.Periods = value
		case "nr_throttled":
			c.ThrottledPeriods = value
		case "throttled_usec":
			c.ThrottledTime = value * µs
		case "nr_bursts":
			c.Bursts = value
		case "burst_usec":
			c.BurstTime = value * µs
		}
	})
	c.Pressure = r.pressure("cpu.pressure")
}
