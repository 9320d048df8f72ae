package pod

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Workload gives the containers of pods with an annotation other CPU resources than
// they ask for, as CRI-O's workloads do.
type Workload struct {
	Name string
	// Activation is the annotation that a pod has to have, whatever its value.
	Activation string
	// Prefix and the container's name are the annotation of a pod that changes
	// Resources for that container: PREFIX/NAME = {"cpuset": "0-1"}.
	Prefix    string
	Resources WorkloadResources
}

// WorkloadResources are CPU resources; 0 and "" leave what the container asks for.
type WorkloadResources struct {
	Shares int64  // cpushares
	Quota  int64  // cpuquota, µs
	Period int64  // cpuperiod, µs
	Limit  int64  // cpulimit, thousandths of a CPU; wins over Quota
	CPUSet string // cpuset
}

// defaultPeriod is the kernel's, in µs.
const defaultPeriod = 100_000

// workload applies the workload that the pod's annotations activate to what a
// container asks for. It changes a copy.
func (m *Manager) workload(pod *PodConfig, c *ContainerConfig) (*ContainerConfig, error) {
	workloads := m.settings().Workloads
	i := slices.IndexFunc(workloads, func(w Workload) bool { _, active := pod.Annotations[w.Activation]; return active })
	if i < 0 {
		return c, nil
	}
	w := &workloads[i]
	r := w.Resources
	if text, own := pod.Annotations[w.Prefix+"/"+c.Name]; own && w.Prefix != "" {
		if err := r.override(text); err != nil {
			return nil, errorf(ErrInvalid, "annotations[%s/%s] (workloads.%s): %w", w.Prefix, c.Name, w.Name, err)
		}
	}
	changed := *c
	var limits Resources
	if c.Resources != nil {
		limits = *c.Resources
	}
	set := func(to *int64, v int64) {
		if v != 0 {
			*to = v
		}
	}
	set(&limits.CPUShares, r.Shares)
	set(&limits.CPUPeriod, r.Period)
	set(&limits.CPUQuota, r.Quota)
	if r.Limit != 0 {
		if limits.CPUPeriod == 0 {
			limits.CPUPeriod = defaultPeriod
		}
		limits.CPUQuota = r.Limit * limits.CPUPeriod / 1000
	}
	if r.CPUSet != "" {
		limits.CpusetCPUs = r.CPUSet
	}
	changed.Resources = &limits
	return &changed, nil
}

// override reads a container's annotation; numbers may be strings.
func (r *WorkloadResources) override(text string) error {
	var values map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return err
	}
	for key, v := range values {
		text := fmt.Sprint(v)
		to := map[string]*int64{"cpushares": &r.Shares, "cpuquota": &r.Quota, "cpuperiod": &r.Period, "cpulimit": &r.Limit}[key]
		switch {
		case key == "cpuset":
			r.CPUSet = text
		case to == nil:
			return fmt.Errorf("%q: one of cpushares cpuquota cpuperiod cpulimit cpuset", key)
		default:
			if _, err := fmt.Sscan(text, to); err != nil {
				return fmt.Errorf("%s: %q is no number", key, text)
			}
		}
	}
	return nil
}
