package sys

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestShortLife: one thread, and not the one that the program starts on, pauses
// longer than before.
func TestShortLife(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	slacks := func() map[string]string {
		dir, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		of := map[string]string{}
		for _, e := range dir {
			slack, err := os.ReadFile("/proc/" + e.Name() + "/timerslack_ns")
			if err == nil { // else the thread has ended
				of[e.Name()] = strings.TrimSpace(string(slack))
			}
		}
		return of
	}
	before := slacks()
	ShortLife()
	changed := 0
	for tid, slack := range slacks() {
		if was, ok := before[tid]; !ok || was == slack {
			continue
		}
		changed++
		if tid == strconv.Itoa(os.Getpid()) || slack != "10000000" {
			t.Errorf("thread %s has a slack of %s, and had %s", tid, slack, before[tid])
		}
	}
	if changed != 1 {
		t.Errorf("%d threads have another slack, want 1", changed)
	}
}
