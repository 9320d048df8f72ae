// Package crash kills straked, at any moment and together with everything else,
// and looks whether anybody could tell: no pod, container, log line, exit code or
// address is lost, and nothing is left once the pods are removed.
package crash

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// TestRestart kills straked while a container runs, another has exited and a
// third is about to exit while no daemon is there to see it.
func TestRestart(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	config := n.PodConfig("restart", false)
	pod := must1(n.RunPod(ctx, config))(t)
	gate := filepath.Join(n.Logs, "gate")
	must(t, syscall.Mkfifo(gate, 0o600))
	exits := n.ContainerConfig("exits", "/bin/sh", "-c", "read line < /gate; exit 42")
	exits.Mounts = []*cri.Mount{{HostPath: gate, ContainerPath: "/gate"}}
	ids := map[string]string{}
	for _, c := range []*cri.ContainerConfig{
		n.ContainerConfig("runs", "/bin/sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; done"),
		n.ContainerConfig("done", "/bin/sh", "-c", "exit 7"),
		exits,
	} {
		ids[c.Metadata.Name] = must1(n.RunContainer(ctx, pod, config, c))(t)
	}
	must1(n.WaitExit(ctx, ids["done"]))(t)
	before := must1(n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod}))(t).Status
	runs := must1(n.Status(ctx, ids["runs"]))(t)

	n.Kill()
	must(t, os.WriteFile(gate, []byte("go\n"), 0)) // blocks until the container reads, so it is alive
	n.StartDaemon()

	after := must1(n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod}))(t).Status
	if after.State != cri.PodSandboxState_SANDBOX_READY || after.CreatedAt != before.CreatedAt ||
		after.Network.GetIp() == "" || after.Network.GetIp() != before.Network.GetIp() {
		t.Errorf("pod is\n%v, was\n%v", after, before)
	}
	for name, want := range map[string]int32{"done": 7, "exits": 42} {
		s := must1(n.WaitExit(ctx, ids[name]))(t)
		if s.ExitCode != want {
			t.Errorf("%s: exit code %d, want %d (%s: %s)", name, s.ExitCode, want, s.Reason, s.Message)
		}
	}
	now := must1(n.Status(ctx, ids["runs"]))(t)
	if now.State != cri.ContainerState_CONTAINER_RUNNING || now.CreatedAt != runs.CreatedAt || now.StartedAt != runs.StartedAt {
		t.Errorf("container is\n%v, was\n%v", now, runs)
	}
	if again := must1(n.RunPod(ctx, config))(t); again != pod {
		t.Errorf("the same request again made pod %s, not %s", again, pod)
	}
	r := must1(n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: ids["runs"], Cmd: []string{"/bin/echo", "alive"}}))(t)
	if string(r.Stdout) != "alive\n" || r.ExitCode != 0 {
		t.Errorf("exec after restart: %v", r)
	}
	must1(n.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: ids["runs"]}))(t)
	checkCounter(t, filepath.Join(n.Logs, "restart", "runs.log"))
}

// checkCounter reads a CRI log whose lines count from 1 and finds a lost,
// doubled or torn one.
func checkCounter(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := 1
	for lines := bufio.NewScanner(f); lines.Scan(); want++ {
		fields := strings.SplitN(lines.Text(), " ", 4)
		if len(fields) != 4 || fields[1] != "stdout" || fields[2] != "F" || fields[3] != strconv.Itoa(want) {
			t.Fatalf("%s: line %d is %q", path, want, lines.Text())
		}
	}
	if want < 1000 {
		t.Errorf("%s: only %d lines", path, want-1)
	}
}

// TestKillAnywhere runs pods through their lives, as the kubelet does: what
// fails is asked for again. All the while straked is killed at random.
func TestKillAnywhere(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))

	const workers, kills = 4, 60
	enough := make(chan struct{})
	var lives atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-enough:
					return
				case <-ctx.Done(): // the test has failed
					return
				default:
				}
				life(ctx, t, n, fmt.Sprintf("w%d-%d", w, i), w%2 == 0)
				lives.Add(1)
			}
		})
	}
	for range kills {
		<-time.After(time.Duration(5+rand.IntN(200)) * time.Millisecond)
		n.Kill()
		n.StartDaemon()
	}
	close(enough)
	wg.Wait()
	t.Logf("%d lives", lives.Load())
	if lives.Load() < workers {
		t.Error("next to nothing got done between the kills")
	}
}

// life is one pod from its making to its removal, with every verb repeated until
// it succeeds.
func life(ctx context.Context, t *testing.T, n *node.Node, name string, hostNetwork bool) {
	config := n.PodConfig(name, hostNetwork)
	var pod, id string
	verb := func(what string, f func() error) bool {
		for {
			err := f()
			if err == nil {
				return true
			}
			if strings.Contains(err.Error(), "reserved") {
				t.Errorf("%s: %s: %v", name, what, err)
				return false
			}
			select {
			case <-ctx.Done():
				t.Errorf("%s: %s still fails: %v", name, what, err)
				return false
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	container := n.ContainerConfig("c", "/bin/sh", "-c", "echo hello; exit 3")
	_ = verb("run pod", func() (err error) { pod, err = n.RunPod(ctx, config); return err }) &&
		verb("create", func() error {
			r, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
			id = r.GetContainerId()
			return err
		}) &&
		verb("start", func() error {
			_, err := n.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			if err != nil {
				// A start that was cut off may have happened: the kubelet looks, too.
				if s, e := n.Status(ctx, id); e == nil && s.State != cri.ContainerState_CONTAINER_CREATED {
					return nil
				}
			}
			return err
		}) &&
		verb("exit", func() error {
			s, err := n.WaitExit(ctx, id)
			if err == nil && s.ExitCode != 3 {
				t.Errorf("%s: exit code %d (%s: %s), want 3", name, s.ExitCode, s.Reason, s.Message)
			}
			return err
		}) &&
		verb("log", func() error {
			data, err := os.ReadFile(filepath.Join(config.LogDirectory, "c.log"))
			if err == nil && strings.Count(string(data), " stdout F hello\n") != 1 {
				t.Errorf("%s: log is %q", name, data)
			}
			return err
		}) &&
		verb("stop pod", func() error {
			_, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}) &&
		verb("remove pod", func() error {
			_, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		})
}

// TestReboot takes away what a reboot does: every process, and the state
// directory.
func TestReboot(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	config := n.PodConfig("reboot", false)
	pod := must1(n.RunPod(ctx, config))(t)
	id := must1(n.RunContainer(ctx, pod, config, n.ContainerConfig("c", "/bin/sleep", "1000")))(t)

	n.Kill()
	n.KillRest()
	n.StartDaemon()

	p := must1(n.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod}))(t).Status
	if p.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pod is %v", p.State)
	}
	s := must1(n.Status(ctx, id))(t)
	if s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 || s.Reason == "" {
		t.Errorf("container is %v, exit code %d, reason %q", s.State, s.ExitCode, s.Reason)
	}
	// The kubelet makes the next attempt before it removes the old pod.
	config.Metadata.Attempt++
	next := must1(n.RunPod(ctx, config))(t)
	must1(n.RunContainer(ctx, next, config, n.ContainerConfig("c", "/bin/sleep", "1000")))(t)
	must1(n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}))(t)
	must1(n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}))(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must1 is must for a function with a result: must1(f())(t).
func must1[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}
