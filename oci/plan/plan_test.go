package plan

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testHost is a host of everything.
var testHost = Host{
	Kernel: [2]int{6, 18}, Arch: "SCMP_ARCH_X86_64", Capabilities: 1<<41 - 1, AppArmor: true, SELinux: true, CgroupV2: true, Kcore: true,
}

func v1Host() Host {
	h := testHost
	h.CgroupV2 = false
	h.Kernel = [2]int{6, 1}
	h.Capabilities &^= 1 << 24
	h.CgroupV1 = []CgroupV1{
		{Mountpoint: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{Mountpoint: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}},
		{Mountpoint: "/sys/fs/cgroup/systemd", Name: "systemd"},
	}
	return h
}

func readConfig(t *testing.T, name string) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run go test -update and read git diff", file)
	}
}

// Which operations set an SELinux label, and of what: all that is made for the container
// has the mounts' label, its keyring and processes the process's.
func TestSELinuxLabels(t *testing.T) {
	const process, mounts = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
	labels := func(p *Program) (list []string) {
		fs := ""
		for _, o := range p.Ops {
			if o.Do == OpFsopen {
				fs = o.Path + " "
			}
			field, on := o.Field, string(o.Do)+" "+o.Path
			if strings.HasPrefix(field, "linux.maskedPaths[") {
				field = "linux.maskedPaths"
			}
			if o.Do == OpFsset {
				on = fs + o.Path
			}
			switch o.Data {
			case process:
				list = append(list, field+": "+on+": process")
			case mounts:
				list = append(list, field+": "+strings.TrimSpace(on)+": mount")
			}
		}
		return slices.Compact(list)
	}
	labelled := func() *specs.Spec {
		s := readConfig(t, "docker")
		s.Process.SelinuxLabel, s.Linux.MountLabel = process, mounts
		return s
	}
	of := []string{
		"mounts[1]: tmpfs context: mount",  // /dev
		"mounts[2]: devpts context: mount", // /dev/pts
		"mounts[3]: tmpfs context: mount",  // /dev/shm
		"mounts[4]: label: mount",          // /dev/mqueue takes no context
	}
	masked := "linux.maskedPaths: tmpfs context: mount" // those that are directories
	keyring, exec := "process: write self/attr/keycreate: process", "process.selinuxLabel: write self/attr/exec: process"
	for _, tt := range []struct {
		name string
		host Host
		want []string
	}{
		{"version 2", testHost, slices.Concat([]string{keyring}, of, []string{masked, exec})},
		{"version 1", v1Host(), slices.Concat([]string{keyring}, of, []string{"mounts[6]: tmpfs context: mount", masked, exec})},
	} {
		p, err := Create(labelled(), tt.host, Config{ID: "c1", Bundle: "/bundle", CgroupPath: "/pods/c1"})
		if err != nil {
			t.Fatal(err)
		}
		if got := labels(p); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
	x := &specs.Process{Args: []string{"ls"}, Cwd: "/", SelinuxLabel: process}
	p, err := Exec(labelled(), x, testHost, Config{ID: "c1", Bundle: "/bundle", CgroupPath: "/pods/c1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := labels(p); !slices.Equal(got, []string{keyring, exec}) {
		t.Errorf("exec: %v", got)
	}
}

func TestGoldenPrograms(t *testing.T) {
	base := Config{ID: "c1", Bundle: "/bundle", CgroupPath: "/pods/c1"}
	pod := base
	pod.RootfsMounts = []Mount{{Type: "overlay", Source: "overlay",
		Options: []string{"lowerdir=/l/2:/l/1", "upperdir=/u", "workdir=/w"}}}
	v1 := base
	v1.CgroupJoin = []string{"/sys/fs/cgroup/memory/pods/c1/tasks"}
	shared := base
	shared.RootfsParent = "/var"
	for _, tt := range []struct {
		name, config string
		host         Host
		cfg          Config
	}{
		{"default", "default", testHost, base},
		{"default-v1", "default", v1Host(), v1},
		{"docker", "docker", testHost, base},
		{"pod", "pod", testHost, pod},
		{"userns", "userns", testHost, base},
		{"shared", "shared", testHost, shared},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Create(readConfig(t, tt.config), tt.host, tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, p.String())
			checkProgram(t, p)
		})
	}
	t.Run("exec", func(t *testing.T) {
		s := readConfig(t, "docker")
		x := &specs.Process{Args: []string{"ls", "-l"}, Cwd: "/srv", Terminal: true, Env: []string{"PATH=/bin:/usr/bin", "HOME=/x"},
			User: specs.User{UID: 5, GID: 6}, ExecCPUAffinity: &specs.CPUAffinity{Initial: "0-1", Final: "1"}}
		p, err := Exec(s, x, testHost, base)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "exec", p.String())
		checkProgram(t, p)
	})
}

// checkProgram checks what holds for every program.
func checkProgram(t *testing.T, p *Program) {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again Program
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if p.String() != again.String() {
		t.Error("the program does not survive JSON")
	}
	pivoted := false
	for i := range p.Ops {
		o := &p.Ops[i]
		if o.Field == "" {
			t.Errorf("operation %d (%s) has no field", i, o)
		}
		if strings.HasPrefix(o.String(), string(o.Do)+" "+string(o.Do)) {
			t.Errorf("operation %d has no text", i)
		}
		pivoted = pivoted || o.Do == OpPivot
		// Before the root is the container's, a path without a descriptor is
		// the host's: only sources that the config names, and a few of ours.
		if !pivoted && o.Dir == 0 && strings.HasPrefix(o.Path, "/bundle/rootfs/") {
			t.Errorf("operation %d goes into the rootfs by path: %s", i, o)
		}
	}
}

// By the specification a capability that cannot be granted is warned of.
func TestCapabilityWarnings(t *testing.T) {
	s, h := readConfig(t, "default"), testHost
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: []string{"CAP_X", "CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL", "CAP_Y"},
	}
	p, err := Create(s, h, Config{ID: "x", Bundle: "/b"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"process.capabilities.bounding[0]: unknown capability CAP_X is left out",
		"process.capabilities.ambient[1]: unknown capability CAP_Y is left out",
		"process.capabilities.ambient: can't raise ambient capability CAP_KILL: it is not both permitted and inheritable",
	}
	if !slices.Equal(p.Warnings, want) {
		t.Errorf("%q", p.Warnings)
	}
}

// The old root is unmounted with all below it: no mount of it may be the host's peer then,
// also where the config speaks of the root alone.
func TestUnmountingTheOldRootStaysInside(t *testing.T) {
	for _, name := range []string{"", "slave", "private", "unbindable", "rslave", "rprivate", "runbindable"} {
		s := readConfig(t, "default")
		s.Linux.RootfsPropagation = name
		p, err := Create(s, testHost, Config{ID: "x", Bundle: "/b"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		i := slices.IndexFunc(p.Ops, func(o Op) bool { return o.Do == OpSetattr && o.Path == "/" })
		if i < 0 || p.Ops[i].D&abi.AtRecursive == 0 || p.Ops[i].C&(abi.MSSlave|abi.MSPrivate) == 0 && p.Ops[i].C != abi.MSUnbindable {
			t.Errorf("%q: the first change of / is number %d", name, i)
		}
	}
}

// misspell gives the config a profile with a name that no kernel knows, and crun's
// annotation that value.
func misspell(s *specs.Spec, annotation string) {
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"read", "raed"}, Action: specs.ActErrno}}}
	s.Annotations = map[string]string{UnknownCallsAnnotation: annotation}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		change func(*specs.Spec, *Host)
		want   string
	}{
		{func(s *specs.Spec, _ *Host) { s.Mounts[0].Options = []string{"tmpcopyup"} }, `mounts[0] ("proc" on "/proc"): option tmpcopyup is for a tmpfs`},
		{func(s *specs.Spec, h *Host) {
			h.Kernel = [2]int{6, 1}
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolWeightedInterleave, Nodes: "0"}
		}, `linux.memoryPolicy (MPOL_WEIGHTED_INTERLEAVE): needs Linux 6.9: this is 6.1: not supported`},
		{func(s *specs.Spec, h *Host) { s.Linux.MountLabel, h.SELinux = "l", false }, `linux.mountLabel (l): SELinux is not enabled`},
		{func(s *specs.Spec, h *Host) {
			h.Kernel = [2]int{6, 1}
			ids := []specs.LinuxIDMapping{{Size: 1}}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/t", Type: "tmpfs", UIDMappings: ids, GIDMappings: ids})
		}, `("tmpfs" on "/t"): needs Linux 6.3: this is 6.1: not supported`},
		{func(s *specs.Spec, _ *Host) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", "idmap"}})
		}, `idmap without mappings`},
		{func(s *specs.Spec, _ *Host) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", "idmap=uids=1-2"}})
		}, `option idmap: "1-2" is not three numbers`},
		{func(s *specs.Spec, _ *Host) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", "mode=755"}})
		}, `option "mode" is not one of a bind mount`},
		{func(s *specs.Spec, _ *Host) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/../proc/sys/kernel", Type: "tmpfs"})
		}, `inside /proc`},
		{func(s *specs.Spec, _ *Host) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", "what"}})
		}, `option "what" is not one of a bind mount`},
		{func(s *specs.Spec, h *Host) { s.Process.ApparmorProfile, h.AppArmor = "p", false }, `process.apparmorProfile (p): AppArmor is not enabled`},
		{func(s *specs.Spec, h *Host) { s.Process.SelinuxLabel, h.SELinux = "l", false }, `process.selinuxLabel (l): SELinux is not enabled`},
		{func(s *specs.Spec, _ *Host) { misspell(s, "1") }, `linux.seccomp.syscalls[0].names[1]: unknown system call "raed"`},
		{func(s *specs.Spec, _ *Host) { misspell(s, "0") }, ""},
		{func(s *specs.Spec, _ *Host) { misspell(s, "") }, ""},
		{func(s *specs.Spec, _ *Host) { s.Linux.RootfsPropagation = "wild" }, `linux.rootfsPropagation (wild): unknown propagation`},
		{func(s *specs.Spec, _ *Host) { s.Process.Scheduler = &specs.Scheduler{Policy: "X"} }, `process.scheduler (X): unknown policy`},
		{func(s *specs.Spec, _ *Host) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 5000}
		}, `process.scheduler (SCHED_DEADLINE): sched_setattr: ` + "`SCHED_DEADLINE` requires `deadline`"},
		{func(s *specs.Spec, _ *Host) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Deadline: 5000}
		}, `process.scheduler (SCHED_DEADLINE): sched_setattr: ` + "`SCHED_DEADLINE` requires `runtime`"},
		{func(s *specs.Spec, _ *Host) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 6000, Deadline: 5000}
		}, `process.scheduler (SCHED_DEADLINE): sched_setattr: ` + "`SCHED_DEADLINE` runtime 6000 ns must be <= the deadline, 5000"},
		{func(s *specs.Spec, _ *Host) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 5000, Deadline: 7000, Period: 6000}
		}, `process.scheduler (SCHED_DEADLINE): sched_setattr: ` + "`SCHED_DEADLINE` deadline 7000 ns must be <= the period, 6000"},
		{func(s *specs.Spec, _ *Host) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 5000, Deadline: 1 << 63}
		}, `process.scheduler (SCHED_DEADLINE): sched_setattr: ` + "`SCHED_DEADLINE` period 9223372036854775808 ns must be <= 9223372036854775807"},
		{func(s *specs.Spec, _ *Host) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "9-1"}
		}, `linux.memoryPolicy (MPOL_BIND): "9-1" is not a list such as 0-3,7: invalid memory policy nodes`},
		{func(s *specs.Spec, _ *Host) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} },
			`linux.memoryPolicy: invalid memory policy mode`},
		{func(s *specs.Spec, _ *Host) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{"x"}}
		}, `linux.memoryPolicy (MPOL_BIND): invalid memory policy flag "x"`},
		{func(s *specs.Spec, _ *Host) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0-7"}
		}, `linux.memoryPolicy (MPOL_DEFAULT): mode requires 0 nodes but got 8`},
		{func(s *specs.Spec, _ *Host) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		}, ""},
		{func(s *specs.Spec, h *Host) {
			h.Kernel = [2]int{5, 14}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		}, ""},
	} {
		s, h := readConfig(t, "default"), testHost
		tt.change(s, &h)
		_, err := Create(s, h, Config{ID: "x", Bundle: "/b"})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

func TestSplitLayers(t *testing.T) {
	for in, want := range map[string]string{
		"/a:/b":         "/a|/b",
		`/with\:colon`:  "/with:colon",
		`/back\\slash:`: `/back\slash|`,
	} {
		if got := strings.Join(splitLayers(in), "|"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// Kernels before 6.8 take an overlay's options as one page.
func TestOverlayOptionsInAPage(t *testing.T) {
	many := func(n int, dir string) string {
		layers := make([]string, n)
		for i := range layers {
			layers[i] = dir + "/" + strconv.Itoa(100+i) + "/fs"
		}
		return strings.Join(layers, ":")
	}
	const deep = "/var/lib/some/where/that/is/far/below/the/root"
	full := "/" + strings.Repeat("x", mountPage-len("lowerdir=/,upperdir=/u,workdir=/w"))
	for _, tt := range []struct{ lower, chdir, want, err string }{
		{"/l/2:/l/1", "", "lowerdir=/l/2:/l/1", ""},
		{full, "", "lowerdir=" + full, ""},
		{full + "x", "/", "lowerdir=" + full[1:] + "x", ""},
		{full + "xx", "", "", `rootfs mounts[0] ("overlay" on the rootfs): 4097 bytes of options, of which mount(2) takes 4095: before Linux 6.8, and this is 6.1, it takes fewer layers or shorter paths: not supported`},
		{many(100, deep), deep, "lowerdir=" + strings.ReplaceAll(many(100, deep), deep+"/", ""), ""},
		{many(100, deep+`/a\:b/x`) + ":" + deep + `/a\:b/y\,\\\:z`, deep + "/a:b", "lowerdir=" + strings.ReplaceAll(many(100, "x"), deep, "") + `:y\,\\\:z`, ""},
		{many(600, deep), "", "", "fewer layers"},
		{many(600, "relative"), "", "", "fewer layers"},
	} {
		h := testHost
		h.Kernel = [2]int{6, 1}
		p, err := Create(readConfig(t, "pod"), h, Config{ID: "c", Bundle: "/b", CgroupPath: "/c", RootfsMounts: []Mount{
			{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + tt.lower, "upperdir=/u", "workdir=/w"}}}})
		if err != nil || tt.err != "" {
			if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%.100s: error %v, want %q", tt.lower, err, tt.err)
			}
			continue
		}
		i := slices.IndexFunc(p.Ops, func(o Op) bool { return o.Do == OpMount })
		if got := p.Ops[i].Args[1]; got != tt.want+",upperdir=/u,workdir=/w" {
			t.Errorf("%.100s: options %q", tt.lower, got)
		}
		chdir := ""
		if p.Ops[i-1].Do == OpChdir {
			chdir = p.Ops[i-1].Path
		}
		if chdir != tt.chdir {
			t.Errorf("%.100s: in %q, want %q", tt.lower, chdir, tt.chdir)
		}
	}
}

func TestRelativeLayers(t *testing.T) {
	for in, want := range map[string]string{
		"/a/b":                 "/a b",
		"/a/b /a/c/d":          "/a b:c/d",
		"/a/bc/x /a/b/y":       "/a bc/x:b/y",
		"/a/b/c/d /a/b/e /a/f": "/a b/c/d:b/e:f",
		"/x /a/b":              "/ x:a/b",
		"/ /a":                 "/ .:a",
		"/a//b/ /a/./c":        "/a b:c",
		"a/b":                  " ",
		"/a /b c":              " ",
	} {
		if dir, rel := relativeLayers(strings.Fields(in)); dir+" "+rel != want {
			t.Errorf("%s: %q %q, want %q", in, dir, rel, want)
		}
	}
}

// FuzzCompile: any config is compiled or refused, never a panic.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := spec.Decode(data)
		if err != nil {
			return
		}
		p, err := Create(s, v1Host(), Config{ID: "f", Bundle: "/b"})
		if err == nil {
			_ = p.String()
		}
		if p, err := Exec(s, s.Process, testHost, Config{ID: "f", Bundle: "/b"}); err == nil {
			_ = p.String()
		}
	})
}
