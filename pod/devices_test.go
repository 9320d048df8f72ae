package pod

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/pod/bundle"
)

func (n *realNode) file(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// What the node's administrator adds to containers: CDI devices, OCI hooks, the
// resources of a workload and a default seccomp profile.
func TestRealNodeAdds(t *testing.T) {
	n := newRealNode(t)
	n.file("cdi/good.json", `{"cdiVersion": "0.6.0", "kind": "strake.test/dev", "containerEdits": {"env": ["OF=spec"]}, "devices": [
		{"name": "null", "containerEdits": {"env": ["CDI=null"], "deviceNodes": [{"path": "/dev/cdi-null", "hostPath": "/dev/null"}]}},
		{"name": "dir", "containerEdits": {"mounts": [{"hostPath": "`+n.root+`/cdi", "containerPath": "/cdi", "options": ["ro", "bind"]}]}}]}`)
	n.file("cdi/broken.json", `{"cdiVersion": "0.6.0", "kind": "strake.test/broken"`)
	n.file("hooks/10-mark.json", `{"version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-c", "cat > `+n.root+`/hooked"]},
		"when": {"annotations": {"^hooked$": "yes"}}, "stages": ["createRuntime"]}`)
	profile := n.file("seccomp.json", `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`)
	n.change = func(o *Options) {
		o.CDIDirs, o.HooksDirs = []string{filepath.Join(n.root, "cdi")}, []string{filepath.Join(n.root, "hooks")}
		o.Workloads = []Workload{{Name: "quiet", Activation: "quiet", Prefix: "quiet.io", Resources: WorkloadResources{Shares: 100, Limit: 500}}}
		for name, r := range o.Runtimes {
			r.SeccompProfile = profile
			o.Runtimes[name] = r
		}
	}
	m := n.open()
	config := n.pod("added")
	config.Annotations["quiet"] = ""
	config.Annotations["quiet.io/second"] = `{"cpushares": "300", "cpuset": "0"}`
	config.Annotations["quiet.io/wrong"] = `{"memory": 3}`
	pod := n.run(m, config)

	c := ContainerConfig{
		Name: "first", Command: []string{"/bin/sleep", "1000"}, CDIDevices: []string{"strake.test/dev=null"},
		Annotations: map[string]string{"cdi.k8s.io/strake_x": "strake.test/dev=dir,strake.test/dev=null", "hooked": "yes"},
		Resources:   &Resources{CPUShares: 2000, MemoryLimit: 32 << 20},
		Security:    bundle.Security{Seccomp: &bundle.Profile{Type: bundle.ProfileRuntimeDefault}},
	}
	first := n.start(m, pod, c)
	got := n.sh(m, first, "echo x > /dev/cdi-null && echo $CDI $OF; ls /cdi")
	if got != "null spec\nbroken.json\ngood.json\n" {
		t.Errorf("inside: %q", got)
	}
	if got := n.sh(m, first, "cat /proc/self/status | while read k v; do case $k in Seccomp:) echo $v;; esac; done; busybox uname"); got != "2\n\n" { // busybox does not mind the error
		t.Errorf("seccomp: %q", got)
	}
	if state, err := os.ReadFile(filepath.Join(n.root, "hooked")); err != nil || !strings.Contains(string(state), first) {
		t.Errorf("the hook got %q, %v", state, err)
	}
	if r := mustContainer(t, m, first).Resources; r.CPUShares != 100 || r.CPUQuota != 50_000 || r.MemoryLimit != 32<<20 {
		t.Errorf("resources %+v", r)
	}

	second := n.start(m, pod, ContainerConfig{Name: "second", Command: []string{"/bin/sleep", "1000"}})
	if r := mustContainer(t, m, second).Resources; r.CPUShares != 300 || r.CpusetCPUs != "0" {
		t.Errorf("resources %+v", r)
	}
	if _, err := os.Stat(filepath.Join(n.root, "hooked")); err != nil {
		t.Error(err)
	}
	for want, c := range map[string]ContainerConfig{
		"strake.test/dev=none":        {Name: "none", CDIDevices: []string{"strake.test/dev=none"}},
		"broken.json":                 {Name: "broken", CDIDevices: []string{"strake.test/broken=x"}},
		"annotations[cdi.k8s.io/x]":   {Name: "annotation", Annotations: map[string]string{"cdi.k8s.io/x": "nonsense"}},
		"annotations[quiet.io/wrong]": {Name: "wrong"},
	} {
		c.Image = "busybox"
		if _, err := m.CreateContainer(t.Context(), pod, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	n.file("hooks/20-broken.json", "{")
	c.Name, c.Image = "late", "busybox"
	if _, err := m.CreateContainer(t.Context(), pod, c); err == nil || !strings.Contains(err.Error(), "20-broken.json") {
		t.Errorf("a broken hook file: %v", err)
	}
}
