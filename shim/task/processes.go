package task

import (
	"context"
	"os"
	"strconv"
	"strings"
)

// processStats looks at each of the container's processes. Those that end
// meanwhile count as far as they were seen.
func (t *task) processStats(ctx context.Context) *processStats {
	pids, err := t.container.Pids(ctx)
	if err != nil {
		return nil // it has no cgroup any more
	}
	s := &processStats{Processes: uint64(len(pids))}
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		descriptors, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		s.FileDescriptors += uint64(len(descriptors))
		for _, d := range descriptors {
			if target, err := os.Readlink(dir + "/" + d.Name()); err == nil && strings.HasPrefix(target, "socket:") {
				s.Sockets++
			}
		}
	}
	t.mu.Lock()
	init := t.init.pid
	t.mu.Unlock()
	s.MaxOpenFiles = maxOpenFiles(init)
	return s
}

// maxOpenFiles is the soft limit of a process (proc_pid_limits(5)); 0 if it has
// ended.
func maxOpenFiles(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if values, ok := strings.CutPrefix(line, "Max open files"); ok {
			if fields := strings.Fields(values); len(fields) > 0 {
				n, _ := strconv.ParseUint(fields[0], 10, 64) // never "unlimited"; the kernel's own number
				return n
			}
		}
	}
	return 0
}
