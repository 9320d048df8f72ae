package task

import (
	"testing"
	"time"

	"github.com/strake-containers/strake/oci/cgroup"
)

// TestOOMCloseDuringLook ends a watch while it is being woken, as the removal of
// its cgroup does: the end waits for the look, so it must not hold what the look
// needs.
func TestOOMCloseDuringLook(t *testing.T) {
	w := oomWatch{watch: &cgroup.OOMWatch{}}
	w.stop = func() { // reap.WatchFD's: it returns when no look is under way
		looked := make(chan struct{})
		go func() {
			w.killed()
			close(looked)
		}()
		<-looked
	}
	closed := make(chan struct{})
	go func() {
		w.close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Fatal("closing the watch hangs")
	}
}
