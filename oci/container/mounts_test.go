package container

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/testutil"
)

func tmpfs(dest string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options}
}

func bind(dest, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: append(options, "bind")}
}

var mapped = []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}

// inUserNS puts a spec into a new user namespace.
func inUserNS(s *specs.Spec) *specs.Spec {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = mapped, mapped
	return s
}

func TestTmpCopyUp(t *testing.T) {
	e := newEnv(t)
	root := filepath.Join(e.bundle, "rootfs")
	deep := filepath.Join(root, "tree", strings.Repeat("d/", 40))
	must(t, os.MkdirAll(deep, 0o755))
	must(t, os.WriteFile(filepath.Join(deep, "last"), []byte("deep\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "tree/big"), make([]byte, 3<<20), 0o751))
	must(t, os.Symlink("/no/such", filepath.Join(root, "tree/link")))
	must(t, syscall.Mkfifo(filepath.Join(root, "tree/fifo"), 0o640))
	for i := range 300 { // more than one getdents
		must(t, os.WriteFile(filepath.Join(root, "tree", "file-with-a-long-name-"+itoa(i)), nil, 0o644))
	}
	must(t, syscall.Setxattr(filepath.Join(root, "tree/big"), "trusted.strake", []byte("x"), 0))
	for name, id := range map[string]int{"big": 7, "fifo": 8, "link": 9} {
		must(t, os.Lchown(filepath.Join(root, "tree", name), id, id+1))
	}
	must(t, os.Chmod(filepath.Join(root, "tree/big"), 0o751|os.ModeSetuid)) // chown has cleared it
	when := time.Unix(1e9, 0)
	must(t, os.Chtimes(filepath.Join(root, "tree/big"), when, when))
	must(t, os.Chtimes(filepath.Join(root, "tree/d"), when, when))
	must(t, os.Chmod(filepath.Join(root, "tree"), 0o711))
	script := `ls /tree | wc -l; cat /tree/` + strings.Repeat("d/", 40) + `last; readlink /tree/link
stat -c '%n %F %a %u:%g %s %Y' /tree /tree/big /tree/d; stat -c '%n %F %a %u:%g' /tree/fifo /tree/link; rm -r /tree/d && touch /tree/new && echo writable`
	want := []string{"304\ndeep\n/no/such\n", "/tree/big regular file 4751 7:8 3145728 1000000000", " 1000000000\n/tree/fifo fifo 640 8:9\n/tree/link symbolic link 777 9:10",
		"/tree directory 711 0:0"}
	s := e.spec(script)
	s.Mounts = append(s.Mounts, tmpfs("/tree", "tmpcopyup", "size=16m"))
	contains(t, e.mustRun(s), append(want, "writable")...)
	if _, err := os.Stat(filepath.Join(root, "tree/d")); err != nil {
		t.Error("the rootfs itself was changed")
	}

	s = e.spec("cat /tree/file-with-a-long-name-0; ls /tree | wc -l; touch /tree/x; touch /tree/sub/x")
	s.Mounts = append(s.Mounts, tmpfs("/tree", "tmpcopyup", "ro"), tmpfs("/tree/sub"))
	r, err := e.run(s)
	must(t, err)
	contains(t, r.out, "305\n", "/tree/x: Read-only") // sub was made in time, and is not
	if strings.Contains(r.out, "sub/x") {
		t.Errorf("a mount in a read-only tmpfs is so too:\n%s", r.out)
	}

	s = e.spec("true")
	s.Mounts = append(s.Mounts, tmpfs("/tree", "tmpcopyup", "size=1m"))
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), `mounts[6] ("tmpfs" on "/tree"): copy: no space left on device (big)`) {
		t.Errorf("error %v", err)
	}

	must(t, os.RemoveAll(filepath.Join(root, "tree/sub")))
	for name := range map[string]int{"big": 7, "fifo": 8, "link": 9} {
		must(t, os.Lchown(filepath.Join(root, "tree", name), mappedRoot+7, mappedRoot+7))
	}
	shareRootfs(t, e)
	must(t, os.Lchown(filepath.Join(root, "tree/big"), mappedRoot+7, mappedRoot+8))
	s = inUserNS(e.spec(`stat -c '%n %u:%g' /tree/big; ls /tree | wc -l`))
	s.Mounts = append(s.Mounts, tmpfs("/tree", "tmpcopyup"))
	contains(t, e.mustRun(s), "/tree/big 7:8\n304\n")
}

// A tmpfs on a directory has its mode, unless an option says another.
func TestTmpfsMode(t *testing.T) {
	e := newEnv(t)
	must(t, os.Chmod(filepath.Join(e.bundle, "rootfs/dir"), 0o705|os.ModeSticky))
	s := e.spec("stat -c %a /dir; stat -c %a /new")
	s.Mounts = append(s.Mounts, tmpfs("/dir"), tmpfs("/new"))
	contains(t, e.mustRun(s), "1705\n1777\n")
	s = e.spec("stat -c %a /dir")
	s.Mounts = append(s.Mounts, tmpfs("/dir", "mode=0750"))
	contains(t, e.mustRun(s), "750\n")
}

func TestMountsOnTheRoot(t *testing.T) {
	e := newEnv(t)
	other := filepath.Join(t.TempDir(), "other")
	makeRootfs(t, other)
	must(t, os.WriteFile(filepath.Join(other, "here"), []byte("the other root\n"), 0o644))
	for _, ownNS := range []bool{true, false} {
		s := e.spec("cat /here; touch /made; mount | grep -c ' /dev '")
		s.Root.Readonly = true
		s.Mounts = append([]specs.Mount{bind("/", other)}, s.Mounts...)
		if !ownNS {
			without(s, specs.MountNamespace)
		}
		r, err := e.run(s)
		must(t, err)
		contains(t, r.out, "the other root\n", "/made: Read-only")
		if hostMounts(t, e.bundle+"/rootfs") {
			t.Error("mounts are left")
		}
	}
}

// A bind mount's source is the runtime's to find, and its ids are mapped.
func TestIDMappedMounts(t *testing.T) {
	e := newEnv(t)
	requireIDMaps(t)
	shareRootfs(t, e)
	src := filepath.Join(t.TempDir(), "locked", "src")
	must(t, os.MkdirAll(src, 0o755))
	must(t, os.Chmod(filepath.Dir(src), 0o700)) // no way for the container's root
	below := filepath.Join(src, "below")
	must(t, os.Mkdir(below, 0o755))
	must(t, syscall.Mount(t.TempDir(), below, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(below, 0)) })
	for _, f := range []string{src + "/f", below + "/f"} {
		must(t, os.WriteFile(f, []byte("x"), 0o644))
		must(t, os.Chown(f, 1000, 1001))
	}
	for _, tt := range []struct {
		name  string
		user  bool
		mount specs.Mount
		want  string // owners of f and below/f
	}{
		{"none", true, bind("/m", src, "rbind"), "65534:65534 65534:65534"},
		{"idmap, the container's", true, bind("/m", src, "rbind", "idmap"), "1000:1001 65534:65534"},
		{"ridmap, the container's", true, bind("/m", src, "rbind", "ridmap"), "1000:1001 1000:1001"},
		{"own", true, specs.Mount{Destination: "/m", Source: src, Options: []string{"rbind", "ridmap"},
			UIDMappings: one(1000, mappedRoot+5), GIDMappings: one(1001, mappedRoot+6)}, "5:6 5:6"},
		{"own, not said", true, specs.Mount{Destination: "/m", Source: src, Options: []string{"rbind"},
			UIDMappings: one(1000, mappedRoot+5), GIDMappings: one(1001, mappedRoot+6)}, "5:6 65534:65534"},
		{"own, no user namespace", false, specs.Mount{Destination: "/m", Source: src, Options: []string{"rbind", "idmap"},
			UIDMappings: one(1000, 2000), GIDMappings: one(1000, 3000)}, "2000:3001 1000:1001"},
		{"option", false, bind("/m", src, "rbind", "idmap=uids=0-0-10#1000-70-1;gids=1000-80-10"), "70:81 1000:1001"},
		{"relative option", true, bind("/m", src, "rbind", "ridmap=uids=@1000-20-1;gids=@1000-30-10"), "20:31 20:31"},
	} {
		s := e.spec("stat -c %u:%g /m/f /m/below/f")
		if tt.user {
			inUserNS(s)
		}
		s.Mounts = append(s.Mounts, tt.mount)
		if out := strings.Join(strings.Fields(e.mustRun(s)), " "); out != tt.want {
			t.Errorf("%s: owners %s, want %s", tt.name, out, tt.want)
		}
	}

	// A user namespace that is joined has the mapping.
	ns := holder(t, syscall.CLONE_NEWUSER, syscall.SysProcIDMap{ContainerID: 0, HostID: mappedRoot, Size: 65536})
	s := e.spec("stat -c %u:%g /m/f")
	join(s, specs.UserNamespace, ns+"user")
	s.Mounts = append(s.Mounts, bind("/m", src, "idmap"))
	if out := e.mustRun(s); out != "1000:1001\n" {
		t.Errorf("joined: owners %s", out)
	}
}

func one(c, h uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: c, HostID: h, Size: 10000}}
}

func TestIDMappedTmpfs(t *testing.T) {
	e := newEnv(t)
	if !kernelAtLeast(t, 6, 3) {
		t.Skip("needs Linux 6.3, where a tmpfs takes id mappings")
	}
	s := e.spec("stat -c %u:%g /m")
	m := tmpfs("/m", "uid=1000", "gid=1001", "idmap")
	m.UIDMappings, m.GIDMappings = one(1000, 5), one(1001, 6)
	s.Mounts = append(s.Mounts, m)
	if out := e.mustRun(s); out != "5:6\n" {
		t.Errorf("tmpfs: owners %s", out)
	}
}

// What a container mounts in a volume stays in it, also where the volume is the
// parent's copy.
func TestMountsInAVolumeStayInside(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	vol := sharedMount(t)
	must(t, os.Mkdir(filepath.Join(vol, "sub"), 0o777))
	for _, change := range []func(*specs.Spec){func(s *specs.Spec) { inUserNS(s) }, func(*specs.Spec) {}, func(s *specs.Spec) { without(s, specs.MountNamespace) }} {
		s := e.spec("mount -t tmpfs tmpfs /vol/sub && exec sleep 1000")
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*set = append(*set, "CAP_SYS_ADMIN")
		}
		change(s)
		s.Mounts = append(s.Mounts, bind("/vol", vol))
		c, p := e.start(s)
		eventually(t, "mount in the container", func() bool {
			data, err := os.ReadFile("/proc/" + itoa(p.Pid) + "/mountinfo")
			return err == nil && strings.Contains(string(data), "/vol/sub ")
		})
		if hostMounts(t, filepath.Join(vol, "sub")) {
			t.Error("the mount is on the host")
		}
		must(t, c.Delete(t.Context(), true))
	}
}

// A terminal comes from a devpts that the container has, whoever mounted it.
func TestTerminalFromABoundDev(t *testing.T) {
	e := newEnv(t)
	s := e.spec("tty")
	s.Process.Terminal = true
	s.Mounts = append(s.Mounts[:1], specs.Mount{Destination: "/dev", Source: "/dev", Options: []string{"rbind", "rslave"}})
	_, p := e.start(s)
	buf := make([]byte, 100)
	_ = p.Console.SetReadDeadline(time.Now().Add(time.Minute))
	n, _ := p.Console.Read(buf)
	contains(t, string(buf[:n]), "/dev/pts/")

	s = e.spec("tty")
	s.Process.Terminal = true
	s.Mounts = s.Mounts[:1]
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "process.terminal (/dev/pts): open") {
		t.Errorf("error %v", err)
	}
}

// Every option of the specification's table does what it says.
func TestMountOptions(t *testing.T) {
	e := newEnv(t)
	testutil.CheckLeaks(t)
	src := t.TempDir()
	sub := filepath.Join(src, "sub")
	must(t, os.Mkdir(sub, 0o755))
	must(t, syscall.Mount("tmpfs", sub, "tmpfs", syscall.MS_NODEV|syscall.MS_NOATIME, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(sub, 0)) })
	for _, tt := range []struct {
		options string
		top     string // options of /m, and how it propagates
		below   string // of /m/sub; "" is not looked at
	}{
		{"rbind", "rw", "rw,nodev,noatime"},
		{"rbind,ro", "ro", "rw,nodev,noatime"},
		{"rbind,rro", "ro", "ro,nodev,noatime"},
		{"rbind,rro,rrw", "rw", "rw,nodev,noatime"},
		{"rbind,nosuid,nodev,noexec", "rw,nosuid,nodev,noexec", "rw,nodev,noatime"},
		{"rbind,rnosuid,rnodev,rnoexec,rnosymfollow", "rw,nosuid,nodev,noexec,nosymfollow", "rw,nosuid,nodev,noexec,noatime,nosymfollow"},
		{"rbind,nosuid,suid,nodev,dev,noexec,exec,nosymfollow,symfollow", "rw", "rw,nodev,noatime"},
		{"rbind,rdev,rsuid,rexec,rsymfollow", "rw", "rw,noatime"},
		{"rbind,noatime", "rw,noatime", "rw,nodev,noatime"},
		{"rbind,rrelatime", "rw,relatime", "rw,nodev,relatime"},
		{"rbind,ratime", "rw,relatime", "rw,nodev,relatime"},
		{"rbind,rstrictatime", "rw", "rw,nodev"},
		{"rbind,rnorelatime", "rw,relatime", "rw,nodev,relatime"},
		{"rbind,rnostrictatime", "rw,relatime", "rw,nodev,relatime"},
		{"rbind,rnodiratime,rnoatime", "rw,noatime,nodiratime", "rw,nodev,noatime,nodiratime"},
		{"rbind,rnodiratime,rdiratime", "rw", "rw,nodev,noatime"},
		{"rbind,shared", "rw shared", "rw,nodev,noatime"},
		{"rbind,rshared", "rw shared", "rw,nodev,noatime shared"},
		{"rbind,rprivate", "rw private", "rw,nodev,noatime private"},
		{"rbind,unbindable", "rw unbindable", ""},
		{"rbind,runbindable", "rw unbindable", "rw,nodev,noatime unbindable"},
		{"rbind,shared,slave", "rw private", ""}, // no master is left
		{"bind,remount,silent,loud,iversion,noiversion,defaults,sync,async,dirsync,mand,nomand,lazytime,nolazytime", "rw", ""},
	} {
		s := e.spec("cat /proc/self/mountinfo")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: src, Options: strings.Split(tt.options, ",")})
		info := mountInfo(e.mustRun(s))
		for dest, want := range map[string]string{"/m": tt.top, "/m/sub": tt.below} {
			got, ok := info[dest]
			if want == "" {
				continue
			}
			if !ok {
				t.Errorf("%s: no mount %s", tt.options, dest)
			}
			options, propagation, _ := strings.Cut(want, " ")
			if !strings.Contains(tt.options, "atime") { // the host's
				for _, a := range []string{"relatime", "noatime"} {
					got.options = strings.Replace(got.options, ","+a, "", 1)
					options = strings.Replace(options, ","+a, "", 1)
				}
			}
			if got.options != options && !(dest == "/m" && strings.ReplaceAll(got.options, ",relatime", "") == options) {
				t.Errorf("%s: %s is %s, want %s", tt.options, dest, got.options, options)
			}
			if propagation != "" && got.propagation != propagation {
				t.Errorf("%s: %s is %s, want %s", tt.options, dest, got.propagation, propagation)
			}
		}
	}
	for options, want := range map[string]string{
		"sync,dirsync": "rw,sync,dirsync", "lazytime": "rw,lazytime", "size=1m,mode=700,nr_inodes=10": "rw,size=1024k,nr_inodes=10,mode=700",
	} {
		s := e.spec("cat /proc/self/mountinfo")
		s.Mounts = append(s.Mounts, tmpfs("/m", strings.Split(options, ",")...))
		if got := mountInfo(e.mustRun(s))["/m"].super; !strings.HasPrefix(got, want) {
			t.Errorf("tmpfs %s: %s, want %s", options, got, want)
		}
	}
}

type mountLine struct{ options, propagation, super string }

func mountInfo(text string) map[string]mountLine {
	info := map[string]mountLine{}
	for line := range strings.Lines(text) {
		left, right, _ := strings.Cut(line, " - ")
		f, r := strings.Fields(left), strings.Fields(right)
		m := mountLine{options: f[5], super: r[2], propagation: "private"}
		for _, tag := range f[6:] {
			m.propagation, _, _ = strings.Cut(tag, ":")
		}
		info[f[4]] = m
	}
	return info
}

// A bind mount has the attributes that its options name, and the source's if they
// name none. A user namespace keeps what it is not told to take away.
func TestBoundAttributes(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	src := t.TempDir()
	must(t, syscall.Mount("tmpfs", src, "tmpfs", syscall.MS_STRICTATIME, "mode=755"))
	t.Cleanup(func() { must(t, syscall.Unmount(src, 0)) })
	const nosymfollow = 0x100
	for _, tt := range []struct {
		source        uintptr
		options       string
		private, user string
	}{
		{syscall.MS_RDONLY | syscall.MS_NOEXEC | nosymfollow | syscall.MS_NODIRATIME, "", "ro,noexec,nodiratime,nosymfollow", "ro,noexec,nodiratime,nosymfollow"},
		{syscall.MS_RDONLY | syscall.MS_NOEXEC | nosymfollow | syscall.MS_NODIRATIME, "dev", "rw,nodiratime", "ro,noexec,nodiratime"},
		{syscall.MS_RDONLY, "nosuid,nodev,rprivate", "rw,nosuid,nodev", "ro,nosuid,nodev"},
		{syscall.MS_RDONLY, "rw,nosuid", "rw,nosuid", "rw,nosuid"},
		{syscall.MS_NODEV | syscall.MS_NOSUID | syscall.MS_NOATIME, "ro,exec", "ro,noatime", "ro,nosuid,nodev,noatime"},
		{syscall.MS_NODEV | nosymfollow, "rw", "rw", "rw,nodev"},
		{syscall.MS_NOATIME, "atime", "rw,noatime", "rw,noatime"},
		{syscall.MS_NOATIME, "norelatime", "rw,noatime", "rw,noatime"},
		{syscall.MS_NOATIME, "relatime", "rw,relatime", "rw,relatime"},
		{syscall.MS_NOATIME, "nodiratime", "rw,nodiratime,relatime", "rw,nodiratime,relatime"},
		{syscall.MS_NODIRATIME, "strictatime", "rw", "rw"},
		{syscall.MS_NOATIME, "nodiratime,strictatime", "rw,nodiratime", "rw,nodiratime"},
		{syscall.MS_NOATIME, "nodiratime,norelatime", "rw,nodiratime,relatime", "rw,nodiratime,relatime"},
		{syscall.MS_NOATIME | syscall.MS_NODIRATIME, "diratime", "rw,noatime,nodiratime", "rw,noatime,nodiratime"},
	} {
		atime := uintptr(syscall.MS_STRICTATIME)
		if tt.source&syscall.MS_NOATIME != 0 {
			atime = 0
		}
		must(t, syscall.Mount("", src, "", syscall.MS_REMOUNT|syscall.MS_BIND|atime|tt.source, ""))
		for _, user := range []bool{false, true} {
			s, want := e.spec("cat /proc/self/mountinfo"), tt.private
			if user {
				inUserNS(s)
				want = tt.user
			}
			s.Mounts = append(s.Mounts, bind("/m", src, strings.FieldsFunc(tt.options, func(r rune) bool { return r == ',' })...))
			got := strings.Split(mountInfo(e.mustRun(s))["/m"].options, ",")
			slices.Sort(got)
			wanted := strings.Split(want, ",")
			slices.Sort(wanted)
			if !slices.Equal(got, wanted) {
				t.Errorf("source %#x, options %q, user namespace %v: %s, want %s", tt.source, tt.options, user, got, wanted)
			}
		}
	}
}

// The way to the rootfs may be open to root of the user namespace alone, or to all but
// it.
func TestWayToTheRootfs(t *testing.T) {
	e := newEnv(t)
	shareRootfs(t, e)
	for _, owner := range []int{0, mappedRoot} {
		must(t, os.Chown(e.bundle, owner, owner))
		must(t, os.Chmod(e.bundle, 0o700))
		contains(t, e.mustRun(inUserNS(e.spec("echo here"))), "here\n")
	}
	must(t, os.Chown(e.bundle, 0, 0))
}

// Links that lead to nothing are followed, and what they lead to is made, inside the
// rootfs however far outside they point.
func TestMountPointsBehindLinks(t *testing.T) {
	e := newEnv(t)
	root := filepath.Join(e.bundle, "rootfs")
	host := filepath.Join(t.TempDir(), "host")
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("bound\n"), 0o644))
	for _, tt := range []struct {
		name   string
		links  map[string]string
		target string
		at     string
	}{
		{"last", map[string]string{"etc/hosts": "/tmp/hosts"}, "/etc/hosts", "/tmp/hosts"},
		{"component", map[string]string{"jump": "/tmp/foo/bar", "etc/h2": "/jump/baz/hosts"}, "/etc/h2", "/tmp/foo/bar/baz/hosts"},
		{"relative", map[string]string{"dir/l": "../tmp/./new//"}, "/dir/l/f", "/tmp/new/f"},
		{"out of the root", map[string]string{"dir/o": "../../../../.." + host}, "/dir/o/f", host + "/f"},
		{"absolute", map[string]string{"dir/a": host + "-2"}, "/dir/a", host + "-2"},
		{"chain", map[string]string{"c1": "c2/x", "c2": "c3", "c3": "/tmp/c4"}, "/c1/y", "/tmp/c4/x/y"},
	} {
		for name, to := range tt.links {
			must(t, os.Symlink(to, filepath.Join(root, name)))
		}
		s := e.spec("cat " + tt.at + "; cat /proc/self/mountinfo")
		s.Mounts = append(s.Mounts, bind(tt.target, file))
		out := e.mustRun(s)
		contains(t, out, "bound\n", " "+tt.at+" ")
		if _, err := os.Lstat(filepath.Join(root, tt.at)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := os.Lstat(host); err == nil {
		t.Errorf("%s was made on the host", host)
	}
	must(t, os.Symlink("l2", filepath.Join(root, "l1")))
	must(t, os.Symlink("l1", filepath.Join(root, "l2")))
	for _, target := range []string{"/l1/f", "/etc/passwd/x"} {
		s := e.spec("true")
		s.Mounts = append(s.Mounts, bind(target, file))
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "mounts[6]") {
			t.Errorf("%s: error %v", target, err)
		}
	}
}

// A source below the rootfs is what earlier mounts have made of it.
func TestSourceBelowAnEarlierMount(t *testing.T) {
	for _, change := range []func(*specs.Spec){func(*specs.Spec) {}, func(s *specs.Spec) { inUserNS(s) }} {
		e := newEnv(t)
		src, mnt := sourceBelow(t, e)
		s := e.spec("cat /final/f")
		change(s)
		s.Mounts = append(s.Mounts, bind("/mnt", src), bind("/final", mnt, "rbind"))
		contains(t, e.mustRun(s), "bound\n")
	}
}

// Its ids can be mapped as others' can.
func TestMappedSourceBelowAnEarlierMount(t *testing.T) {
	for _, change := range []func(*specs.Spec){func(*specs.Spec) {}, func(s *specs.Spec) { inUserNS(s) }} {
		e := newEnv(t)
		requireIDMaps(t)
		src, mnt := sourceBelow(t, e)
		must(t, os.Chown(filepath.Join(src, "f"), 1000, 1000))
		s := e.spec("stat -c %u:%g /final/f /mnt/f")
		change(s)
		m := bind("/final", mnt, "rbind", "idmap")
		host := uint32(7)
		if len(s.Linux.UIDMappings) > 0 {
			host += mappedRoot
		}
		m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1000, HostID: host, Size: 1}}
		m.GIDMappings = m.UIDMappings
		s.Mounts = append(s.Mounts, bind("/mnt", src), m)
		contains(t, e.mustRun(s), "7:7\n")

		// A file system that takes none is what is asked about.
		proc := bind("/final", filepath.Join(e.bundle, "rootfs/proc/fs"), "bind", "idmap")
		proc.UIDMappings, proc.GIDMappings = m.UIDMappings, m.GIDMappings
		s.Mounts = append(s.Mounts[:len(s.Mounts)-1], proc)
		if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "mount_setattr: invalid argument (does the source's file system take id mappings?)") {
			t.Errorf("procfs: %v", err)
		}
	}
}

// sourceBelow is a directory with a file, and one of the rootfs to mount it on.
func sourceBelow(t *testing.T, e *env) (src, mnt string) {
	t.Helper()
	src, mnt = t.TempDir(), filepath.Join(e.bundle, "rootfs/mnt")
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("bound\n"), 0o644))
	must(t, os.MkdirAll(mnt, 0o755))
	shareRootfs(t, e)
	return src, mnt
}

// Layers that are the host's root's are those of root in a user namespace, whose
// root has no way to the bundle; what is written is the mapped user's.
func TestOverlayWithMappedLayers(t *testing.T) {
	e := newEnv(t)
	if !kernelAtLeast(t, 6, 8) {
		t.Skip("needs Linux 6.8, where an overlay's layers are set one by one")
	}
	must(t, os.Chmod(e.bundle, 0o700))
	top, upper, work, image, root := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(top, "top"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(image, "of-image"), nil, 0o600))
	user := holder(t, syscall.CLONE_NEWUSER, syscall.SysProcIDMap{HostID: 100000, Size: 65536})
	maps := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	options := []string{"lowerdir=" + top + ":" + filepath.Join(e.bundle, "rootfs"), "upperdir=" + upper, "workdir=" + work,
		"uidmap=0:100000:65536", "gidmap=0:100000:65536"}
	must(t, os.Chown(upper, 100000, 100000))
	for _, path := range []string{"", user + "user"} {
		s := e.spec("stat -c '%u %g' /top /bin /image/of-image; touch /new /top")
		s.Root.Path = root
		join(s, specs.UserNamespace, path)
		s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: "/image", Type: "overlay", Source: "overlay", UIDMappings: maps, GIDMappings: maps,
			Options: []string{"ro", "lowerdir+=" + image, "lowerdir+=" + top},
		})
		out := e.mustRun(s, func(o *CreateOptions) {
			o.RootfsMounts = []Mount{{Type: "overlay", Source: "overlay", Options: options}}
		})
		if out != "0 0\n0 0\n0 0\n" {
			t.Errorf("%q: owners %q", path, out)
		}
		for _, f := range []string{"new", "top"} {
			info, err := os.Stat(filepath.Join(upper, f))
			must(t, err)
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 100000 {
				t.Errorf("%q: %s is user %d's", path, f, uid)
			}
		}
	}

	// A rootfs that is a directory, behind the same 0700.
	must(t, os.Chown(filepath.Join(e.bundle, "rootfs"), 100000, 100000))
	s := e.spec("stat -c '%u' /bin")
	join(s, specs.UserNamespace, user+"user")
	s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
	if out := e.mustRun(s); out != "65534\n" {
		t.Errorf("owner %q", out)
	}
	s.Root.Path = root
	for options, want := range map[string]string{
		"uidmap=0:1:2":              "uidmap and gidmap must come together",
		"uidmap=0:1":                "uidmap",
		"uidmap=0:1:2 gidmap=0:1:x": "gidmap",
		"uidmap=0:1:2 gidmap=0:1:2": "no such file",
	} {
		_, err := e.run(s, func(o *CreateOptions) {
			o.RootfsMounts = []Mount{{Type: "overlay", Source: "overlay", Options: append(strings.Fields(options), "lowerdir=/no/such")}}
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", options, err)
		}
	}
}

// One empty file system covers all masked directories, of which a config has many.
func TestMaskedDirectoriesShareAFileSystem(t *testing.T) {
	e := newEnv(t)
	s := e.spec("stat -c %d /a /b /c /d | uniq | wc -l; ls -A /a /b /d; touch /d/new || true")
	for _, name := range []string{"a", "b", "c", "d"} {
		must(t, os.Mkdir(filepath.Join(e.bundle, "rootfs", name), 0o755))
		must(t, os.WriteFile(filepath.Join(e.bundle, "rootfs", name, "secret"), nil, 0o644))
	}
	// The first is missing, the second no directory: neither is what the rest share.
	s.Linux.MaskedPaths = []string{"/missing", "/etc/passwd", "/a", "/b", "/c/../c", "/d"}
	out := e.mustRun(s)
	contains(t, out, "Read-only file system")
	if lines := strings.Fields(out); lines[0] != "1" || strings.Contains(out, "secret") {
		t.Errorf("the container sees %q", out)
	}
}

// A user namespace may mount the cgroups of a cgroup namespace that it owns. Of the
// host's it gets what the host has mounted, which it may not change either.
func TestCgroupMountInAUserNamespace(t *testing.T) {
	for _, private := range []bool{true, false} {
		e := newEnv(t)
		shareRootfs(t, e)
		s := inUserNS(e.spec("ls -d /sys/fs/cgroup/*/ /sys/fs/cgroup/cgroup.controllers; stat -c owner=%u /sys/fs/cgroup/*/cgroup.procs | uniq; mkdir /sys/fs/cgroup/new /sys/fs/cgroup/*/new || true; grep ' /sys/fs/cgroup ' /proc/mounts"))
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
		if !private {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		}
		out := e.mustRun(s)
		contains(t, out, "Read-only file system", "ro,nosuid,nodev,noexec")
		if !private {
			contains(t, out, "owner=65534")
		}
	}
}

// What a mount of cgroups is to have beside the flags of every mount is the kernel's to
// take or to refuse.
func TestCgroupMountOptions(t *testing.T) {
	if h, err := hostFacts(); err != nil || !h.CgroupV2 {
		t.Skip("needs cgroup version 2: see test/vm")
	}
	for option, want := range map[string]string{"nsdelegate": "", "no_such_option": `mounts[6] ("cgroup" on "/sys/fs/cgroup")`} {
		e := newEnv(t)
		s := e.spec("cat /sys/fs/cgroup/cgroup.controllers")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", option}})
		_, err := e.run(s)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v; want %q", option, err, want)
		}
	}
}
