package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A container of which the monitor could not let go, on a machine that is slow or has a
// disk that hangs, keeps what it is made of until the monitor can.
func TestReapedAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, id := mustRun(t, m, "web")
		n.fails("Delete")
		n.exit(id, 3)
		mustExit(t, m, id)
		if err := m.RemoveContainer(t.Context(), id); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errInjected) {
			t.Errorf("removal: %v", err)
		}
		n.container(id) // the monitor has it
		n.mustExist(m.containerState(pod, id), m.store.ContainerDir(pod, id))
		n.fails("")
		if err := m.RemoveContainer(t.Context(), id); err != nil {
			t.Errorf("removal: %v", err)
		}
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

// The end of its pod does not wait for that: it ends all that the monitor has.
func TestUnreapedPodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, id := mustRun(t, m, "web")
		n.fails("Delete")
		n.exit(id, 3)
		mustExit(t, m, id)
		began := time.Now()
		if err := m.RemovePod(t.Context(), pod); err != nil || time.Since(began) > 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		n.checkEmpty()
	})
}

// A container that could not be finished, and of which the monitor cannot let go, keeps
// what it is made of until the monitor can: it may run on.
func TestHalfMadeContainerIsUndoneAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, err := m.RunPod(t.Context(), podConfig("web"), "")
		if err != nil {
			t.Fatal(err)
		}
		goOn := n.slows("Create") // and what the monitor makes then is too late
		n.fails("Kill")
		begun, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.CreateContainer(begun, pod, containerConfig("main")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("creation: %v", err)
		}
		time.Sleep(2 * undoTimeout)
		goOn()
		synctest.Wait()
		made := names(m.podState(pod))
		var id string
		for _, name := range made {
			if len(name) == len(pod) {
				id = name
			}
		}
		if id == "" || len(n.leases) == 0 {
			t.Fatalf("while the monitor may have it: bundles %q, leases %v", made, n.leases)
		}
		n.mustExist(m.containerState(pod, id), m.store.ContainerDir(pod, id))
		n.fails("")
		time.Sleep(lastRetry)
		synctest.Wait()
		for _, path := range []string{m.containerState(pod, id), m.store.ContainerDir(pod, id)} {
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", filepath.Base(path), err)
			}
		}
		if len(n.leases) > 0 {
			t.Errorf("leases %v are left", n.leases)
		}
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

func (n *node) mustExist(paths ...string) {
	n.tb.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			n.tb.Error(err)
		}
	}
}
