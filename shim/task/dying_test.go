package task_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// An exec meets the end of its container: it runs and ends with it, or is told
// that the container is not running, and nothing else.
func TestExecInDyingContainer(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	hostPID := func(_ *client.CreateOptions, s *specs.Spec) {
		s.Linux.Namespaces, s.Mounts = s.Linux.Namespaces[1:], s.Mounts[1:]
	}
	for i := range 60 {
		b := p.run([]string{"sleep", "1000"})
		if i%2 == 1 {
			b.remove()
			b = p.run([]string{"sleep", "1000"}, hostPID)
		}
		var all sync.WaitGroup
		check := func(what string, err error) {
			if err == nil {
				return
			}
			if !errors.Is(err, client.ErrNotRunning) || !strings.Contains(err.Error(), "container "+b.id+" is not running") {
				t.Errorf("%s: %v", what, err)
			}
		}
		for n := range 3 {
			all.Go(func() {
				for k := 0; ; k++ {
					var err error
					if n == 0 {
						_, err = p.monitor.ExecSync(ctx, b.id, p.process("sleep", "1000"), 0, 100)
					} else {
						id := fmt.Sprintf("x%d-%d", n, k)
						if err = p.monitor.Exec(ctx, b.id, client.ExecOptions{ExecID: id, Process: p.process("true")}); err == nil {
							_, err = p.monitor.StartExec(ctx, b.id, id)
						}
					}
					check("exec", err)
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		if err := p.monitor.Kill(ctx, b.id, "", syscall.SIGKILL, i%4 < 2); err != nil {
			t.Fatal(err)
		}
		b.wait()
		if pids, err := p.monitor.Pids(ctx, b.id); err != nil || len(pids) > 0 {
			t.Errorf("alive after the container: %v, %v", pids, err)
		}
		all.Wait()
		b.remove()
	}
}
