package task

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/shim/reap"
)

// TestOOMCloseDuringLook ends watches at the moment when the removal of their
// cgroup wakes them: closing must not wait for a look that waits for it.
func TestOOMCloseDuringLook(t *testing.T) {
	testutil.RequireRoot(t, "it makes cgroups")
	mode, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			cg, err := cgroup.New(fmt.Sprintf("/strake-shim-oomclose-%d-%d", os.Getpid(), i), mode)
			if err == nil {
				err = cg.Create(nil)
			}
			if err != nil {
				t.Error(err)
				return
			}
			var w oomWatch
			if w.watch, err = cg.WatchOOM(); err == nil {
				w.stop, err = reap.WatchFD(w.watch.FD(), func() bool { _, alive := w.killed(); return alive })
			}
			if err := cg.Delete(); err != nil {
				t.Error(err)
			}
			if err != nil {
				t.Error(err)
				return
			}
			w.close()
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("closing a watch hangs")
	}
}
