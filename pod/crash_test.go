package pod

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/client"
)

// What cannot be removed, of a container that was, keeps no daemon from its start and goes
// with a later one.
func TestRubbishKeepsNobodyFromAStart(t *testing.T) {
	testutil.RequireRoot(t, "it mounts something in the way of a removal")
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	busy := filepath.Join(m.store.ContainerDir(pod, id), "busy")
	if err := os.Mkdir(busy, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", busy, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	rubbish := filepath.Join(n.root, "pods", ".removing-"+id)
	unmount := func() { // wherever it is by now
		_ = syscall.Unmount(busy, syscall.MNT_DETACH)
		_ = syscall.Unmount(filepath.Join(rubbish, "busy"), syscall.MNT_DETACH)
	}
	defer unmount()
	if err := m.RemoveContainer(t.Context(), id); !errors.Is(err, syscall.EBUSY) {
		t.Fatalf("removal: %v", err)
	}
	m = n.open()
	if p, err := m.Pod(pod); err != nil || p.State != PodReady {
		t.Errorf("pod: %+v, %v", p, err)
	}
	if left := m.Containers(ContainerFilter{}); len(left) > 0 {
		t.Errorf("%d containers", len(left))
	}
	if entries, err := os.ReadDir(rubbish); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	unmount()
	m = n.open()
	if _, err := os.Stat(rubbish); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was not removed: %v", err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

// A daemon is killed while it makes a checkpoint, for which the container is frozen: the
// next one lets it go on.
func TestKilledInACheckpoint(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	_, id := mustRun(t, m, "web")
	location := filepath.Join(t.TempDir(), "checkpoint.tar")
	n.slows("Checkpoint")
	go func() { _ = m.CheckpointContainer(context.Background(), id, location, 0) }()
	for !slices.ContainsFunc(m.Dump().Verbs, func(v VerbUnderWay) bool { return v.Stage == "processes" }) {
		time.Sleep(time.Millisecond)
	}
	k := n.container(id)
	n.mu.Lock()
	if !k.paused {
		t.Error("it is not frozen")
	}
	n.mu.Unlock()
	m = n.open() // the old one never moves again
	if s := mustContainer(t, m, id); s.State != ContainerRunning {
		t.Errorf("container: %+v", s)
	}
	for frozen := true; frozen; time.Sleep(time.Millisecond) {
		if t.Context().Err() != nil {
			t.Fatal("it stays frozen")
		}
		n.mu.Lock()
		frozen = k.paused
		n.mu.Unlock()
	}
}

// The connection with the monitor breaks, and is made again, between the making of a
// container and its being known: its end is seen all the same.
func TestConnectionBreaksInACreation(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, err := m.RunPod(t.Context(), podConfig("web"), "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.findPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	n.created = func(c *fakeConn) {
		close(c.broken)
		for again := false; !again; time.Sleep(time.Millisecond) {
			m.crews.mu.Lock()
			again = p.crew.conn != Monitor(c) && p.crew.replacing == nil
			m.crews.mu.Unlock()
		}
	}
	id, err := m.CreateContainer(t.Context(), pod, containerConfig("main"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.exit(id, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if s, err := m.WaitContainer(ctx, id); err != nil || s.ExitCode != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := m.RemovePod(ctx, pod); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}

// A pod that cannot be made, nor its sandbox ended, keeps what that is found by, and its
// network namespace, until it is.
func TestUnmadePodThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		n.fails("StartSandbox StopSandbox")
		if _, err := m.RunPod(t.Context(), podConfig("web"), ""); !errors.Is(err, errInjected) {
			t.Fatalf("pod: %v", err)
		}
		left := names(filepath.Join(n.root, "pods"))
		if len(left) != 1 {
			t.Fatalf("pods: %v", left)
		}
		n.mustExist(m.podState(left[0]), m.netnsPath(left[0]))
		n.fails("")
		time.Sleep(lastRetry)
		synctest.Wait()
		n.checkEmpty()
		pod, _ := mustRun(t, m, "web")
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
	})
}

// A container that a killed daemon has half made, and that its monitor does not end, keeps
// its image until it is.
func TestHalfMadeContainerKeepsItsImage(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	if err := os.Remove(filepath.Join(m.store.ContainerDir(pod, id), "container.json")); err != nil {
		t.Fatal(err)
	}
	n.fails("Kill")
	n.open()
	if len(n.leases) != 1 {
		t.Errorf("leases %v", n.leases)
	}
	n.fails("")
	m = n.open()
	if len(n.leases) != 0 {
		t.Errorf("leases %v", n.leases)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}

// A mount whose line is longer than any page hides none that come after it.
func TestMountOf(t *testing.T) {
	long := "1 0 0:1 / /merged rw shared:1 - overlay overlay rw,lowerdir=" + strings.Repeat("/layer:", 20_000) + "\n"
	info := "2 0 0:2 / / rw - ext4 /dev/x rw\n" + long + "3 0 0:3 / /a\\040b rw shared:7 master:2 - ext4 /dev/y rw\n"
	if point, tags := mountOf([]byte(info), "/a b/c"); point != "/a b" || tags != "shared:7 master:2" {
		t.Errorf("%q, %q", point, tags)
	}
}

// A monitor's program has cleaned up when it has ended, whatever has its output: a hook's
// child, for one.
func TestLingeringCleanup(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "monitor")
	if err := os.WriteFile(program, []byte(testutil.Lingers(t, "exit 0")), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (ShimMonitors{}).Cleanup(t.Context(), client.StartOptions{Binary: program, Bundle: dir}); err != nil {
		t.Error(err)
	}
}
