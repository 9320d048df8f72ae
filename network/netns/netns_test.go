package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// What is lent is there by its path as long as somebody has it open, whoever that is, and
// can be mounted if nobody is to keep it.
func TestLend(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	testutil.CheckLeaks(t)
	state := t.TempDir()
	path := filepath.Join(state, "netns", "pod")
	held, err := Lend(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Remove(path) }) // only if the test failed half-way
	inode := func() (ino uint64) {
		t.Helper()
		if err := Do(path, func() error {
			info, err := os.Stat("/proc/thread-self/ns/net")
			if err == nil {
				ino = info.Sys().(*syscall.Stat_t).Ino
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return ino
	}
	first := inode()
	if _, err := Lend(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("lent twice: %v", err)
	}
	keeper, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("/proc/self/fd/%d", keeper.Fd())
	for range 2 {
		if err := Link(at, path); err != nil {
			t.Fatal(err)
		}
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if now := inode(); now != first {
		t.Errorf("it is %d, was %d", now, first)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), path) {
		t.Errorf("it is a mount (%v)", err)
	}

	// Nobody is to keep it: a mount, which no link takes the place of.
	if err := Fix(keeper, path); err != nil {
		t.Fatal(err)
	}
	if err := keeper.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Link("/proc/self/ns/net", path), Unlink(path)); err != nil {
		t.Error(err)
	}
	if now := inode(); now != first {
		t.Errorf("mounted, it is %d, was %d", now, first)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}

	// Whoever kept it is gone: it is as one that a reboot has taken.
	if held, err = Lend(path); err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if live, err := Exists(path); live || err != nil {
		t.Errorf("nobody keeps it: exists %v, %v", live, err)
	}
	for range 2 {
		if err := Unlink(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unlinked: %v", err)
	}
	if err := os.Symlink("killed here", nextLink(path)); err != nil {
		t.Fatal(err)
	}
	if held, err = Lend(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(held.Close(), os.Symlink("killed here", nextLink(path)), Remove(path)); err != nil {
		t.Error(err)
	}
	if err := Link("/proc/self/ns/net", path); err != nil {
		t.Errorf("link of what is not there: %v", err)
	}
	for _, dir := range []string{state, filepath.Join(state, "netns")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 && left[0].Name() != "netns" {
			t.Errorf("left: %v, %v", left, err)
		}
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

// The interfaces are each namespace's own, however many there are, and one that is gone
// has an error of its own; the first time, and from what stayed open.
func TestCounters(t *testing.T) {
	testutil.RequireRoot(t, "makes network namespaces")
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	var paths []string
	for i := range 3 {
		path := filepath.Join(dir, strconv.Itoa(i))
		paths = append(paths, path)
		if err := New(path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Remove(path); err != nil {
				t.Error(err)
			}
		})
		err := Do(path, func() error {
			for n := range i * 20 { // pairs: more than one page of them, in the last
				name := fmt.Sprintf("of%d-%d", i, n)
				if out, err := exec.Command("ip", "link", "add", name+"a", "type", "veth", "peer", "name", name+"b").CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	paths = append(paths, filepath.Join(dir, "missing"), filepath.Join(dir, "stale"), paths[1])
	if err := os.WriteFile(paths[4], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	home := id(t, "/proc/thread-self/ns/net")
	var counters Counters
	check := func(want [6]int) { // pairs; -1: fs.ErrNotExist
		t.Helper()
		called := map[int]bool{}
		counters.Read(paths, func(i int, dev []byte, err error) {
			called[i] = true
			if want[i] < 0 {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", paths[i], err)
				}
				return
			}
			if n := strings.Count(string(dev), fmt.Sprintf("of%d-", i%4)); err != nil || n != 2*want[i] || strings.Count(string(dev), "\n") != n+3 {
				t.Errorf("%d interfaces of %s, %v:\n%s", n, paths[i], err, dev)
			}
		})
		if len(called) != len(paths) {
			t.Errorf("called for %v", called)
		}
	}
	check([6]int{0, 20, 40, -1, -1, 20})
	if open := namespacesOpen(t); open != 3 {
		t.Errorf("%d stay open", open)
	}
	if out, err := exec.Command("nsenter", "--net="+paths[0], "ip", "link", "add", "of0-a", "type", "veth", "peer", "name", "of0-b").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check([6]int{1, 20, 40, -1, -1, 20})

	// One that is removed is gone, and does not live on.
	if err := Remove(paths[1]); err != nil {
		t.Fatal(err)
	}
	counters.Forget(paths[1])
	check([6]int{1, -1, 40, -1, -1, -1})
	for _, path := range paths {
		counters.Forget(path)
	}
	if open := namespacesOpen(t); open != 0 {
		t.Errorf("%d stay open after all were forgotten", open)
	}
	if now := id(t, "/proc/thread-self/ns/net"); now != home {
		t.Errorf("this thread is in %s", now)
	}
}

// namespacesOpen counts this process's open files that keep a network namespace.
func namespacesOpen(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(fds) == 0 {
		t.Fatal("no descriptors found", err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && strings.Contains(link, "/net/dev") {
			n++
		}
	}
	return n
}

// What a list of 50 pods' stats reads.
func BenchmarkCounters(b *testing.B) {
	testutil.RequireRoot(b, "makes network namespaces")
	var paths []string
	for i := range 50 {
		path := filepath.Join(b.TempDir(), strconv.Itoa(i))
		paths = append(paths, path)
		if err := New(path); err != nil {
			b.Fatal(err)
		}
	}
	fail := func(_ int, _ []byte, err error) {
		if err != nil {
			b.Error(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			var c Counters
			c.Read(paths, fail)
			for _, path := range paths {
				c.Forget(path)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		var c Counters
		for b.Loop() {
			c.Read(paths, fail)
		}
		for _, path := range paths {
			c.Forget(path)
		}
	})
	for _, path := range paths {
		if err := Remove(path); err != nil {
			b.Error(err)
		}
	}
}
