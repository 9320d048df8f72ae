package container

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/plan"
)

func TestSeccomp(t *testing.T) {
	e := newEnv(t)
	errno := uint(syscall.ENOTTY)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
	for _, nnp := range []bool{true, false} {
		s := e.spec("grep -E 'Seccomp:|NoNewPrivs|CapEff|CapPrm' /proc/self/status; mkdir /tmp/x; true")
		s.Process.User.UID = 1000
		s.Process.NoNewPrivileges = nnp
		s.Linux.Seccomp = profile
		out := e.mustRun(s)
		contains(t, out, "Seccomp:\t2", "CapPrm:\t0000000000000000", "Inappropriate ioctl")
	}
	s := e.spec("exec sleep 1000")
	s.Linux.Seccomp = profile
	c, _ := e.start(s)
	r, err := e.exec(c, sh("mkdir /tmp/x"))
	must(t, err)
	contains(t, r.out, "Inappropriate ioctl")
}

func TestHooksRunInTheirOrderAndNamespaces(t *testing.T) {
	if !sealed(t) {
		return
	}
	e := newEnv(t)
	log := filepath.Join(e.bundle, "log")
	must(t, os.WriteFile(log, nil, 0o666))
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c",
			"read -r state; echo " + name + " $(readlink /proc/self/ns/mnt) $HOOKVAR $state >> " + log}, Env: []string{"PATH=/bin:/usr/bin", "HOOKVAR=v"}}}
	}
	s := e.spec("echo program >> /log")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/log", Type: "bind", Source: log, Options: []string{"bind"}},
		specs.Mount{Destination: log, Type: "bind", Source: log, Options: []string{"bind"}})
	s.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), //nolint:staticcheck // deprecated, but used
		StartContainer: hook("startContainer"), Poststart: hook("poststart"), Poststop: hook("poststop"),
	}
	s.Process.Args[2] += "; sleep 0.3"
	c, init := e.start(s)
	wait(t, init)
	must(t, c.Delete(t.Context(), false))
	data, err := os.ReadFile(log)
	must(t, err)
	own, err := os.Readlink("/proc/self/ns/mnt")
	must(t, err)
	var order []string
	for _, line := range lines(data) {
		f := strings.Fields(line)
		order = append(order, f[0])
		if f[0] == "program" {
			continue
		}
		inContainer := strings.HasSuffix(f[0], "Container")
		if (f[1] == own) == inContainer {
			t.Errorf("%s: mount namespace %s, the host's is %s", f[0], f[1], own)
		}
		contains(t, line, ` v {"ociVersion":`, `"id":"strake-core-`)
		// runtime.md, "State": the pid is as the hook's namespace sees it.
		status, pid := "creating", init.Pid
		if inContainer {
			pid = 1
		}
		switch f[0] {
		case "startContainer":
			status = "created"
		case "poststart":
			status = "running"
		case "poststop":
			status, pid = "stopped", 0
		}
		var state specs.State
		must(t, json.Unmarshal([]byte(line[strings.Index(line, "{"):]), &state))
		if string(state.Status) != status || state.Pid != pid || state.Bundle != e.bundle {
			t.Errorf("%s: state %+v, want status %s, pid %d", f[0], state, status, pid)
		}
	}
	got := strings.Join(order, " ")
	// poststart runs beside the program.
	if got != "prestart createRuntime createContainer startContainer program poststart poststop" &&
		got != "prestart createRuntime createContainer startContainer poststart program poststop" {
		t.Errorf("order: %s", got)
	}
}

func TestFailingHooksUndoCreate(t *testing.T) {
	if !sealed(t) {
		return
	}
	e := newEnv(t)
	one := 1
	fail := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo because; exit 3"}}}
	slow := []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: &one}}
	for _, tt := range []struct {
		hooks specs.Hooks
		want  string
	}{
		{specs.Hooks{CreateRuntime: fail}, "hooks.createRuntime[0] (/bin/sh): error running createRuntime hook #0: exit status 3: because"},
		{specs.Hooks{CreateContainer: fail}, "hooks.createContainer[0] (/bin/sh): error running createContainer hook #0: exit status 3: because"},
		{specs.Hooks{CreateContainer: slow}, "hooks.createContainer[0] (/bin/sleep): error running createContainer hook #0: still running after 1 s"},
		{specs.Hooks{CreateContainer: []specs.Hook{{Path: "/no/hook"}}}, "hooks.createContainer[0] (/no/hook): error running createContainer hook #0: no such file"},
		{specs.Hooks{StartContainer: fail}, "hooks.startContainer[0] (/bin/sh): error running startContainer hook #0: "},
	} {
		s := e.spec("true")
		s.Hooks = &tt.hooks
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

// A hook has a standard output and error, whatever the container's are, and those of create
// and start are in the bundle.
func TestHooksCanWriteAndAreInTheBundle(t *testing.T) {
	e := newEnv(t)
	script := "echo out && echo err >&2 && pwd >> " + filepath.Join(e.bundle, "log")
	hook := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-ec", script}}}
	s := e.spec("true")
	s.Process.Terminal = true
	s.Hooks = &specs.Hooks{Prestart: hook, CreateRuntime: hook, CreateContainer: hook, Poststart: hook} //nolint:staticcheck // deprecated, but used
	_, p := e.start(s)
	if out, err := io.ReadAll(p.Console); len(out) > 0 {
		t.Errorf("the container's terminal has %q, %v", out, err)
	}
	log, err := os.ReadFile(filepath.Join(e.bundle, "log"))
	must(t, err)
	want := []string{e.bundle, e.bundle, e.bundle + "/rootfs", e.bundle}
	if got := lines(log); !slices.Equal(got, want) {
		t.Errorf("hooks are in %q, want %q", got, want)
	}
}

// Whichever hook fails, the container is destroyed and the poststop hooks run, once
// and with it stopped (runtime.md, "Lifecycle").
func TestFailingHookIsFollowedByPoststop(t *testing.T) {
	if !sealed(t) {
		return
	}
	e := newEnv(t)
	log := filepath.Join(e.bundle, "log")
	fail := []specs.Hook{{Path: "/bin/false"}}
	for _, tt := range []struct {
		name  string
		hooks specs.Hooks
		start bool // it is one of start
	}{
		{"prestart", specs.Hooks{Prestart: fail}, false}, //nolint:staticcheck // deprecated, but used
		{"createRuntime", specs.Hooks{CreateRuntime: fail}, false},
		{"createContainer", specs.Hooks{CreateContainer: fail}, false},
		{"startContainer", specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/false"}}}, true},
		{"poststart", specs.Hooks{Poststart: fail}, true},
	} {
		for _, run := range []bool{false, true} {
			must(t, os.WriteFile(log, nil, 0o600))
			s := e.spec("exec sleep 1000")
			s.Hooks = &tt.hooks
			s.Hooks.Poststop = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >> " + log + "; echo >> " + log}, Env: []string{"PATH=/bin"}}, {Path: "/bin/false"}}
			o := CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: s}
			if run {
				o.Run = func(*Process) error { return nil }
			}
			c, p, err := Create(t.Context(), o)
			if tt.start && !run {
				must(t, err)
				err = c.Start(t.Context())
				if code := wait(t, p); code == 0 {
					t.Errorf("%s: the program has not been killed", tt.name)
				}
			}
			if err == nil {
				t.Errorf("%s (run %v): no error", tt.name, run)
				must(t, c.Delete(t.Context(), true))
				continue
			}
			contains(t, err.Error(), "hooks."+tt.name+"[0] (/bin/false): error running "+tt.name+" hook #0: ", "hooks.poststop[1] (/bin/false)")
			e.gone(o.ID)
			data, err := os.ReadFile(log)
			must(t, err)
			var state specs.State
			if err := json.Unmarshal(data, &state); err != nil || state.Status != specs.StateStopped || state.Pid != 0 || state.ID != o.ID {
				t.Errorf("%s (run %v): poststop hooks got %q: %v", tt.name, run, data, err)
			}
		}
	}
}

// A poststop hook that fails leaves nothing behind, and the error says that it is but
// a warning. A hook without an environment has the runtime's, with an empty one none.
func TestFailingPoststopIsAWarning(t *testing.T) {
	e := newEnv(t)
	t.Setenv("STRAKE_TEST_HOOK", "of the runtime")
	log := filepath.Join(e.bundle, "log")
	script := []string{"sh", "-c", `echo "<$STRAKE_TEST_HOOK>" >> ` + log}
	s := e.spec("true")
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/false"}, {Path: "/bin/sh", Args: script}, {Path: "/bin/sh", Args: script, Env: []string{"NONE="}}}}
	raw, err := json.Marshal(s)
	must(t, err)
	config := strings.Replace(string(raw), `"env":["NONE="]`, `"env":[]`, 1)
	must(t, os.WriteFile(filepath.Join(e.bundle, "config.json"), []byte(config), 0o600))
	c, p := e.start(nil)
	wait(t, p)
	if err := c.Delete(t.Context(), false); !errors.Is(err, ErrPoststop) || !strings.Contains(err.Error(), "hooks.poststop[0] (/bin/false)") {
		t.Errorf("error %v", err)
	}
	e.gone(c.ID())
	data, err := os.ReadFile(log)
	must(t, err)
	if want := "<of the runtime>\n<>\n"; string(data) != want {
		t.Errorf("hooks had %q, want %q", data, want)
	}
}

func TestJoinedUserNamespaceGetsNewOnesInside(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
	pod := &specs.Spec{Hostname: "pod-in-userns", Linux: &specs.Linux{UIDMappings: m, GIDMappings: m,
		Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}}}}
	ns, err := PinNamespaces(pod, nil)
	must(t, err)
	defer func() { must(t, ns.Close()) }()
	s := e.spec("id; echo pid $$; cat /proc/sys/kernel/hostname; touch /made && exec sleep 1000")
	s.Hostname = ""
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}}
	for kind, f := range ns {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: "/proc/self/fd/" + fdOf(f)})
	}
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	c, p := e.start(s)
	r, err := e.exec(c, sh("id; cat /proc/sys/kernel/hostname; cat /proc/self/uid_map"))
	must(t, err)
	contains(t, r.out, "uid=0", "pod-in-userns", "300000")
	if st, err := c.State(); err != nil || st.Pid != p.Pid || st.Status != specs.StateRunning {
		t.Errorf("state %+v, %v", st, err)
	}
}

func TestSharedPropagationReachesTheHostOnlyByItsVolume(t *testing.T) {
	e := newEnv(t)
	vol := sharedMount(t)
	s := e.spec("mkdir /vol/sub && mount -t tmpfs tmpfs /vol/sub && exec sleep 1000")
	s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_SYS_ADMIN")
	s.Process.Capabilities.Permitted = append(s.Process.Capabilities.Permitted, "CAP_SYS_ADMIN")
	s.Linux.RootfsPropagation = "rshared"
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"rbind", "rshared"}})
	c, _ := e.start(s)
	sub := filepath.Join(vol, "sub")
	eventually(t, "mount in the volume on the host", func() bool { return hostMounts(t, sub) })
	if hostMounts(t, e.bundle) {
		t.Error("the rootfs's mounts are on the host")
	}
	must(t, c.Delete(t.Context(), true))
	must(t, syscall.Unmount(sub, syscall.MNT_DETACH))
}

func TestDevicesTimeNamespaceAndOtherFields(t *testing.T) {
	e := newEnv(t)
	mode, uid, gid := os.FileMode(0o640), uint32(3), uint32(4)
	s := e.spec("stat -c '%a %u:%g %t:%T' /dev/fuse /dev/net/tun; cat /proc/self/timens_offsets; cat /proc/self/oom_score_adj; uname -m; cat /proc/sys/net/ipv4/ping_group_range")
	must(t, os.Symlink("busybox", filepath.Join(e.bundle, "rootfs/bin/uname")))
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 86400}}
	adj := -900
	s.Process.OOMScoreAdj = &adj
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 3}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 1"}
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	w, text := collect(t)
	c, p := e.create(s, func(o *CreateOptions) { o.Stdout, o.Stderr = w, w })
	if data, err := os.ReadFile("/proc/self/oom_score_adj"); err != nil {
		t.Fatal(err)
	} else if h, err := hostFacts(); err == nil && h.Capabilities&(1<<24) == 0 {
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "process.oomScoreAdj (-900)") {
			t.Errorf("warnings %q (own adjustment %s)", p.Warnings, data)
		}
	}
	must(t, c.Start(t.Context()))
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	must(t, c.Delete(t.Context(), false))
	contains(t, text(), "640 3:4 a:e5\n666 0:0 a:c8", "86400", "i686", "0\t1")
}

// What the rootfs has in the place of a device is taken for it only if it is one of
// its type and number.
func TestDeviceThatIsThereAlready(t *testing.T) {
	e := newEnv(t)
	place := filepath.Join(e.bundle, "rootfs/dev/it")
	must(t, os.Mkdir(filepath.Dir(place), 0o755))
	fifo := specs.LinuxDevice{Path: "/dev/it", Type: "p"}
	fuse := specs.LinuxDevice{Path: "/dev/it", Type: "c", Major: 10, Minor: 229}
	const other = `linux.devices[0] (/dev/it): check: no such device`
	for _, tt := range []struct {
		device specs.LinuxDevice
		make   func() error
		want   string
	}{
		{fifo, func() error { return nil }, ""},
		{fifo, func() error { return syscall.Mkfifo(place, 0o600) }, ""},
		{fifo, func() error { return os.WriteFile(place, nil, 0o600) }, other},
		{fifo, func() error { return os.Mkdir(place, 0o755) }, other},
		{fifo, func() error { return os.Symlink("/etc/passwd", place) }, other},
		{fifo, func() error { return syscall.Mknod(place, syscall.S_IFCHR|0o600, 10<<8|229) }, other},
		{fuse, func() error { return syscall.Mkfifo(place, 0o600) }, other},
		{fuse, func() error { return syscall.Mknod(place, syscall.S_IFCHR|0o600, 10<<8|229) }, ""},
	} {
		must(t, os.RemoveAll(place))
		must(t, tt.make())
		s := e.spec("ls -l /dev/it")
		s.Mounts = s.Mounts[:1] // no /dev of its own
		s.Linux.Devices = []specs.LinuxDevice{tt.device}
		r, err := e.run(s)
		if tt.want == "" && err == nil {
			contains(t, r.out[:1], tt.device.Type)
			continue
		}
		if tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("a device of type %s: %q, error %v, want %q", tt.device.Type, r.out, err, tt.want)
		}
	}
}

func TestNoPivot(t *testing.T) {
	e := newEnv(t)
	contains(t, e.mustRun(e.spec("echo in; ls /"), func(o *CreateOptions) { o.NoPivot = true }), "in\n", "dir")
}

func TestExtraFilesAndStdin(t *testing.T) {
	e := newEnv(t)
	in, extra := tempFile(t, "typed\n"), tempFile(t, "extra\n")
	out := e.mustRun(e.spec("cat; cat <&3; cat <&4; ls /proc/self/fd"), func(o *CreateOptions) {
		o.Stdin, o.ExtraFiles = in, []*os.File{extra, in}
	})
	contains(t, out, "typed\nextra\n0\n1\n2\n3\n4\n5\n")
	if strings.Contains(out, "6\n") {
		t.Errorf("more descriptors than given:\n%s", out)
	}
}

func TestCancelledCreateLeavesNothing(t *testing.T) {
	e := newEnv(t)
	s := e.spec("true")
	s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "30"}}}}
	ctx, cancel := cancelWhen(t, func() bool { return countProcesses("sleep\x0030\x00") > 0 })
	defer cancel()
	id := e.id()
	_, _, err := Create(ctx, CreateOptions{ID: id, Bundle: e.bundle, StateRoot: e.state, Spec: s})
	if !errors.Is(err, ctx.Err()) || !strings.Contains(err.Error(), "hooks.createContainer[0]") {
		t.Errorf("error %v, want one that says where it was", err)
	}
	e.gone(id)
}

// What of the host's stays below the root must not let a user namespace mount a
// procfs or sysfs that nothing masks.
func TestNoPivotRevealsNothing(t *testing.T) {
	e := newEnv(t)
	for _, change := range []func(*specs.Spec){func(*specs.Spec) {}, func(s *specs.Spec) { shareRootfs(t, e); inUserNS(s) }} {
		s := e.spec("busybox unshare -mrpf sh -c 'mount -t proc none /tmp'; busybox unshare -mrn sh -c 'mount -t sysfs none /tmp'; echo done")
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*set = append(*set, "CAP_SETFCAP")
		}
		change(s)
		out := e.mustRun(s, func(o *CreateOptions) { o.NoPivot = true })
		if strings.Count(out, "ermission denied")+strings.Count(out, "not permitted") != 2 {
			t.Errorf("mounts that must fail: %s", out)
		}
		if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(data), " /proc ") {
			t.Errorf("the host's procfs: %v", err)
		}
	}
}

// The first process is in the time namespace, too, and not only those it makes.
func TestTimeNamespace(t *testing.T) {
	for name, in := range map[string]func(*specs.Spec) *specs.Spec{
		"alone": func(s *specs.Spec) *specs.Spec { return s }, "and a user namespace": inUserNS,
	} {
		e := newEnv(t)
		shareRootfs(t, e)
		s := in(e.spec("cat /proc/self/timens_offsets; readlink /proc/1/ns/time; readlink /proc/1/ns/time_for_children"))
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881}, "boottime": {Secs: 1337}}
		out := strings.Fields(e.mustRun(s))
		if len(out) != 8 || strings.Join(out[:6], " ") != "monotonic 7881 0 boottime 1337 0" || out[6] != out[7] {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// Who starts a container whose init is being killed hears of that, and how it ended.
func TestStartOfADyingInit(t *testing.T) {
	e := newEnv(t)
	for range 5 {
		c, p := e.create(e.spec("true"))
		must(t, sys.KillPidFD(sys.Fd(p.PidFD), syscall.SIGSTOP)) // it does not come to the gate
		eventually(t, "a stopped init", func() bool { st, ok := readStat(p.Pid); return ok && st.state == 'T' })
		ended := make(chan error)
		go func() { ended <- c.Start(t.Context()) }()
		must(t, sys.KillPidFD(sys.Fd(p.PidFD), syscall.SIGKILL))
		if err := <-ended; !errors.Is(err, ErrNotCreated) || !strings.Contains(err.Error(), "its init has died: signal: killed") {
			t.Errorf("error %v", err)
		}
	}
}

// A container without a cgroup stays in its creator's; what would need one is refused.
func TestNoCgroup(t *testing.T) {
	e := newEnv(t)
	none := func(o *CreateOptions) { o.NoCgroup = true }
	spec := func() *specs.Spec {
		s := e.spec("cat /proc/self/cgroup; exec sleep 1000")
		s.Linux.Resources = nil
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
		return s
	}
	c, p := e.start(spec(), none)
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	theirs, err := os.ReadFile("/proc/" + itoa(p.Pid) + "/cgroup")
	must(t, err)
	if string(own) != string(theirs) {
		t.Errorf("cgroups\n%s, want\n%s", theirs, own)
	}
	r, err := e.exec(c, sh("echo in"))
	must(t, err)
	contains(t, r.out, "in\n")
	if err := c.Pause(t.Context()); !errors.Is(err, cgroup.ErrNone) {
		t.Errorf("pause: %v", err)
	}
	must(t, c.Kill(syscall.SIGKILL, false))

	limit := int64(1 << 30)
	for want, change := range map[string]func(*specs.Spec){
		"linux.resources": func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		},
		"linux.cgroupsPath": func(s *specs.Spec) { s.Linux.CgroupsPath = "/x" },
		"linux.namespaces":  func(s *specs.Spec) { without(s, specs.PIDNamespace) },
		"mounts[" + itoa(len(spec().Mounts)) + "]": func(s *specs.Spec) {
			without(s, specs.CgroupNamespace)
			s.Mounts = append(s.Mounts, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup"})
		},
	} {
		s := spec()
		change(s)
		if _, err := e.run(s, none); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, plan.ErrUnsupported) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}
