package cgroup

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Host is what this host mounts.
type Host struct {
	Mode        Mode
	Controllers []string          // all that can be limited, sorted
	V1Mounts    map[string]string // v1 controller → mount point
	V2Mount     string            // "" on Legacy

	hierarchies []hierarchy // v2 last
}

// Detect returns the host's mode. It is found once in a process's life.
func Detect() (Mode, error) {
	h, err := DetectHost()
	if err != nil {
		return 0, err
	}
	return h.Mode, nil
}

// DetectHost returns what Detect found. The caller must not change it.
func DetectHost() (*Host, error) { return detectOnce() }

const root = "/sys/fs/cgroup"

var detectOnce = sync.OnceValues(func() (*Host, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		return nil, fmt.Errorf("cgroups: statfs %s: %w: mount cgroup2 there", root, err)
	}
	if fs.Type == cgroup2Magic {
		controllers, err := readFile(root + "/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
		return hostOf([]hierarchy{{mount: root, v2: true, controllers: strings.Fields(controllers)}})
	}
	own, err := readFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	all, ok := usualHierarchies(own, func(path string) int64 {
		var fs syscall.Statfs_t
		if syscall.Statfs(path, &fs) != nil {
			return 0
		}
		return fs.Type
	})
	if !ok {
		mountinfo, err := readFile("/proc/self/mountinfo")
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
		all = parseMountinfo(mountinfo)
	}
	for i := range all {
		if !all[i].v2 {
			continue
		}
		controllers, err := readFile(all[i].mount + "/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
		all[i].controllers = strings.Fields(controllers)
	}
	return hostOf(all)
})

const (
	cgroupMagic  = 0x27e0eb   // CGROUP_SUPER_MAGIC, linux/magic.h
	cgroup2Magic = 0x63677270 // CGROUP2_SUPER_MAGIC
)

// usualHierarchies finds the hierarchies that /proc/self/cgroup lists, cgroups(7), where
// systemd and everybody else mounts them; not ok if one is not there. It spares the
// kernel the list of all mounts, of which a node has many: a fifth of a millisecond for 40.
func usualHierarchies(own string, fsType func(path string) int64) (all []hierarchy, ok bool) {
	var v2 []hierarchy
	for line := range strings.Lines(own) {
		id, rest, _ := strings.Cut(line, ":")
		names, _, ok := strings.Cut(rest, ":")
		if !ok {
			return nil, false
		}
		if id == "0" {
			v2 = append(v2, hierarchy{mount: root + "/unified", v2: true})
			if fsType(v2[0].mount) != cgroup2Magic {
				return nil, false
			}
			continue
		}
		h := hierarchy{mount: root + "/" + strings.TrimPrefix(names, "name="), controllers: strings.Split(names, ",")}
		if fsType(h.mount) != cgroupMagic {
			return nil, false
		}
		all = append(all, h)
	}
	return append(all, v2...), true
}

// parseMountinfo returns the cgroup hierarchies mounted below root, v2 last.
// A hierarchy that is mounted twice (bind mounts) counts once.
func parseMountinfo(mountinfo string) []hierarchy {
	var v1, v2 []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		if !ok || !strings.HasPrefix(after, "cgroup") {
			continue
		}
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], root) {
			continue
		}
		h := hierarchy{mount: left[4]}
		switch right[0] {
		case "cgroup2":
			h.v2 = true
			if len(v2) == 0 {
				v2 = append(v2, h)
			}
		case "cgroup":
			h.controllers = v1Controllers(right[2])
			seen := slices.ContainsFunc(v1, func(o hierarchy) bool { return slices.Equal(o.controllers, h.controllers) })
			if len(h.controllers) > 0 && !seen {
				v1 = append(v1, h)
			}
		}
	}
	return append(v1, v2...)
}

// v1Controllers picks the controllers, or the name of a hierarchy without any,
// from a v1 mount's super options.
func v1Controllers(options string) []string {
	var names []string
	for option := range strings.SplitSeq(options, ",") {
		if slices.Contains(knownV1, option) || strings.HasPrefix(option, "name=") {
			names = append(names, option)
		}
	}
	return names
}

var knownV1 = []string{
	"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls",
	"perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc", "debug",
}

func hostOf(all []hierarchy) (*Host, error) {
	h := &Host{V1Mounts: map[string]string{}, hierarchies: all}
	v1 := 0
	for _, one := range all {
		h.Controllers = append(h.Controllers, one.controllers...)
		if one.v2 {
			h.V2Mount = one.mount
			continue
		}
		v1++
		for _, name := range one.controllers {
			h.V1Mounts[name] = one.mount
		}
	}
	h.Controllers = slices.DeleteFunc(h.Controllers, func(s string) bool { return strings.HasPrefix(s, "name=") })
	slices.Sort(h.Controllers)
	switch {
	case v1 == 0 && h.V2Mount == "":
		return nil, fmt.Errorf("cgroups: none mounted below %s: mount cgroup2 there", root)
	case v1 == 0:
		h.Mode = Unified
	case h.V2Mount == "":
		h.Mode = Legacy
	default:
		h.Mode = Hybrid
	}
	return h, nil
}
