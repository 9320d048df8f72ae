package strake

import (
	"bytes"
	"regexp"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strake-containers/strake/pod"
)

// A dump names the verb that hangs, its step and its age, and who waits for a lock.
func TestDump(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	d := pod.Dump{
		Verbs:    []pod.VerbUnderWay{{What: "run pod default/web", Stage: "network", Since: now.Add(-90 * time.Second), Waiters: 1}, {What: "stop pod default/job", Since: now}},
		Monitors: []pod.MonitorInfo{{Address: "unix:///run/m.sock", Handler: "strake", State: "being replaced", Pods: []string{"a", "b"}}},
	}
	goroutines := "goroutine 1 [running]:\nmain.main()\n\t/src/main.go:3 +0x1\n\n" +
		"goroutine 7 [sync.Mutex.Lock, 3 minutes]:\ninternal/sync.runtime_SemacquireMutex(0x1)\n\t/go/sema.go:95 +0x25\n" +
		"sync.(*Mutex).Lock(...)\n\t/go/mutex.go:46\nexample.org/pod.(*Manager).Pods(0x1)\n\t/src/pod.go:12 +0x2\n"
	var out bytes.Buffer
	if err := writeDump(&out, now, d, []byte(goroutines)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# verbs under way: 2\nrun pod default/web: network, since 2026-11-26T11:58:30Z (1m30s), 1 waiting\nstop pod default/job: begins, ",
		"# monitors: 1\nunix:///run/m.sock (strake): being replaced; pods a b\n",
		"# goroutines that wait for a lock: 1\ngoroutine 7 [sync.Mutex.Lock, 3 minutes]: example.org/pod.(*Manager).Pods(0x1) at /src/pod.go:12 +0x2\n",
		"# goroutines: 2\ngoroutine 1 [running]",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

// Go's own words for a goroutine that waits for a lock are those that are looked for.
func TestLockWaits(t *testing.T) {
	var mu sync.Mutex
	var rw sync.RWMutex
	mu.Lock()
	rw.Lock()
	var all sync.WaitGroup
	passed := 0
	all.Go(func() { mu.Lock(); passed++; mu.Unlock() })
	all.Go(func() { rw.RLock(); defer rw.RUnlock() })
	want := regexp.MustCompile(`(?s)sync\.Mutex\.Lock.*TestLockWaits.*sync\.RWMutex\.RLock.*TestLockWaits|sync\.RWMutex\.RLock.*TestLockWaits.*sync\.Mutex\.Lock.*TestLockWaits`)
	var waits string
	for deadline := time.Now().Add(time.Minute); !want.MatchString(waits) && time.Now().Before(deadline); {
		var b bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&b, 2); err != nil {
			t.Fatal(err)
		}
		waits = strings.Join(lockWaits(b.String()), "\n")
	}
	mu.Unlock()
	rw.Unlock()
	all.Wait()
	if !want.MatchString(waits) || passed != 1 {
		t.Errorf("waits:\n%s", waits)
	}
}
