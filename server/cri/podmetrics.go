package cri

import (
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
)

// The series have cAdvisor's names and labels, since that is what dashboards ask
// for. A pod's own cgroup has its series with an empty container label. Values
// are whole numbers (a message of CRI holds no other), so seconds are too.

// baseLabels are on each series, in this order.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// subject is what one group of series is about.
type subject struct {
	labels    []string // values of baseLabels
	cgroup    *pod.CgroupStats
	container *pod.ContainerStats // nil: the pod
	network   []pod.InterfaceStats
	disk      pod.DiskCapacity
	now       time.Time
}

// point is one value of a series, with the values of the labels beyond the base.
type point struct {
	value  uint64
	labels []string
}

// series is a metric and where its values come from; nil for none.
type series struct {
	name, help string
	labels     []string // beyond the base
	gauge      bool     // else a counter
	read       func(*subject) []point
}

// ofCgroup reads one number of a cgroup.
func ofCgroup(read func(*pod.CgroupStats) uint64) func(*subject) []point {
	return func(s *subject) []point {
		if s.cgroup == nil {
			return nil
		}
		return []point{{value: read(s.cgroup)}}
	}
}

// ofContainer reads one number of a container that runs.
func ofContainer(read func(*pod.ContainerStats) uint64) func(*subject) []point {
	return func(s *subject) []point {
		if s.container == nil || s.cgroup == nil {
			return nil
		}
		return []point{{value: read(s.container)}}
	}
}

func ofDisk(read func(*subject) uint64) func(*subject) []point {
	return func(s *subject) []point {
		if s.container == nil {
			return nil
		}
		return []point{{value: read(s)}}
	}
}

// ofDevices reads one number of each block device.
func ofDevices(read func(*pod.IOStats) uint64) func(*subject) []point {
	return func(s *subject) []point {
		if s.cgroup == nil {
			return nil
		}
		var out []point
		for i := range s.cgroup.IO {
			d := &s.cgroup.IO[i]
			out = append(out, point{read(d), []string{deviceName(d)}})
		}
		return out
	}
}

func deviceName(d *pod.IOStats) string {
	return strconv.FormatUint(d.Major, 10) + ":" + strconv.FormatUint(d.Minor, 10)
}

// ofInterfaces reads one number of each network interface.
func ofInterfaces(read func(*pod.InterfaceStats) uint64) func(*subject) []point {
	return func(s *subject) []point {
		var out []point
		for i := range s.network {
			out = append(out, point{read(&s.network[i]), []string{s.network[i].Name}})
		}
		return out
	}
}

func ofHugepages(read func(*pod.HugetlbStats) uint64) func(*subject) []point {
	return func(s *subject) []point {
		if s.cgroup == nil {
			return nil
		}
		var out []point
		for i := range s.cgroup.Huge {
			out = append(out, point{read(&s.cgroup.Huge[i]), []string{s.cgroup.Huge[i].PageSize}})
		}
		return out
	}
}

// ofPressure reads stalled microseconds as seconds; none where the kernel counts
// none.
func ofPressure(which func(*pod.CgroupStats) *pod.Pressure, line func(*pod.Pressure) pod.PressureLine) func(*subject) []point {
	return func(s *subject) []point {
		if s.cgroup == nil || which(s.cgroup) == nil {
			return nil
		}
		return []point{{value: line(which(s.cgroup)).Total / uint64(time.Second/time.Microsecond)}}
	}
}

func someOf(p *pod.Pressure) pod.PressureLine { return p.Some }
func fullOf(p *pod.Pressure) pod.PressureLine { return p.Full }

func cpuPressure(g *pod.CgroupStats) *pod.Pressure    { return g.CPUPressure }
func memoryPressure(g *pod.CgroupStats) *pod.Pressure { return g.MemoryPressure }
func ioPressure(g *pod.CgroupStats) *pod.Pressure     { return g.IOPressure }

func wholeSeconds(nanoseconds uint64) uint64 { return nanoseconds / uint64(time.Second) }

// failures are the page faults, of the container alone and (counted alike by
// both versions of cgroups) of all below it.
func failures(s *subject) []point {
	if s.cgroup == nil {
		return nil
	}
	m := s.cgroup.Memory
	return []point{
		{m.PageFaults, []string{"pgfault", "container"}}, {m.MajorPageFaults, []string{"pgmajfault", "container"}},
		{m.PageFaults, []string{"pgfault", "hierarchy"}}, {m.MajorPageFaults, []string{"pgmajfault", "hierarchy"}},
	}
}

func deviceUsage(s *subject) []point {
	if s.cgroup == nil {
		return nil
	}
	var out []point
	for i := range s.cgroup.IO {
		d := &s.cgroup.IO[i]
		major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		out = append(out,
			point{d.ReadBytes, []string{deviceName(d), major, minor, "Read"}},
			point{d.WriteBytes, []string{deviceName(d), major, minor, "Write"}})
	}
	return out
}

// limit of CRI is 0 where there is none, as is cAdvisor's.
func limit(v int64) uint64 { return uint64(max(v, 0)) }

const defaultCPUPeriod = 100_000 // µs, the kernel's

var allSeries = []series{
	{"container_cpu_usage_seconds_total", "CPU time consumed.", []string{"cpu"}, false, func(s *subject) []point {
		if s.cgroup == nil {
			return nil
		}
		return []point{{wholeSeconds(s.cgroup.CPU.Usage), []string{"total"}}}
	}},
	{"container_cpu_user_seconds_total", "CPU time consumed in user mode.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return wholeSeconds(g.CPU.User) })},
	{"container_cpu_system_seconds_total", "CPU time consumed in the kernel.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return wholeSeconds(g.CPU.System) })},
	{"container_cpu_cfs_periods_total", "Periods in which a quota was enforced.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.CPU.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Periods in which the quota was used up.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.CPU.ThrottledPeriods })},
	{"container_cpu_cfs_throttled_seconds_total", "Time for which it was throttled.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return wholeSeconds(g.CPU.ThrottledTime) })},

	{"container_memory_usage_bytes", "Memory used, with all kinds of cache.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.Usage })},
	{"container_memory_max_usage_bytes", "The most memory that was used.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.MaxUsage })},
	{"container_memory_working_set_bytes", "Memory used without file cache that can go first.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.WorkingSet })},
	{"container_memory_rss", "Anonymous memory.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.RSS })},
	{"container_memory_cache", "Page cache.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.Cache })},
	{"container_memory_mapped_file", "Memory of mapped files.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.MappedFile })},
	{"container_memory_kernel_usage", "Kernel memory.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.Kernel })},
	{"container_memory_swap", "Swap used.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.SwapUsage })},
	{"container_memory_failcnt", "How often the memory limit was met.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.LimitHits })},
	{"container_memory_failures_total", "Page faults.", []string{"failure_type", "scope"}, false, failures},
	{"container_oom_events_total", "Processes killed for want of memory.", nil, false, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Memory.OOMKills })},
	{"container_hugetlb_usage_bytes", "Huge pages used.", []string{"pagesize"}, true, ofHugepages(func(h *pod.HugetlbStats) uint64 { return h.Usage })},
	{"container_hugetlb_max_usage_bytes", "The most huge pages that were used.", []string{"pagesize"}, true, ofHugepages(func(h *pod.HugetlbStats) uint64 { return h.MaxUsage })},

	{"container_fs_usage_bytes", "What the container has written.", nil, true, ofDisk(func(s *subject) uint64 { return s.container.WritableLayer.Bytes })},
	{"container_fs_limit_bytes", "Size of the file system that it writes to.", nil, true, ofDisk(func(s *subject) uint64 { return s.disk.Bytes })},
	{"container_fs_inodes_total", "Inodes of the file system that it writes to.", nil, true, ofDisk(func(s *subject) uint64 { return s.disk.Inodes })},
	{"container_fs_inodes_free", "Free inodes of the file system that it writes to.", nil, true, ofDisk(func(s *subject) uint64 { return s.disk.FreeInodes })},
	{"container_fs_reads_bytes_total", "Bytes read.", []string{"device"}, false, ofDevices(func(d *pod.IOStats) uint64 { return d.ReadBytes })},
	{"container_fs_reads_total", "Reads completed.", []string{"device"}, false, ofDevices(func(d *pod.IOStats) uint64 { return d.ReadOps })},
	{"container_fs_writes_bytes_total", "Bytes written.", []string{"device"}, false, ofDevices(func(d *pod.IOStats) uint64 { return d.WriteBytes })},
	{"container_fs_writes_total", "Writes completed.", []string{"device"}, false, ofDevices(func(d *pod.IOStats) uint64 { return d.WriteOps })},
	{"container_blkio_device_usage_total", "Bytes by device and operation.", []string{"device", "major", "minor", "operation"}, false, deviceUsage},

	{"container_network_receive_bytes_total", "Bytes received.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.RxBytes })},
	{"container_network_receive_packets_total", "Packets received.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.RxPackets })},
	{"container_network_receive_packets_dropped_total", "Packets dropped on the way in.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.RxDrops })},
	{"container_network_receive_errors_total", "Errors on the way in.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.RxErrors })},
	{"container_network_transmit_bytes_total", "Bytes sent.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.TxBytes })},
	{"container_network_transmit_packets_total", "Packets sent.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.TxPackets })},
	{"container_network_transmit_packets_dropped_total", "Packets dropped on the way out.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.TxDrops })},
	{"container_network_transmit_errors_total", "Errors on the way out.", []string{"interface"}, false, ofInterfaces(func(n *pod.InterfaceStats) uint64 { return n.TxErrors })},

	{"container_threads", "Tasks.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Pids.Current })},
	{"container_threads_max", "Limit of tasks, 0 for none.", nil, true, ofCgroup(func(g *pod.CgroupStats) uint64 { return g.Pids.Limit })},
	{"container_processes", "Processes.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return c.Processes.Processes })},
	{"container_file_descriptors", "Open file descriptors.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return c.Processes.FileDescriptors })},
	{"container_sockets", "Open sockets.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return c.Processes.Sockets })},
	{"container_ulimits_soft", "Soft limits of the container's first process.", []string{"ulimit"}, true, func(s *subject) []point {
		if s.container == nil || s.cgroup == nil {
			return nil
		}
		return []point{{s.container.Processes.MaxOpenFiles, []string{"max_open_files"}}}
	}},

	{"container_last_seen", "When these figures were read, in seconds since 1970.", nil, true, func(s *subject) []point { return []point{{value: uint64(s.now.Unix())}} }},
	{"container_start_time_seconds", "When the container was started, in seconds since 1970.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return limit(c.Container.StartedAt.Unix()) })},
	{"container_spec_cpu_period", "Period of the CPU quota, in µs.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 {
		if c.Container.Resources.CPUPeriod > 0 {
			return uint64(c.Container.Resources.CPUPeriod)
		}
		return defaultCPUPeriod
	})},
	{"container_spec_cpu_quota", "CPU quota in each period, in µs.", nil, true, func(s *subject) []point {
		if s.container == nil || s.container.Container.Resources.CPUQuota <= 0 {
			return nil
		}
		return []point{{value: uint64(s.container.Container.Resources.CPUQuota)}}
	}},
	{"container_spec_cpu_shares", "CPU shares.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return limit(c.Container.Resources.CPUShares) })},
	{"container_spec_memory_limit_bytes", "Memory limit, 0 for none.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return limit(c.Container.Resources.MemoryLimit) })},
	{"container_spec_memory_reservation_limit_bytes", "Memory reserved; CRI has no such wish, so 0.", nil, true, ofContainer(func(*pod.ContainerStats) uint64 { return 0 })},
	{"container_spec_memory_swap_limit_bytes", "Limit of memory and swap, 0 for none.", nil, true, ofContainer(func(c *pod.ContainerStats) uint64 { return limit(c.Container.Resources.MemorySwapLimit) })},

	{"container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for CPU.", nil, false, ofPressure(cpuPressure, someOf)},
	{"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for CPU.", nil, false, ofPressure(cpuPressure, fullOf)},
	{"container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory.", nil, false, ofPressure(memoryPressure, someOf)},
	{"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory.", nil, false, ofPressure(memoryPressure, fullOf)},
	{"container_pressure_io_waiting_seconds_total", "Time in which some task waited for I/O.", nil, false, ofPressure(ioPressure, someOf)},
	{"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for I/O.", nil, false, ofPressure(ioPressure, fullOf)},
}

// ListMetricDescriptors names the series of ListPodSandboxMetrics.
func (s *runtimeService) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	out := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range allSeries {
		out.Descriptors = append(out.Descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: slices.Concat(baseLabels, m.labels),
		})
	}
	return out, nil
}

// ListPodSandboxMetrics reads them for all ready pods and their containers.
func (s *runtimeService) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	items, err := s.podMetrics(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: items}, err
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in parts.
func (s *runtimeService) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	items, err := s.podMetrics(to.Context())
	if err != nil {
		return err
	}
	return inChunks(items, func(items []*runtimeapi.PodSandboxMetrics) error {
		return to.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: items})
	})
}

func (s *runtimeService) podMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	found, err := s.Pods.PodsMetrics(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	disk, err := s.Pods.DiskCapacity()
	if err != nil {
		return nil, asStatus(err)
	}
	now := time.Now()
	items := make([]*runtimeapi.PodSandboxMetrics, 0, len(found))
	for i := range found {
		p := &found[i]
		c := &p.Pod.Config
		item := &runtimeapi.PodSandboxMetrics{PodSandboxId: p.Pod.ID, Metrics: metricsOf(&subject{
			labels: []string{"", c.CgroupParent, "", "", c.Namespace, c.Name}, cgroup: p.Cgroup, network: p.Network, now: now,
		})}
		for j := range p.Containers {
			k := &p.Containers[j]
			status := &k.Container
			item.ContainerMetrics = append(item.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: status.ID, Metrics: metricsOf(&subject{
				labels: []string{status.Config.Name, bundle.CgroupPath(c, status.ID), status.ImageName, status.ID, c.Namespace, c.Name},
				cgroup: k.Cgroup, container: k, disk: disk, now: now,
			})})
		}
		items = append(items, item)
	}
	return items, nil
}

func metricsOf(s *subject) []*runtimeapi.Metric {
	var out []*runtimeapi.Metric
	for _, m := range allSeries {
		kind := runtimeapi.MetricType_COUNTER
		if m.gauge {
			kind = runtimeapi.MetricType_GAUGE
		}
		for _, v := range m.read(s) {
			out = append(out, &runtimeapi.Metric{
				Name: m.name, MetricType: kind, LabelValues: slices.Concat(s.labels, v.labels), Value: number(v.value),
			})
		}
	}
	return out
}
