package cgroup

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func unifiedV1(r *specs.LinuxResources) ([]setting, error) {
	if len(r.Unified) == 0 {
		return nil, nil
	}
	return nil, fmt.Errorf("linux.resources.unified: invalid configuration: %q is a cgroup v2 file and this host's controllers are v1: %w", sortedKeys(r.Unified)[0], ErrUnsupported)
}

func unifiedV2(r *specs.LinuxResources) ([]setting, error) {
	var s []setting
	for _, file := range sortedKeys(r.Unified) {
		field := fmt.Sprintf("unified[%q]", file)
		if strings.ContainsAny(file, "/\x00\n") || !strings.Contains(file, ".") || strings.HasPrefix(file, ".") {
			return nil, fmt.Errorf("linux.resources.%.60s: is not the name of a cgroup file such as memory.high", field)
		}
		if strings.HasPrefix(file, "cgroup.") && file != "cgroup.max.depth" && file != "cgroup.max.descendants" {
			return nil, fmt.Errorf("linux.resources.%s: is the runtime's own to write", field)
		}
		if isShares(file) && isIdle(r) {
			continue // LeftOut says so
		}
		s = append(s, setting{file: file, value: strings.TrimRight(r.Unified[file], "\n"), field: field})
	}
	return s, nil
}
