package task_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// held is a container whose creation waits, in a hook, until go on is called.
func (p *pod) held(id string) (o client.CreateOptions, goOn func()) {
	p.t.Helper()
	b := &box{pod: p, id: id, bundle: filepath.Join(p.bundle, id)}
	if err := os.Mkdir(b.bundle, 0o700); err != nil {
		p.t.Fatal(err)
	}
	path, gate := b.fifo("gate", os.O_RDWR)
	spec := p.spec(id, "sleep", "1000")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "read x < " + path}}}}
	p.writeSpec(b.bundle, spec)
	return client.CreateOptions{ID: id, Bundle: b.bundle, RuntimeRoot: p.bundle + "/runtime"}, func() {
		_, err := gate.WriteString("\n")
		if err != nil {
			p.t.Error(err)
		}
	}
}

// Who asks for a container that is being created, to end it or to find out what
// became of it, gets the answer when there is one.
func TestVerbsWaitForCreation(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	o, goOn := p.held("half")
	made := make(chan error, 1)
	go func() { _, err := p.monitor.Create(ctx, o); made <- err }()
	waitFor(t, "the creation", func() bool {
		_, err := os.Stat(filepath.Join(o.RuntimeRoot, "half", "state.json"))
		return err == nil
	})
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := p.monitor.ContainerStatus(short, "half"); !errors.Is(err, client.ErrTimeout) {
		t.Errorf("status in the middle: %v", err)
	}
	if _, err := p.monitor.Stats(ctx, []string{"half"}, "", false); err != nil {
		t.Errorf("statistics, which leave it out: %v", err)
	}
	killed := make(chan error, 1)
	go func() { killed <- p.monitor.Kill(ctx, "half", "", syscall.SIGKILL, true) }()
	select {
	case err := <-killed:
		t.Errorf("kill in the middle: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	goOn()
	if err := errors.Join(<-made, <-killed); err != nil {
		t.Fatal(err)
	}
	if e, err := p.monitor.Wait(ctx, "half", ""); err != nil || e.Status != 137 {
		t.Errorf("wait: %+v, %v", e, err)
	}
	if _, err := p.monitor.Delete(ctx, "half", ""); err != nil {
		t.Error(err)
	}
}

// A creation whose caller dies leaves nothing, whenever that is.
func TestCallerOfCreateDies(t *testing.T) {
	p := newPod(t)
	ctx := t.Context()
	for i := range 30 {
		id := fmt.Sprintf("orphan%d", i)
		o, goOn := p.held(id)
		caller, err := client.Connect(ctx, p.monitor.Address())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = caller.Create(ctx, o) }() // never answered
		waitFor(t, "the creation", func() bool {
			_, err := os.Stat(filepath.Join(o.RuntimeRoot, id))
			return err == nil
		})
		goOn()
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		_ = caller.Close()
		// As recovery does it.
		err = p.monitor.Kill(ctx, id, "", syscall.SIGKILL, true)
		if err == nil {
			_, err = p.monitor.Wait(ctx, id, "")
		}
		if err == nil || errors.Is(err, client.ErrNotRunning) {
			_, err = p.monitor.Delete(ctx, id, "")
		}
		if err != nil && !errors.Is(err, client.ErrNotFound) {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(o.RuntimeRoot); err != nil || len(left) > 0 {
			t.Fatalf("left of %s: %v, %v", id, left, err)
		}
	}
	_ = p.monitor.Close()
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within 5 s", what)
}
