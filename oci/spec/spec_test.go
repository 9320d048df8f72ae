package spec

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func valid() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}}},
	}
}

func TestValidate(t *testing.T) {
	umask := uint32(0o1777)
	adj := 1001
	zero := 0
	many := make([]specs.LinuxIDMapping, 341)
	for _, tt := range []struct {
		change func(*specs.Spec)
		want   string // "" is valid
	}{
		{func(*specs.Spec) {}, ""},
		{func(s *specs.Spec) { s.Version = "" }, "ociVersion: invalid config: is missing"},
		{func(s *specs.Spec) { s.Version = "2.0.0" }, "ociVersion:"},
		{func(s *specs.Spec) { s.Root = nil }, "root.path:"},
		{func(s *specs.Spec) { s.Windows = &specs.Windows{} }, "windows: not supported"},
		{func(s *specs.Spec) { s.Process.Args = nil }, "process.args: invalid config: must name a program"},
		{func(s *specs.Spec) { s.Process.Args = []string{"a", "b\x00c"} }, "process.args[1]: invalid config: contains a NUL"},
		{func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd: invalid config: "tmp" is not an absolute path`},
		{func(s *specs.Spec) { s.Process.User.Umask = &umask }, "process.user.umask:"},
		{func(s *specs.Spec) { s.Process.OOMScoreAdj = &adj }, "process.oomScoreAdj:"},
		{func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, "process.rlimits[0].type:"},
		{func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}} }, "process.rlimits[0]: invalid config: soft limit 2"},
		{func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Effective: []string{"CAP_KILL"}}
		}, "process.capabilities.effective:"},
		{func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "relative" }, "linux.namespaces[2].path:"},
		{func(s *specs.Spec) { s.Linux.Namespaces[2].Type = "x" }, "linux.namespaces[2].type:"},
		{func(s *specs.Spec) { s.Linux.Namespaces[2].Type = specs.UTSNamespace }, "uts is there twice"},
		{func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, ""},
		{func(s *specs.Spec) { s.Linux.Namespaces, s.Hostname = s.Linux.Namespaces[:1], "h" }, "hostname: invalid config: needs a UTS"},
		{func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, "linux.uidMappings:"},
		{func(s *specs.Spec) { s.Linux.UIDMappings = many[:1] }, "linux.uidMappings: invalid config: needs a user namespace"},
		{func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs", UIDMappings: many}}
		}, "mounts[0].uidMappings: invalid config: 341 entries"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} }, "linux.sysctl[kernel.panic]: invalid config: belongs to no namespace"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/panic": "1"} }, "is not a sysctl's name"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.ipv4.conf.eth0/1.forwarding": "1"} }, ""},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/ipv4/conf/eth0..1/forwarding": "1"} }, ""},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.//.kernel.panic": "1"} }, "is not a sysctl's name"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/ipv4/./ip_forward": "1"} }, "is not a sysctl's name"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/ipv4/": "1"} }, "is not a sysctl's name"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/ipv4.ip_forward": "1"} }, ""},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel/domainname": "d"} }, ""},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.hostname": "h"} }, "linux.sysctl[kernel.hostname]: invalid config: conflicts with the field hostname"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel/hostname": "h"} }, "conflicts with the field hostname"},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"fs.mqueue.msg_max": "1"} }, ""},
		{func(s *specs.Spec) {
			s.Linux.Namespaces, s.Linux.Sysctl = s.Linux.Namespaces[:2], map[string]string{"net.core.somaxconn": "1"}
		}, "needs a network namespace"},
		{func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x"}} }, "mounts[0].type:"},
		{func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x", Type: "bind"}} }, "mounts[0].source:"},
		{func(s *specs.Spec) { s.Mounts = []specs.Mount{{Type: "tmpfs"}} }, "mounts[0].destination:"},
		{func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc"} }, "linux.maskedPaths[0]:"},
		{func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "q"}} }, "linux.devices[0].type:"},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=f"}} }, ""},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "/"} }, ""},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "a/b"} }, "linux.intelRdt.closID:"},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: ".."} }, "linux.intelRdt.closID:"},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "L3:0=f"} }, "linux.intelRdt.memBwSchema:"},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f\nMB:0=1"} }, "linux.intelRdt.l3CacheSchema:"},
		{func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"a", "b\nc"}} }, "linux.intelRdt.schemata[1]:"},
		{func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {Name: "a%d"}} }, ""},
		{func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a/b": {}} }, "linux.netDevices[a/b]:"},
		{func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "0123456789abcdef"}}
		}, "linux.netDevices[a].name:"},
		{func(s *specs.Spec) {
			s.Linux.Namespaces, s.Linux.NetDevices = s.Linux.Namespaces[:2], map[string]specs.LinuxNetDevice{"a": {}}
		}, "linux.netDevices: invalid config: needs a network namespace"},
		{func(s *specs.Spec) {
			s.Domainname, s.Linux.Sysctl = "a", map[string]string{"kernel.domainname": "b"}
		}, "linux.sysctl[kernel.domainname]: invalid config: conflicts with the field domainname"},
		{func(s *specs.Spec) {
			s.Domainname, s.Linux.Sysctl = "b", map[string]string{"kernel.domainname": "b"}
		}, ""},
		{func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.domainname": "b"} }, ""},
		{func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerMetadata: "m"} }, "linux.seccomp.listenerMetadata:"},
		{func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, "linux.timeOffsets:"},
		{func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "x"}}} }, "hooks.poststop[0].path:"},
		{func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/x", Timeout: &zero}}}
		}, "hooks.poststart[0].timeout:"},
	} {
		s := valid()
		tt.change(s)
		err := Validate(s)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v is of no class", err)
		}
	}
}

func TestDecodeCompletes(t *testing.T) {
	s, err := Decode([]byte(`{"ociVersion":"1.2.0","root":{"path":"r"},"process":{"args":["x"]},"linux":{"namespaces":[{"type":"mount"}]},"unknown":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.Process.Cwd != "/" {
		t.Errorf("cwd %q", s.Process.Cwd)
	}
	for _, bad := range []string{"", "{", "[]", `{"process":{"args":"x"}}`, "null", strings.Repeat(" ", MaxSize+1)} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%.20q is taken", bad)
		}
	}
}

func FuzzDecodeProcess(f *testing.F) {
	data, err := json.Marshal(valid().Process)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := DecodeProcess(data); err == nil && len(p.Args) == 0 {
			t.Error("a process without a program is taken")
		}
	})
}
