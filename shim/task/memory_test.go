package task_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// A container that its memory limit kills before its program runs says so, or
// ends as one that ran out of memory.
func TestMemoryLimitTooSmallToStart(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	refused := 0
	for _, limit := range []int64{1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20} {
		id := fmt.Sprintf("limit%d", limit)
		bundle := filepath.Join(p.bundle, id)
		if err := os.Mkdir(bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		spec := p.spec(id, "true")
		spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		p.writeSpec(bundle, spec)
		_, err := p.monitor.Create(ctx, client.CreateOptions{ID: id, Bundle: bundle, RuntimeRoot: p.bundle + "/runtime"})
		if err == nil {
			_, err = p.monitor.Start(ctx, id)
			e, waitErr := p.monitor.Wait(ctx, id, "")
			st, statusErr := p.monitor.ContainerStatus(ctx, id)
			_, deleteErr := p.monitor.Delete(ctx, id, "")
			if err := errors.Join(err, waitErr, statusErr, deleteErr); err != nil || (e.Status == 137) != st.OOMKilled {
				t.Errorf("%d: exit %d, OOM %v, %v", limit, e.Status, st.OOMKilled, err)
			}
			continue
		}
		refused++
		if want := fmt.Sprintf("linux.resources.memory.limit: %d bytes", limit); !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", limit, err)
		}
	}
	if refused == 0 {
		t.Error("1 KiB is enough")
	}
}
