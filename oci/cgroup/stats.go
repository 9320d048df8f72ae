package cgroup

import (
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// NoLimit is the value of a limit that is not set.
const NoLimit = math.MaxUint64

// Stats is a reading of a cgroup's counters, of v1 or v2 alike. A controller
// that the host lacks leaves its part zero.
type Stats struct {
	CPU     CPUStats
	CPUSet  CPUSetStats
	Memory  MemoryStats
	Pids    PidsStats
	IO      IOStats
	Hugetlb []HugetlbStats // one per page size, sorted
}

// Pressure is a PSI file: shares of wall time lost. The JSON is that of runc's
// events.
type Pressure struct {
	Some PressureLine `json:"some"`
	Full PressureLine `json:"full"`
}

// PressureLine has averages in per cent and the total in microseconds.
type PressureLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Stats reads all counters. It fails with fs.ErrNotExist if the cgroup is gone.
func (c *Cgroup) Stats() (*Stats, error) { return c.read(false) }

// Usage is Stats of what is asked for every few seconds: the CPU time, memory and
// swap in use and their limits, page faults, processes and pressure. Everything else
// may be zero. On v1 it reads 7 files instead of some 50.
func (c *Cgroup) Usage() (*Stats, error) { return c.read(true) }

func (c *Cgroup) read(usage bool) (*Stats, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Stats{}
	for _, h := range c.all {
		if err := c.readStats(h, s, usage); err != nil {
			return nil, fmt.Errorf("cgroup %s: stats: %w", c.path, err)
		}
	}
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, s.Memory.InactiveFile)
	return s, nil
}

func (c *Cgroup) readStats(h hierarchy, s *Stats, usage bool) error {
	dir, found := c.dir(h), false
	for _, one := range controllers {
		name, read := one.v1, one.v1Stats
		if h.v2 {
			name, read = one.v2, one.v2Stats
		}
		// On v2 the CPU time is counted without the controller too.
		if read == nil || usage && !one.usage || !slices.Contains(h.controllers, name) && (c.mode != Unified || name != "cpu") {
			continue
		}
		if !found && !exists(dir) { // a file that is missing is no error
			return &fs.PathError{Op: "stat", Path: dir, Err: syscall.ENOENT}
		}
		found = true
		r := &reader{dir: dir, usage: usage}
		read(s, r)
		if r.err != nil && !isErrno(r.err, syscall.ENODEV) {
			return r.err
		}
	}
	return nil
}

// reader reads numbers from the files of one directory. A file that the kernel
// lacks (which ones there are depends on its configuration) is zero; the first
// other error sticks.
type reader struct {
	dir   string
	usage bool // leave out what Usage does
	err   error
}

func (r *reader) number(file string) uint64 {
	text := strings.TrimSpace(r.text(file))
	if text == "" {
		return 0
	}
	n, err := parseUint(text)
	r.note(err)
	return n
}

func (r *reader) text(file string) string {
	text, err := readCounters(r.dir + "/" + file)
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
