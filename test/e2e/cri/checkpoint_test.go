package cri

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func needsCRIU(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("needs a CRIU that works on this kernel (make test-v2 has one): %v: %s", err, out)
	}
}

// A container goes on in another pod from its checkpoint, with its memory, its files
// and what it had deleted; the one that it was made of goes on too.
func TestCheckpoint(t *testing.T) {
	needsCRIU(t)
	n := start(t)
	p := runPod(t, n, "first", true)
	id := p.run(n.ContainerConfig("main", "sh", "-c", "echo kept >/data; rm /bin/vi; n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"))
	p.logged("main", "5")
	location := filepath.Join(t.TempDir(), "checkpoint.tar")
	if _, err := n.Runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: location}); err != nil {
		t.Fatal(err)
	}
	before := len(readLog(t, filepath.Join(p.config.LogDirectory, "main.log")))
	p.logged("main", strconv.Itoa(before+5)) // it goes on

	second := runPod(t, n, "second", true)
	c := n.ContainerConfig("main")
	c.Image = &cri.ImageSpec{Image: location}
	copied := second.run(c)
	second.logged("main", strconv.Itoa(before+5))
	lines := readLog(t, filepath.Join(second.config.LogDirectory, "main.log"))
	if first, err := strconv.Atoi(lines[0][3]); err != nil || first < 6 || first > before+5 {
		t.Errorf("it goes on at %q, after %d lines", lines[0][3], before)
	}
	if r := second.exec(copied, "sh", "-c", "cat /data; ls /bin/vi 2>&1 >/dev/null | wc -l"); string(r.Stdout) != "kept\n1\n" {
		t.Errorf("its files: %q %q", r.Stdout, r.Stderr)
	}
}

// The containers of a pod go on in a new pod from one checkpoint of it.
func TestCheckpointPod(t *testing.T) {
	needsCRIU(t)
	n := start(t)
	p := runPod(t, n, "first", true)
	count := []string{"sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"}
	configs := []*cri.ContainerConfig{n.ContainerConfig("one", count...), n.ContainerConfig("two", count...)}
	out := t.TempDir()
	request := &cri.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: out}
	for _, c := range configs {
		request.ContainerIds = append(request.ContainerIds, p.run(c))
		p.logged(c.Metadata.Name, "5")
	}
	if _, err := n.Runtime.CheckpointPod(t.Context(), request); err != nil {
		t.Fatal(err)
	}

	config := n.PodConfig("second", true)
	restored, err := n.Runtime.RestorePod(t.Context(), &cri.RestorePodRequest{CheckpointPath: out, Config: config, ContainerConfigs: configs})
	if err != nil {
		t.Fatal(err)
	}
	second := &pod{n, t, restored.PodSandboxId, config}
	for _, c := range restored.RestoredContainers {
		if _, err := n.Runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		second.logged(c.Name, "20")
		lines := readLog(t, filepath.Join(config.LogDirectory, c.Name+".log"))
		if first, err := strconv.Atoi(lines[0][3]); err != nil || first < 6 {
			t.Errorf("%s goes on at %q", c.Name, lines[0][3])
		}
	}
}

// Without a CRIU that works the reason is said, nothing is written, and the container
// goes on.
func TestCheckpointFails(t *testing.T) {
	if exec.Command("criu", "check").Run() == nil {
		t.Skip("CRIU works here")
	}
	n := start(t)
	p := runPod(t, n, "first", true)
	id := p.run(n.ContainerConfig("main", "sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"))
	dir := t.TempDir()
	_, err := n.Runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: filepath.Join(dir, "checkpoint.tar")})
	if err == nil {
		t.Error("no error")
	}
	t.Log(err)
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	before := len(readLog(t, filepath.Join(p.config.LogDirectory, "main.log")))
	p.logged("main", strconv.Itoa(before+5))
	_, err = n.Runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: "checkpoint.tar"})
	wantCode(t, "a relative location", err, codes.InvalidArgument)
}
