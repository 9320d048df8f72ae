package task

import (
	"context"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// killTree kills a process with everything it has started, as far as that has not
// been orphaned: those belong to the container's init, as with any shell. Every
// process is stopped before its children are listed, so that none can start
// another unseen; pidfds see to it that no other process with the same number is
// hit.
func (t *task) killTree(p *process) {
	if p.shim != nil { // whose tree may be in a kernel of its own
		_ = p.shim.kill(context.Background(), p.execID, syscall.SIGKILL, true) // it has ended, or its end comes
		return
	}
	if t.signal(p, syscall.SIGSTOP) != nil {
		return // it has ended
	}
	var found []*os.File
	for queue := []int{p.pid}; len(queue) > 0; queue = queue[1:] {
		for _, child := range sys.Children(queue[0]) {
			fd, err := sys.OpenPidFD(child)
			if err != nil {
				continue // it has ended
			}
			if parentOf(child) != queue[0] || signalFD(fd, syscall.SIGSTOP) != nil {
				_ = fd.Close() // another process by now, or none
				continue
			}
			found = append(found, fd)
			queue = append(queue, child)
		}
	}
	_ = t.signal(p, syscall.SIGKILL) // a stopped process dies of it
	for _, fd := range found {
		_ = signalFD(fd, syscall.SIGKILL) // ESRCH: it has ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), treeDies)
	defer cancel()
	for _, fd := range found {
		_ = sys.WaitReadable(ctx, fd) // one that the kernel holds dies later
		_ = fd.Close()                // only signalled and waited for
	}
}

// treeDies is how long killTree waits for what it has killed: whoever hears that
// a process has timed out finds nothing of it any more.
const treeDies = time.Second

// parentOf returns the parent of a process, or 0.
func parentOf(pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// pid (name) state ppid …; the name may hold anything, parentheses too.
	_, rest, ok := strings.Cut(string(data)[strings.LastIndexByte(string(data), ')')+1:], " ")
	if fields := strings.Fields(rest); ok && len(fields) > 1 {
		ppid, _ := strconv.Atoi(fields[1])
		return ppid
	}
	return 0
}
