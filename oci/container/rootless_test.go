package container

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// The ids that the system has granted a user in /etc/subuid and /etc/subgid are his
// container's, and no others.
func TestOrdinaryUserWithSubordinateIDs(t *testing.T) {
	if bundle := os.Getenv(bundleEnv); bundle != "" {
		runAsOrdinaryUser(t, bundle)
		return
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skipf("needs Debian's uidmap: %v", err)
	}
	e := newEnv(t)
	must(t, os.Chmod(e.state, 0o755))
	bundle := filepath.Join(e.state, "bundle")
	makeRootfs(t, filepath.Join(bundle, "rootfs"))
	etc := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:/bin/sh\nstrake-test:x:1234:1234::/:/bin/sh\n", "group": "root:x:0:\nstrake-test:x:1234:\n",
		"subuid": "strake-test:300000:100\nstrake-test:400000:50\n", "subgid": "strake-test:300000:100\n",
	} {
		must(t, os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644))
	}
	must(t, os.Chmod(filepath.Dir(etc), 0o755))
	must(t, os.Chmod(etc, 0o755))
	self, err := os.Open("/proc/self/exe")
	must(t, err)
	defer func() { _ = self.Close() }()
	run := func(uids []specs.LinuxIDMapping) (string, error) {
		s := rootlessSpec(e, "cat /proc/self/uid_map; id; touch /tmp/x && chown 140:7 /tmp/x && stat -c %u:%g /tmp/x; rm -f /tmp/x")
		caps := append(s.Process.Capabilities.Bounding, "CAP_CHOWN")
		s.Process.Capabilities.Bounding, s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = caps, caps, caps
		s.Process.User.AdditionalGids = []uint32{5}
		s.Linux.UIDMappings = append(s.Linux.UIDMappings[:1:1], uids...)
		s.Linux.GIDMappings = append(s.Linux.GIDMappings[:1:1], specs.LinuxIDMapping{ContainerID: 1, HostID: 300000, Size: 100})
		config, err := json.Marshal(s)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644))
		must(t, filepath.Walk(e.state, func(p string, _ os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(p, ordinaryUser, ordinaryUser)
		}))
		cmd := exec.Command("sh", "-ec", "for f in passwd group subuid subgid; do mount --bind "+etc+"/$f /etc/$f; done\n"+
			"exec setpriv --reuid 1234 --regid 1234 --clear-groups /proc/self/fd/3 -test.run='^"+t.Name()+"$'")
		cmd.ExtraFiles = []*os.File{self}
		cmd.Env = append(os.Environ(), bundleEnv+"="+bundle)
		cmd.Dir = e.state
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // with which the mounts go
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run([]specs.LinuxIDMapping{{ContainerID: 1, HostID: 300000, Size: 100}, {ContainerID: 101, HostID: 400000, Size: 50}})
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	contains(t, strings.Join(strings.Fields(out), " "), "0 1234 1 1 300000 100 101 400000 50 uid=0(root) gid=0 groups=5", "140:7")
	out, err = run([]specs.LinuxIDMapping{{ContainerID: 1, HostID: 300000, Size: 101}})
	if err == nil || !strings.Contains(out, "linux.uidMappings: newuidmap: exit status 1: newuidmap: uid range [1-102) -> [300000-300101) not allowed: does /etc/subuid grant these ids?") {
		t.Errorf("more than is granted: %v\n%s", err, out)
	}
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
