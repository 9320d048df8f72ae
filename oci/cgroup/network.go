package cgroup

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func networkClassV1(r *specs.LinuxResources) ([]setting, error) {
	if r.Network == nil || r.Network.ClassID == nil {
		return nil, nil
	}
	return []setting{{file: "net_cls.classid", value: fmt.Sprint(*r.Network.ClassID), field: "network.classID"}}, nil
}

func networkPriorityV1(r *specs.LinuxResources) ([]setting, error) {
	if r.Network == nil {
		return nil, nil
	}
	var s []setting
	for i, p := range r.Network.Priorities {
		field := fmt.Sprintf("network.priorities[%d]", i)
		if p.Name == "" || strings.ContainsAny(p.Name, " \t\n/") {
			return nil, fmt.Errorf("linux.resources.%s.name: %.40q is not an interface name", field, p.Name)
		}
		s = append(s, setting{file: "net_prio.ifpriomap", value: fmt.Sprintf("%s %d", p.Name, p.Priority), field: field})
	}
	return s, nil
}

func networkV2(r *specs.LinuxResources) ([]setting, error) {
	if r.Network != nil && (r.Network.ClassID != nil && *r.Network.ClassID != 0 || len(r.Network.Priorities) > 0) {
		return nil, notV2("network")
	}
	return nil, nil
}
