package container

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/testutil"
)

const (
	ordinaryUser = 1234
	bundleEnv    = "STRAKE_TEST_ROOTLESS_BUNDLE"
)

// rootlessSpec is a config as spec --rootless writes it.
func rootlessSpec(e *env, script string) *specs.Spec {
	s := inUserNS(e.spec(script))
	without(s, specs.NetworkNamespace)
	one := []specs.LinuxIDMapping{{ContainerID: 0, HostID: ordinaryUser, Size: 1}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = one, one
	s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	for i := range s.Mounts {
		if s.Mounts[i].Type == "sysfs" {
			s.Mounts[i] = bind("/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
		}
	}
	return s
}

// An ordinary user has containers: what it may not do to the host's mounts and
// cgroups, the process does in its own namespaces, or nobody.
func TestOrdinaryUser(t *testing.T) {
	if bundle := os.Getenv(bundleEnv); bundle != "" {
		runAsOrdinaryUser(t, bundle)
		return
	}
	e := newEnv(t)
	must(t, os.Chmod(e.state, 0o755))
	bundle := filepath.Join(e.state, "bundle")
	makeRootfs(t, filepath.Join(bundle, "rootfs"))
	below := filepath.Join(bundle, "rootfs/dir/below")
	must(t, os.Mkdir(below, 0o755))
	s := rootlessSpec(e, "id -u; id -g; ls -d /sys/kernel; ls /dir/below")
	s.Mounts = append(s.Mounts, bind("/dir/below", filepath.Join(bundle, "rootfs/etc")))
	config, err := json.Marshal(s)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644))
	must(t, filepath.Walk(e.state, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, ordinaryUser, ordinaryUser)
	}))

	self, err := os.Open("/proc/self/exe")
	must(t, err)
	defer func() { _ = self.Close() }()
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^TestOrdinaryUser$")
	cmd.ExtraFiles = []*os.File{self} // the way to it by name may be closed to the user
	cmd.Env = append(os.Environ(), bundleEnv+"="+bundle)
	cmd.Dir = e.state
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	contains(t, string(out), "0\n0\n/sys/kernel\npasswd\n")
}

func runAsOrdinaryUser(t *testing.T, bundle string) {
	testutil.CheckLeaks(t)
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	must(t, err)
	var s specs.Spec
	must(t, json.Unmarshal(data, &s))
	e := &env{t: t, state: filepath.Join(filepath.Dir(bundle), "state"), bundle: bundle}
	_, _ = os.Stdout.WriteString(e.mustRun(&s, func(o *CreateOptions) { o.Rootless = true }))
}
