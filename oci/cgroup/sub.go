package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Sub returns the cgroup that exec's --cgroup arguments name, below this one: a
// path for every hierarchy or, on v1, one each for some controllers, as in
// "cpu,cpuacct:a" and "memory:b". It must be there.
func (c *Cgroup) Sub(args []string) (*Cgroup, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	sub := *c
	sub.all = slices.Clone(c.all)
	for _, arg := range args {
		names, below, each := strings.Cut(arg, ":")
		if !each {
			names, below = "", arg
		}
		if !each && len(args) > 1 {
			return nil, fmt.Errorf("--cgroup %q: goes for all controllers, so it must be the only one", arg)
		}
		if slices.Contains(strings.Split(below, "/"), "..") || strings.ContainsAny(below, "\x00\n") {
			return nil, fmt.Errorf("--cgroup %q: bad sub cgroup path: it leads out of the container's cgroup", arg)
		}
		if below = path.Clean("/" + below); below == "/" {
			below = ""
		}
		if !each {
			for i := range sub.all {
				sub.all[i].below = below
			}
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			i := slices.IndexFunc(sub.all, func(h hierarchy) bool { return !h.v2 && slices.Contains(h.controllers, name) })
			if i < 0 {
				return nil, fmt.Errorf("--cgroup %q: unknown controller %q: the host's cgroups are %v", arg, name, c.mode)
			}
			sub.all[i].below = below
		}
	}
	// Where nothing of the hierarchy's was named, v2 on a hybrid host among them,
	// a missing directory is the container's own and not the caller's mistake.
	for _, h := range sub.all {
		if h.below != "" && !exists(sub.dir(h)) && (!h.v2 || c.mode == Unified) {
			return nil, fmt.Errorf("--cgroup: adding pid of the new process to cgroup: %w", pathError("open", sub.dir(h), syscall.ENOENT))
		}
		if h.below != "" && !exists(sub.dir(h)) {
			sub.all[len(sub.all)-1].below = ""
		}
	}
	return &sub, nil
}

// OfProcess returns the cgroup that a process of the container is in, which on v2
// may be one that it made below; this one on v1.
func (c *Cgroup) OfProcess(pid int) (*Cgroup, error) {
	if c.mode != Unified {
		return c, nil
	}
	text, err := readFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok || !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "/..") || p == "/" {
			continue
		}
		of := *c
		of.path = p
		return &of, nil
	}
	return nil, fmt.Errorf("process %d is in no cgroup below %s", pid, root)
}
