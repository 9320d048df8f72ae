package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one value for one file, and the config field that asked for it.
type setting struct {
	file, value string
	field       string // "linux.resources." goes before it
	other       string // file to write where the kernel lacks file, or ""
	otherValue  string // value for other; "" is value
	optional    bool   // no error where the kernel lacks the file
	have        string // file with the values that the host has, for errors
}

// resource is one group of config fields and the controller that limits it.
// Both functions are pure; nil without an error means that nothing was asked.
type resource struct {
	v1, v2     string // names of the controller
	v1Settings func(*specs.LinuxResources) ([]setting, error)
	v2Settings func(*specs.LinuxResources) ([]setting, error)
}

// resources has every group but devices, which are rules and not values.
var resources = []resource{
	{"memory", "memory", memoryV1, memoryV2},
	{"cpu", "cpu", cpuV1, cpuV2},
	{"cpuset", "cpuset", cpuset, cpuset},
	{"pids", "pids", pids, pids},
	{"blkio", "io", blockV1, blockV2},
	{"hugetlb", "hugetlb", hugetlbV1, hugetlbV2},
	{"rdma", "rdma", rdma, rdma},
	{"net_cls", "", networkClassV1, networkV2},
	{"net_prio", "", networkPriorityV1, nil},
	{"", "unified", unifiedV1, unifiedV2},
}

// group is the settings of one resource, with where they go.
type group struct {
	dir        string
	controller string // on v2: to be turned on above the cgroup
	settings   []setting
}

// compile decides which file of which hierarchy gets what. It touches no file.
func (c *Cgroup) compile(r *specs.LinuxResources) ([]group, error) {
	if r == nil {
		return nil, nil
	}
	var groups []group
	for _, res := range resources {
		h, found := c.hierarchyOf(res)
		convert := res.v1Settings
		if found && h.v2 || !found && c.mode == Unified {
			convert = res.v2Settings
		}
		if convert == nil {
			continue
		}
		settings, err := convert(r)
		if err != nil {
			return nil, err
		}
		if len(settings) == 0 {
			continue
		}
		if !found {
			return nil, fmt.Errorf("linux.resources.%s: this host has no %s controller (cgroup %v): %w", settings[0].field, res.v1, c.mode, ErrUnsupported)
		}
		controller := ""
		if h.v2 {
			controller = res.v2
		}
		groups = append(groups, group{c.dir(h), controller, settings})
	}
	return groups, nil
}

// hierarchyOf finds where a resource's controller is. Unified's files are those
// of v2 whatever their controller.
func (c *Cgroup) hierarchyOf(res resource) (hierarchy, bool) {
	if res.v1 == "" {
		h, ok := c.v2()
		return h, ok && c.mode == Unified
	}
	for _, h := range c.all {
		name := res.v1
		if h.v2 {
			name = res.v2
		}
		for _, have := range h.controllers {
			if have == name {
				return h, true
			}
		}
	}
	return hierarchy{}, false
}

// apply writes a group. Files of one controller bound each other (a limit may
// not pass limit plus swap, a burst not the quota), so which of two must be
// written first depends on the values that are there. What the kernel refuses
// with EINVAL is therefore tried once more after the rest.
func (g group) apply() error {
	var again []setting
	for _, s := range g.settings {
		switch err := s.write(g.dir); {
		case isErrno(err, syscall.EINVAL) && len(g.settings) > 1:
			again = append(again, s)
		case err != nil:
			return s.explain(err)
		}
	}
	for _, s := range again {
		if err := s.write(g.dir); err != nil {
			return s.explain(err)
		}
	}
	return nil
}

func (s setting) write(dir string) error {
	// A value of several lines is for a file with a key per line; the kernel
	// takes one key in each write.
	for line := range strings.SplitSeq(s.value, "\n") {
		err := writeFile(dir+"/"+s.file, line)
		if s.other != "" && isErrno(err, syscall.ENOENT) {
			err = writeFile(dir+"/"+s.other, cmp.Or(s.otherValue, line))
		}
		if s.optional && isErrno(err, syscall.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fieldError is about a field of the config; it says nothing of the cgroup.
type fieldError struct {
	field string
	err   error
}

func (e *fieldError) Error() string { return "linux.resources." + e.field + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// reason is why a kernel file could not be written, without its name.
func reason(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return file.Err
	}
	return err
}

func (s setting) explain(err error) error {
	switch {
	case s.have != "" && !isErrno(err, syscall.ENOENT):
		if text, e := readFile(s.have); e == nil {
			return &fieldError{s.field, fmt.Errorf("%q: %w: this host has %s", s.value, reason(err), strings.TrimSpace(text))}
		}
	case isErrno(err, syscall.ENOENT):
		return &fieldError{s.field, fmt.Errorf("the kernel has no such file: %w: %w", err, ErrUnsupported)}
	case isErrno(err, syscall.EBUSY):
		return &fieldError{s.field, fmt.Errorf("%s: the cgroup uses more than that already and could not be shrunk: %w", s.value, reason(err))}
	case isErrno(err, syscall.EINVAL):
		return &fieldError{s.field, fmt.Errorf("the kernel refuses %q: %w", s.value, reason(err))}
	}
	return &fieldError{s.field, err}
}

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

func pids(r *specs.LinuxResources) ([]setting, error) {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil, nil
	}
	value := "max"
	switch limit := *r.Pids.Limit; {
	case limit > 0:
		value = fmt.Sprint(limit)
	case limit == 0:
		value = "1" // a task that may not fork is all that 0 can mean; systemd has no 0 either
	}
	return []setting{{file: "pids.max", value: value, field: "pids.limit"}}, nil
}

func rdma(r *specs.LinuxResources) ([]setting, error) {
	var s []setting
	for _, device := range sortedKeys(r.Rdma) {
		field := "rdma." + device
		if device == "" || strings.ContainsAny(device, " \t\n") {
			return nil, fmt.Errorf("linux.resources.rdma: %.60q is not a device name", device)
		}
		limit, value := r.Rdma[device], device
		if limit.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *limit.HcaHandles)
		}
		if limit.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *limit.HcaObjects)
		}
		if value != device {
			s = append(s, setting{file: "rdma.max", value: value, field: field})
		}
	}
	return s, nil
}

func pageSizes(r *specs.LinuxResources, file func(size string) [2]string) ([]setting, error) {
	var s []setting
	for i, l := range r.HugepageLimits {
		field := fmt.Sprintf("hugepageLimits[%d]", i)
		number := strings.TrimRight(l.Pagesize, "KMGTB")
		if unit := strings.TrimPrefix(l.Pagesize, number); number == "" || strings.Trim(number, "0123456789") != "" || len(unit) != 2 || unit[1] != 'B' {
			return nil, fmt.Errorf("linux.resources.%s.pageSize: %.40q is not a size such as 2MB", field, l.Pagesize)
		}
		value, f := fmt.Sprint(l.Limit), file(l.Pagesize)
		s = append(s,
			setting{file: f[0], value: value, field: field},
			setting{file: f[1], value: value, field: field, optional: true}) // reservations: Linux 5.7
	}
	return s, nil
}

func isSet[T int64 | uint64 | uint16](p *T) bool { return p != nil && *p != 0 }
