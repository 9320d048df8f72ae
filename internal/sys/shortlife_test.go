package sys

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCallersSlack: a program that is started gets the caller's timer slack, whichever
// thread starts it.
func TestCallersSlack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: others may not read it from /proc")
	}
	t.Cleanup(func() { callersSlack = 0 })
	runtime.LockOSThread() // with another slack, it ends with the test
	const callers, monitors = 77_000, 10_000_000
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, monitors, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	slack := func(run func(*exec.Cmd) error) string {
		out, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("cat", "/proc/self/timerslack_ns")
		cmd.Stdout = out
		if err := run(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := slack((*exec.Cmd).Start); got != "10000000\n" {
		t.Fatalf("the control has a slack of %s", got)
	}
	callersSlack = callers
	if got := slack(func(cmd *exec.Cmd) error { return StartProgram(cmd.Start) }); got != "77000\n" {
		t.Errorf("a program has a slack of %s, want 77000", got)
	}
}

// TestConcurrent: only one thread's worth is made two, and only where ShortLife has made
// it one: a long-lived program with one thread keeps it.
func TestConcurrent(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	t.Cleanup(func() { shortLived = false })
	for _, c := range []struct {
		shortLived   bool
		before, want int
	}{
		{true, 1, 2}, {true, 2, 2}, {true, 5, 5},
		{false, 1, 1}, {false, 5, 5},
	} {
		shortLived = c.shortLived
		runtime.GOMAXPROCS(c.before)
		Concurrent()
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("GOMAXPROCS %d has become %d, want %d (ShortLife: %t)", c.before, got, c.want, c.shortLived)
		}
	}
}
