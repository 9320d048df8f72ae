package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
)

func TestRunShowsWhatTheConfigAsksFor(t *testing.T) {
	e := newEnv(t)
	s := e.spec(`id; cat /proc/sys/kernel/hostname; echo "pid $$"; mount; env; cat /proc/self/status; cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l
echo 1 2>&1 > /proc/sys/kernel/panic; readlink /dev/fd; readlink /dev/ptmx; ls -l /dev/null; ls /proc/self/fd; ulimit -n; cat /proc/self/cgroup`)
	umask := uint32(0o027)
	s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}, Umask: &umask}
	out := e.mustRun(s)
	contains(t, out, "uid=1000", "gid=1001", "groups=", "strake-test", "pid 1", "HOME=/home/user", "NoNewPrivs:\t1",
		"Umask:\t0027", "proc on /proc type proc (rw,relatime)", "CapBnd:\t00000000200004e3", "CapEff:\t0000000000000000",
		"/proc/self/fd", "pts/ptmx", "1,   3", "0::/\n")
	if strings.Contains(out, "\n4\n") {
		t.Errorf("a descriptor above 3 (ls's own) is open:\n%s", out)
	}
}

func TestExitCodeAndRootKeepsCapabilities(t *testing.T) {
	e := newEnv(t)
	s := e.spec("grep CapEff /proc/self/status; exit 42")
	r, err := e.run(s)
	must(t, err)
	if r.code != 42 {
		t.Errorf("exit code %d, want 42", r.code)
	}
	contains(t, r.out, "CapEff:\t00000000200004e3")
}

func TestOverlayRootfsStaysOutOfTheHostsMounts(t *testing.T) {
	e := newEnv(t)
	lower2, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(lower2, "top"), []byte("topmost\n"), 0o644))
	lower := filepath.Join(e.bundle, "rootfs")
	for range 150 { // more than the 128 of old, and than a page of options holds with whole paths
		lower = t.TempDir() + ":" + lower
	}
	root := t.TempDir()
	s := e.spec("cat /top; echo written > /new; mount | grep ' / '")
	s.Root.Path = root
	out := e.mustRun(s, func(o *CreateOptions) {
		o.RootfsMounts = []Mount{{Type: "overlay", Source: "overlay",
			Options: []string{"lowerdir=" + lower2 + ":" + lower, "upperdir=" + upper, "workdir=" + work}}}
	})
	contains(t, out, "topmost", "overlay on / type overlay")
	if data, err := os.ReadFile(filepath.Join(upper, "new")); err != nil || string(data) != "written\n" {
		t.Errorf("upper directory has %q, %v", data, err)
	}
}

func TestBindMounts(t *testing.T) {
	e := newEnv(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("from the host\n"), 0o644))
	s := e.spec("cat /made/for/it/f /made/file; touch /made/for/it/x; touch /ro/x; mount")
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/made/for/it", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate", "nosuid"}},
		specs.Mount{Destination: "/made/file", Type: "bind", Source: filepath.Join(dir, "f"), Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/ro", Source: dir, Options: []string{"rbind", "rro"}},
	)
	r, err := e.run(s)
	must(t, err)
	contains(t, r.out, "from the host\nfrom the host\n", "/ro/x: Read-only file system", "on /made/for/it type")
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Error("write through the bind mount is lost")
	}
}

func TestTerminal(t *testing.T) {
	e := newEnv(t)
	s := e.spec("tty; ls -l /dev/console; stat -c %t:%T /dev/console /dev/pts/0; exec cat")
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 40, Width: 100}
	c, p := e.start(s)
	buf := make([]byte, 4096)
	var out string
	read := func(until string) {
		t.Helper()
		_ = p.Console.SetReadDeadline(time.Now().Add(time.Minute))
		for !strings.Contains(out, until) {
			n, err := p.Console.Read(buf)
			out += string(buf[:n])
			if err != nil {
				t.Fatalf("console: %v, so far:\n%s", err, out)
			}
		}
	}
	read("88:0\r\n88:0\r\n")
	contains(t, out, "/dev/pts/0")
	_, err := p.Console.WriteString("hello\n")
	must(t, err)
	read("hello\r\nhello\r\n")

	x := sh("tty")
	x.Terminal = true
	proc, err := c.Exec(t.Context(), ExecOptions{Process: x})
	must(t, err)
	_ = proc.Console.SetReadDeadline(time.Now().Add(time.Minute))
	n, _ := proc.Console.Read(buf)
	contains(t, string(buf[:n]), "/dev/pts/1")
	if code := wait(t, proc); code != 0 {
		t.Errorf("exec with terminal: exit code %d", code)
	}
	must(t, proc.Console.Close())
}

func TestLifecycle(t *testing.T) {
	e := newEnv(t)
	c, p := e.create(e.spec("exec sleep 1000"))
	status := func(want specs.ContainerState) {
		t.Helper()
		st, err := c.State()
		must(t, err)
		if st.Status != want {
			t.Errorf("status %s, want %s", st.Status, want)
		}
	}
	status(specs.StateCreated)
	if _, _, err := Create(t.Context(), CreateOptions{ID: c.ID(), Bundle: e.bundle, StateRoot: e.state, Spec: e.spec("true")}); !errors.Is(err, ErrExists) {
		t.Errorf("second create with the id: %v", err)
	}
	must(t, c.Start(t.Context()))
	status(specs.StateRunning)
	if err := c.Start(t.Context()); !errors.Is(err, ErrNotCreated) {
		t.Errorf("second start: %v", err)
	}
	again, err := Load(e.state, c.ID())
	must(t, err)
	list, err := List(e.state)
	if err != nil || len(list) != 1 || list[0].Pid != p.Pid {
		t.Errorf("list: %v, %v", list, err)
	}
	must(t, again.Pause(t.Context()))
	status(StatePaused)
	must(t, again.Resume())
	status(specs.StateRunning)
	if pids, err := c.Pids(); err != nil || len(pids) != 1 || pids[0] != p.Pid {
		t.Errorf("pids %v, %v; want %d", pids, err, p.Pid)
	}
	if err := c.Delete(t.Context(), false); !errors.Is(err, ErrRunning) {
		t.Errorf("delete of a running container: %v", err)
	}
	must(t, c.Kill(syscall.SIGKILL, false))
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	status(specs.StateStopped)
	if err := c.Kill(syscall.SIGTERM, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill of a stopped container: %v", err)
	}
	if _, err := c.Exec(t.Context(), ExecOptions{Process: sh("true")}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("exec in a stopped container: %v", err)
	}
	must(t, c.Delete(t.Context(), false))
	if _, err := Load(e.state, c.ID()); !errors.Is(err, ErrNotExist) {
		t.Errorf("load of a deleted container: %v", err)
	}
}

// v1Freezer is where the v1 freezer is mounted.
func v1Freezer(t *testing.T) string {
	t.Helper()
	host, err := cgroup.DetectHost()
	must(t, err)
	mount, ok := host.V1Mounts["freezer"]
	if !ok {
		t.Skip("no v1 freezer here")
	}
	return mount
}

// Not even SIGKILL ends who is in a frozen cgroup of the v1 freezer, and it need
// not be the container's own.
func TestDeleteOfOneFrozenElsewhere(t *testing.T) {
	e := newEnv(t)
	mount := v1Freezer(t)
	c, p := e.start(e.spec("exec sleep 1000"))
	elsewhere := mount + "/elsewhere-" + c.ID()
	below := elsewhere + "/below"
	must(t, os.MkdirAll(below, 0o755))
	t.Cleanup(func() { must(t, errors.Join(os.Remove(below), os.Remove(elsewhere))) })
	put := func(file, text string) {
		t.Helper()
		must(t, os.WriteFile(file, []byte(text), 0))
	}
	put(below+"/tasks", itoa(p.Pid))
	put(elsewhere+"/freezer.state", "FROZEN")
	if err := c.Delete(t.Context(), true); !errors.Is(err, cgroup.ErrBusy) || !strings.Contains(err.Error(), "above it") {
		t.Errorf("delete of one whose cgroup is frozen from above: %v", err)
	}
	put(elsewhere+"/freezer.state", "THAWED")
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	must(t, c.Delete(t.Context(), true))

	c, p = e.start(e.spec("exec sleep 1000"))
	put(below+"/tasks", itoa(p.Pid))
	put(below+"/freezer.state", "FROZEN")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	defer put(below+"/freezer.state", "THAWED")
	must(t, c.Delete(ctx, true))
}

// A delete that fails half-way, or is killed, leaves a container that has stopped, and not
// one that is being made, which takes force.
func TestDeleteThatFailsIsRepeated(t *testing.T) {
	e := newEnv(t)
	c, p := e.start(e.spec("true"))
	wait(t, p)
	held := filepath.Join(c.dir, configFile)
	must(t, syscall.Mount(held, held, "", syscall.MS_BIND, ""))
	if err := c.Delete(t.Context(), false); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("delete of what cannot be removed: %v", err)
	}
	st, err := c.State()
	must(t, syscall.Unmount(held, 0))
	if err != nil || st.Status != specs.StateStopped {
		t.Errorf("after that: %+v, %v", st, err)
	}
	must(t, c.Delete(t.Context(), false))
}

// A delete that was killed behind its hooks has removed the config that says them.
func TestDeleteThatIsKilledIsRepeated(t *testing.T) {
	e := newEnv(t)
	s := e.spec("true")
	s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/false"}}}
	c, p := e.start(s)
	wait(t, p)
	must(t, os.Remove(filepath.Join(c.dir, configFile)))
	must(t, c.Delete(t.Context(), false))
}

// SIGKILL ends it also where it has been frozen by the v1 freezer, as Pause does where
// there is no v2.
func TestKillOfOneFrozenByV1(t *testing.T) {
	e := newEnv(t)
	mount := v1Freezer(t)
	c, p := e.start(e.spec("exec sleep 1000"))
	cg, err := c.Cgroup()
	must(t, err)
	must(t, os.WriteFile(mount+cg.Path()+"/freezer.state", []byte("FROZEN"), 0))
	must(t, c.Kill(syscall.SIGTERM, false)) // which it gets when it is thawed
	must(t, c.Kill(syscall.SIGKILL, false))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	must(t, sys.WaitReadable(ctx, p.PidFD))
}

func TestStartOfADeadInitSaysSo(t *testing.T) {
	e := newEnv(t)
	c, p := e.create(e.spec("true"))
	must(t, c.Kill(syscall.SIGKILL, false))
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	err := c.Start(t.Context())
	if !errors.Is(err, ErrNotCreated) || !strings.Contains(err.Error(), "died") {
		t.Errorf("start: %v", err)
	}
}

func TestDeleteForceOfARunningContainerIsFast(t *testing.T) {
	e := newEnv(t)
	c, _ := e.start(e.spec("sleep 1000 & exec sleep 1000"))
	began := time.Now()
	must(t, c.Delete(t.Context(), true))
	if d := time.Since(began); d > time.Second {
		t.Errorf("took %v", d)
	}
}

func TestBadProgramsAreReportedByCreate(t *testing.T) {
	e := newEnv(t)
	must(t, os.WriteFile(filepath.Join(e.bundle, "rootfs/not-exec"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(e.bundle, "rootfs/not-elf"), []byte("x"), 0o755))
	for _, tt := range []struct {
		args string
		want string
	}{
		{"no-such-program", `exec "no-such-program": executable file not found in $PATH`},
		{"/no/such", `exec "/no/such": no such file or directory`},
		{"/not-exec", `exec "/not-exec": permission denied`},
		{"/dir", `exec "/dir": is a directory`},
	} {
		s := e.spec("")
		s.Process.Args = []string{tt.args}
		_, err := e.run(s)
		if !errors.Is(err, ErrExec) || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.args, err)
		}
	}
	s := e.spec("")
	s.Process.Args = []string{"/not-elf"}
	if _, err := e.run(s); !errors.Is(err, ErrExec) || !strings.HasSuffix(err.Error(), `exec /not-elf: exec format error`) {
		t.Errorf("late failure, by start: %v", err)
	}
	c, _ := e.start(e.spec("exec sleep 100"))
	if _, err := e.exec(c, &specs.Process{Args: []string{"/bin/true"}, Cwd: "/no/such"}); err == nil || !strings.HasSuffix(err.Error(), "process.cwd (/no/such): chdir: no such file or directory") {
		t.Errorf("exec in a directory that is not there: %v", err)
	}
	_, err := e.exec(c, &specs.Process{Args: []string{"nope"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if want := `exec "nope": executable file not found in $PATH`; !errors.Is(err, ErrExec) || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("exec: %v; want %q", err, want)
	}
}

// With slashes as the separators the dots are those of names, and the other way
// round (sysctl.d(5)).
func TestSysctlOfDeviceWithADot(t *testing.T) {
	e := newEnv(t)
	netns := holder(t, syscall.CLONE_NEWNET) + "net"
	inNetNS(t, netns, "ip", "link", "add", "x0.100", "type", "veth")
	for i, key := range []string{"net/ipv4/conf/x0.100/tag", "net.ipv4.conf.x0/100.tag"} {
		s := e.spec("cat /proc/sys/net/ipv4/conf/x0.100/tag")
		join(s, specs.NetworkNamespace, netns)
		s.Linux.Sysctl = map[string]string{key: itoa(7 + i)}
		if out := e.mustRun(s); out != itoa(7+i)+"\n" {
			t.Errorf("%s: %q", key, out)
		}
	}
}

func TestErrorsNameTheField(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct {
		change func(*specs.Spec)
		want   string
	}{
		{func(s *specs.Spec) { s.Mounts[1].Options = []string{"size=nonsense"} }, `mounts[1] ("tmpfs" on "/dev"): fsconfig: invalid argument`},
		{func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})
		}, `mounts[6] ("bind" on "/x"): open_tree: no such file or directory`},
		{func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: "/etc/passwd", Options: []string{"bind"}})
		}, `mounts[6] ("bind" on "/tmp"): move_mount: invalid argument (is one of source and destination not a directory?)`},
		{func(s *specs.Spec) { s.Mounts[0].Type = "nofs" }, `mounts[0] ("nofs" on "/proc"): fsopen: no such device`},
		{func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/etc/passwd" }, `linux.namespaces[1].path: /etc/passwd is not a namespace`},
		{func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/self/ns/uts" }, `is not a namespace of type network`},
		{func(s *specs.Spec) { s.Process.Cwd = "/proc/self/fd/5" }, `process.cwd (/proc/self/fd/5)`},
		{func(s *specs.Spec) {
			join(s, specs.NetworkNamespace, "/proc/self/ns/net")
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"}
		}, `linux.sysctl[net.ipv4.ip_unprivileged_port_start]: the network namespace /proc/self/ns/net is the host's`},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.no_such": "1"} }, `linux.sysctl[net.ipv4.no_such] (1): open: no such file or directory`},
		{func(s *specs.Spec) { s.Root.Path = "missing" }, `root.path (`},
	} {
		s := e.spec("true")
		tt.change(s)
		_, err := e.run(s)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

func TestUserNamespace(t *testing.T) {
	e := newEnv(t)
	const base = 300000
	passable(t, e)
	must(t, filepath.WalkDir(filepath.Join(e.bundle, "rootfs"), func(p string, _ os.DirEntry, err error) error {
		must(t, err)
		return os.Lchown(p, base, base)
	}))
	s := e.spec("id; cat /proc/self/uid_map; touch /made; ls -l /dev/null; cat /proc/self/oom_score_adj; ulimit -n; mount | grep proc; echo ok > /dev/null")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	adj := 500
	s.Process.OOMScoreAdj = &adj
	out := e.mustRun(s)
	contains(t, out, "uid=0", "300000", "1,   3", "500\n1024\n")
	st, err := os.Stat(filepath.Join(e.bundle, "rootfs/made"))
	must(t, err)
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid != base {
		t.Errorf("a file made by the container's root belongs to %d", uid)
	}
}

func TestPodNamespacesWithoutAProcess(t *testing.T) {
	e := newEnv(t)
	sandbox := &specs.Spec{Hostname: "pod-name", Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
		Sysctl:     map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"},
	}}
	proc, err := sys.NewProc()
	must(t, err)
	defer func() { must(t, proc.Close()) }()
	ns, err := PinNamespaces(sandbox, proc)
	must(t, err)
	defer func() { must(t, ns.Close()) }()
	if len(ns) != 3 {
		t.Fatalf("pinned %v", ns)
	}
	s := e.spec("cat /proc/sys/kernel/hostname /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start; readlink /proc/self/ns/uts")
	s.Hostname = ""
	for i, n := range s.Linux.Namespaces {
		if f := ns[n.Type]; f != nil {
			s.Linux.Namespaces[i].Path = "/proc/self/fd/" + itoa(sys.Fd(f))
		}
	}
	want, err := os.Readlink("/proc/self/fd/" + itoa(sys.Fd(ns[specs.UTSNamespace])))
	must(t, err)
	contains(t, e.mustRun(s), "pod-name\n1\n80\n"+want)
}

func TestSharedPIDNamespace(t *testing.T) {
	if !sealed(t) {
		return // so that who shares the PID namespace cannot reach this program
	}
	e := newEnv(t)
	first := e.spec("")
	first.Process.Args = []string{"sleep", "1000"}
	_, p := e.start(first)
	s := e.spec("echo pid $$; cat /proc/1/cmdline; echo; cat /proc/1/comm")
	s.Linux.Namespaces[0].Path = "/proc/" + itoa(p.Pid) + "/ns/pid"
	out := e.mustRun(s)
	contains(t, out, "sleep")
	if strings.Contains(out, "pid 1\n") {
		t.Errorf("is pid 1 in a joined namespace:\n%s", out)
	}
	// This process's own children are where it is.
	contains(t, e.mustRun(e.spec("echo pid $$")), "pid 1\n")
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	s := e.spec("")
	s.Process.Args = []string{"sleep", "1000"}
	c, _ := e.start(s)
	x := sh("id; echo $HOME; cat /proc/1/comm; cat /proc/sys/kernel/hostname; grep -E 'Cap|NoNew' /proc/self/status; ls /proc/self/fd; cat /proc/self/cgroup; pwd")
	x.User = specs.User{UID: 1000, GID: 5}
	x.Cwd = "/tmp"
	x.Capabilities = &specs.LinuxCapabilities{Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Bounding: []string{"CAP_KILL"}}
	r, err := e.exec(c, x)
	must(t, err)
	contains(t, r.out, "uid=1000", "/home/user", "sleep", "strake-test", "CapInh:\t0000000000000000", "CapBnd:\t0000000000000020", "/tmp")
	r, err = e.exec(c, sh("exit 7"))
	must(t, err)
	if r.code != 7 {
		t.Errorf("exit code %d", r.code)
	}
	if pids, err := c.Pids(); err != nil || len(pids) != 1 {
		t.Errorf("pids after exec: %v, %v", pids, err)
	}
}

// A scheduler that no child inherits is that of the process itself.
func TestExecWithASchedulerOfItsOwn(t *testing.T) {
	e := newEnv(t)
	s := e.spec("")
	s.Process.Args = []string{"sleep", "1000"}
	c, _ := e.start(s)
	x := sh("")
	x.Args = []string{"cat", "/proc/self/stat"}
	x.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 1e7, Period: 1e7,
		Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	r, err := e.exec(c, x)
	must(t, err)
	const policy, deadline = 40, "6" // proc_pid_stat(5), counted from 0
	if f := strings.Fields(r.out); len(f) <= policy || f[policy] != deadline {
		t.Errorf("policy of %q", r.out)
	}
}

func TestIdmappedBindMount(t *testing.T) {
	e := newEnv(t)
	requireIDMaps(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	must(t, os.Chown(filepath.Join(dir, "f"), 10, 20))
	s := e.spec("stat -c %u:%g /m/f")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: dir, Options: []string{"bind"},
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 1000}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 6000, Size: 1000}}})
	contains(t, e.mustRun(s), "5010:6020")
}

// Who stops a container that has not been started need not wait for SIGKILL.
func TestCreatedContainerEndsAtSIGTERM(t *testing.T) {
	e := newEnv(t)
	c, p := e.create(e.spec("true"))
	must(t, c.Kill(syscall.SIGTERM, false))
	must(t, sys.WaitReadable(t.Context(), p.PidFD))
	if s, err := c.State(); err != nil || s.Status != specs.StateStopped {
		t.Errorf("%v, %v", s.Status, err)
	}
}
