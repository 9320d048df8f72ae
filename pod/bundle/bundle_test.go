package bundle

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestUsers(t *testing.T) {
	a := Accounts{
		Passwd: []byte("# comment:x:9:9:::\nroot:x:0:0:root:/root:/bin/sh\n1000:x:0:0:trap:/root:/bin/sh\nwww:x:33:34:w:/var/www:/bin/sh\n" +
			"short:x:1\nbad:x:-1:5:::\nhuge:x:99999999999:5:::\nhome:x:50:50::relative:\nlf:x:51:51::/a\x07b:\nwww:x:77:77::/second:\n"),
		Group: []byte("root:x:0:root\nwww:x:34:\nlogs:x:40:a,www\nmore:x:41:www\n1000:x:0:\nbad:x:y:www\n"),
	}
	for _, c := range []struct {
		spec, want, home, err string
	}{
		{"", "0:0 [0]", "/root", ""},
		{"root", "0:0 [0]", "/root", ""},
		{"www", "33:34 [34 40 41]", "/var/www", ""},
		{"33", "33:34 [34 40 41]", "/var/www", ""},
		{"www:logs", "33:40 [40 41]", "/var/www", ""},
		{"www:5", "33:5 [5 40 41]", "/var/www", ""},
		// A number is a number, whatever is called so (CVE-2016-3697).
		{"1000", "1000:0 [0]", "/", ""},
		{"1000:1000", "1000:1000 [1000]", "/", ""},
		{"0", "0:0 [0]", "/root", ""},
		{"home", "50:50 [50]", "/", ""},
		{"lf", "51:51 [51]", "/", ""},
		{"4294967294", "4294967294:0 [0]", "/", ""},
		{"4294967295", "", "", "no user or group id"},
		{"99999999999", "", "", "no user or group id"},
		{"-1", "", "", "no user or group id"},
		{"+5", "", "", "no user or group id"},
		{"www:-1", "", "", "no user or group id"},
		{"nobody", "", "", `no user "nobody"`},
		{"bad", "", "", `no user "bad"`},
		{"short", "", "", `no user "short"`},
		{"www:nogroup", "", "", `no group "nogroup"`},
		{"www:", "", "", "has to be"},
		{":5", "", "", "has to be"},
		{"a:b:c", "", "", "has to be"},
		{"www\nroot", "", "", "has to be"},
	} {
		u, home, err := ResolveUser("user", c.spec, GroupsMerge, a)
		if c.err != "" {
			if err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.spec, err, c.err)
			}
			continue
		}
		if got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.Groups); err != nil || got != c.want || home != c.home {
			t.Errorf("%q: %s %s %v, want %s %s", c.spec, got, home, err, c.want, c.home)
		}
	}
}

func TestSecurityContextUsers(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	a := testInput().Accounts
	for _, c := range []struct {
		name  string
		s     Security
		image string
		want  string
	}{
		{"image's", Security{}, "www", "33:34 [34 40]"},
		{"number over image's", Security{RunAsUser: n(5)}, "www", "5:0 [0]"},
		{"name over image's", Security{RunAsUsername: "www"}, "", "33:34 [34 40]"},
		{"group replaces", Security{RunAsUser: n(33), RunAsGroup: n(7)}, "", "33:7 [7 40]"},
		{"merge", Security{SupplementalGroups: []int64{50}}, "www", "33:34 [34 40 50]"},
		{"strict", Security{SupplementalGroups: []int64{50}, SupplementalGroupsPolicy: GroupsStrict}, "www", "33:34 [34 50]"},
		{"group alone", Security{RunAsGroup: n(7)}, "www", "run_as_group"},
		{"both", Security{RunAsUser: n(7), RunAsUsername: "www"}, "", "run_as_username"},
		{"negative", Security{RunAsUser: n(-7)}, "", "run_as_user"},
		{"negative group", Security{SupplementalGroups: []int64{-5}}, "", "supplemental_groups[0]"},
	} {
		u, _, err := containerUser(&ContainerConfig{Security: c.s}, c.image, a)
		got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.Groups)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	h := &Host{Capabilities: slices.DeleteFunc(slices.Clone(AllCapabilities), func(c string) bool { return c == "CAP_SYS_RESOURCE" })}
	for _, c := range []struct {
		name     string
		s        Security
		n        int
		has, not string
		ambient  string
		warnings int
	}{
		{"default", Security{}, 14, "CAP_CHOWN", "CAP_SYS_ADMIN", "", 0},
		{"add", Security{Capabilities: Capabilities{Add: []string{"sys_admin", "CHOWN"}}}, 15, "CAP_SYS_ADMIN", "CAP_BPF", "", 0},
		{"all", Security{Capabilities: Capabilities{Add: []string{"ALL"}}}, 40, "CAP_BPF", "CAP_SYS_RESOURCE", "", 0},
		{"all but one", Security{Capabilities: Capabilities{Add: []string{"all"}, Drop: []string{"BPF"}}}, 39, "CAP_CHOWN", "CAP_BPF", "", 0},
		{"only one", Security{Capabilities: Capabilities{Add: []string{"BPF"}, Drop: []string{"ALL"}}}, 1, "CAP_BPF", "CAP_CHOWN", "", 0},
		{"ambient", Security{Capabilities: Capabilities{AddAmbient: []string{"BPF"}}}, 15, "CAP_BPF", "CAP_SYSLOG", "CAP_BPF", 0},
		{"privileged", Security{Privileged: true, Capabilities: Capabilities{Drop: []string{"ALL"}}}, 40, "CAP_BPF", "CAP_SYS_RESOURCE", "", 0},
		{"host lacks it", Security{Capabilities: Capabilities{Add: []string{"SYS_RESOURCE"}}}, 14, "CAP_CHOWN", "CAP_SYS_RESOURCE", "", 1},
	} {
		set, warnings, err := capabilities(&c.s, h)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(set.Bounding) != c.n || !slices.Contains(set.Bounding, c.has) || slices.Contains(set.Bounding, c.not) || len(warnings) != c.warnings {
			t.Errorf("%s: %d %v, warnings %q", c.name, len(set.Bounding), set.Bounding, warnings)
		}
		if strings.Join(set.Ambient, ",") != c.ambient || strings.Join(set.Inheritable, ",") != c.ambient {
			t.Errorf("%s: ambient %q, inheritable %q", c.name, set.Ambient, set.Inheritable)
		}
	}
	if _, _, err := capabilities(&Security{Capabilities: Capabilities{Drop: []string{"FLY"}}}, h); err == nil || !strings.Contains(err.Error(), "drop_capabilities[0]") {
		t.Errorf("unknown capability: %v", err)
	}
}

func TestSignals(t *testing.T) {
	for s, want := range map[string]int{
		"SIGTERM": 15, "term": 15, "15": 15, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMINPLUS3": 37, "SIGRTMAXMINUS14": 50, "SIGRTMAX": 64,
		"SIGIO": 29, "SIGCLD": 17,
		"": 0, "SIG": 0, "0": 0, "65": 0, "-1": 0, "SIGRTMIN+99": 0, "SIGRTMIN-1": 0, "SIGRTMIN3": 0, "SIGFOO": 0, "SIGRTMIN+": 0,
	} {
		got, err := ParseSignal(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	if name, n := StopSignal("", "nonsense"); name != "SIGTERM" || n != SIGTERM {
		t.Errorf("an image's nonsense: %s %d", name, n)
	}
}

func TestResources(t *testing.T) {
	h := &Host{SwapLimit: true}
	r, err := LinuxResources(&Resources{MemoryLimit: 100, HugepageLimits: []HugepageLimit{{"2MB", 0}}}, h)
	if err != nil || *r.Memory.Swap != 100 || r.HugepageLimits != nil || r.CPU != nil || r.Pids != nil {
		t.Errorf("memory alone: %+v, %v", r, err)
	}
	if r, err := LinuxResources(&Resources{MemoryLimit: 100, MemorySwapLimit: 200}, &Host{}); err != nil || r.Memory.Swap != nil {
		t.Errorf("no swap controller: %+v, %v", r, err)
	}
	for _, c := range []struct {
		r    Resources
		want string
	}{
		{Resources{CPUShares: -1}, "cpu_shares"},
		{Resources{CPUPeriod: -1}, "cpu_period"},
		{Resources{MemoryLimit: -1}, "memory_limit_in_bytes"},
		{Resources{OOMScoreAdj: 1001}, "oom_score_adj"},
		{Resources{MemoryLimit: 5, MemorySwapLimit: 4}, "memory_swap_limit_in_bytes"},
		{Resources{HugepageLimits: []HugepageLimit{{"2MB", 5}}}, "hugepage_limits[0]"},
		{Resources{Unified: map[string]string{"memory.high": "1"}}, "unified[memory.high]"},
	} {
		if _, err := LinuxResources(&c.r, h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %s", c.r, err, c.want)
		}
	}
	if _, err := LinuxResources(&Resources{Unified: map[string]string{"../x.y": "1"}}, &Host{CgroupV2: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a path as cgroup file: %v", err)
	}
	was := Resources{CPUShares: 5, MemoryLimit: 6, Unified: map[string]string{"a.b": "1"}}
	now := Merge(was, Resources{MemoryLimit: 7, Unified: map[string]string{"c.d": "2"}})
	if now.CPUShares != 5 || now.MemoryLimit != 7 || !maps.Equal(now.Unified, map[string]string{"a.b": "1", "c.d": "2"}) || len(was.Unified) != 1 {
		t.Errorf("merged: %+v of %+v", now, was)
	}
}

func TestPodsRefused(t *testing.T) {
	for want, change := range map[string]func(*PodConfig){
		"metadata.name":             func(c *PodConfig) { c.Name = "" },
		"metadata.uid":              func(c *PodConfig) { c.UID = "a\nb" },
		"hostname":                  func(c *PodConfig) { c.Hostname = "a b" },
		"log_directory":             func(c *PodConfig) { c.LogDirectory = "/var/../../etc" },
		"dns_config.servers[0]":     func(c *PodConfig) { c.DNS = &DNS{Servers: []string{"1.1.1.1\noptions x"}} },
		"dns_config.searches[1]":    func(c *PodConfig) { c.DNS = &DNS{Searches: []string{"a", "b c"}} },
		"port_mappings[0].protocol": func(c *PodConfig) { c.PortMappings = []PortMapping{{Protocol: "icmp"}} },
		"port_mappings[0].host_port": func(c *PodConfig) {
			c.PortMappings = []PortMapping{{HostPort: 65536, ContainerPort: 1}}
		},
		"port_mappings[0].container_port": func(c *PodConfig) { c.PortMappings = []PortMapping{{HostPort: 1}} },
		"port_mappings[0].host_ip": func(c *PodConfig) {
			c.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1, HostIP: "x"}}
		},
		"linux.cgroup_parent":                     func(c *PodConfig) { c.CgroupParent = "kubepods" },
		"/kubepods.slice/a.slice":                 func(c *PodConfig) { c.CgroupParent = "/kubepods.slice/a.slice" },
		"namespace_options.network":               func(c *PodConfig) { c.Namespaces.Network = NamespaceContainer },
		"namespace_options.pid":                   func(c *PodConfig) { c.Namespaces.PID = NamespaceTarget },
		"userns_options.uids: has no id for root": func(c *PodConfig) { c.Namespaces.User = &UserNamespace{} },
		"userns_options.gids: has no id for root": func(c *PodConfig) { c.Namespaces.User = testUserNS(); c.Namespaces.User.GIDs = nil },
		"userns_options.uids[0]: maps no ids":     func(c *PodConfig) { c.Namespaces.User = testUserNS(); c.Namespaces.User.UIDs[0].Length = 0 },
		"userns_options.uids[1]: overlaps": func(c *PodConfig) {
			c.Namespaces.User = testUserNS()
			c.Namespaces.User.UIDs = append(c.Namespaces.User.UIDs, IDMapping{HostID: 100010, ContainerID: 70000, Length: 1})
		},
		"userns_options.uids: the node's":      func(c *PodConfig) { c.Namespaces.User = testUserNS(); c.Namespaces.User.Mode = NamespaceNode },
		"namespace_options.ipc: not supported": func(c *PodConfig) { c.Namespaces.User = testUserNS(); c.Namespaces.IPC = NamespaceNode },
		"namespace_options.pid: not supported": func(c *PodConfig) { c.Namespaces.User = testUserNS(); c.Namespaces.PID = NamespaceNode },
		"userns_options.mode":                  func(c *PodConfig) { c.Namespaces.User = &UserNamespace{Mode: NamespaceTarget} },
		"linux.sysctls[vm.swappiness]":         func(c *PodConfig) { c.Sysctls = map[string]string{"vm.swappiness": "1"} },
		"linux.sysctls[net/../vm.x]":           func(c *PodConfig) { c.Sysctls = map[string]string{"net/../vm.x": "1"} },
		"the host's network namespace":         func(c *PodConfig) { c.Namespaces.Network = NamespaceNode; c.Sysctls = map[string]string{"net.x": "1"} },
		"the host's IPC namespace":             func(c *PodConfig) { c.Namespaces.IPC = NamespaceNode; c.Sysctls = map[string]string{"kernel.sem": "1"} },
	} {
		c := testPod()
		change(c)
		if err := ValidatePod(c); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestContainersRefused(t *testing.T) {
	mount := func(m Mount) func(*ContainerConfig) {
		return func(c *ContainerConfig) { c.Mounts = []Mount{m} }
	}
	for want, change := range map[string]func(*ContainerConfig){
		"metadata.name":                    func(c *ContainerConfig) { c.Name = "" },
		"image.image":                      func(c *ContainerConfig) { c.Image = "" },
		`log_path: "../x"`:                 func(c *ContainerConfig) { c.LogPath = "../x" },
		`log_path: "/x"`:                   func(c *ContainerConfig) { c.LogPath = "/x" },
		"command[1]":                       func(c *ContainerConfig) { c.Command = []string{"a", "b\x00"} },
		"command[0]: is empty":             func(c *ContainerConfig) { c.Command = []string{""} },
		"envs[0]":                          func(c *ContainerConfig) { c.Env = []KeyValue{{Key: "a=b"}} },
		"envs[1]":                          func(c *ContainerConfig) { c.Env = []KeyValue{{Key: "a"}, {Key: "b", Value: "\x00"}} },
		"working_dir":                      func(c *ContainerConfig) { c.WorkingDir = "/a\n" },
		"mounts[0].container_path: \"a\"":  mount(Mount{ContainerPath: "a", HostPath: "/a"}),
		"mounts[0].container_path: the ro": mount(Mount{ContainerPath: "//", HostPath: "/a"}),
		"mounts[0].container_path: \"/a/.": mount(Mount{ContainerPath: "/a/../b", HostPath: "/a"}),
		"mounts[0].host_path":              mount(Mount{ContainerPath: "/a"}),
		"mounts[0].propagation":            mount(Mount{ContainerPath: "/a", HostPath: "/a", Propagation: "x"}),
		"recursive_read_only: needs read":  mount(Mount{ContainerPath: "/a", HostPath: "/a", RecursiveReadOnly: true}),
		"recursive_read_only: needs priv":  mount(Mount{ContainerPath: "/a", HostPath: "/a", Readonly: true, RecursiveReadOnly: true, Propagation: PropagationBidirectional}),
		"mounts[0].mount_options[1]":       mount(Mount{ContainerPath: "/a", HostPath: "/a", Options: []string{"rnoexec", "bind"}}),
		"mounts[0].mount_options: not sup": mount(Mount{ContainerPath: "/a", Image: "i", Readonly: true, Options: []string{"noexec"}}),
		"mounts[0].image_sub_path":         mount(Mount{ContainerPath: "/a", Image: "i", ImageSubPath: "../x"}),
		"mounts[0].readonly":               mount(Mount{ContainerPath: "/a", Image: "i"}),
		"mounts[0].image: \"i\"":           mount(Mount{ContainerPath: "/a", Image: "i", Readonly: true}),
		"devices[0].host_path":             func(c *ContainerConfig) { c.Devices = []Device{{HostPath: "x"}} },
		"devices[0].permissions":           func(c *ContainerConfig) { c.Devices = []Device{{HostPath: "/dev/x", Permissions: "rx"}} },
		"CDI_devices":                      func(c *ContainerConfig) { c.CDIDevices = make([]string, maxList+1) },
		"privileged":                       func(c *ContainerConfig) { c.Security.Privileged = true },
		"stop_signal":                      func(c *ContainerConfig) { c.StopSignal = "SIGFOO" },
		"target_id":                        func(c *ContainerConfig) { c.Namespaces.PID = NamespaceTarget },
		"apparmor: not supported":          func(c *ContainerConfig) { c.Security.AppArmor = &Profile{Type: ProfileRuntimeDefault} },
	} {
		in := testInput()
		change(in.Config)
		if _, err := Container(in); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", want, err)
		}
	}
	in := testInput()
	in.Image.Entrypoint, in.Image.Cmd = nil, nil
	if _, err := Container(in); err == nil || !strings.Contains(err.Error(), "neither Entrypoint nor Cmd") {
		t.Errorf("no command at all: %v", err)
	}
	in = testInput()
	in.Host.Layered, in.ImageMounts = false, map[int][]string{0: {"/1", "/2"}}
	in.Config.Mounts = []Mount{{ContainerPath: "/a", Image: "i", Readonly: true}}
	if _, err := Container(in); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "mounts[0].image") {
		t.Errorf("layers on an old kernel: %v", err)
	}
	in = testInput()
	in.Sandbox.Namespaces = nil
	if _, err := Container(in); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "network") {
		t.Errorf("a sandbox without namespaces: %v", err)
	}
}

func TestArguments(t *testing.T) {
	in := testInput() // Entrypoint /entry, Cmd -f
	for _, c := range []struct {
		command, args []string
		want          string
	}{
		{nil, nil, "/entry -f"},
		{nil, []string{"x"}, "/entry x"},
		{[]string{"c"}, nil, "c"},
		{[]string{"c"}, []string{"x"}, "c x"},
	} {
		if got := strings.Join(arguments(&ContainerConfig{Command: c.command, Args: c.args}, in.Image), " "); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.command, c.args, got, c.want)
		}
	}
}

func TestExec(t *testing.T) {
	base := &specs.Process{Args: []string{"main"}, Env: []string{"A=1", "HOME=/x"}, Cwd: "/w", Terminal: true, Capabilities: &specs.LinuxCapabilities{}}
	in := ExecInput{
		Container: base, Args: []string{"ls"}, TTY: true, Env: []KeyValue{{"A", "2"}}, WorkingDir: "/v/../y", User: "www",
		Accounts: testInput().Accounts, Host: &Host{Capabilities: []string{"CAP_BPF"}}, Privileged: true,
	}
	p, err := Exec(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.Args, p.Env, p.Cwd, p.User.UID, p.User.AdditionalGids, p.Capabilities.Effective, p.Terminal); got !=
		"[ls] [TERM=xterm HOME=/var/www A=2]/y33 [34 40] [CAP_BPF] true" {
		t.Error(got)
	}
	if fmt.Sprint(base.Args, base.Env) != "[main] [A=1 HOME=/x]" {
		t.Errorf("the container's own was changed: %+v", base)
	}
	for want, change := range map[string]func(*ExecInput){
		"cmd: is empty": func(in *ExecInput) { in.Args = nil },
		"cmd[1]":        func(in *ExecInput) { in.Args = []string{"a", "\x00"} },
		"user":          func(in *ExecInput) { in.User = "nobody" },
		"env[0]":        func(in *ExecInput) { in.Env = []KeyValue{{}} },
		"working_dir":   func(in *ExecInput) { in.WorkingDir = "\n" },
	} {
		bad := in
		change(&bad)
		if _, err := Exec(bad); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestFiles(t *testing.T) {
	if got := ResolvConf(&DNS{Servers: []string{"1.1.1.1", "::1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}}); got !=
		"search a b\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5\n" {
		t.Errorf("%q", got)
	}
	if ResolvConf(nil) != "" || ResolvConf(&DNS{}) != "" {
		t.Error("no DNS is not the host's")
	}
	if got := Hosts("web", []string{"10.0.0.1", "fd00::1"}); !strings.HasSuffix(got, "\n10.0.0.1\tweb\nfd00::1\tweb\n") {
		t.Errorf("%q", got)
	}
	long := &PodConfig{Name: strings.Repeat("a", 63) + "-" + "b"}
	if got := Hostname(long); got != strings.Repeat("a", 63) {
		t.Errorf("%q", got)
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("www:logs", []byte("www:x:33:34::/:/\n"), []byte("logs:x:4:www\n"))
	f.Add("1000", []byte("1000:x:0:0:::\n"), []byte{})
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		u, home, err := ResolveUser("user", spec, GroupsMerge, Accounts{Passwd: passwd, Group: group})
		if err != nil {
			return
		}
		if hasControl(home) || !strings.HasPrefix(home, "/") || u.Groups[0] != u.GID {
			t.Errorf("%+v %q", u, home)
		}
	})
}

func TestMountOptions(t *testing.T) {
	in := testInput()
	in.Config.Mounts = []Mount{{ContainerPath: "/a", HostPath: "/b", Readonly: true, Options: []string{"nosuid", "rnoexec", "relatime"}}}
	out, err := Container(in)
	if err != nil {
		t.Fatal(err)
	}
	m := out.Spec.Mounts[len(out.Spec.Mounts)-1]
	if got := strings.Join(m.Options, " "); got != "rbind rprivate ro nosuid rnoexec relatime" {
		t.Errorf("%s: %s", m.Destination, got)
	}
}

func TestSum(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []*Resources
		want  Resources
	}{
		{"nothing", []*Resources{nil, nil}, Resources{}},
		{"sizes and shares add up", []*Resources{{CPUShares: 100, MemoryLimit: 1 << 20, CPUPeriod: 100000, CPUQuota: 10000}, {CPUShares: 20, MemoryLimit: 1 << 10, CPUQuota: 500}},
			Resources{CPUShares: 120, MemoryLimit: 1<<20 + 1<<10, CPUPeriod: 100000, CPUQuota: 10500}},
		{"no limit and one", []*Resources{{CPUQuota: 500}, {CPUQuota: -1}}, Resources{CPUQuota: -1}},
		{"no limit, then one", []*Resources{{CPUQuota: -1}, {CPUQuota: 500}}, Resources{CPUQuota: -1}},
	} {
		if got := Sum(c.parts...); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestCgroupOfASlice(t *testing.T) {
	for parent, want := range map[string][2]string{
		"":                                    {"/strake/box", ""},
		"/pods/x":                             {"/pods/x/box", "/pods/x"},
		"a-b.slice":                           {"a-b.slice:strake:box", "/a.slice/a-b.slice"},
		"/kubepods.slice/kubepods-pod1.slice": {"kubepods-pod1.slice:strake:box", "/kubepods.slice/kubepods-pod1.slice"},
	} {
		c := &PodConfig{CgroupParent: parent}
		if err := validCgroupParent(parent); err != nil {
			t.Errorf("%q: %v", parent, err)
		}
		if got := [2]string{CgroupPath(c, "box"), CgroupParentPath(c)}; got != want {
			t.Errorf("%q: %q, want %q", parent, got, want)
		}
	}
	for _, parent := range []string{"/.slice", "a--b.slice", "/x/a.slice"} {
		if validCgroupParent(parent) == nil {
			t.Errorf("%q was taken", parent)
		}
	}
}

func TestAppArmor(t *testing.T) {
	broken := errors.New("no apparmor_parser")
	runtimeDefault, unconfined, own := &Profile{Type: ProfileRuntimeDefault}, &Profile{Type: ProfileUnconfined}, &Profile{Type: ProfileLocalhost, LocalhostRef: "localhost/own"}
	for name, c := range map[string]struct {
		profile    *Profile
		privileged bool
		host       bool
		loadErr    error
		want       string
		wantErr    string
	}{
		"none, no host support":       {},
		"default, no host support":    {profile: runtimeDefault, wantErr: "the host has no AppArmor"},
		"own, no host support":        {profile: own, wantErr: "the host has no AppArmor"},
		"unconfined, no host support": {profile: unconfined},
		"none":                        {host: true, want: "loaded"},
		"default":                     {host: true, profile: runtimeDefault, want: "loaded"},
		"default that does not load":  {host: true, profile: runtimeDefault, loadErr: broken, wantErr: "no apparmor_parser"},
		"no program to load it":       {host: true, loadErr: fmt.Errorf("load: %w", ErrNoDefaultProfile)},
		"default, no program":         {host: true, profile: runtimeDefault, loadErr: fmt.Errorf("load: %w", ErrNoDefaultProfile), wantErr: "load: no default AppArmor profile"},
		"none that loads":             {host: true, loadErr: broken, wantErr: "no apparmor_parser"},
		"unconfined":                  {host: true, profile: unconfined},
		"own":                         {host: true, profile: own, want: "own"},
		"not loaded":                  {host: true, profile: &Profile{Type: ProfileLocalhost, LocalhostRef: "absent"}, wantErr: `no profile "absent" is loaded: load the file that defines it with apparmor_parser -r`},
		"a stack":                     {host: true, profile: &Profile{Type: ProfileLocalhost, LocalhostRef: "own//&absent"}, want: "own//&absent"},
		"of another namespace":        {host: true, profile: &Profile{Type: ProfileLocalhost, LocalhostRef: ":other:absent"}, want: ":other:absent"},
		"privileged":                  {host: true, privileged: true},
		"privileged, default":         {host: true, privileged: true, profile: runtimeDefault},
		"privileged, own":             {host: true, privileged: true, profile: own, want: "own"},
		"without a name":              {host: true, profile: &Profile{Type: ProfileLocalhost}, wantErr: "localhost_ref"},
	} {
		h := &Host{AppArmor: c.host, DefaultAppArmor: func() (string, error) { return "loaded", c.loadErr }, AppArmorLoaded: func(name string) bool { return name != "absent" }}
		got, err := appArmor(&Security{AppArmor: c.profile, Privileged: c.privileged}, h)
		if c.wantErr == "" && (err != nil || got != c.want) || c.wantErr != "" && (err == nil || !strings.Contains(err.Error(), c.wantErr)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
