package cri

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/testutil"
)

// process is the SELinux label of a container's first process.
func (p *pod) process(ctr string) string {
	p.t.Helper()
	label, err := selinux.PidLabel(p.initPid(ctr))
	if err != nil {
		p.t.Fatal(err)
	}
	return label
}

// TestSELinux: a pod is kept from the host and from other pods by labels of its own, which
// its volumes get when they are to be relabelled.
func TestSELinux(t *testing.T) {
	testutil.RequireSELinux(t)
	n := start(t)
	volumes := t.TempDir()
	volume := func(name string) string {
		path := filepath.Join(volumes, name)
		if err := os.Mkdir(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "file"), []byte("text\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mounts := []*cri.Mount{
		{HostPath: volume("kept"), ContainerPath: "/kept"},
		{HostPath: volume("relabelled"), ContainerPath: "/relabelled", SelinuxRelabel: true},
	}
	const process, file = "system_u:system_r:container_t:", "system_u:object_r:container_file_t:"

	one := runPod(t, n, "one", false)
	c := n.ContainerConfig("main", "sleep", "1000")
	c.Mounts = mounts
	ctr := one.run(c)
	level, ok := strings.CutPrefix(one.process(ctr), process)
	if !ok || strings.Count(level, ",") != 1 {
		t.Fatalf("the process has the label %s", one.process(ctr))
	}
	for _, path := range []string{"/", "/bin/busybox", "/dev", "/dev/shm", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/relabelled", "/relabelled/file"} {
		got, err := selinux.FileLabel(filepath.Join("/proc", strconv.Itoa(one.initPid(ctr)), "root", path))
		if err != nil || got != file+level {
			t.Errorf("%s has the label %s, %v, the pod's level is %s", path, got, err, level)
		}
	}
	if got := one.exec(ctr, "sh", "-c", "touch /root/x /dev/shm/x /etc/hosts /relabelled/new && cat /relabelled/file"); string(got.Stdout) != "text\n" {
		t.Errorf("what is its own: %q %q", got.Stdout, got.Stderr)
	}
	for _, cmd := range []string{"ls /kept", "cat /kept/file", "touch /kept/new"} {
		if got := one.exec(ctr, "sh", "-c", cmd); got.ExitCode == 0 || !strings.Contains(string(got.Stderr), "ermission denied") {
			t.Errorf("%s: exit code %d, %q", cmd, got.ExitCode, got.Stderr)
		}
	}
	// The pod's other containers share its level.
	second := one.run(n.ContainerConfig("second", "sleep", "1000"))
	if got := one.process(second); got != process+level {
		t.Errorf("the second container's process has the label %s, the pod's level is %s", got, level)
	}

	// Another pod has another, and nothing of this one's.
	two := runPod(t, n, "two", false)
	c = n.ContainerConfig("main", "sleep", "1000")
	c.Mounts = []*cri.Mount{{HostPath: mounts[1].HostPath, ContainerPath: "/relabelled"}}
	ctr = two.run(c)
	if got := two.process(ctr); got == process+level || !strings.HasPrefix(got, process) {
		t.Errorf("the second pod's process has the label %s, the first one's level is %s", got, level)
	}
	if got := two.exec(ctr, "cat", "/relabelled/file"); got.ExitCode == 0 {
		t.Error("the second pod reads the first one's volume")
	}

	// A level that is asked for, and a type; a privileged container is not confined.
	config := n.PodConfig("three", false)
	config.Linux.SecurityContext.SelinuxOptions = &cri.SELinuxOption{Level: level}
	id, err := n.RunPod(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	three := &pod{n, t, id, config}
	c.Metadata.Name = "level"
	ctr = three.run(c)
	if got := three.exec(ctr, "cat", "/relabelled/file"); three.process(ctr) != process+level || string(got.Stdout) != "text\n" {
		t.Errorf("a pod that asks for the first one's level: %s, %q %q", three.process(ctr), got.Stdout, got.Stderr)
	}
	c = n.ContainerConfig("type", "sleep", "1000")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{SelinuxOptions: &cri.SELinuxOption{Type: "spc_t"}}
	c.Mounts = mounts[:1]
	ctr = three.run(c)
	if got := three.exec(ctr, "cat", "/kept/file"); !strings.Contains(three.process(ctr), ":spc_t:") || string(got.Stdout) != "text\n" {
		t.Errorf("a container that asks for a type: %s, %q %q", three.process(ctr), got.Stdout, got.Stderr)
	}
	c = n.ContainerConfig("no-such-type", "sleep", "1000")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{SelinuxOptions: &cri.SELinuxOption{Type: "no_such_t"}}
	_, err = n.RunContainer(t.Context(), three.id, three.config, c)
	wantCode(t, "a type that the policy does not have", err, codes.InvalidArgument)

	config = n.PodConfig("privileged", false)
	config.Linux.SecurityContext.Privileged = true
	if id, err = n.RunPod(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	four := &pod{n, t, id, config}
	c = n.ContainerConfig("main", "sleep", "1000")
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
	ctr = four.run(c)
	own, err := selinux.CurrentLabel()
	if err != nil {
		t.Fatal(err)
	}
	if got := four.process(ctr); got != own { // which the policy leaves as it is
		t.Errorf("the privileged container's process has the label %s, straked has %s", got, own)
	}
}
