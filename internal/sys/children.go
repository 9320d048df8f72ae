package sys

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// Children lists the children of all threads of a process, where the kernel tells
// (CONFIG_PROC_CHILDREN, proc_pid_task_children(5)). It is exact only for a process that
// is stopped.
func Children(pid int) []int {
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil // it has ended
	}
	var pids []int
	for _, thread := range threads {
		list, err := os.ReadFile(tasks + "/" + thread.Name() + "/children")
		if err != nil {
			continue // the thread has ended
		}
		for text := range strings.FieldsSeq(string(list)) {
			if child, err := strconv.Atoi(text); err == nil && !slices.Contains(pids, child) {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
