package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/pod/bundle"
)

func podConfig(name string) PodConfig {
	return PodConfig{Name: name, Namespace: "default", UID: "uid-" + name, Labels: map[string]string{"app": name}}
}

func containerConfig(name string) ContainerConfig {
	return ContainerConfig{Name: name, Image: "busybox:latest", Command: []string{"/bin/server"}}
}

// mustRun runs a pod with one container, started.
func mustRun(t testing.TB, m *Manager, name string) (pod, container string) {
	t.Helper()
	pod, err := m.RunPod(t.Context(), podConfig(name), "")
	if err != nil {
		t.Fatal(err)
	}
	if container, err = m.CreateContainer(t.Context(), pod, containerConfig("main")); err != nil {
		t.Fatal(err)
	}
	if err = m.StartContainer(t.Context(), container); err != nil {
		t.Fatal(err)
	}
	return pod, container
}

func mustContainer(t testing.TB, m *Manager, id string) ContainerStatus {
	t.Helper()
	s, err := m.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustExit(t testing.TB, m *Manager, id string) ContainerStatus {
	t.Helper()
	s, err := m.WaitContainer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLife(t *testing.T) {
	n := newNode(t)
	m := n.open()
	events, cancel := m.Subscribe()
	defer cancel()
	pod, id := mustRun(t, m, "web")

	p, err := m.Pod(pod[:12])
	if err != nil || p.State != PodReady || fmt.Sprint(p.IPs) != "[10.9.8.7]" || p.RuntimeHandler != "strake" {
		t.Fatalf("pod: %+v, %v", p, err)
	}
	c := mustContainer(t, m, id)
	if c.State != ContainerRunning || c.Pid != 4242 || c.StopSignal != "SIGQUIT" || c.ImageRef != "repo@sha256:2" ||
		c.StartedAt.Before(c.CreatedAt) || c.LogPath == "" {
		t.Fatalf("container: %+v", c)
	}
	r, err := m.ExecSync(t.Context(), id, []string{"echo", "hi"}, 0)
	if err != nil || string(r.Stdout) != "echo hi" {
		t.Fatalf("exec: %+v, %v", r, err)
	}
	n.exit(id, 3)
	if c = mustExit(t, m, id); c.State != ContainerExited || c.ExitCode != 3 || c.Reason != ReasonError || c.FinishedAt.Before(c.StartedAt) {
		t.Fatalf("exited: %+v", c)
	}
	for what, err := range map[string]error{
		"exec":   second(m.ExecSync(t.Context(), id, []string{"true"}, 0)),
		"start":  m.StartContainer(t.Context(), id),
		"reopen": m.ReopenLog(t.Context(), id),
		"update": m.UpdateContainer(t.Context(), id, Resources{}, nil),
	} {
		if !errors.Is(err, ErrState) {
			t.Errorf("%s of an exited container: %v", what, err)
		}
	}
	for range 2 { // all are idempotent
		if err := errors.Join(m.StopContainer(t.Context(), id, time.Second), m.StopPod(t.Context(), pod)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := m.Pod(pod); err != nil || p.State != PodNotReady {
		t.Fatalf("stopped pod: %+v, %v", p, err)
	}
	for range 2 {
		if err := errors.Join(m.RemoveContainer(t.Context(), id), m.RemovePod(t.Context(), pod)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Pod(pod); !errors.Is(err, ErrNotFound) {
		t.Fatalf("removed pod: %v", err)
	}
	n.checkEmpty()
	if n.teardowns[pod] != 1 {
		t.Errorf("network was torn down %d times", n.teardowns[pod])
	}
	var got []string
	for len(events) > 0 {
		e := <-events
		kind := "container"
		if e.ContainerID == e.PodID {
			kind = "pod"
		}
		got = append(got, kind+" "+string(e.Type))
	}
	want := []string{
		"pod created", "pod started", "container created", "container started", "container stopped",
		"pod stopped", "container deleted", "pod deleted",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func second[T any](_ T, err error) error { return err }

// Whichever step fails: the error names it, and nothing is left.
func TestEachStepFails(t *testing.T) {
	for at := 1; ; at++ {
		n := newNode(t)
		m := n.open()
		n.failAt, n.failErr = at, errInjected
		pod, err := m.RunPod(t.Context(), podConfig("web"), "")
		var container string
		if err == nil {
			if container, err = m.CreateContainer(t.Context(), pod, containerConfig("main")); err == nil {
				err = m.StartContainer(t.Context(), container)
			}
		}
		n.mu.Lock()
		n.failAt = 0
		calls := slices.Clone(n.calls)
		n.mu.Unlock()
		if err == nil {
			if at <= len(calls) {
				t.Fatalf("call %d, %s, failed and nobody minded", at, calls[at-1])
			}
			if at < 10 {
				t.Fatalf("only %d calls", at)
			}
			return
		}
		if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), "default/web") || strings.Contains(err.Error(), "undo:") {
			t.Errorf("call %d, %s: error %v", at, calls[at-1], err)
		}
		if container != "" {
			// The start failed: it is an exited container that says so.
			s := mustExit(t, m, container)
			if s.Reason != ReasonStartError || s.ExitCode != exitStartError || !strings.Contains(s.Message, "injected") {
				t.Errorf("not started: %+v", s)
			}
		}
		if pod == "" && (len(m.Pods(PodFilter{})) != 0) {
			t.Errorf("call %d: a pod is listed", at)
		}
		if pod != "" {
			if err := m.RemovePod(t.Context(), pod); err != nil {
				t.Errorf("call %d, %s: remove: %v", at, calls[at-1], err)
			}
		}
		n.checkEmpty()
		// And the same request works now.
		pod, _ = mustRun(t, m, "web")
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	}
}

// Whichever step of ending fails: asking again finishes it.
func TestEachStepOfEndingFails(t *testing.T) {
	for at := 1; ; at++ {
		n := newNode(t)
		m := n.open()
		pod, _ := mustRun(t, m, "web")
		n.mu.Lock()
		n.calls, n.failAt, n.failErr = nil, at, errInjected
		n.mu.Unlock()
		err := m.RemovePod(t.Context(), pod)
		n.mu.Lock()
		n.failAt = 0
		made := len(n.calls)
		n.mu.Unlock()
		if err == nil && at > made {
			return
		}
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Errorf("call %d: second removal: %v", at, err)
		}
		n.checkEmpty()
	}
}

// A daemon killed in any step, of making or of ending: the next one finishes or
// undoes it, and the name can be used.
func TestKilledInEachStep(t *testing.T) {
	for at := 1; ; at++ {
		n := newNode(t)
		m := n.open()
		n.mu.Lock()
		n.calls, n.hangAt = nil, at
		n.mu.Unlock()
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			pod, err := m.RunPod(context.Background(), podConfig("web"), "")
			if err != nil {
				return
			}
			id, err := m.CreateContainer(context.Background(), pod, containerConfig("main"))
			if err != nil {
				return
			}
			if m.StartContainer(context.Background(), id) == nil {
				_ = m.RemovePod(context.Background(), pod)
			}
		}()
		last := n.hangs(at, finished)
		m = n.open() // the old one never moves again
		for _, p := range m.Pods(PodFilter{}) {
			if p.State == PodReady {
				for _, c := range m.Containers(ContainerFilter{PodID: p.ID}) {
					if c.State == ContainerUnknown {
						t.Errorf("call %d: container %+v", at, c)
					}
				}
			}
			if err := m.RemovePod(t.Context(), p.ID); err != nil {
				t.Errorf("call %d: %v", at, err)
			}
		}
		n.checkEmpty()
		pod, _ := mustRun(t, m, "web")
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		if last {
			return
		}
	}
}

// A plugin that hangs when a half-made pod is undone delays that pod's name, and
// nothing else.
func TestHungUndoDelaysOnlyItself(t *testing.T) {
	n := newNode(t)
	m := n.open()
	n.mu.Lock()
	n.calls, n.hangAt = nil, 1
	n.mu.Unlock()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		_, _ = m.RunPod(context.Background(), podConfig("web"), "") // killed in it
	}()
	n.hangs(1, finished)
	n.teardown = make(chan struct{})
	m = n.open()
	undos := m.undos()
	if len(undos) != 1 {
		t.Fatalf("%d pods are being undone", len(undos))
	}
	other, _ := mustRun(t, m, "other")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if id, err := m.RunPod(ctx, podConfig("web"), ""); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "undo half-made pod") {
		t.Errorf("pod %q, %v", id, err)
	}
	close(n.teardown)
	web, _ := mustRun(t, m, "web")
	if len(m.undos()) != 0 {
		t.Error("it was not waited for")
	}
	for _, id := range []string{web, other} {
		if err := m.RemovePod(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	n.checkEmpty()
}

// Nor does one that hangs when what belongs to no pod is torn down, or in its GC: that
// delays the networks of new pods, which GC would not know, and nothing else.
func TestHungOrphanDelaysOnlyNewNetworks(t *testing.T) {
	n := newNode(t)
	m := n.open()
	known, container := mustRun(t, m, "known")
	orphan := newID()
	if err := os.WriteFile(m.netnsPath(orphan), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.netns[m.netnsPath(orphan)], n.attached[orphan] = true, true
	n.teardown, n.gc = make(chan struct{}), make(chan struct{})
	m = n.open()
	if s := mustContainer(t, m, container); s.State != ContainerRunning {
		t.Errorf("container: %+v", s)
	}
	host := podConfig("host")
	host.Namespaces.Network = bundle.NamespaceNode
	if _, err := m.RunPod(t.Context(), host, ""); err != nil {
		t.Error(err)
	}
	made := make(chan error)
	go func() { made <- second(m.RunPod(t.Context(), podConfig("new"), "")) }()
	select {
	case err := <-made:
		t.Errorf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // at the least
	}
	close(n.gc)
	if err := <-made; err != nil {
		t.Error(err)
	}
	close(n.teardown)
	for _, w := range m.undos() {
		<-w.done
	}
	for _, p := range m.Pods(PodFilter{}) {
		if p.NetNS != "" && !n.attached[p.ID] {
			t.Errorf("pod %s has lost its network", p.Config.Name)
		}
		if err := m.RemovePod(t.Context(), p.ID); err != nil {
			t.Error(err)
		}
	}
	if n.teardowns[orphan] == 0 || n.teardowns[known] != 1 {
		t.Errorf("torn down: %v", n.teardowns)
	}
	n.checkEmpty()
}

// A full disk keeps nobody from stopping what fills it, nor from removing it.
func TestStoppedOnAFullDisk(t *testing.T) {
	testutil.RequireRoot(t, "mounts a small file system")
	n := newNode(t)
	if err := syscall.Mount("tmpfs", n.root, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(n.root, syscall.MNT_DETACH); err != nil { // the Manager is closed later
			t.Error(err)
		}
	})
	if err := os.MkdirAll(filepath.Join(n.root, "layer", "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := n.open()
	pod, id := mustRun(t, m, "web")
	fill := filepath.Join(m.store.ContainerDir(pod, id), "upper-full")
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filled: %v", err)
	}
	n.exit(id, 7)
	for range 3 { // also with straked started again, which has not read of the stop
		if err := m.StopPod(t.Context(), pod); err != nil {
			t.Errorf("stopped: %v", err)
		}
		if s := mustContainer(t, m, id); s.ExitCode != 7 || s.Reason != ReasonError {
			t.Errorf("container: %+v", s)
		}
		if s, err := m.Pod(pod); err != nil || s.State != PodNotReady {
			t.Errorf("pod: %+v, %v", s, err)
		}
		if n.mu.Lock(); len(n.monitors)+len(n.attached)+len(n.netns) != 0 {
			t.Errorf("left: monitors %v, networks %v, namespaces %v", n.monitors, n.attached, n.netns)
		}
		n.mu.Unlock()
		m = n.open()
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
	mustRun(t, m, "next")
}

// A start that its time ends, and that has happened all the same: the container ends as
// its process does.
func TestEndsInAStartThatWasCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, err := m.RunPod(t.Context(), podConfig("web"), "")
		if err != nil {
			t.Fatal(err)
		}
		for name, exits := range map[string]bool{"exits": true, "runs": false} {
			id, err := m.CreateContainer(t.Context(), pod, containerConfig(name))
			if err != nil {
				t.Fatal(err)
			}
			n.lateStart = true
			started := make(chan error)
			go func() { started <- m.StartContainer(t.Context(), id) }()
			synctest.Wait()
			want := int32(137) // it started too late, and was killed for it
			if exits {
				want = 3
				n.exit(id, 3)
			}
			if err := <-started; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: started: %v", name, err)
			}
			if s := mustExit(t, m, id); s.ExitCode != want || s.Reason != ReasonError || s.StartedAt.IsZero() {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

// How a container ended is not lost, over a stop and a restart, because there was no
// room to write it.
func TestUnwrittenEnd(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	dir := m.store.ContainerDir(pod, id)
	if err := os.Rename(dir, dir+".away"); err != nil { // nothing can be written
		t.Fatal(err)
	}
	n.exit(id, 7)
	if s, err := m.WaitContainer(t.Context(), id); err != nil || s.ExitCode != 7 {
		t.Errorf("container: %+v, %v", s, err)
	}
	if err := m.StopPod(t.Context(), pod); err != nil {
		t.Errorf("stopped: %v", err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	m = n.open() // the old one never moves again
	if s, err := m.WaitContainer(t.Context(), id); err != nil || s.ExitCode != 7 {
		t.Errorf("container: %+v, %v", s, err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}

// It is written once there is room.
func TestWrittenAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		pod, id := mustRun(t, m, "web")
		dir := m.store.ContainerDir(pod, id)
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		n.exit(id, 7)
		if err := m.StopPod(t.Context(), pod); err != nil {
			t.Errorf("stopped: %v", err)
		}
		time.Sleep(flushAfter + time.Second) // of the bubble's
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(firstRetry)
		synctest.Wait()
		pods, _, err := m.store.Load()
		if err != nil || len(pods) != 1 || len(pods[0].Containers) != 1 {
			t.Fatalf("pods: %+v, %v", pods, err)
		}
		if r := pods[0].Containers[0].Record; r.State != ContainerExited || r.ExitCode != 7 {
			t.Errorf("record: %+v", r)
		}
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

// A pod whose sandbox ends by itself is not ready, and subscribers are told so, once.
func TestSandboxEnds(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, _ := mustRun(t, m, "web")
	events, cancel := m.Subscribe()
	defer cancel()
	n.endSandbox(pod)
	e := <-events
	if e.Type != EventStopped || e.ContainerID != pod || e.Pod.State != PodNotReady || len(e.Containers) != 1 {
		t.Errorf("told: %+v", e)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	var about []EventType
	for len(about) == 0 || about[len(about)-1] != EventDeleted {
		if e := <-events; e.ContainerID == pod {
			about = append(about, e.Type)
		}
	}
	if len(about) != 1 {
		t.Errorf("told afterwards: %v", about)
	}
	n.checkEmpty()
}

// A daemon killed in any step of a stop: the next one goes on with it by itself,
// and the container has been killed, not lost.
func TestStopKilledInEachStep(t *testing.T) {
	for at := 1; ; at++ {
		n := newNode(t)
		m := n.open()
		pod, id := mustRun(t, m, "web")
		n.mu.Lock()
		n.calls, n.hangAt = nil, at
		n.mu.Unlock()
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			_ = m.StopPod(context.Background(), pod) // it never returns, but for the last
		}()
		last := n.hangs(at, finished)
		m = n.open() // the old one never moves again
		p, err := m.Pod(pod)
		if err != nil || p.State != PodNotReady {
			t.Errorf("call %d: pod %+v, %v", at, p, err)
		}
		if c := mustExit(t, m, id); c.ExitCode != 137 || c.Reason != ReasonError {
			t.Errorf("call %d: container exited with %d (%s: %s)", at, c.ExitCode, c.Reason, c.Message)
		}
		if err := m.Close(t.Context()); err != nil { // waits for what goes on
			t.Error(err)
		}
		if n.mu.Lock(); len(n.attached)+len(n.netns)+len(n.monitors) > 0 {
			t.Errorf("call %d: left: %v %v %v", at, n.attached, n.netns, n.monitors)
		}
		n.mu.Unlock()
		if last {
			return
		}
	}
}

// hangs waits until call at is made, or everything is finished without it.
func (n *node) hangs(at int, finished <-chan struct{}) (last bool) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-finished:
			return true
		case <-tick.C:
		}
		n.mu.Lock()
		made := len(n.calls)
		n.mu.Unlock()
		if made >= at {
			time.Sleep(5 * time.Millisecond) // what runs beside it gets to its own end
			return false
		}
	}
}

func TestRestartChangesNothing(t *testing.T) {
	n := newNode(t)
	m := n.open()
	_, running := mustRun(t, m, "web")
	_, exited := mustRun(t, m, "job")
	n.exit(exited, 7)
	mustExit(t, m, exited)
	before, pods := m.Containers(ContainerFilter{}), m.Pods(PodFilter{})

	m = n.open()
	if after := m.Containers(ContainerFilter{}); !reflect.DeepEqual(before, after) {
		t.Errorf("containers\nbefore %+v\nafter  %+v", before, after)
	}
	if after := m.Pods(PodFilter{}); !reflect.DeepEqual(pods, after) {
		t.Errorf("pods\nbefore %+v\nafter  %+v", pods, after)
	}
	// The same request again is still the same pod.
	if again, err := m.RunPod(t.Context(), podConfig("web"), ""); err != nil || again != pods[1].ID {
		t.Errorf("the same pod again: %s, %v, want %s", again, err, pods[1].ID)
	}
	// Whoever follows events is told of what was there, with its own time.
	var told []string
	for _, e := range m.Recovered() {
		told = append(told, fmt.Sprint(e.Type, e.ContainerID == running, e.Time, len(e.Containers)))
	}
	started, finished := mustContainer(t, m, running).StartedAt, mustContainer(t, m, exited).FinishedAt
	if want := []string{fmt.Sprint(EventStarted, true, started, 1), fmt.Sprint(EventStopped, false, finished, 1)}; !slices.Equal(told, want) {
		t.Errorf("recovered %q, want %q", told, want)
	}
	mustRun(t, m, "new")
	if now := m.Recovered(); len(now) != len(told) {
		t.Errorf("what this daemon has made is recovered: %+v", now)
	}
	// An exit while nobody looks is not lost, nor one after.
	n.epochEnds()
	n.exit(running, 5)
	m = n.open()
	if s := mustExit(t, m, running); s.ExitCode != 5 || s.Reason != ReasonError {
		t.Errorf("exit between two daemons: %+v", s)
	}
}

func (n *node) epochEnds() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.epoch++
}

func TestReboot(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	n.epochEnds()
	for _, k := range n.monitors {
		n.kill(k)
	}
	if err := os.RemoveAll(n.state); err != nil {
		t.Fatal(err)
	}
	m = n.open()
	if p, err := m.Pod(pod); err != nil || p.State != PodNotReady {
		t.Errorf("pod after reboot: %+v, %v", p, err)
	}
	if c := mustContainer(t, m, id); c.State != ContainerExited || c.ExitCode != 137 || c.Reason != ReasonUnknown || c.FinishedAt.IsZero() {
		t.Errorf("container after reboot: %+v", c)
	}
	for range 2 {
		if err := m.StopPod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	if n.teardowns[pod] != 1 {
		t.Errorf("network was torn down %d times", n.teardowns[pod])
	}
	n.netns = map[string]bool{} // gone with the boot
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

func TestUnreadableIsSetAside(t *testing.T) {
	for name, damage := range map[string]string{
		"no JSON": "{", "empty": "", "no version": `{"record":{}}`, "other id": `{"version":1,"record":{"id":"x","phase":"ready"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			m := n.open()
			pod, _ := mustRun(t, m, "web")
			other, broken := mustRun(t, m, "other")
			n.epochEnds()
			for _, path := range []string{
				filepath.Join(m.store.PodDir(pod), "pod.json"),
				filepath.Join(m.store.ContainerDir(other, broken), "container.json"),
			} {
				if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m = n.open()
			if i := m.Info(); i.Pods != 1 || i.Containers != 0 || len(i.Unreadable) != 2 {
				t.Errorf("info: %+v", i)
			}
			if _, err := m.CreateContainer(t.Context(), other, containerConfig("main")); err != nil {
				t.Errorf("the name of an unreadable container: %v", err)
			}
			mustRun(t, m, "web")
			if len(names(filepath.Join(n.root, "unreadable"))) != 2 {
				t.Error("not set aside")
			}
			for _, p := range m.Pods(PodFilter{}) {
				if err := m.RemovePod(t.Context(), p.ID); err != nil {
					t.Error(err)
				}
			}
			n.checkEmpty()
		})
	}
}

func TestNewerFormatIsLeftAlone(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, _ := mustRun(t, m, "web")
	path := filepath.Join(m.store.PodDir(pod), "pod.json")
	if err := os.WriteFile(path, []byte(`{"version":99,"record":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), m.o)
	if err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("opened a newer format: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || !bytes.Contains(data, []byte("99")) {
		t.Errorf("it was touched: %s, %v", data, err)
	}
}

// A client that gives up and asks again gets the first request's result.
func TestRetryGetsTheFirstOne(t *testing.T) {
	n := newNode(t)
	m := n.open()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.RunPod(gone, podConfig("web"), "")
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var ids [8]string
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i], _ = m.RunPod(t.Context(), podConfig("web"), "") })
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("several pods: %q", ids)
		}
	}
	var cids [8]string
	for i := range cids {
		all.Go(func() { cids[i], _ = m.CreateContainer(t.Context(), ids[0], containerConfig("main")) })
	}
	all.Wait()
	for _, id := range cids {
		if id == "" || id != cids[0] {
			t.Fatalf("several containers: %q", cids)
		}
	}
	// Another configuration under the same name is no retry.
	other := podConfig("web")
	other.Hostname = "else"
	if _, err := m.RunPod(t.Context(), other, ""); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), ids[0]) {
		t.Errorf("another pod of that name: %v", err)
	}
	c := containerConfig("main")
	c.TTY = true
	if _, err := m.CreateContainer(t.Context(), ids[0], c); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), cids[0]) {
		t.Errorf("another container of that name: %v", err)
	}
	// After it is stopped, the name is free.
	if err := m.StopPod(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if id, err := m.RunPod(t.Context(), other, ""); err != nil || id == ids[0] {
		t.Errorf("after stop: %s, %v", id, err)
	}
}

func TestAbandonedPodIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		goOn := n.slows("netns.New")
		for _, name := range []string{"claimed", "abandoned"} {
			if _, err := m.RunPod(gone, podConfig(name), ""); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		goOn()
		synctest.Wait()
		if _, err := m.RunPod(t.Context(), podConfig("claimed"), ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(abandonedAfter + time.Second)
		synctest.Wait()
		pods := m.Pods(PodFilter{})
		if len(pods) != 1 || pods[0].Config.Name != "claimed" {
			t.Errorf("pods: %+v", pods)
		}
		if err := m.RemovePod(t.Context(), pods[0].ID); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

// Nobody comes back after a restart either, which does not begin the wait anew; a pod that
// was asked for stays.
func TestAbandonedOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		goOn := n.slows("netns.New")
		for _, name := range []string{"claimed", "abandoned"} {
			if _, err := m.RunPod(gone, podConfig(name), ""); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		goOn()
		synctest.Wait()
		claimed, err := m.RunPod(t.Context(), podConfig("claimed"), "")
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			time.Sleep(abandonedAfter / 4)
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			m = n.open()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if pods := m.Pods(PodFilter{}); len(pods) != 1 || pods[0].ID != claimed {
			t.Errorf("pods: %+v", pods)
		}
		if err := m.RemovePod(t.Context(), claimed); err != nil {
			t.Error(err)
		}
		n.checkEmpty()
	})
}

func TestShorterStopWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		m := n.open()
		_, id := mustRun(t, m, "web")
		n.container(id).ignoreTERM = true
		began := time.Now()
		var all sync.WaitGroup
		for _, grace := range []time.Duration{time.Hour, 30 * time.Second, time.Minute} {
			all.Go(func() {
				if err := m.StopContainer(t.Context(), id, grace); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		// Meanwhile it can be used, and its log be reopened.
		if _, err := m.ExecSync(t.Context(), id, []string{"true"}, 0); err != nil {
			t.Error(err)
		}
		if err := m.ReopenLog(t.Context(), id); err != nil {
			t.Error(err)
		}
		all.Wait()
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("stopped after %s", took)
		}
		k := mustContainer(t, m, id)
		if k.ExitCode != 137 || k.Reason != ReasonError {
			t.Errorf("killed: %+v", k)
		}
	})
}

func TestStopSignals(t *testing.T) {
	n := newNode(t)
	m := n.open()
	_, id := mustRun(t, m, "web")
	k := n.container(id)
	if err := m.StopContainer(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(k.signals, []syscall.Signal{syscall.SIGQUIT}) {
		t.Errorf("signals %v, want the image's", k.signals)
	}
	if s := mustContainer(t, m, id); s.ExitCode != 128+3 {
		t.Errorf("%+v", s)
	}
}

func TestMonitorKilled(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	n.mu.Lock()
	k := n.monitors[m.monitorAddress(pod)]
	n.mu.Unlock()
	n.kill(k)
	if s := mustExit(t, m, id); s.ExitCode != 137 || s.Reason != ReasonUnknown {
		t.Errorf("container: %+v", s)
	}
	if p, err := m.Pod(pod); err != nil || p.State != PodNotReady {
		t.Errorf("pod: %+v, %v", p, err)
	}
	if _, err := m.CreateContainer(t.Context(), pod, containerConfig("next")); !errors.Is(err, ErrState) {
		t.Errorf("create in it: %v", err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

func TestMonitorOfIdlePodKilled(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, err := m.RunPod(t.Context(), podConfig("idle"), "")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	k := n.monitors[m.monitorAddress(pod)]
	n.mu.Unlock()
	n.kill(k)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if p, err := m.Pod(pod); err != nil || p.State == PodNotReady {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the pod is still ready")
		}
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

// A pod whose monitor never answers holds up nobody else.
func TestStuckPodDelaysOnlyItself(t *testing.T) {
	synctest.Test(t, stuckPodDelaysOnlyItself)
}

func stuckPodDelaysOnlyItself(t *testing.T) {
	n := newNode(t)
	m := n.open()
	stuck, id := mustRun(t, m, "stuck")
	n.mu.Lock()
	n.stuck[stuck] = true
	n.mu.Unlock()
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	if err := m.StopContainer(soon(), id, 0); err == nil || !strings.Contains(err.Error(), "kill") {
		t.Errorf("stop of a stuck container: %v", err)
	}
	if err := m.RemovePod(soon(), stuck); err == nil || !strings.Contains(err.Error(), `"stop"`) {
		t.Errorf("removal of a stuck pod: %v", err)
	}
	if d := m.Dump(); len(m.Info().Stages) == 0 || len(d.Verbs) == 0 || d.Verbs[0].What == "" || d.Verbs[0].Since.IsZero() ||
		len(d.Monitors) != 1 || !slices.Equal(d.Monitors[0].Pods, []string{stuck}) || d.Monitors[0].State != "connected" {
		t.Errorf("nothing says where it is: %+v", d)
	}
	other, _ := mustRun(t, m, "other")
	if err := m.RemovePod(t.Context(), other); err != nil {
		t.Error(err)
	}
	if len(m.Containers(ContainerFilter{})) != 1 {
		t.Error("lists do not answer")
	}
	if s, err := m.PodsStats(t.Context(), PodFilter{}); err != nil || len(s) != 0 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	n.mu.Lock()
	n.stuck = map[string]bool{}
	n.mu.Unlock()
	// Each stuck call has its limit, after which the pod can be removed.
	time.Sleep(2 * verbTimeout)
	synctest.Wait()
	if err := m.RemovePod(t.Context(), stuck); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}

// The records of the first straked that had any (testdata/first, written by commit
// d339d96, with ROOT and STATE for its directories) are read by today's: the boot has
// ended since.
func TestFirstFormat(t *testing.T) {
	n := newNode(t)
	first := filepath.Join("testdata", "first")
	err := filepath.WalkDir(first, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(first, path)
		if err != nil {
			return err
		}
		to := filepath.Join(n.root, rel)
		text := strings.NewReplacer("ROOT", n.root, "STATE", n.state).Replace(string(data))
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, []byte(text), 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	m := n.open()
	if unreadable := m.Info().Unreadable; len(unreadable) > 0 {
		t.Errorf("set aside: %q", unreadable)
	}
	pods := map[string]PodStatus{}
	for _, p := range m.Pods(PodFilter{}) {
		pods[p.Config.Name] = p
	}
	web := pods["web"]
	if c := web.Config; len(pods) != 2 || web.State != PodNotReady || web.CreatedAt.IsZero() || fmt.Sprint(web.IPs) != "[10.9.8.7]" || web.RuntimeHandler != "strake" ||
		c.UID != "u-1" || c.Attempt != 2 || c.Hostname != "web-0" || c.DNS.Options[0] != "ndots:5" || c.PortMappings[0].HostPort != 8080 ||
		c.Labels["app"] != "web" || c.Annotations["note"] != "kept" || c.CgroupParent != "/kubepods/pod1" || len(c.Sysctls) != 1 {
		t.Errorf("pods: %+v", pods)
	}
	for name, want := range map[string]ContainerStatus{
		"created": {ExitCode: exitLost, Reason: ReasonUnknown},
		"running": {ExitCode: exitLost, Reason: ReasonUnknown},
		"ended":   {ExitCode: 3, Reason: ReasonError},
	} {
		i := slices.IndexFunc(m.Containers(ContainerFilter{PodID: web.ID}), func(c ContainerStatus) bool { return c.Config.Name == name })
		if i < 0 {
			t.Errorf("no container %s", name)
			continue
		}
		s := m.Containers(ContainerFilter{PodID: web.ID})[i]
		if c := s.Config; s.State != ContainerExited || s.ExitCode != want.ExitCode || s.Reason != want.Reason || s.StartedAt.IsZero() != (name == "created") ||
			s.ImageRef != "repo@sha256:2" || s.LogPath != filepath.Join(n.root, "logs", name+".log") || s.StopSignal != "SIGINT" ||
			c.Env[0].Value != "b" || c.Args[0] != "-v" || c.WorkingDir != "/srv" || c.Labels["l"] != "1" || c.Resources.MemoryLimit != 64<<20 {
			t.Errorf("container %s: %+v", name, s)
		}
	}
	for _, p := range pods {
		if err := m.RemovePod(t.Context(), p.ID); err != nil {
			t.Error(err)
		}
	}
	if n.teardowns[web.ID] != 1 || n.teardowns[pods["stopped"].ID] != 0 {
		t.Errorf("networks torn down: %v", n.teardowns)
	}
	n.checkEmpty()
}

// Other settings count for what is made afterwards; a runtime with pods stays.
func TestChange(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, _ := mustRun(t, m, "web")
	is := *m.settings()
	is.Runtimes = map[string]Runtime{"strake": {Monitor: "other"}, "second": {Monitor: "second"}}
	is.DefaultRuntime = "second"
	if kept, err := m.Change(is); err != nil || !slices.Equal(kept, []string{"strake"}) {
		t.Errorf("kept %q, %v", kept, err)
	}
	if s := m.settings(); s.Runtimes["strake"].Monitor != "monitor" || is.Runtimes["strake"].Monitor != "other" {
		t.Errorf("settings: %+v", s)
	}
	second, _ := mustRun(t, m, "second")
	if p, err := m.Pod(second); err != nil || p.RuntimeHandler != "second" {
		t.Errorf("pod: %+v, %v", p, err)
	}
	is.Runtimes = map[string]Runtime{"strake": {Monitor: "monitor"}}
	if _, err := m.Change(is); !errors.Is(err, ErrInvalid) {
		t.Errorf("without its default: %v", err)
	}
	is.DefaultRuntime = "strake"
	if kept, err := m.Change(is); err != nil || !slices.Equal(kept, []string{"second"}) {
		t.Errorf("kept %q, %v", kept, err)
	}
	if err := errors.Join(m.RemovePod(t.Context(), pod), m.RemovePod(t.Context(), second)); err != nil {
		t.Error(err)
	}
	is.Runtimes = map[string]Runtime{"strake": {Monitor: "other"}}
	if kept, err := m.Change(is); err != nil || len(kept) > 0 || m.settings().Runtimes["strake"].Monitor != "other" {
		t.Errorf("kept %q, %v", kept, err)
	}
	if _, err := m.RunPod(t.Context(), podConfig("none"), "second"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a pod of no runtime: %v", err)
	}
	n.checkEmpty()
}

func TestRefusals(t *testing.T) {
	n := newNode(t)
	m := n.open()
	if _, err := m.RunPod(t.Context(), podConfig("web"), "kata"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "runtime_handler") {
		t.Errorf("unknown handler: %v", err)
	}
	pod, _ := mustRun(t, m, "web")
	c := containerConfig("other")
	c.Image = "missing"
	if _, err := m.CreateContainer(t.Context(), pod, c); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
	c = containerConfig("other")
	c.CDIDevices = []string{"vendor.com/gpu=0"}
	if _, err := m.CreateContainer(t.Context(), pod, c); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "CDI_devices") {
		t.Errorf("CDI: %v", err)
	}
	if _, err := m.Pod("abcd"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown pod: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := m.RunPod(t.Context(), podConfig("late"), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestPolicyRefuses: the policy is asked by the name that the person gave, with the
// pod's namespace, of a container's image and of those that it mounts.
func TestPolicyRefuses(t *testing.T) {
	m := newNode(t).open()
	config := podConfig("web")
	config.Namespace = "team"
	pod, err := m.RunPod(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	image1, mount := containerConfig("main"), containerConfig("main")
	image1.Image, image1.UserImage = "sha256:1", "refused:1"
	mount.Mounts = []bundle.Mount{{Image: "refused:2", ContainerPath: "/data", Readonly: true}}
	for want, c := range map[string]ContainerConfig{`image refused:1 in namespace "team"`: image1, `mounts[0].image: image refused:2 in namespace "team"`: mount} {
		if _, err := m.CreateContainer(t.Context(), pod, c); !errors.Is(err, image.ErrSignature) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := m.CreateContainer(t.Context(), pod, containerConfig("main")); err != nil {
		t.Error(err)
	}
}

// TestExitNobodySaw: the monitor says that it has not seen how the process ended.
func TestExitNobodySaw(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	n.container(id).unseen = true
	n.exit(id, 255)
	if s := mustExit(t, m, id); s.ExitCode != 137 || s.Reason != ReasonUnknown || !strings.Contains(s.Message, "monitor had been killed") {
		t.Errorf("container: %+v", s)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}
