package container

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// These tests attempt what broke other runtimes. Each attack is really made, and each
// comment names the versions that fall for it; the whole table is in
// test/e2e/runtime/cve_test.go.

// CVE-2016-9962 (runc before 1.0-rc3): a process in the container looks into one that is joining.
func TestJoiningProcessCannotBeLookedInto(t *testing.T) {
	e := newEnv(t)
	report := filepath.Join(e.bundle, "rootfs/report")
	s := e.spec(`exec 2>/dev/null; while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *container.test*) echo "exe of $p" >> /report;; esac
for f in $p/fd/*; do case $(readlink $f) in *state*|*cgroup*|/proc) echo "$f" >> /report;; esac; done; done; done`)
	s.Linux.Namespaces[0] = specs.LinuxNamespace{Type: specs.PIDNamespace}
	c, _ := e.start(s)
	for range 60 {
		_, err := e.exec(c, sh("true"))
		must(t, err)
	}
	if data, err := os.ReadFile(report); err == nil {
		t.Errorf("reached from inside:\n%.2000s", data)
	}
}

// CVE-2019-5736 (runc before 1.0-rc7): the program to run is /proc/self/exe, which is
// our binary.
func TestOwnBinaryIsNotExecutedInside(t *testing.T) {
	e := newEnv(t)
	must(t, os.Symlink("/proc/self/exe", filepath.Join(e.bundle, "rootfs/bin/trap")))
	must(t, os.Symlink("/bin/trap", filepath.Join(e.bundle, "rootfs/bin/trap2")))
	c, _ := e.start(e.spec("exec sleep 1000"))
	for _, program := range []string{"/proc/self/exe", "/bin/trap", "trap2"} {
		s := e.spec("")
		s.Process.Args = []string{program}
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("create with %s: %v", program, err)
		}
		_, err := e.exec(c, &specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"PATH=/bin"}})
		if err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("exec of %s: %v", program, err)
		}
	}
}

// CVE-2019-16884 (runc before 1.0.0-rc9): with a volume over /proc, writes that should
// reach procfs land in a file of the image.
func TestWritesReachProcfsWithAVolumeOverProc(t *testing.T) {
	e := newEnv(t)
	fake := t.TempDir()
	file := filepath.Join(fake, "sys/net/ipv4/ip_unprivileged_port_start")
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte("fake"), 0o644))
	s := e.spec("mkdir /tmp/p; mount -t proc proc /tmp/p && cat /tmp/p/sys/net/ipv4/ip_unprivileged_port_start")
	admin(s)
	s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: fake, Options: []string{"bind"}}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77"}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	contains(t, e.mustRun(s), "77")
	if data, _ := os.ReadFile(file); string(data) != "fake" {
		t.Errorf("the volume's file now has %q", data)
	}
}

func admin(s *specs.Spec) { grant(s, "CAP_SYS_ADMIN") }

func grant(s *specs.Spec, capability string) {
	c := s.Process.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = append(*set, capability)
	}
}

// CVE-2019-19921 (runc before 1.0.0-rc10), CVE-2023-27561 (runc 1.0.0-rc95 to 1.1.4),
// CVE-2023-28642 (runc before 1.1.5): /proc or /sys is a link.
func TestLinkedProcAndSysAreRefused(t *testing.T) {
	e := newEnv(t)
	for i, name := range []string{"proc", "sys"} {
		link := filepath.Join(e.bundle, "rootfs", name)
		_ = os.RemoveAll(link)
		must(t, os.Symlink("/dir", link))
		want := fmt.Sprintf("mounts[%d]", []int{0, 5}[i])
		if _, err := e.run(e.spec("true")); err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("/%s is a link: %v", name, err)
		}
		must(t, os.Remove(link))
	}
}

// CVE-2019-18837 (crun before 0.10.5), CVE-2026-47766 (crun to 1.27.1), CVE-2026-41579
// (runc before 1.3.6, 1.4.3 and 1.5.0-rc.3): targets are links to places on the host.
func TestLinksInTheRootfsStayInside(t *testing.T) {
	e := newEnv(t)
	host := t.TempDir()
	for _, dir := range []string{"dev", "abs", "rel"} {
		_ = os.RemoveAll(filepath.Join(e.bundle, "rootfs", dir))
	}
	rootfs := filepath.Join(e.bundle, "rootfs")
	must(t, os.Symlink(host+"/dev", filepath.Join(rootfs, "dev")))
	must(t, os.Symlink(host+"/abs", filepath.Join(rootfs, "abs")))
	must(t, os.Symlink("../../../../../../.."+host+"/rel", filepath.Join(rootfs, "rel")))
	s := e.spec("true")
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/abs/x", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/rel/x/y", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
	e.mustRun(s)
	for _, made := range []string{"abs/x", "rel/x/y", "dev"} {
		if _, err := os.Stat(filepath.Join(rootfs, host, made)); err != nil {
			t.Error(err)
		}
	}
	e.mustRun(s) // now that they lead to something
	if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
		t.Errorf("on the host appeared %v, %v", left, err)
	}
}

// CVE-2021-30465 (runc before 1.0.0-rc95), CVE-2024-45310 (runc before 1.1.14): a
// mount's target is swapped with a link while containers are created.
func TestSwappedMountTargetMakesNothingOnTheHost(t *testing.T) {
	e := newEnv(t)
	host, vol := t.TempDir(), t.TempDir()
	must(t, os.Mkdir(filepath.Join(vol, "a"), 0o755))
	must(t, os.Symlink("../../../../../../.."+host, filepath.Join(vol, "b")))
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = sys.Exchange(filepath.Join(vol, "a"), filepath.Join(vol, "b"))
			}
		}
	})
	s := e.spec("true")
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"bind"}},
		specs.Mount{Destination: "/vol/a/made/deep", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/vol/a/file", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
	n := 150
	if testing.Short() {
		n = 20
	}
	for range n {
		_, _ = e.run(s) // refused or right, both are fine
	}
	close(stop)
	swapper.Wait()
	if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
		t.Errorf("on the host appeared %v, %v", left, err)
	}
	if hostMounts(t, host) {
		t.Error("something is mounted on the host")
	}
}

// CVE-2021-43784 (runc before 1.0.3): more mappings or longer paths than some field can hold.
func TestHugeListsAreRefused(t *testing.T) {
	e := newEnv(t)
	s := e.spec("true")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	for i := range uint32(70000) {
		s.Linux.UIDMappings = append(s.Linux.UIDMappings, specs.LinuxIDMapping{ContainerID: i, HostID: i, Size: 1})
	}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "linux.uidMappings") {
		t.Errorf("70000 mappings: %v", err)
	}
	s = e.spec("true")
	s.Linux.Namespaces[1].Path = "/" + strings.Repeat("x", 1<<16)
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "linux.namespaces[1].path") {
		t.Errorf("long path: %.200v", err)
	}
}

// CVE-2024-21626 (runc 1.0.0-rc93 to 1.1.11): the working directory is a descriptor that
// the runtime left open.
func TestWorkingDirectoryIsNoDescriptorOfOurs(t *testing.T) {
	e := newEnv(t)
	must(t, os.Symlink("/proc/self/fd/7", filepath.Join(e.bundle, "rootfs/link")))
	c, _ := e.start(e.spec("exec sleep 1000"))
	dirs := []string{"/link", "/proc/self/cwd", "/proc/1/root"}
	for fd := 3; fd <= 40; fd++ {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/self/fd/%d/../../..", fd))
	}
	for _, dir := range dirs {
		s := e.spec("pwd")
		s.Process.Cwd = dir
		if r, err := e.run(s); err == nil {
			t.Errorf("create in %s: %+v", dir, r)
		}
		x := sh("pwd")
		x.Cwd = dir
		if r, err := e.exec(c, x); err == nil {
			t.Errorf("exec in %s: %+v", dir, r)
		}
	}
}

// CVE-2025-31133 (runc before 1.2.8 and 1.3.3): /dev/null is a link to a file of procfs
// when paths are masked. CVE-2025-52565 (the same versions): so is /dev/console when the
// terminal is bound to it.
func TestLinkedDeviceNodesAreRefused(t *testing.T) {
	e := newEnv(t)
	dev := filepath.Join(e.bundle, "rootfs/dev")
	must(t, os.MkdirAll(filepath.Join(dev, "pts"), 0o755))
	s := e.spec("cat /proc/timer_list")
	s.Mounts = append(s.Mounts[:1], s.Mounts[2:]...) // the image's own /dev
	must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, "null")))
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "default /dev/null") {
		t.Errorf("/dev/null is a link: %v", err)
	}
	must(t, os.Remove(filepath.Join(dev, "null")))
	s.Process.Terminal = true
	must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, "console")))
	_, err := e.run(s)
	if err == nil || !strings.Contains(err.Error(), "process.terminal (/dev/console)") {
		t.Errorf("/dev/console is a link: %v", err)
	}
	s.Process.Terminal = false
	must(t, os.Remove(filepath.Join(dev, "console")))
	if out := e.mustRun(s); out != "" {
		t.Errorf("masked file has %q", out)
	}
}

// CVE-2025-52565 again: what the terminal is bound from, /dev/pts/N, is a link in a volume
// that somebody else fills.
func TestLinkedTerminalIsNotBound(t *testing.T) {
	e := newEnv(t)
	vol := t.TempDir()
	for n := range 20 {
		must(t, os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(vol, itoa(n))))
	}
	for name, ptmx := range map[string]func(path string) error{
		"no multiplexer": func(string) error { return nil },
		"a link to one":  func(path string) error { return os.Symlink("/dev/ptmx", path) },
		"one of its own": func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, 5<<8|2) },
	} {
		must(t, ptmx(filepath.Join(vol, "ptmx")))
		s := e.spec("true")
		s.Process.Terminal = true
		i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/pts" })
		s.Mounts[i] = bind("/dev/pts", vol)
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "process.terminal") {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Remove(filepath.Join(vol, "ptmx"))
	}
}

// The masks are read-only: their owner and mode are the host's device's.
func TestMaskCannotChangeTheHostsNull(t *testing.T) {
	e := newEnv(t)
	s := e.spec("chmod 600 /proc/timer_list; stat -c %a /proc/timer_list")
	s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_FOWNER")
	s.Process.Capabilities.Permitted = append(s.Process.Capabilities.Permitted, "CAP_FOWNER")
	contains(t, e.mustRun(s), "Read-only file system", "666")
	st, err := os.Stat("/dev/null")
	must(t, err)
	if st.Mode().Perm() != 0o666 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("/dev/null is now %v", st.Mode())
	}
}

// CVE-2016-3697 (runc before 0.1.0): a user's name that is a number must not be taken for it.
func TestHomeOfANumberIsNotThatOfAName(t *testing.T) {
	e := newEnv(t)
	s := e.spec("echo $HOME")
	s.Process.User.UID = 1000
	if out := e.mustRun(s); strings.TrimSpace(out) != "/home/user" {
		t.Errorf("HOME is %q", out)
	}
	must(t, os.WriteFile(filepath.Join(e.bundle, "rootfs/etc/passwd"), bytes.Repeat([]byte(":::::::\n\n:"), 50000), 0o644))
	if out := e.mustRun(s); strings.TrimSpace(out) != "/" {
		t.Errorf("HOME is %q", out)
	}
	must(t, os.Remove(filepath.Join(e.bundle, "rootfs/etc/passwd")))
	must(t, syscall.Mkfifo(filepath.Join(e.bundle, "rootfs/etc/passwd"), 0o644))
	if out := e.mustRun(s); strings.TrimSpace(out) != "/" {
		t.Errorf("HOME is %q", out)
	}
}
