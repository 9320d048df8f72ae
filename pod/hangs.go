package pod

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/internal/sys"
)

// maxHanging bounds how many processes hangs looks at.
const maxHanging = 64

// hangs says what keeps a process from ending, or one of its children, which the
// first process of a PID namespace waits for: "process 71 (cat): uninterruptible,
// in request_wait_answer". It is "" for one that has ended.
func hangs(pid int) string {
	var first string
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		text, cause := hang(queue[0])
		if cause {
			return text
		}
		if first == "" {
			first = text
		}
		if len(queue) < maxHanging {
			queue = append(queue, sys.Children(queue[0])...)
		}
	}
	return first
}

// hang says what a process is at; cause, that this is why it does not end.
func hang(pid int) (text string, cause bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status") // proc_pid_status(5)
	if err != nil {
		return "", false
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(string(status), "\n"+name+":\t")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(string(status), "Name:\t"), "\n")
	wchan, _ := os.ReadFile(dir + "/wchan") // "0" if it runs, or where that is not told
	where := string(bytes.TrimSpace(wchan))
	is := field("State")
	switch {
	case strings.Contains(where, "refrigerator") || strings.Contains(where, "freezer_trap"):
		is, cause = "frozen by its cgroup, or one above", true
	case strings.HasPrefix(is, "t"):
		is, cause = "stopped by its tracer, process "+field("TracerPid"), true
	case strings.HasPrefix(is, "Z"):
		is, cause = "a zombie, which its tracer or its parent has not collected", field("TracerPid") != "0"
	case strings.HasPrefix(is, "D"):
		is, cause = "uninterruptible", true
		if where != "" && where != "0" {
			is += ", in " + where
		}
	}
	return fmt.Sprintf("process %d (%s): %s", pid, name, is), cause
}
