package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The fields that are the same on v1 and v2.

func cpuset(r *specs.LinuxResources) ([]setting, error) {
	if r.CPU == nil {
		return nil, nil
	}
	var s []setting
	if r.CPU.Cpus != "" {
		s = append(s, setting{file: "cpuset.cpus", value: r.CPU.Cpus, field: "cpu.cpus", have: "/sys/devices/system/cpu/online"})
	}
	if r.CPU.Mems != "" {
		s = append(s, setting{file: "cpuset.mems", value: r.CPU.Mems, field: "cpu.mems", have: "/sys/devices/system/node/online"})
	}
	for _, one := range s {
		if err := cpuList(one.value); err != nil {
			return nil, fmt.Errorf("linux.resources.%s: %w", one.field, err)
		}
	}
	return s, nil
}

// cpuList checks the characters only: which CPUs there are, the kernel knows.
func cpuList(list string) error {
	if len(list) > 4096 || strings.Trim(list, "0123456789,-: \n\t") != "" {
		return fmt.Errorf("%.60q is not a list such as 0-3,7", list)
	}
	return nil
}

// fillCpuset gives a v1 cpuset directory its parent's CPUs and memory nodes if
// it has none of its own: v1 makes them empty, and lets no process into such.
func (c *Cgroup) fillCpuset(h hierarchy, p string) error {
	if h.v2 || p == "/" || !slices.Contains(h.controllers, "cpuset") {
		return nil
	}
	for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		have, err := readFile(h.mount + p + file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(have) != "" {
			continue
		}
		above := path.Dir(p)
		value, err := readFile(h.mount + strings.TrimSuffix(above, "/") + file)
		if err != nil {
			return err
		}
		if value = strings.TrimSpace(value); value == "" {
			// Somebody else made the parent and left it so.
			if err := c.fillCpuset(h, above); err != nil {
				return err
			}
			if value, err = readFile(h.mount + above + file); err != nil {
				return err
			}
			value = strings.TrimSpace(value)
		}
		if err := writeFile(h.mount+p+file, value); err != nil {
			return err
		}
	}
	return nil
}

// CPUSetStats are the settings in force; numbers other than the lists are v1's. The
// JSON is that of runc's events.
type CPUSetStats struct {
	CPUs             []uint16 `json:"cpus,omitempty"`
	CPUExclusive     uint64   `json:"cpu_exclusive"`
	Mems             []uint16 `json:"mems,omitempty"`
	MemHardwall      uint64   `json:"mem_hardwall"`
	MemExclusive     uint64   `json:"mem_exclusive"`
	MemoryMigrate    uint64   `json:"memory_migrate"`
	MemorySpreadPage uint64   `json:"memory_spread_page"`
	MemorySpreadSlab uint64   `json:"memory_spread_slab"`
	MemoryPressure   uint64   `json:"memory_pressure"`
	LoadBalancing    uint64   `json:"sched_load_balance"`
	RelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

func (c *CPUSetStats) readV1(r *reader) {
	*c = CPUSetStats{
		CPUs: r.list("cpuset.cpus"), Mems: r.list("cpuset.mems"),
		CPUExclusive: r.number("cpuset.cpu_exclusive"), MemHardwall: r.number("cpuset.mem_hardwall"),
		MemExclusive: r.number("cpuset.mem_exclusive"), MemoryMigrate: r.number("cpuset.memory_migrate"),
		MemorySpreadPage: r.number("cpuset.memory_spread_page"), MemorySpreadSlab: r.number("cpuset.memory_spread_slab"),
		MemoryPressure: r.number("cpuset.memory_pressure"), LoadBalancing: r.number("cpuset.sched_load_balance"),
	}
	level, err := strconv.ParseInt(strings.TrimSpace(r.text("cpuset.sched_relax_domain_level")), 10, 64)
	if err == nil {
		c.RelaxDomainLevel = level
	}
}

func (c *CPUSetStats) readV2(r *reader) {
	*c = CPUSetStats{CPUs: r.list("cpuset.cpus.effective"), Mems: r.list("cpuset.mems.effective")}
}

// list reads a file such as "0-3,7".
func (r *reader) list(file string) []uint16 {
	numbers, err := parseList(r.text(file))
	r.note(err)
	return numbers
}

// maxCPU is more than any kernel has CPUs or memory nodes.
const maxCPU = 1 << 14

// parseList returns the numbers of a list such as "0-3,7", in its order.
func parseList(text string) ([]uint16, error) {
	var numbers []uint16
	for one := range strings.SplitSeq(text, ",") {
		one = strings.TrimSpace(one)
		if one == "" {
			continue
		}
		first, last, isRange := strings.Cut(one, "-")
		from, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		}
		if err != nil || to < from || to >= maxCPU {
			return nil, fmt.Errorf("%.40q is not a number or a range below %d", one, maxCPU)
		}
		for n := from; n <= to; n++ {
			numbers = append(numbers, uint16(n))
		}
	}
	return numbers, nil
}
