// Package badinput gives straked what cannot work and wants to see three things:
// an error that names the cause, everything undone (test/node looks at the end),
// and a daemon that goes on.
package badinput

import (
	"context"
	"io"
	"net"
	"net/http"
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
	"github.com/strake-containers/strake/test/registry"
)

func TestImages(t *testing.T) {
	n := node.Start(t, node.Options{})
	host, _, _ := strings.Cut(n.Image, "/")
	for name, c := range map[string]struct {
		image string
		code  codes.Code
		says  []string
	}{
		"unknown repository": {host + "/no/such:image", codes.NotFound, []string{"no/such"}},
		"unknown tag":        {n.Image + "-no", codes.NotFound, []string{n.Image + "-no"}},
		"malformed":          {"UPPER//case", codes.InvalidArgument, []string{"UPPER//case"}},
		"nobody listens":     {"127.0.0.1:1/a/b:c", codes.Unknown, []string{"RegistryUnavailable", "127.0.0.1:1", "refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: c.image}})
			wantError(t, err, c.code, c.says...)
		})
	}
	images, err := n.Images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil || len(images.Images) != 0 {
		t.Errorf("images: %v, %v", images, err)
	}
}

func TestRegistryMisbehaves(t *testing.T) {
	n := node.Start(t, node.Options{})
	layer := layerOf(t, n)
	for name, c := range map[string]struct {
		fault registry.Fault
		code  codes.Code
		says  []string
	}{
		"closes half-way": {registry.Fault{Suffix: layer, CutAfter: 1}, codes.Unknown, []string{"RegistryUnavailable", "broke off"}},
		"a flipped bit":   {registry.Fault{Suffix: layer, Replace: flipped(t, n, layer)}, codes.DataLoss, []string{"digest mismatch"}},
		"server error":    {registry.Fault{Status: 500}, codes.Unknown, []string{"RegistryUnavailable", "500"}},
		"login wanted":    {registry.Fault{Status: 403}, codes.PermissionDenied, []string{"403"}},
	} {
		t.Run(name, func(t *testing.T) {
			n.Registry.Misbehave(c.fault)
			defer n.Registry.Behave()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			wantError(t, n.Pull(ctx), c.code, c.says...)
			if images, err := n.Images.ListImages(ctx, &cri.ListImagesRequest{}); err != nil || len(images.Images) != 0 {
				t.Errorf("published: %v, %v", images, err)
			}
		})
	}
	if err := n.Pull(t.Context()); err != nil {
		t.Errorf("a well-behaved pull after the bad ones: %v", err)
	}
}

// flipped is the blob at path with one bit wrong.
func flipped(t *testing.T, n *node.Node, path string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + n.Registry.Addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	blob, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	blob[len(blob)/2] ^= 1
	return blob
}

// layerOf is the path of the image's layer, the last thing that a pull asks for.
func layerOf(t *testing.T, n *node.Node) string {
	t.Helper()
	if err := n.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.RemoveImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	requests := n.Registry.Requests()
	_, path, _ := strings.Cut(requests[len(requests)-1], " ")
	return path
}

func TestDiskFull(t *testing.T) {
	n := node.Start(t, node.Options{RootSize: "1m"}) // the image has two
	err := n.Pull(t.Context())
	wantError(t, err, codes.ResourceExhausted, "no space left on device")
	images, err := n.Images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil || len(images.Images) != 0 {
		t.Errorf("images: %v, %v", images, err)
	}
	// What the pull had taken is free again: a pod needs some.
	if _, err := n.RunPod(t.Context(), n.PodConfig("full", true)); err != nil {
		t.Error(err)
	}
}

func TestContainers(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	config := n.PodConfig("bad", true)
	pod, err := n.RunPod(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*cri.ContainerConfig)
		says   []string
	}{
		"image not pulled": {func(c *cri.ContainerConfig) { c.Image.Image = "no/such:image" }, []string{"no/such:image"}},
		"no such command":  {func(c *cri.ContainerConfig) { c.Command = []string{"/no/such"} }, []string{"/no/such", "no such file"}},
		"not in PATH":      {func(c *cri.ContainerConfig) { c.Command = []string{"nosuch"} }, []string{"nosuch", "PATH"}},
		"not executable":   {func(c *cri.ContainerConfig) { c.Command = []string{"/etc/passwd"} }, []string{"/etc/passwd", "permission denied"}},
		"relative mount":   {func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{HostPath: "/tmp", ContainerPath: "../x"}} }, []string{"../x"}},
		"log path escapes": {func(c *cri.ContainerConfig) { c.LogPath = "../../escaped.log" }, []string{"../../escaped.log"}},
		"unknown user":     {func(c *cri.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nosuchuser" }, []string{"nosuchuser"}},
		"unknown signal":   {func(c *cri.ContainerConfig) { c.StopSignal = 9999 }, []string{"9999"}},
		"unknown capabilty": {func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}}
		}, []string{"FLY"}},
		"bad cpuset": {func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "99999"}
		}, []string{"linux.resources.cpu.cpus", "99999", "this host has"}},
		"too little memory": {func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 1024}
		}, []string{"linux.resources.memory.limit: 1024 bytes"}},
		"NUL in env": {func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("b\x00c")}} }, []string{"A"}},
	} {
		t.Run(name, func(t *testing.T) {
			container := n.ContainerConfig(strings.ReplaceAll(name, " ", "-"), "/bin/true")
			c.change(container)
			_, err := n.RunContainer(ctx, pod, config, container)
			wantError(t, err, codes.OK, c.says...)
		})
	}
	// The pod is as good as new.
	id, err := n.RunContainer(ctx, pod, config, n.ContainerConfig("good", "/bin/true"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := n.WaitExit(ctx, id); err != nil || s.ExitCode != 0 {
		t.Errorf("a good container after the bad ones: %v, %v", s, err)
	}
}

// A straked that was started with a narrow umask makes files that containers of
// any user can read all the same.
func TestUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	n := node.Start(t, node.Options{})
	syscall.Umask(old)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	config := n.PodConfig("umask", true)
	pod, err := n.RunPod(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	reader := n.ContainerConfig("reader", "/bin/cat", "/etc/hosts", "/etc/resolv.conf")
	reader.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 65534}
	id, err := n.RunContainer(ctx, pod, config, reader)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := n.WaitExit(ctx, id); err != nil || s.ExitCode != 0 {
		log, _ := os.ReadFile(s.GetLogPath()) // the reason, if it is there
		t.Errorf("nobody cannot read the pod's files: exit code %d, %v\n%s", s.GetExitCode(), err, log)
	}
}

func TestHostPortInUse(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	first := n.PodConfig("first", false)
	port := int32(l.Addr().(*net.TCPAddr).Port)
	first.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: port}}
	_ = l.Close()
	if _, err := n.RunPod(ctx, first); err != nil {
		t.Fatal(err)
	}
	second := n.PodConfig("second", false)
	second.PortMappings = first.PortMappings
	_, err = n.RunPod(ctx, second)
	wantError(t, err, codes.OK, "port", "in use")
}

func TestCNIPluginFails(t *testing.T) {
	dir := t.TempDir()
	plugin := "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"no more addresses on Mars\"}'\nexit 1\n"
	writeFile(t, filepath.Join(dir, "bin", "mars"), plugin, 0o755)
	writeFile(t, filepath.Join(dir, "conf", "10-mars.conflist"),
		`{"cniVersion":"1.0.0","name":"mars","plugins":[{"type":"mars"}]}`, 0o644)
	n := node.Start(t, node.Options{CNIConfDir: filepath.Join(dir, "conf"), CNIBinDir: filepath.Join(dir, "bin")})
	_, err := n.RunPod(t.Context(), n.PodConfig("cni", false))
	wantError(t, err, codes.OK, "mars", "no more addresses on Mars")
}

func TestConfigErrors(t *testing.T) {
	n := node.Start(t, node.Options{})
	ctx := t.Context()
	for name, c := range map[string]struct {
		call func() error
		code codes.Code
	}{
		"no metadata": {func() error {
			_, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{}})
			return err
		}, codes.InvalidArgument},
		"nothing at all": {func() error {
			_, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{})
			return err
		}, codes.InvalidArgument},
		"unknown handler": {func() error {
			_, err := n.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: n.PodConfig("h", true), RuntimeHandler: "nosuch"})
			return err
		}, codes.NotFound},
		"container in no pod": {func() error {
			_, err := n.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: "nosuch", Config: n.ContainerConfig("c")})
			return err
		}, codes.NotFound},
		"start nothing": {func() error {
			_, err := n.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: "../../etc"})
			return err
		}, codes.InvalidArgument},
		"status of nothing": {func() error {
			_, err := n.Status(ctx, "nosuch")
			return err
		}, codes.NotFound},
		"checkpoint": {func() error {
			_, err := n.Runtime.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: "x"})
			return err
		}, codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) { wantError(t, c.call(), c.code) })
	}
}

// wantError wants an error with the code (codes.OK: any) and the words.
func wantError(t *testing.T, err error, code codes.Code, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	t.Log(err)
	if code != codes.OK && status.Code(err) != code {
		t.Errorf("code %v, want %v", status.Code(err), code)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("does not say %q", s)
		}
	}
	for clause := range strings.SplitSeq(status.Convert(err).Message(), "; ") {
		said := map[string]bool{}
		for part := range strings.SplitSeq(clause, ": ") {
			if said[part] {
				t.Errorf("says %q twice", part)
			}
			said[part] = true
		}
	}
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
