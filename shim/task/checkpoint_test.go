package task_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// task is containerd's own client of the monitor.
func (p *pod) task() taskapi.TTRPCTaskService {
	p.t.Helper()
	path := strings.TrimPrefix(p.monitor.Address(), "unix://") // too long for an address
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		p.t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	p.t.Cleanup(func() { _ = c.Close() })
	return taskapi.NewTTRPCTaskClient(c)
}

func anyOf(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data}
}

// restoring is the request that makes a container of a checkpoint.
func (b *box) restoring(images, criu string) *taskapi.CreateTaskRequest {
	b.t.Helper()
	o := &options.Options{Root: filepath.Join(b.pod.bundle, "runtime")}
	// criu_path, which containerd has known up to version 1.7.
	o.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 8, protowire.BytesType), criu))
	return &taskapi.CreateTaskRequest{
		ID: b.id, Bundle: b.bundle, Stdout: "cri://" + b.log, Stderr: "cri://" + b.log, Checkpoint: images,
		Options: anyOf(b.t, o),
	}
}

// A container goes on from its checkpoint, counting, with its log.
func TestCheckpointAndRestore(t *testing.T) {
	p := newPod(t)
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("needs a CRIU that works on this kernel (test/vm has one): %v: %s", err, out)
	}
	b := p.run([]string{"sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"})
	images := t.TempDir()
	if _, err := p.task().Checkpoint(t.Context(), &taskapi.CheckpointTaskRequest{
		ID: b.id, Path: images, Options: anyOf(t, &options.CheckpointOptions{Exit: true}),
	}); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Status != 137 {
		t.Errorf("it ended with %d", e.Status)
	}
	before := b.lines()
	if _, err := b.monitor.Delete(t.Context(), b.id, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := p.task().Create(t.Context(), b.restoring(images, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.monitor.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	if r, err := b.monitor.Pids(t.Context(), b.id); err != nil || len(r) == 0 {
		t.Errorf("pids %v, %v", r, err)
	}
	if err := b.monitor.Kill(t.Context(), b.id, "", 9, false); err != nil {
		t.Error(err)
	}
	b.wait()
	after := b.lines()
	last, err := strconv.Atoi(strings.TrimPrefix(after[len(after)-1], "stdout F "))
	if err != nil || last < len(before) || last != len(after) {
		t.Errorf("%d lines before, then up to %d lines, the last of which is %q", len(before), len(after), after[len(after)-1])
	}
	b.remove()
}

// Without a CRIU that works the errors have its reason, the container goes on, and
// a restore leaves nothing.
func TestCheckpointThatFails(t *testing.T) {
	p := newPod(t)
	criu := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(criu, []byte("#!/bin/sh\necho 'Error (criu/x.c:1): no vDSO' >&2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := p.create([]string{"sleep", "1000"})
	b.remove()
	if err := os.MkdirAll(b.bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	p.writeSpec(b.bundle, p.spec(b.id, "sleep", "1000"))
	images := t.TempDir()
	fails := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "no vDSO") {
			t.Errorf("%s: %v, want CRIU's reason", what, err)
		}
	}
	if err := os.WriteFile(filepath.Join(images, "descriptors.json"), []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := p.task().Create(t.Context(), b.restoring(images, criu))
	fails("create", err)
	if _, err := p.task().Create(t.Context(), b.restoring("", criu)); err != nil { // the id is free
		t.Fatal(err)
	}
	if _, err := b.monitor.Start(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	_, err = p.task().Checkpoint(t.Context(), &taskapi.CheckpointTaskRequest{ID: b.id, Path: images})
	fails("checkpoint", err)
	if state, err := b.monitor.State(t.Context(), b.id, ""); err != nil || state.Status != "running" {
		t.Errorf("state %+v, %v", state, err)
	}
	b.remove()
}
