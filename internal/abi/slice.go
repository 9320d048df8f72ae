package abi

import (
	"fmt"
	"strings"
)

// ExpandSlice returns the path of a systemd slice below its manager's cgroup: of
// "a-b.slice", "/a.slice/a-b.slice"; of the root slice, "-.slice", "" (systemd.slice(5)).
func ExpandSlice(name string) (string, error) {
	stem, ok := strings.CutSuffix(name, ".slice")
	if name == "-.slice" {
		return "", nil
	}
	if !ok || len(name) > 255 || strings.ContainsAny(stem, "/\x00\n") {
		return "", fmt.Errorf("%.80q is not the name of a slice, such as system.slice", name)
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(stem, "-") {
		if part == "" {
			return "", fmt.Errorf("%.80q is not the name of a slice: a dash divides two parts", name)
		}
		prefix += part
		path += "/" + prefix + ".slice"
		prefix += "-"
	}
	return path, nil
}
