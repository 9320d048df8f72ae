package cri

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

func TestRates(t *testing.T) {
	r := newRates()
	start := at(10)
	for _, c := range []struct {
		name  string
		usage uint64
		after time.Duration
		want  uint64
		ok    bool
	}{
		{"the first is none", 1e9, 0, 0, false},
		{"half a core for two seconds", 2e9, 2 * time.Second, 5e8, true},
		{"too soon: the same again", 3e9, 2*time.Second + time.Millisecond, 5e8, true},
		{"idle", 2e9, 4 * time.Second, 0, true},
		{"counted from zero again", 1e9, 6 * time.Second, 0, false},
	} {
		got, ok := r.nanocores("c", c.usage, start.Add(c.after))
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestContainerStats(t *testing.T) {
	s := &runtimeService{rates: newRates()}
	got := s.containerStats(pod.ContainerStats{
		Container: pod.ContainerStatus{ID: "c", Config: pod.ContainerConfig{Name: "n"}},
		Cgroup: &pod.CgroupStats{
			Time:   at(1),
			CPU:    pod.CPUStats{Usage: 7},
			Memory: pod.MemoryStats{Usage: 100, WorkingSet: 60, RSS: 50, Limit: 80, PageFaults: 3, MajorPageFaults: 1, SwapUsage: 2},
			CPUPressure: &pod.Pressure{
				Some: pod.PressureLine{Avg10: 1.5, Total: 3},
			},
		},
		WritableLayer: pod.FilesystemUsage{Path: "/x", Time: at(2), Bytes: 9, Inodes: 4},
	})
	const ns = 1_000_000_005
	check(t, got, &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: "c", Metadata: &runtimeapi.ContainerMetadata{Name: "n"}},
		Cpu: &runtimeapi.CpuUsage{Timestamp: ns, UsageCoreNanoSeconds: number(7),
			Psi: &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{}, Some: &runtimeapi.PsiData{Avg10: 1.5, Total: 3000}}},
		Memory: &runtimeapi.MemoryUsage{Timestamp: ns, WorkingSetBytes: number(60), AvailableBytes: number(20), UsageBytes: number(100),
			RssBytes: number(50), PageFaults: number(3), MajorPageFaults: number(1)},
		Swap:          &runtimeapi.SwapUsage{Timestamp: ns, SwapUsageBytes: number(2)},
		Io:            &runtimeapi.IoUsage{Timestamp: ns},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: 2_000_000_005, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/x"}, UsedBytes: number(9), InodesUsed: number(4)},
	})
	if stopped := s.containerStats(pod.ContainerStats{}); stopped.Cpu != nil || stopped.Memory != nil {
		t.Errorf("a stopped container has %v", stopped)
	}
}

func TestInChunks(t *testing.T) {
	items := make([]int, 2*chunkSize+1)
	for i := range items {
		items[i] = i
	}
	var got, sizes []int
	_ = inChunks(items, func(part []int) error {
		got, sizes = append(got, part...), append(sizes, len(part))
		return nil
	})
	if len(got) != len(items) || len(sizes) != 3 || sizes[2] != 1 {
		t.Errorf("%d items in chunks of %v", len(got), sizes)
	}
	if err := inChunks(nil, func([]int) error { t.Error("sent nothing"); return nil }); err != nil {
		t.Error(err)
	}
}
