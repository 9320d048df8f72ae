package crash

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// TestExecCutOff kills the monitor while ExecSync runs: the caller is told to try again,
// and nothing of the process stays.
func TestExecCutOff(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	config := n.PodConfig("cut-off", true)
	pod := must1(n.RunPod(ctx, config))(t)
	gate := filepath.Join(n.Logs, "gate")
	must(t, syscall.Mkfifo(gate, 0o600))
	c := n.ContainerConfig("main", "/bin/sleep", "100000")
	c.Mounts = []*cri.Mount{{HostPath: gate, ContainerPath: "/gate"}}
	id := must1(n.RunContainer(ctx, pod, config, c))(t)
	cut := make(chan error, 1)
	go func() {
		_, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "read x < /gate; exec sleep 99999"}})
		cut <- err
	}()
	must(t, os.WriteFile(gate, []byte("go\n"), 0)) // blocks until it reads, so it runs
	for _, pid := range n.Monitors() {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	if err := <-cut; status.Code(err) != codes.Unavailable {
		t.Errorf("exec: %v", err)
	}
	if r := untilThere(ctx, t, n, id, "/bin/ps"); strings.Contains(string(r.Stdout), "99999") {
		t.Errorf("left of it:\n%s", r.Stdout)
	}
}

// TestLogWithoutReader takes away who reads straked's log.
func TestLogWithoutReader(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	must(t, n.Pull(ctx))
	n.Kill()
	r, w, err := os.Pipe()
	must(t, err)
	go func() { _, _ = r.WriteTo(discard{}) }()
	n.StartDaemonTo(w)
	must(t, w.Close())
	must(t, r.Close())
	config := n.PodConfig("unread", true)
	pod := must1(n.RunPod(ctx, config))(t)
	id := must1(n.RunContainer(ctx, pod, config, n.ContainerConfig("c", "/bin/sh", "-c", "exit 3")))(t)
	if s := must1(n.WaitExit(ctx, id))(t); s.ExitCode != 3 {
		t.Errorf("exit code %d, %s: %s", s.ExitCode, s.Reason, s.Message)
	}
}

// discard reads a pipe empty.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
