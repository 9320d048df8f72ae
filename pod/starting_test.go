package pod

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A daemon that is killed while a container's poststart hook runs is no reason to end
// either: the next daemon goes on with the start.
func TestRealDaemonKilledInPoststart(t *testing.T) {
	n := newRealNode(t)
	gates := filepath.Join(n.root, "gates")
	if err := os.Mkdir(gates, 0o700); err != nil {
		t.Fatal(err)
	}
	n.file("hooks/10-wait.json", `{"version": "1.0.0", "when": {"always": true}, "stages": ["poststart"], "hook": {"path": "/bin/sh",
		"args": ["sh", "-c", "id=$(grep -o '\"id\":\"[^\"]*' | cut -d: -f2 | tr -d '\"'); echo $id > `+gates+`/$id.runs; read code < `+gates+`/$id; exit $code"]}}`)
	n.change = func(o *Options) { o.HooksDirs = []string{filepath.Join(n.root, "hooks")} }
	m := n.open()
	pod := n.run(m, n.pod("starting"))
	begin := func(name, script string) (id string) {
		id, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: name, Image: "busybox", Command: []string{"/bin/sh", "-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(gates, id), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() { _ = m.StartContainer(t.Context(), id) }() // never answered
		for {
			if _, err := os.Stat(filepath.Join(gates, id+".runs")); err == nil {
				return id
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	hookEnds := func(id, code string) {
		if err := os.WriteFile(filepath.Join(gates, id), []byte(code+"\n"), 0); err != nil { // blocks until the hook reads, so it is alive
			t.Fatal(err)
		}
	}
	runs, ends, fails := begin("runs", sleeper), begin("ends", "exit 5"), begin("fails", sleeper)

	dead, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Close(dead); err == nil { // as good as killed: nothing is written
		t.Error("no start is under way")
	}
	m = n.open()
	for _, id := range []string{runs, ends, fails} {
		if s := mustContainer(t, m, id); s.State != ContainerCreated || !strings.HasPrefix(s.Stage, "start container") {
			t.Errorf("while its hook runs: %s is %s, at %q", s.Config.Name, s.State, s.Stage)
		}
	}
	asked := make(chan error, 1)
	go func() { asked <- m.StartContainer(t.Context(), runs) }() // as a client does that comes back
	hookEnds(runs, "0")
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if s := mustContainer(t, m, runs); s.State != ContainerRunning || s.StartedAt.IsZero() {
		t.Errorf("runs: %+v", s)
	}
	hookEnds(ends, "0")
	if s := mustExit(t, m, ends); s.ExitCode != 5 || s.StartedAt.IsZero() || s.FinishedAt.Before(s.StartedAt) {
		t.Errorf("ends: %+v", s)
	}
	hookEnds(fails, "3")
	if s := mustExit(t, m, fails); s.Reason != ReasonStartError || !strings.Contains(s.Message, "poststart") {
		t.Errorf("fails: %+v", s)
	}
}

// A container whose start was still on its way to the monitor when the daemon was killed
// has a time of its start, too.
func TestStartedUnseen(t *testing.T) {
	n := newNode(t)
	m := n.open()
	pod, err := m.RunPod(t.Context(), podConfig("late"), "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: "c", Image: "repo:tag"})
	if err != nil {
		t.Fatal(err)
	}
	m = n.open()
	k := n.container(id)
	n.mu.Lock()
	k.startedAt = now()
	n.mu.Unlock()
	n.exit(id, 3)
	if s := mustExit(t, m, id); s.ExitCode != 3 || s.StartedAt.IsZero() {
		t.Errorf("%+v", s)
	}
}
