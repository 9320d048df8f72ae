package pod

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

const (
	// usageMaxAge is how old a container's disk usage may be: it takes a walk.
	usageMaxAge = 10 * time.Second
	// statsTimeout is what a stuck monitor may hold up a list; it is left out.
	statsTimeout = 2 * time.Second
	statsAtOnce  = 16
)

// ContainerStats reads the counters of one container.
func (m *Manager) ContainerStats(ctx context.Context, id string) (ContainerStats, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return ContainerStats{}, err
	}
	s, err := m.podStats(ctx, c.pod, func(o *container) bool { return o == c }, statsContainers)
	if err != nil {
		return ContainerStats{}, fmt.Errorf("stats of container %s: %w", c.what, err)
	}
	if len(s.Containers) == 0 {
		return ContainerStats{}, fmt.Errorf("container %s: %w", c.id, ErrNotFound) // removed just now
	}
	return s.Containers[0], nil
}

// ContainersStats reads the counters of all containers that f selects. Those of
// a pod whose monitor does not answer are missing.
func (m *Manager) ContainersStats(ctx context.Context, f ContainerFilter) ([]ContainerStats, error) {
	wanted := map[string]bool{}
	for _, s := range m.Containers(f) {
		wanted[s.ID] = true
	}
	var out []ContainerStats
	for _, s := range m.eachPodStats(ctx, m.allPods(), func(c *container) bool { return wanted[c.id] }, statsContainers) {
		out = append(out, s.Containers...)
	}
	return out, ctx.Err()
}

// PodStats reads the counters of one pod and its containers.
func (m *Manager) PodStats(ctx context.Context, id string) (PodStats, error) {
	p, err := m.findPod(id)
	if err != nil {
		return PodStats{}, err
	}
	s, err := m.podStats(ctx, p, everyContainer, statsPod)
	if err != nil {
		return PodStats{}, fmt.Errorf("stats of pod %s: %w", p.what, err)
	}
	return s, nil
}

// PodsStats is PodStats for all pods that f selects. A pod whose monitor does
// not answer is missing.
func (m *Manager) PodsStats(ctx context.Context, f PodFilter) ([]PodStats, error) {
	return m.podsStats(ctx, f, statsPod)
}

// PodsMetrics is PodsStats of all ready pods with what takes longer to find out:
// their containers' Processes.
func (m *Manager) PodsMetrics(ctx context.Context) ([]PodStats, error) {
	return m.podsStats(ctx, PodFilter{State: PodReady}, statsProcesses)
}

func (m *Manager) podsStats(ctx context.Context, f PodFilter, scope statsScope) ([]PodStats, error) {
	var pods []*sandbox
	wanted := map[string]bool{}
	for _, s := range m.Pods(f) {
		wanted[s.ID] = true
	}
	for _, p := range m.allPods() {
		if wanted[p.id] {
			pods = append(pods, p)
		}
	}
	return m.eachPodStats(ctx, pods, everyContainer, scope), ctx.Err()
}

// statsScope is how much is read.
type statsScope int

const (
	statsContainers statsScope = iota // of containers only
	statsPod                          // and what is the pod's own
	statsProcesses                    // and what only a look at each process tells
)

func everyContainer(*container) bool { return true }

// statsReading is a pod's stats while they are being read.
type statsReading struct {
	pod        *sandbox
	out        PodStats
	err        error // why the monitor has none
	networkErr error
	containers []*container
	monitor    Monitor // nil: there is nothing to ask it
	query      client.StatsQuery
	netns      string // whose interfaces are to be counted, or ""
}

// statsOf begins a reading.
func statsOf(p *sandbox, want func(*container) bool, scope statsScope) *statsReading {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &statsReading{pod: p, out: PodStats{Pod: p.status()}}
	for _, c := range p.containers {
		if !want(c) {
			continue
		}
		r.containers = append(r.containers, c)
		r.out.Containers = append(r.out.Containers, ContainerStats{Container: c.status()})
		if c.record.State != ContainerExited && !c.waits() {
			r.query.IDs = append(r.query.IDs, c.id)
		}
	}
	if scope >= statsPod {
		r.query.PodCgroup = bundle.CgroupParentPath(&p.record.Config)
		if r.out.Pod.State == PodReady {
			r.netns = p.record.NetNS
		}
	}
	if len(r.query.IDs) > 0 || r.query.PodCgroup != "" {
		r.monitor = p.monitor
	}
	return r
}

func (m *Manager) eachPodStats(ctx context.Context, pods []*sandbox, want func(*container) bool, scope statsScope) []PodStats {
	readings := make([]*statsReading, 0, len(pods))
	for _, p := range pods {
		readings = append(readings, statsOf(p, want, scope))
	}
	m.readStats(ctx, readings, scope, statsTimeout)
	out := make([]PodStats, 0, len(readings))
	for _, r := range readings {
		if err := cmp.Or(r.err, r.networkErr); err != nil {
			m.o.Log.Warn("no stats", "pod", r.pod.id, "error", err)
			continue
		}
		out = append(out, r.out)
	}
	return out
}

// podStats reads the stats of one pod, as long as ctx lets it.
func (m *Manager) podStats(ctx context.Context, p *sandbox, want func(*container) bool, scope statsScope) (PodStats, error) {
	r := statsOf(p, want, scope)
	m.readStats(ctx, []*statsReading{r}, scope, 0)
	return r.out, cmp.Or(r.err, r.networkErr)
}

// readStats fills in readings: from their monitors, each of which is asked once for all
// its pods, at the same time from the network, and from the disk. No monitor may take longer
// than the limit, if there is one; its pods have errors then.
func (m *Manager) readStats(ctx context.Context, readings []*statsReading, scope statsScope, limit time.Duration) {
	var all sync.WaitGroup
	all.Go(func() { m.readNetworks(readings) })
	slots := make(chan struct{}, statsAtOnce)
	inSlot := func(fn func()) {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			fn()
		})
	}
	for _, batch := range m.statsBatches(readings, scope) {
		inSlot(func() {
			ctx, cancel := ctx, func() {}
			if limit > 0 {
				ctx, cancel = context.WithTimeout(ctx, limit)
			}
			defer cancel()
			if err := m.askStats(ctx, batch, scope); err != nil {
				for _, r := range batch {
					r.err = err
				}
			}
		})
	}
	for _, r := range readings {
		for i, c := range r.containers {
			to := &r.out.Containers[i].WritableLayer
			if u, fresh := c.lastUsage(); fresh {
				*to = u
			} else {
				inSlot(func() { *to = m.diskUsage(c) })
			}
		}
	}
	all.Wait()
}

// statsBatch is how many cgroups a monitor is asked for at once: what it answers stays
// far below the longest message.
const statsBatch = 1000

// statsBatches groups the readings that one monitor answers at once: not of containers
// that a foreign shim has, which may not answer for one of them, nor of processes,
// which may be any number.
func (m *Manager) statsBatches(readings []*statsReading, scope statsScope) [][]*statsReading {
	var batches [][]*statsReading
	open, size := map[Monitor]int{}, map[Monitor]int{} // the monitor's last batch, by index, and its cgroups
	runtimes := m.settings().Runtimes
	for _, r := range readings {
		if r.monitor == nil {
			continue
		}
		alone := scope >= statsProcesses || runtimes[r.pod.record.Runtime].Handler.Shim != ""
		n := len(r.query.IDs) + 1
		at, ok := open[r.monitor]
		if !alone && ok && size[r.monitor]+n <= statsBatch {
			batches[at] = append(batches[at], r)
			size[r.monitor] += n
			continue
		}
		if !alone {
			open[r.monitor], size[r.monitor] = len(batches), n
		}
		batches = append(batches, []*statsReading{r})
	}
	return batches
}

// askStats asks the monitor that the readings have in common.
func (m *Manager) askStats(ctx context.Context, batch []*statsReading, scope statsScope) error {
	what := "stats of pod " + batch[0].pod.what
	if n := len(batch); n > 1 {
		what = fmt.Sprintf("stats of %d pods, %s first", n, batch[0].pod.what)
	}
	_, leave := m.tracker.call(what, "cgroups")
	defer leave()
	if scope >= statsProcesses {
		for _, r := range batch {
			s, err := r.monitor.Stats(ctx, r.query.IDs, r.query.PodCgroup, true)
			r.take(s, err)
		}
		return nil
	}
	queries := make([]client.StatsQuery, 0, len(batch))
	for _, r := range batch {
		queries = append(queries, r.query)
	}
	answers, err := batch[0].monitor.PodsStats(ctx, queries)
	if err != nil {
		return err
	}
	for i, r := range batch {
		r.take(answers[i].Stats, answers[i].Err)
	}
	return nil
}

// take takes a monitor's answer.
func (r *statsReading) take(s client.Stats, err error) {
	if err != nil {
		r.err = err
		return
	}
	r.out.Cgroup = cgroupStats(s.Pod)
	for i := range r.out.Containers {
		c := &r.out.Containers[i]
		c.Cgroup = cgroupStats(s.Containers[c.Container.ID])
		c.Processes = ProcessStats(s.Processes[c.Container.ID])
	}
}

// cgroupStats takes a monitor's counters over; nil stays nil.
func cgroupStats(s *client.CgroupStats) *CgroupStats {
	if s == nil {
		return nil
	}
	m := &s.Memory
	out := &CgroupStats{
		Time: s.Time,
		CPU: CPUStats{
			Usage: uint64(s.CPU.Usage), User: uint64(s.CPU.User), System: uint64(s.CPU.System),
			Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.ThrottledPeriods, ThrottledTime: uint64(s.CPU.ThrottledTime),
		},
		Memory: MemoryStats{
			Usage: m.Usage, MaxUsage: m.MaxUsage, Limit: m.Limit, WorkingSet: m.WorkingSet, RSS: m.RSS, Cache: m.Cache,
			InactiveFile: m.InactiveFile, Kernel: m.Kernel, SwapUsage: m.SwapUsage, SwapLimit: m.SwapLimit,
			PageFaults: m.PageFaults, MajorPageFaults: m.MajorPageFault,
			MappedFile: m.MappedFile, LimitHits: m.LimitHits, OOMKills: m.OOMKills,
		},
		Pids:        PidsStats{Current: s.PidsCurrent, Limit: s.PidsLimit},
		CPUPressure: pressure(s.CPUPressure), MemoryPressure: pressure(s.MemoryPressure), IOPressure: pressure(s.IOPressure),
	}
	for _, io := range s.IO {
		out.IO = append(out.IO, IOStats(io))
	}
	for _, h := range s.Hugetlb {
		out.Huge = append(out.Huge, HugetlbStats(h))
	}
	return out
}

func pressure(p *client.Pressure) *Pressure {
	if p == nil {
		return nil
	}
	line := func(l client.PressureLine) PressureLine {
		return PressureLine{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: uint64(l.Total.Microseconds())}
	}
	return &Pressure{Some: line(p.Some), Full: line(p.Full)}
}

// DiskCapacity is that of the file system that containers write to.
func (m *Manager) DiskCapacity() (DiskCapacity, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(m.o.Root, &fs); err != nil {
		return DiskCapacity{}, fmt.Errorf("capacity of %s: %w", m.o.Root, err)
	}
	return DiskCapacity{Bytes: fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, FreeInodes: fs.Ffree}, nil
}

// readNetworks fills in the interfaces' counters, but for loopback's.
func (m *Manager) readNetworks(readings []*statsReading) {
	var of []*statsReading
	var paths []string
	for _, r := range readings {
		if r.netns != "" {
			of, paths = append(of, r), append(paths, r.netns)
		}
	}
	if len(paths) == 0 {
		return
	}
	m.o.NetNS.Interfaces(paths, func(i int, dev []byte, err error) {
		if of[i].networkErr = err; err == nil {
			of[i].out.Network = parseNetDev(dev)
		}
	})
}

// parseNetDev reads proc_pid_net(5)'s net/dev; lines that are no interface are
// skipped. The interfaces are in the order in which they were made.
func parseNetDev(data []byte) []InterfaceStats {
	var out []InterfaceStats
	for line := range bytes.Lines(data) {
		name, counters, ok := bytes.Cut(line, []byte(":"))
		if name = bytes.TrimSpace(name); !ok || string(name) == "lo" {
			continue
		}
		var n [12]uint64
		i := 0
		for field := range bytes.FieldsSeq(counters) {
			if i == len(n) {
				break
			}
			n[i], _ = strconv.ParseUint(string(field), 10, 64) // the kernel's own numbers
			i++
		}
		if i < len(n) {
			continue
		}
		out = append(out, InterfaceStats{
			Name: string(name), RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDrops: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDrops: n[11],
		})
	}
	return out
}

// lastUsage is what a container had written a moment ago, if that was asked for.
func (c *container) lastUsage() (u FilesystemUsage, fresh bool) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.usage, time.Since(c.usage.Time) < usageMaxAge
}

// diskUsage counts what a container has written.
func (m *Manager) diskUsage(c *container) FilesystemUsage {
	u := m.written(c)
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.usage = u
	return u
}

// written counts what a container has written. Of a root that has the image in it,
// what the image takes is taken off.
func (m *Manager) written(c *container) FilesystemUsage {
	dir := m.store.ContainerDir(c.pod.id, c.id)
	u := walkUsage(rootfs.Written(dir))
	if !rootfs.Whole(dir) {
		return u
	}
	if lease, err := m.o.Images.Rootfs(c.record.ImageID, c.id); err == nil { // the one it has
		image := walkUsage(lease.Layers[0])
		u.Bytes -= min(u.Bytes, image.Bytes)
		u.Inodes -= min(u.Inodes, image.Inodes)
	}
	return u
}

// walkUsage counts blocks and inodes below a directory, hard links once. What
// vanishes meanwhile is not counted.
func walkUsage(root string) FilesystemUsage {
	u := FilesystemUsage{Path: root, Time: now()}
	linked := map[uint64]bool{}
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Nlink > 1 && !d.IsDir() && linked[st.Ino] {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			linked[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
		return nil
	})
	return u
}
