package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
)

func bindEvents(a *app, f *flags) func(context.Context, []string) error {
	var once bool
	interval := 5 * time.Second
	f.flag(&once, "stats", "show the counters once")
	f.add("interval", "DURATION", "time between two readings, 5s by default", func(s string) (err error) {
		if interval, err = time.ParseDuration(s); err == nil && interval <= 0 {
			err = errors.New("must be more than zero")
		}
		return err
	})
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		status, err := c.Status()
		if err == nil && status == specs.StateStopped { // and nothing happens to it any more
			err = fmt.Errorf("container %s: %w: it is stopped", id, container.ErrNotRunning)
		}
		if err != nil {
			return err
		}
		if once {
			return emitStats(c)
		}
		return watch(ctx, c, interval)
	}
}

// event is a line of runc's.
type event struct {
	Type string     `json:"type"`
	ID   string     `json:"id"`
	Data *runcStats `json:"data,omitempty"`
}

func emit(e event) error { return json.NewEncoder(os.Stdout).Encode(e) }

func emitStats(c *container.Container) error {
	s, err := c.Stats()
	if err != nil {
		return err
	}
	return emit(event{Type: "stats", ID: c.ID(), Data: runcStatsOf(s)})
}

// watch shows counters at intervals, and out-of-memory kills when they happen,
// until the container is gone.
func watch(ctx context.Context, c *container.Container, interval time.Duration) error {
	cg, err := c.Cgroup()
	if err != nil {
		return err
	}
	oom, err := cg.WatchOOM()
	if err != nil {
		return err
	}
	defer func() { _ = oom.Close() }()
	kills := make(chan error)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			err := oom.Wait(ctx)
			select {
			case kills <- err:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-kills:
			if err != nil {
				return nil // the cgroup is gone, and so is the container
			}
			if err := emit(event{Type: "oom", ID: c.ID()}); err != nil {
				return err
			}
		case <-ticker.C:
			if err := emitStats(c); errors.Is(err, os.ErrNotExist) || errors.Is(err, container.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
}

// runcStats has the fields of runc's types.Stats that our counters fill.
type runcStats struct {
	CPU struct {
		Usage struct {
			Total        uint64   `json:"total,omitempty"`
			PerCPU       []uint64 `json:"percpu,omitempty"`
			PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
			PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
			Kernel       uint64   `json:"kernel"`
			User         uint64   `json:"user"`
		} `json:"usage"`
		Throttling struct {
			Periods          uint64 `json:"periods,omitempty"`
			ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
			ThrottledTime    uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling"`
		PSI *cgroup.Pressure `json:"psi,omitempty"`
	} `json:"cpu"`
	CPUSet cgroup.CPUSetStats `json:"cpuset"`
	Memory struct {
		Cache     uint64            `json:"cache,omitempty"`
		Usage     runcMemory        `json:"usage"`
		Swap      runcMemory        `json:"swap"` // with memory, as v1 counts it
		Kernel    runcMemory        `json:"kernel"`
		KernelTCP runcMemory        `json:"kernelTCP"`
		Raw       map[string]uint64 `json:"raw,omitempty"`
		PSI       *cgroup.Pressure  `json:"psi,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"`
	} `json:"pids"`
	Blkio struct {
		Bytes       []runcIO         `json:"ioServiceBytesRecursive,omitempty"`
		Ops         []runcIO         `json:"ioServicedRecursive,omitempty"`
		Queued      []runcIO         `json:"ioQueueRecursive,omitempty"`
		ServiceTime []runcIO         `json:"ioServiceTimeRecursive,omitempty"`
		WaitTime    []runcIO         `json:"ioWaitTimeRecursive,omitempty"`
		Merged      []runcIO         `json:"ioMergedRecursive,omitempty"`
		Time        []runcIO         `json:"ioTimeRecursive,omitempty"`
		Sectors     []runcIO         `json:"sectorsRecursive,omitempty"`
		PSI         *cgroup.Pressure `json:"psi,omitempty"`
	} `json:"blkio"`
	Hugetlb map[string]runcMemory `json:"hugetlb"`
}

type runcMemory struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type runcIO struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

func runcStatsOf(s *cgroup.Stats) *runcStats {
	r := &runcStats{Hugetlb: map[string]runcMemory{}}
	r.CPU.Usage.Total, r.CPU.Usage.PerCPU = s.CPU.Usage, s.CPU.PerCPU
	r.CPU.Usage.PerCPUKernel, r.CPU.Usage.PerCPUUser = s.CPU.PerCPUSystem, s.CPU.PerCPUUser
	r.CPUSet = s.CPUSet
	r.CPU.Usage.Kernel, r.CPU.Usage.User = s.CPU.System, s.CPU.User
	r.CPU.Throttling.Periods, r.CPU.Throttling.ThrottledPeriods = s.CPU.Periods, s.CPU.ThrottledPeriods
	r.CPU.Throttling.ThrottledTime, r.CPU.PSI = s.CPU.ThrottledTime, s.CPU.Pressure
	r.Memory.Cache, r.Memory.Raw, r.Memory.PSI = s.Memory.Cache, s.Memory.Stat, s.Memory.Pressure
	r.Memory.Usage = runcMemory{s.Memory.Limit, s.Memory.Usage, s.Memory.MaxUsage, s.Memory.LimitHits}
	counter := func(c cgroup.MemoryCounter) runcMemory { return runcMemory{c.Limit, c.Usage, c.MaxUsage, c.LimitHits} }
	r.Memory.Swap = counter(s.Memory.Both)
	r.Memory.Kernel, r.Memory.KernelTCP = counter(s.Memory.KernelMemory), counter(s.Memory.KernelTCP)
	r.Pids.Current, r.Pids.Limit = s.Pids.Current, s.Pids.Limit
	if s.Pids.Limit == cgroup.NoLimit {
		r.Pids.Limit = 0
	}
	r.Blkio.PSI = s.IO.Pressure
	for _, list := range []struct {
		to   *[]runcIO
		from []cgroup.IOEntry
	}{
		{&r.Blkio.Queued, s.IO.Queued}, {&r.Blkio.ServiceTime, s.IO.ServiceTime}, {&r.Blkio.WaitTime, s.IO.WaitTime},
		{&r.Blkio.Merged, s.IO.Merged}, {&r.Blkio.Time, s.IO.Time}, {&r.Blkio.Sectors, s.IO.Sectors},
	} {
		for _, e := range list.from {
			*list.to = append(*list.to, runcIO(e))
		}
	}
	for _, d := range s.IO.Devices {
		r.Blkio.Bytes = append(r.Blkio.Bytes, runcIO{d.Major, d.Minor, "Read", d.ReadBytes}, runcIO{d.Major, d.Minor, "Write", d.WriteBytes})
		r.Blkio.Ops = append(r.Blkio.Ops, runcIO{d.Major, d.Minor, "Read", d.ReadOps}, runcIO{d.Major, d.Minor, "Write", d.WriteOps})
	}
	for _, h := range s.Hugetlb {
		r.Hugetlb[h.PageSize] = runcMemory{h.Limit, h.Usage, h.MaxUsage, h.LimitHits}
	}
	return r
}
