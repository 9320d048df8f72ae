package container

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// holder is a process in new namespaces, for others to join them by its path.
func holder(t *testing.T, flags uintptr, maps ...syscall.SysProcIDMap) (dir string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, UidMappings: maps, GidMappings: maps}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return "/proc/" + itoa(cmd.Process.Pid) + "/ns/"
}

// join gives a spec's namespace a path, and the namespace if it has none.
func join(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

func identity(t *testing.T, path string) string {
	t.Helper()
	id, err := os.Readlink(path)
	must(t, err)
	return id
}

func without(s *specs.Spec, kind specs.LinuxNamespaceType) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// A container in the host's mount namespace is confined to its rootfs, and its
// mounts go with it.
func TestWithoutAMountNamespace(t *testing.T) {
	e := newEnv(t)
	rootfs := filepath.Join(e.bundle, "rootfs")
	s := e.spec("readlink /proc/self/ns/mnt; ls /; cat /proc/timer_list | wc -c; echo 1 > /proc/sys/kernel/panic; touch /made; true")
	without(s, specs.MountNamespace)
	s.Root.Readonly = true
	contains(t, e.mustRun(s), identity(t, "/proc/self/ns/mnt"), "dir\n", "\n0\n", "panic: Read-only", "made: Read-only")
	if hostMounts(t, rootfs) {
		t.Error("mounts are left")
	}

	s.Process.Args = []string{"sleep", "1000"}
	c, p := e.start(s)
	if !hostMounts(t, rootfs) {
		t.Error("the mounts are somewhere else")
	}
	r, err := e.exec(c, sh("ls /; touch /made"))
	must(t, err)
	contains(t, r.out, "dir\n", "Read-only file system")
	must(t, c.Kill(syscall.SIGKILL, false))
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	must(t, c.Delete(t.Context(), false))
	if hostMounts(t, rootfs) {
		t.Error("mounts are left")
	}

	s = e.spec("true")
	without(s, specs.MountNamespace)
	s.Process.Args = []string{"/no/such"}
	if _, err := e.run(s); err == nil || hostMounts(t, rootfs) {
		t.Errorf("error %v, mounts left: %v", err, hostMounts(t, rootfs))
	}
}

// So is one that joins another's, whose root stays what it is.
func TestJoinedMountNamespace(t *testing.T) {
	e := newEnv(t)
	ns := holder(t, syscall.CLONE_NEWNS)
	mounts := func() bool {
		data, err := os.ReadFile(strings.Replace(ns, "/ns/", "/mountinfo", 1))
		must(t, err)
		return strings.Contains(string(data), e.bundle)
	}
	s := e.spec("readlink /proc/self/ns/mnt; ls /; exec sleep 1000")
	join(s, specs.MountNamespace, ns+"mnt")
	c, _ := e.start(s)
	if !mounts() || hostMounts(t, e.bundle) {
		t.Errorf("in the namespace %v, on the host %v", mounts(), hostMounts(t, e.bundle))
	}
	r, err := e.exec(c, sh("ls /; readlink /proc/self/ns/mnt"))
	must(t, err)
	contains(t, r.out, "dir\n", identity(t, ns+"mnt"))
	must(t, c.Delete(t.Context(), true))
	if mounts() {
		t.Error("mounts are left")
	}
}

// Every namespace is joined by its path, alone or beside a user namespace that is
// new, joined and its owner, or joined and not.
func TestNamespacesByPath(t *testing.T) {
	if !sealed(t) {
		return // so that who shares the PID namespace cannot reach this program
	}
	e := newEnv(t)
	shareRootfs(t, e)
	kinds := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc",
		specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time", specs.PIDNamespace: "pid"}
	const others = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWPID
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	hosts, owner := holder(t, others), holder(t, others|syscall.CLONE_NEWUSER, maps...)
	for _, tt := range []struct{ name, user, others string }{
		{"alone", "", hosts}, {"new user", "new", hosts}, {"their user", owner + "user", owner}, {"another user", owner + "user", hosts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for kind, file := range kinds {
				s := e.spec("for n in user net ipc uts cgroup time; do readlink /proc/self/ns/$n; done; echo pid $$; cat /proc/self/uid_map; exec sleep 1000")
				s.Hostname = ""
				switch tt.user {
				case "":
				case "new":
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
					s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
					s.Linux.GIDMappings = s.Linux.UIDMappings
				default:
					join(s, specs.UserNamespace, tt.user)
				}
				join(s, kind, tt.others+file)
				if kind == specs.NetworkNamespace && tt.user != "" && tt.others == hosts {
					// sysfs belongs to the network namespace's owner.
					s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
				}
				if kind == specs.IPCNamespace && tt.user != "" && tt.others == hosts {
					s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
				}
				if kind == specs.PIDNamespace && tt.user != "" && tt.others == hosts {
					s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "proc" })
					s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Source: "/proc", Options: []string{"rbind"}})
					s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
				}
				c, p := e.start(s)
				st, err := c.State()
				if err != nil || st.Pid != p.Pid || st.Status != specs.StateRunning {
					t.Errorf("%s: state %+v, %v", kind, st, err)
				}
				if got, want := identity(t, "/proc/"+itoa(p.Pid)+"/ns/"+file), identity(t, tt.others+file); got != want {
					t.Errorf("%s: process is in %s, want %s", kind, got, want)
				}
				if strings.HasPrefix(tt.user, "/") && identity(t, "/proc/"+itoa(p.Pid)+"/ns/user") != identity(t, tt.user) {
					t.Errorf("%s: is not in the user namespace", kind)
				}
				r, err := e.exec(c, sh("id -u"))
				if err != nil || r.out != "0\n" {
					t.Errorf("%s: exec: %v, %s", kind, err, r.out)
				}
				must(t, c.Delete(t.Context(), true))
			}
		})
	}
}

func TestANamespacePathOfAnotherTypeIsRefused(t *testing.T) {
	e := newEnv(t)
	for path, want := range map[string]string{
		"/proc/self/ns/uts": "linux.namespaces[5].path: /proc/self/ns/uts is not a namespace of type network",
		"/dev/null":         "linux.namespaces[5].path: /dev/null is not a namespace",
		"/no/such":          "linux.namespaces[5].path: open /no/such: no such file",
	} {
		s := e.spec("true")
		join(s, specs.NetworkNamespace, path)
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A network namespace of the container's own has its loopback interface up, as other
// runtimes have it.
func TestLoopbackIsUp(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	for _, change := range []func(*specs.Spec){func(*specs.Spec) {}, func(s *specs.Spec) { inUserNS(s) }} {
		s := e.spec("cat /proc/net/if_inet6 /proc/net/fib_trie")
		change(s)
		contains(t, e.mustRun(s), "127.0.0.1")
	}
}

// A root that is unbindable can be copied before it becomes so.
func TestUnbindableRoot(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"unbindable", "runbindable"} {
		s := e.spec("grep ' / / ' /proc/self/mountinfo; cat /proc/self/mountinfo")
		s.Linux.RootfsPropagation = name
		contains(t, e.mustRun(s), " unbindable")
	}
}

// In a user namespace too, a device is what the config says and whose it says.
func TestDevicesInAUserNamespace(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	s := inUserNS(e.spec("stat -c '%n %t:%T %a %u:%g' /dev/mine /dev/sub/disk; echo x > /dev/mine && echo written"))
	mode, other, uid, gid := os.FileMode(0o620), os.FileMode(0o600), uint32(7), uint32(8)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/sub/disk", Type: "b", Major: 7, Minor: 200, FileMode: &other},
	}
	if !kernelAtLeast(t, 6, 15) {
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "linux.devices[0] (/dev/mine, the host's: to make one in a user namespace takes Linux 6.15, and this is ") {
			t.Errorf("error %v", err)
		}
		t.Skip("needs Linux 6.15, where a detached mount can be copied")
	}
	contains(t, e.mustRun(s), "/dev/mine 1:3 620 7:8\n/dev/sub/disk 7:c8 600 0:0\nwritten\n")
}

// The annotation of crun's that Podman sets for --group-add keep-groups.
func TestKeptGroups(t *testing.T) {
	e := newEnv(t)
	before, err := os.Getgroups()
	must(t, err)
	must(t, syscall.Setgroups([]int{4321}))
	defer func() { must(t, syscall.Setgroups(before)) }()
	for value, want := range map[string]string{"1": "4321", "0": ""} {
		s := e.spec("grep Groups: /proc/self/status")
		s.Annotations = map[string]string{"run.oci.keep_original_groups": value}
		if got := strings.TrimSpace(strings.TrimPrefix(e.mustRun(s), "Groups:")); got != want {
			t.Errorf("%s: groups %q, want %q", value, got, want)
		}
	}
	s := e.spec("true")
	s.Annotations = map[string]string{"run.oci.keep_original_groups": "1"}
	s.Process.User.AdditionalGids = []uint32{5}
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "process.user.additionalGids") {
		t.Errorf("error %v", err)
	}
}
