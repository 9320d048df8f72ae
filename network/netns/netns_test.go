package netns

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/testutil"
)

func id(t testing.TB, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestLifecycle(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "netns", "pod")
	home := id(t, "/proc/thread-self/ns/net")

	if err := New(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Remove(path) }) // only if the test failed half-way
	if err := New(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}

	var inside string
	err := Do(path, func() error {
		inside = id(t, "/proc/thread-self/ns/net")
		l, err := net.Listen("tcp", "127.0.0.1:0") // only if loopback is up
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil || inside == home {
		t.Errorf("Do: %v; inside %s, outside %s", err, inside, home)
	}

	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if err := Do(path, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Do after Remove: %v", err)
	}
}

// TestNoThreadLeft checks that the process's threads are all at home after many
// calls at once, the first thread included.
func TestNoThreadLeft(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	testutil.CheckLeaks(t)
	dir, home := t.TempDir(), id(t, "/proc/self/ns/net")

	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			path := filepath.Join(dir, string(rune('a'+i)))
			for range 10 {
				err := New(path)
				if err == nil {
					err = Do(path, func() error { return nil })
				}
				if err := errors.Join(err, Remove(path)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()

	// A used thread ends a moment after its call has returned.
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		away := threadsAway(t, home)
		if len(away) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads not in %s: %v", home, away)
		}
	}
}

func threadsAway(t *testing.T, home string) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal("no threads found", err)
	}
	var away []string
	for _, task := range tasks {
		if link, err := os.Readlink(task); err == nil && link != home {
			away = append(away, task+" "+link)
		}
	}
	return away
}

func TestStaleFile(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "pod")
	stale := func() {
		if err := os.WriteFile(path, nil, 0); err != nil {
			t.Fatal(err)
		}
		if live, err := Exists(path); live || err != nil {
			t.Errorf("stale file: exists %v, %v", live, err)
		}
	}
	stale()
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	stale()
	if err := New(path); err != nil {
		t.Fatal(err)
	}
	if live, err := Exists(path); !live || err != nil {
		t.Errorf("new: exists %v, %v", live, err)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pod"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := New(filepath.Join(dir, "pod")); err == nil {
		t.Error("mounted on a directory")
	}
	if err := New(filepath.Join("/proc/nothing", "pod")); err == nil {
		t.Error("made in /proc")
	}
}

func BenchmarkNewRemove(b *testing.B) {
	testutil.RequireRoot(b, "makes network namespaces")
	path := filepath.Join(b.TempDir(), "pod")
	for b.Loop() {
		if err := New(path); err != nil {
			b.Fatal(err)
		}
		if err := Remove(path); err != nil {
			b.Fatal(err)
		}
	}
}
