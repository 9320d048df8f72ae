package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
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

// controller is one controller, or what is configured like one: how the config's
// fields become values for its files, and how its counters are read. Each has a
// file of this package. The settings are pure functions; nil without an error
// means that nothing was asked.
type controller struct {
	v1, v2     string // its names
	usage      bool   // Usage has something of it
	v1Settings func(*specs.LinuxResources) ([]setting, error)
	v2Settings func(*specs.LinuxResources) ([]setting, error)
	v1Stats    func(*Stats, *reader)
	v2Stats    func(*Stats, *reader)
}

// controllers has all but devices, which has rules and not values, and freezer.
var controllers = []controller{
	{"memory", "memory", true, memoryV1, memoryV2,
		func(s *Stats, r *reader) { s.Memory.readV1(r) }, func(s *Stats, r *reader) { s.Memory.readV2(r) }},
	{"cpu", "cpu", true, cpuV1, cpuV2,
		func(s *Stats, r *reader) { s.CPU.readV1(r) }, func(s *Stats, r *reader) { s.CPU.readV2(r) }},
	{"cpuacct", "", true, nil, nil,
		func(s *Stats, r *reader) { s.CPU.readAccountV1(r) }, nil},
	{"cpuset", "cpuset", false, cpuset, cpuset,
		func(s *Stats, r *reader) { s.CPUSet.readV1(r) }, func(s *Stats, r *reader) { s.CPUSet.readV2(r) }},
	{"pids", "pids", true, pids, pids,
		func(s *Stats, r *reader) { s.Pids.read(r) }, func(s *Stats, r *reader) { s.Pids.read(r) }},
	{"blkio", "io", true, blockV1, blockV2,
		func(s *Stats, r *reader) { s.IO.readV1(r) }, func(s *Stats, r *reader) { s.IO.readV2(r) }},
	{"hugetlb", "hugetlb", false, hugetlbV1, hugetlbV2,
		func(s *Stats, r *reader) { s.Hugetlb = hugetlbStatsV1(r) }, func(s *Stats, r *reader) { s.Hugetlb = hugetlbStatsV2(r) }},
	{"rdma", "rdma", false, rdma, rdma, nil, nil},
	{"net_cls", "", false, networkClassV1, networkV2, nil, nil},
	{"net_prio", "", false, networkPriorityV1, nil, nil, nil},
	{"", "unified", false, unifiedV1, unifiedV2, nil, nil},
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
	for _, res := range controllers {
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
		if !found && c.none() {
			return nil, fmt.Errorf("rootless needs no limits, as there is no permission for cgroups, but linux.resources.%s is given: %w", settings[0].field, ErrNone)
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

// hierarchyOf finds where a controller is. Unified's files are those
// of v2 whatever their controller.
func (c *Cgroup) hierarchyOf(res controller) (hierarchy, bool) {
	if res.v1 == "" {
		h, ok := c.v2()
		return h, ok && c.mode == Unified
	}
	for _, h := range c.all {
		name := res.v1
		if h.v2 {
			name = res.v2
		}
		if slices.Contains(h.controllers, name) {
			return h, true
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

func isSet[T int64 | uint64 | uint16](p *T) bool { return p != nil && *p != 0 }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func maxOr(n int64) string {
	if n < 0 {
		return "max"
	}
	return fmt.Sprint(n)
}

func notV2(field string) error {
	return fmt.Errorf("linux.resources.%s: has no counterpart on cgroup v2; remove it from the config: %w", field, ErrUnsupported)
}
