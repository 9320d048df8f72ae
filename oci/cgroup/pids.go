package cgroup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

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

// PidsStats are numbers of tasks.
type PidsStats struct{ Current, Limit uint64 }

// read is the same on v1 and v2.
func (p *PidsStats) read(r *reader) {
	if !r.usage || r.tasks {
		p.Current = r.number("pids.current")
	}
	if !r.usage {
		p.Limit = r.number("pids.max")
	}
}
