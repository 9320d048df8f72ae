package cri

import (
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
)

// A series without values for its labels, or one that nobody has announced, is
// thrown away by the kubelet without a word.
func TestMetricsFitTheirDescriptors(t *testing.T) {
	s := &runtimeService{}
	announced, err := s.ListMetricDescriptors(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range announced.Descriptors {
		if keys[d.Name] != nil || d.Help == "" {
			t.Errorf("%s: twice, or without help", d.Name)
		}
		keys[d.Name] = d.LabelKeys
	}
	full := &pod.CgroupStats{
		CPU: pod.CPUStats{Usage: 3e9 + 1}, Memory: pod.MemoryStats{OOMKills: 2, LimitHits: 5},
		Pids: pod.PidsStats{Current: 7}, IO: []pod.IOStats{{Major: 8, Minor: 1, ReadBytes: 9}}, Huge: []pod.HugetlbStats{{PageSize: "2MB"}},
		CPUPressure: &pod.Pressure{Some: pod.PressureLine{Total: 4e6}}, MemoryPressure: &pod.Pressure{}, IOPressure: &pod.Pressure{},
	}
	c := &pod.ContainerStats{Container: pod.ContainerStatus{Resources: pod.Resources{CPUQuota: 5000, MemoryLimit: -1}}, Processes: pod.ProcessStats{Sockets: 6}}
	labels := []string{"c", "/c", "i", "id", "ns", "p"}
	got := metricsOf(&subject{labels: labels, cgroup: full, container: c, network: []pod.InterfaceStats{{Name: "eth0", RxDrops: 1}}, now: time.Unix(42, 0)})
	seen := map[string]bool{}
	for _, m := range got {
		seen[m.Name] = true
		if len(m.LabelValues) != len(keys[m.Name]) || !slices.Equal(m.LabelValues[:len(labels)], labels) {
			t.Errorf("%s: labels %q for keys %q", m.Name, m.LabelValues, keys[m.Name])
		}
	}
	for name := range keys {
		if !seen[name] {
			t.Errorf("%s: announced, and nothing read", name)
		}
	}
	for name, want := range map[string]uint64{
		"container_cpu_usage_seconds_total": 3, "container_oom_events_total": 2, "container_memory_failcnt": 5, "container_threads": 7,
		"container_pressure_cpu_waiting_seconds_total": 4, "container_sockets": 6, "container_last_seen": 42,
		"container_spec_cpu_period": 100000, "container_spec_memory_limit_bytes": 0, "container_network_receive_packets_dropped_total": 1,
	} {
		if m := find(got, name); m.GetValue().GetValue() != want {
			t.Errorf("%s: %v, want %d", name, m, want)
		}
	}

	if stopped := metricsOf(&subject{labels: labels, container: &pod.ContainerStats{}}); find(stopped, "container_threads") != nil || find(stopped, "container_fs_usage_bytes") == nil {
		t.Errorf("a stopped container: %v", stopped)
	}
	for _, m := range metricsOf(&subject{labels: labels, cgroup: full}) {
		if strings.HasPrefix(m.Name, "container_spec_") || m.Name == "container_fs_usage_bytes" {
			t.Errorf("a pod has %s", m.Name)
		}
	}
}

func find(all []*runtimeapi.Metric, name string) *runtimeapi.Metric {
	if i := slices.IndexFunc(all, func(m *runtimeapi.Metric) bool { return m.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}
