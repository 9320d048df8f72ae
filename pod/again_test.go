package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A container that was finished for nobody goes after a while, also if straked is
// started anew meanwhile; one that its client comes back for stays.
func TestAbandonedContainerIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, err := m.RunPod(t.Context(), podConfig("web"), "")
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		goOn := n.slows("image.Permit")
		for _, name := range []string{"claimed", "abandoned", "over-restart"} {
			if _, err := m.CreateContainer(gone, pod, containerConfig(name)); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		goOn()
		synctest.Wait()
		claimed, err := m.CreateContainer(t.Context(), pod, containerConfig("claimed"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(abandonedAfter / 2)
		again, err := m.CreateContainer(t.Context(), pod, containerConfig("over-restart"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(abandonedAfter/2 + time.Second)
		synctest.Wait()
		wantContainers(t, m, claimed, again)

		goOn = n.slows("image.Permit")
		if _, err := m.CreateContainer(gone, pod, containerConfig("late")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		goOn()
		synctest.Wait()
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		m = n.open()
		if got := len(m.Containers(ContainerFilter{})); got != 3 {
			t.Errorf("%d containers after the restart", got)
		}
		time.Sleep(abandonedAfter + time.Second)
		synctest.Wait()
		wantContainers(t, m, claimed, again)
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

func wantContainers(t *testing.T, m *Manager, ids ...string) {
	t.Helper()
	var have []string
	for _, c := range m.Containers(ContainerFilter{}) {
		have = append(have, c.ID)
	}
	slices.Sort(have)
	slices.Sort(ids)
	if !slices.Equal(have, ids) {
		t.Errorf("containers %q, want %q", have, ids)
	}
}

// A stop whose client gave up goes on; who asks again waits for the same one, which
// is due when it was, and sends no second signal.
func TestStopAgainAfterATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		_, id := mustRun(t, m, "web")
		k := n.container(id) // its monitor forgets it when it has ended
		k.ignoreTERM = true
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := m.StopContainer(short, id, 30*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first one: %v", err)
		}
		for range 2 { // the second of these finds it stopped
			if err := m.StopContainer(t.Context(), id, 30*time.Second); err != nil {
				t.Errorf("again: %v", err)
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("stopped after %s", took)
		}
		// The first is its image's stop signal.
		if got := k.signals; !slices.Equal(got, []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL}) {
			t.Errorf("signals: %v", got)
		}
		if s := mustContainer(t, m, id); s.State != ContainerExited || s.ExitCode != 137 {
			t.Errorf("it is %+v", s)
		}
	})
}

// An image that holds a checkpoint, as CRI-O makes them, is one like any other: whoever
// may run a pod may name it, and what it would bring back has privileges of its own.
func TestImageWithACheckpointIsAnImage(t *testing.T) {
	n := newNode(t)
	layer := filepath.Join(n.root, "layer")
	for name, content := range map[string]string{
		"config.dump": `{"rootfsImage":"busybox:latest"}`, "spec.dump": `{"process":{"user":{"uid":0}}}`, "checkpoint/pages-1.img": "memory",
	} {
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(filepath.Join(layer, name)), 0o755),
			os.WriteFile(filepath.Join(layer, name), []byte(content), 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	m := n.open()
	c := containerConfig("main")
	c.Annotations = map[string]string{"io.kubernetes.cri-o.annotations.checkpoint.name": "main"}
	pod, err := m.RunPod(t.Context(), podConfig("web"), "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.CreateContainer(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if s := mustContainer(t, m, id); s.State != ContainerRunning || n.container(id).checkpoint != "" {
		t.Errorf("it was restored from %q: %+v", n.container(id).checkpoint, s)
	}
	spec, err := readSpec(m.containerState(pod, id))
	if err != nil || !slices.Equal(spec.Process.Args, []string{"/bin/server"}) {
		t.Errorf("it runs %+v, %v", spec, err)
	}
	if err := errors.Join(m.StopPod(t.Context(), pod), m.RemovePod(t.Context(), pod)); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}
