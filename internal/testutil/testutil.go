// Package testutil is what the tests of several packages share: the root
// requirement, said with its reason, and the check that a test leaves nothing
// on the host. Only tests import it.
package testutil

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// RequireRoot skips the test unless it runs as root. Why says what needs it.
func RequireRoot(tb testing.TB, why string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skipf("needs root: %s", why)
	}
}

// CheckLeaks fails the test if, at its end (after the cleanups registered later
// than this call), this process has more file descriptors than now, or more
// mounts below the test's own temporary directory and the paths of under, or if
// a child of this process is left. Other mounts may be those of tests beside it.
func CheckLeaks(tb testing.TB, under ...string) {
	tb.Helper()
	under = append(under, filepath.Dir(tb.TempDir())) // the parent of all of this test's
	fds, mounts := openFiles(tb), mountPoints(tb)
	tb.Cleanup(func() {
		for _, fd := range leakedFiles(tb, fds) {
			tb.Errorf("leaked file descriptor: %s", fd)
		}
		for _, m := range added(mounts, mountPoints(tb)) {
			ours := func(dir string) bool { return strings.HasPrefix(m, dir) }
			if slices.ContainsFunc(under, ours) {
				tb.Errorf("leaked mount: %s", m)
			}
		}
		for _, pid := range children(tb) {
			tb.Errorf("leaked child process: %s", pid)
		}
	})
}

// leakedFiles are those that were not open before and stay open: a connection is closed by
// a goroutine of net/http's, some time after it was told to.
func leakedFiles(tb testing.TB, before []string) []string {
	tb.Helper()
	for patience := time.After(10 * time.Second); ; {
		leaked := added(before, openFiles(tb))
		if len(leaked) == 0 {
			return nil
		}
		select {
		case <-patience:
			return leaked
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// added returns the elements of after that are not in before, counting repeats.
func added(before, after []string) []string {
	before = slices.Clone(before)
	var more []string
	for _, s := range after {
		if i := slices.Index(before, s); i >= 0 {
			before = slices.Delete(before, i, i+1)
		} else {
			more = append(more, s)
		}
	}
	return more
}

// openFiles lists the targets of this process's descriptors. The runtime's own
// epoll and event descriptors appear with first use and are left out.
func openFiles(tb testing.TB) []string {
	tb.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" ||
			strings.HasPrefix(target, "/proc/") {
			continue // closed since, the runtime's, or the listing itself
		}
		files = append(files, target)
	}
	return files
}

func mountPoints(tb testing.TB) []string {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		tb.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		points = append(points, strings.Fields(line)[4])
	}
	return points
}

func children(tb testing.TB) []string {
	tb.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		tb.Fatal(err)
	}
	var pids []string
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has gone
		}
		for _, pid := range strings.Fields(string(data)) {
			comm, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				continue
			}
			pids = append(pids, pid+" "+strings.TrimSpace(string(comm)))
		}
	}
	return pids
}
