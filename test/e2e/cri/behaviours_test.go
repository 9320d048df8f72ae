package cri

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// docs/behaviours.md says the truth: it has thirty rows, and the tests that they
// name exist.
func TestEveryBehaviourHasItsTest(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "behaviours.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([^` ]+_test\\.go):(Test[^` ]+)`")
	rows := 0
	for line := range strings.Lines(string(text)) {
		number, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if _, err := strconv.Atoi(number); err != nil {
			continue
		}
		if rows++; number != strconv.Itoa(rows) {
			t.Errorf("row %d is numbered %s", rows, number)
		}
		tests := name.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 && !strings.Contains(line, "*no test*: ") {
			t.Errorf("row %s names no test and does not say what is missing", number)
		}
		for _, test := range tests {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, test[1]), nil, 0)
			if err != nil {
				t.Errorf("row %s: %v", number, err)
			} else if parsed.Scope.Lookup(test[2]) == nil {
				t.Errorf("row %s: %s has no %s", number, test[1], test[2])
			}
		}
	}
	if rows != 30 {
		t.Errorf("%d rows", rows)
	}
}

// logged waits until a container has written a line.
func (p *pod) logged(container, want string) {
	p.t.Helper()
	path := filepath.Join(p.config.LogDirectory, container+".log")
	waitFor(p.t, want+" in the log of "+container, func() bool {
		for _, line := range readLog(p.t, path) {
			if line[3] == want {
				return true
			}
		}
		return false
	})
}

// A container that is being stopped can be looked into until its grace is over.
func TestExecWhileStopping(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "grace", true)
	id := p.run(n.ContainerConfig("stubborn", "sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 1000 & wait; done"))
	p.logged("stubborn", "ready")
	stopped := make(chan error, 1)
	go func() {
		_, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 3})
		stopped <- err
	}()
	p.logged("stubborn", "asked")
	if r := p.exec(id, "echo", "alive"); string(r.Stdout) != "alive\n" {
		t.Errorf("exec while stopping: %v", r)
	}
	// This one is still there at the end, which is its own.
	r, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "1000"}})
	if err == nil && r.ExitCode != 137 {
		t.Errorf("exec that outlived the grace: %v", r)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if s, err := n.Status(t.Context(), id); err != nil || s.ExitCode != 137 {
		t.Errorf("%v, %v", s, err)
	}
	_, err = n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	wantCode(t, "exec afterwards", err, codes.FailedPrecondition)
}

func TestRuntimeDefaultForbidsNamespaces(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "seccomp", true)
	for _, c := range []struct {
		name         string
		capabilities []string
		allowed      bool
	}{{"plain", nil, false}, {"admin", []string{"SYS_ADMIN"}, true}} {
		config := n.ContainerConfig(c.name, "sleep", "1000")
		config.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{
			Capabilities: &cri.Capability{AddCapabilities: c.capabilities},
			Seccomp:      &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}
		id := p.run(config)
		// A user namespace is what the kernel itself would give to anybody.
		for _, flag := range []string{"--user", "--net"} {
			if r := p.exec(id, "busybox", "unshare", flag, "true"); (r.ExitCode == 0) != c.allowed {
				t.Errorf("%s: unshare %s: exit code %d: %s", c.name, flag, r.ExitCode, r.Stderr)
			}
		}
	}
}

func TestMemoryLimitBelowUse(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "shrink", true)
	// The shell must not become its last command, and lose x.
	config := n.ContainerConfig("full", "sh", "-c", `x=$(busybox head -c 30000000 /dev/zero | busybox tr '\0' x); echo full; sleep 1000; exit`)
	config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20, MemorySwapLimitInBytes: 256 << 20}
	id := p.run(config)
	p.logged("full", "full")
	used, err := n.Runtime.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || used.Stats.Memory.UsageBytes.Value < 30_000_000 {
		t.Fatalf("in use: %v, %v", used, err)
	}
	_, err = n.Runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 8 << 20, MemorySwapLimitInBytes: 8 << 20}})
	if err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("a limit below what is in use: %v", err)
	}
	s, err := n.Status(t.Context(), id)
	if err != nil || s.State != cri.ContainerState_CONTAINER_RUNNING || s.GetResources().GetLinux().GetMemoryLimitInBytes() != 256<<20 {
		t.Errorf("afterwards: %v, %v", s, err)
	}
}

// The files of an artifact are seen in a volume, the whole of it or a part, and nothing
// runs of it.
func TestArtifactVolume(t *testing.T) {
	n := start(t)
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.model", Config: v1.DescriptorEmptyJSON}
	n.Registry.AddBlob([]byte("{}"))
	for name, content := range map[string]string{"weights/1.bin": "one", "README": "two"} {
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: "text/plain", Digest: n.Registry.AddBlob([]byte(content)),
			Size: int64(len(content)), Annotations: map[string]string{v1.AnnotationTitle: name}})
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	digest := n.Registry.AddManifest("model", "1", m.MediaType, body)
	image := &cri.ImageSpec{Image: n.Registry.Addr + "/model:1"}
	pulled, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: image})
	if err != nil || pulled.ImageRef != digest.String() {
		t.Fatalf("%v, %v", pulled, err)
	}
	p := runPod(t, n, "artifact", true)
	c := n.ContainerConfig("main", "sleep", "100")
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/model", Image: image, Readonly: true},
		{ContainerPath: "/weights", Image: image, ImageSubPath: "weights", Readonly: true},
	}
	id := p.run(c)
	r := p.exec(id, "sh", "-c", "cat /model/README /model/weights/1.bin /weights/1.bin; touch /model/x 2>/dev/null || echo ' read-only'")
	if got := string(r.Stdout); got != "twooneone read-only\n" {
		t.Errorf("%q %q", got, r.Stderr)
	}
	s, err := n.Status(t.Context(), id)
	if err != nil || s.Mounts[0].GetImage().GetImage() != image.Image {
		t.Errorf("%v, %v", s, err)
	}
	c = n.ContainerConfig("of-it", "sh")
	c.Image = image
	_, err = n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
	wantCode(t, "a container of an artifact", err, codes.InvalidArgument)
}
