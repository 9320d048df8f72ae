package cgroup

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func rdma(r *specs.LinuxResources) ([]setting, error) {
	var s []setting
	for _, device := range sortedKeys(r.Rdma) {
		field := "rdma." + device
		if device == "" || strings.ContainsAny(device, " \t\n") {
			return nil, fmt.Errorf("linux.resources.rdma: %.60q is not a device name", device)
		}
		limit, value := r.Rdma[device], device
		if limit.HcaHandles != nil {
			value += fmt.Sprintf(" hca_handle=%d", *limit.HcaHandles)
		}
		if limit.HcaObjects != nil {
			value += fmt.Sprintf(" hca_object=%d", *limit.HcaObjects)
		}
		if value != device {
			s = append(s, setting{file: "rdma.max", value: value, field: field})
		}
	}
	return s, nil
}
