package pod

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

func (m *Manager) eachPodStats(ctx context.Context, pods []*sandbox, want func(*container) bool, scope statsScope) []PodStats {
	var mu sync.Mutex
	var out []PodStats
	var all sync.WaitGroup
	slots := make(chan struct{}, statsAtOnce)
	for _, p := range pods {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, statsTimeout)
			defer cancel()
			s, err := m.podStats(ctx, p, want, scope)
			if err != nil {
				m.o.Log.Warn("no stats", "pod", p.id, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, s)
		})
	}
	all.Wait()
	return out
}

// podStats asks the pod's monitor once.
func (m *Manager) podStats(ctx context.Context, p *sandbox, want func(*container) bool, scope statsScope) (PodStats, error) {
	p.mu.Lock()
	out := PodStats{Pod: p.status()}
	monitor, parent, netns := p.monitor, bundle.CgroupParentPath(&p.record.Config), p.record.NetNS
	var containers []*container
	var ids []string
	for _, c := range p.containers {
		if want(c) {
			containers = append(containers, c)
			out.Containers = append(out.Containers, ContainerStats{Container: c.status()})
			if c.record.State != ContainerExited && !c.waits() {
				ids = append(ids, c.id)
			}
		}
	}
	p.mu.Unlock()
	if scope < statsPod {
		parent = ""
	}
	w, leave := m.tracker.call("stats of pod "+p.what, "cgroups")
	defer leave()
	if monitor != nil && (len(ids) > 0 || parent != "") {
		s, err := monitor.Stats(ctx, ids, parent, scope >= statsProcesses)
		if err != nil {
			return PodStats{}, err
		}
		out.Cgroup = cgroupStats(s.Pod)
		for i := range out.Containers {
			c := &out.Containers[i]
			c.Cgroup = cgroupStats(s.Containers[c.Container.ID])
			c.Processes = ProcessStats(s.Processes[c.Container.ID])
		}
	}
	w.enter("disk")
	for i, c := range containers {
		out.Containers[i].WritableLayer = m.diskUsage(c)
	}
	if scope >= statsPod && netns != "" && out.Pod.State == PodReady {
		w.enter("network")
		var err error
		if out.Network, err = m.networkStats(netns); err != nil {
			return PodStats{}, err
		}
	}
	return out, nil
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

// networkStats reads the interfaces' counters in the namespace, but loopback's.
func (m *Manager) networkStats(path string) ([]InterfaceStats, error) {
	var data []byte
	err := m.o.NetNS.Do(path, func() (err error) {
		data, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network counters: %w", err)
	}
	return parseNetDev(data), nil
}

// parseNetDev reads proc_pid_net(5)'s net/dev; lines that are no interface are
// skipped. The interfaces are in the order in which they were made.
func parseNetDev(data []byte) []InterfaceStats {
	var out []InterfaceStats
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		name, counters, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(counters)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(fields) < 12 {
			continue
		}
		var n [12]uint64
		for i := range n {
			n[i], _ = strconv.ParseUint(fields[i], 10, 64) // the kernel's own numbers
		}
		out = append(out, InterfaceStats{
			Name: name, RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDrops: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDrops: n[11],
		})
	}
	return out
}

// diskUsage is what a container has written, as of a moment ago.
func (m *Manager) diskUsage(c *container) FilesystemUsage {
	c.pod.mu.Lock()
	u := c.usage
	c.pod.mu.Unlock()
	if time.Since(u.Time) < usageMaxAge {
		return u
	}
	u = m.written(c)
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
