package cgroup

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/strake-containers/strake/internal/abi"
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
func (c *Cgroup) Stats() (*Stats, error) { return c.read(reader{}, nil) }

// Usage is Stats of what is asked for every few seconds: the CPU time, memory and
// swap in use and their limits, page faults and pressure and, with tasks, how many
// those are. Everything else may be zero. On v1 it reads 3 files instead of some 50,
// and one or two more for each of tasks and limits that there are. Who reads many cgroups
// gives the same Bases for all of them; nil is none. Who reads one again and again keeps
// Counters.
func (c *Cgroup) Usage(b *Bases, tasks bool) (*Stats, error) {
	return c.read(reader{usage: true, tasks: tasks, bases: b}, nil)
}

// Bases are handles of directories above the cgroups that are read one after the other:
// paths are looked up from there. To look up the whole path of each file is a third of
// what reading cgroups costs. They are for one goroutine, and for a moment: Close them
// when all is read. The zero value is ready.
type Bases struct {
	paths   []string
	handles map[baseKey]int // -1: cannot be had
}

type baseKey struct{ mount, base string }

// maxBases bounds how many directories there are handles of, for each hierarchy. Pods'
// cgroups are in three, as a rule.
const maxBases = 8

// find is a handle of a directory above a cgroup, and the cgroup's path from there.
func (b *Bases) find(h hierarchy, cgroupPath string) (handle int, below string, ok bool) {
	if b == nil || h.below != "" {
		return 0, "", false
	}
	i := slices.IndexFunc(b.paths, func(base string) bool {
		rest, ok := strings.CutPrefix(cgroupPath, base)
		return ok && (base == "/" || strings.HasPrefix(rest, "/"))
	})
	if i < 0 {
		if len(b.paths) == maxBases {
			return 0, "", false
		}
		i = len(b.paths)
		b.paths = append(b.paths, path.Dir(path.Dir(cgroupPath))) // where its pod's siblings are
	}
	key := baseKey{h.mount, b.paths[i]}
	handle, known := b.handles[key]
	if !known {
		var err error
		if handle, err = open(key.mount+key.base, abi.OPath|syscall.O_DIRECTORY); err != nil {
			handle = -1 // the whole path says why
		}
		if b.handles == nil {
			b.handles = map[baseKey]int{}
		}
		b.handles[key] = handle
	}
	return handle, strings.TrimPrefix(cgroupPath[len(key.base):], "/"), handle >= 0
}

// Close gives all handles back.
func (b *Bases) Close() {
	if b == nil {
		return
	}
	for _, handle := range b.handles {
		if handle >= 0 {
			_ = syscall.Close(handle) // names were looked up with it
		}
	}
	*b = Bases{}
}

// read reads every hierarchy as the reader like is to, from what is kept, if there is anything.
func (c *Cgroup) read(like reader, kept *Counters) (*Stats, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s := &Stats{}
	buf := buffers.Get().(*[4096]byte)
	defer buffers.Put(buf)
	r := new(reader)
	for i := range c.all {
		*r = like
		r.h, r.path, r.buf = &c.all[i], c.path, buf[:]
		if kept != nil {
			r.kept = &kept.files[i]
		}
		err := c.readStats(s, r)
		r.close()
		if err != nil {
			return nil, fmt.Errorf("cgroup %s: stats: %w", c.path, err)
		}
	}
	s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, s.Memory.InactiveFile)
	return s, nil
}

// buffers are for files' texts, all of which but memory.stat's are a few bytes.
var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

func (c *Cgroup) readStats(s *Stats, r *reader) error {
	h := r.h
	for i := range controllers {
		one := &controllers[i]
		name, read := one.v1, one.v1Stats
		if h.v2 {
			name, read = one.v2, one.v2Stats
		}
		// On v2 the CPU time is counted without the controller too.
		if read == nil || r.usage && !one.usage || !slices.Contains(h.controllers, name) && (c.mode != Unified || name != "cpu") {
			continue
		}
		read(s, r)
		if r.err != nil && !isErrno(r.err, syscall.ENODEV) {
			return r.err
		}
	}
	return nil
}

// reader reads numbers from the files of one directory. A file that the kernel
// lacks (which ones there are depends on its configuration) is zero, unless it is the
// directory that is missing; the first other error sticks.
type reader struct {
	h     *hierarchy
	path  string     // the cgroup's
	kept  *keptFiles // those that stay open; nil for none
	usage bool       // leave out what Usage does
	tasks bool       // but not these
	there bool       // the directory was, when it was looked for
	err   error

	// Where names are looked up, once one has been.
	dir    string
	bases  *Bases
	handle int    // what files are looked up from, if there is anything
	below  string // and the way from there, "" for none
	looks  bool   // there is
	own    bool   // it is the reader's

	buf []byte
}

// find has files looked up from a handle, if that pays: on v1 Usage wants so few files
// of each directory that their paths cost less than a handle of its own.
func (r *reader) find() {
	if r.dir != "" {
		return
	}
	r.dir = r.h.mount + r.path + r.h.below
	if handle, below, ok := r.bases.find(*r.h, r.path); ok {
		r.handle, r.below, r.looks = handle, below, true
		return
	}
	if r.h.v2 || !r.usage {
		fd, err := open(r.dir, abi.OPath|syscall.O_DIRECTORY)
		r.handle, r.looks, r.own = fd, err == nil, err == nil // else the path says why
	}
}

// close gives the handle back.
func (r *reader) close() {
	if r.own {
		_ = syscall.Close(r.handle) // names were looked up with it
	}
}

func (r *reader) number(file string) uint64 {
	text := bytes.TrimSpace(r.bytes(file))
	if len(text) == 0 {
		return 0
	}
	n, err := parseUint(string(text))
	r.note(err)
	return n
}

func (r *reader) read(file string) ([]byte, error) {
	if text, open, err := r.kept.read(file, r.buf); open {
		if err != nil {
			r.find()
			err = pathError("read", r.dir+"/"+file, err)
		}
		return text, err
	}
	r.find()
	handle, name := abi.AtFDCWD, r.dir+"/"+file
	switch {
	case r.looks && r.below == "":
		handle, name = r.handle, file
	case r.looks:
		handle, name = r.handle, r.below+"/"+file
	}
	return readCounters(handle, name, r.dir, file, r.buf, r.kept)
}

func (r *reader) text(file string) string { return string(r.bytes(file)) }

// bytes is a file's text until the next is read.
func (r *reader) bytes(file string) []byte {
	if r.buf == nil {
		r.buf = make([]byte, 4096)
	}
	text, err := r.read(file)
	r.note(err)
	// Asked only now: nearly always the file is there.
	if err != nil && !r.there && isErrno(err, syscall.ENOENT) {
		if r.there = exists(r.dir); !r.there && r.err == nil {
			r.err = &fs.PathError{Op: "stat", Path: r.dir, Err: syscall.ENOENT}
		}
	}
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
