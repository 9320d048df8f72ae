package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Stats reads all counters. It fails with fs.ErrNotExist if the cgroup is gone.
func (c *Cgroup) Stats() (*Stats, error) {
	s := &Stats{}
	for _, h := range c.all {
		dir := c.dir(h)
		if !exists(dir) {
			return nil, fmt.Errorf("cgroup %s: stats: %w", c.path, &fs.PathError{Op: "stat", Path: dir, Err: syscall.ENOENT})
		}
		read := s.readV1
		if h.v2 {
			read = s.readV2
		}
		for _, controller := range h.controllers {
			if err := read(dir, controller); err != nil && !isErrno(err, syscall.ENOENT, syscall.ENODEV, syscall.EOPNOTSUPP) {
				return nil, fmt.Errorf("cgroup %s: stats: %w", c.path, err)
			}
		}
	}
	if c.mode == Unified {
		// cpu.stat is there without its controller too.
		if err := s.readCPUV2(c.dir(c.all[0])); err != nil {
			return nil, fmt.Errorf("cgroup %s: stats: %w", c.path, err)
		}
	}
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, s.Memory.InactiveFile)
	return s, nil
}

// reader reads numbers from the files of one directory. A file that the kernel
// lacks (which ones there are depends on its configuration) is zero; the first
// other error sticks.
type reader struct {
	dir string
	err error
}

func (r *reader) number(file string) uint64 {
	n, err := readUint(r.dir + "/" + file)
	r.note(err)
	return n
}

func (r *reader) text(file string) string {
	text, err := readFile(r.dir + "/" + file)
	r.note(err)
	return text
}

func (r *reader) note(err error) {
	if r.err == nil && err != nil && !isErrno(err, syscall.ENOENT, syscall.EOPNOTSUPP) {
		r.err = err
	}
}

func (r *reader) pressure(file string) *Pressure {
	text := r.text(file)
	if text == "" {
		return nil
	}
	return parsePressure(text)
}

func parsePressure(text string) *Pressure {
	p := &Pressure{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		to := &p.Some
		if fields[0] == "full" {
			to = &p.Full
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				to.Avg10 = number
			case "avg60":
				to.Avg60 = number
			case "avg300":
				to.Avg300 = number
			case "total":
				to.Total, _ = strconv.ParseUint(value, 10, 64) // a float has parsed already
			}
		}
	}
	return p
}

// pageSizeFiles calls f for each page size of which dir has hugetlb files, with
// the files' common prefix.
func (r *reader) pageSizes(suffix string, f func(size, prefix string)) {
	names, err := hugetlbSizes()
	r.note(err)
	for _, size := range names {
		prefix := "hugetlb." + size
		if exists(r.dir + "/" + prefix + suffix) {
			f(size, prefix)
		}
	}
}

// hugetlbSizes lists the host's huge page sizes in the way that cgroup files are
// named: 64KB, 2MB, 1GB.
func hugetlbSizes() ([]string, error) {
	dirs, err := subdirs("/sys/kernel/mm/hugepages")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var sizes []uint64
	for _, dir := range dirs {
		_, name, _ := strings.Cut(dir, "/hugepages-")
		kb, err := strconv.ParseUint(strings.TrimSuffix(name, "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, kb)
		}
	}
	slices.Sort(sizes)
	names := make([]string, len(sizes))
	for i, kb := range sizes {
		switch {
		case kb >= 1<<20:
			names[i] = fmt.Sprintf("%dGB", kb>>20)
		case kb >= 1<<10:
			names[i] = fmt.Sprintf("%dMB", kb>>10)
		default:
			names[i] = fmt.Sprintf("%dKB", kb)
		}
	}
	return names, nil
}

// device returns the entry for "major:minor", made if need be.
func (s *IOStats) device(number string) *IODevice {
	majorText, minorText, ok := strings.Cut(number, ":")
	major, err1 := strconv.ParseUint(majorText, 10, 64)
	minor, err2 := strconv.ParseUint(minorText, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return nil
	}
	for i := range s.Devices {
		if s.Devices[i].Major == major && s.Devices[i].Minor == minor {
			return &s.Devices[i]
		}
	}
	s.Devices = append(s.Devices, IODevice{Major: major, Minor: minor})
	return &s.Devices[len(s.Devices)-1]
}
