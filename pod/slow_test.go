package pod

import (
	"context"
	"errors"
	"os"
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

func (n *node) mustExist(paths ...string) {
	n.tb.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			n.tb.Error(err)
		}
	}
}
