package plan

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// mountSpec is a config with one mount of a caller's.
func mountSpec(kind, options string, maps []specs.LinuxIDMapping) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"x"}, Cwd: "/"}, Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{{Type: kind, Source: "/src", Destination: "/dst", Options: strings.Split(options, ",")}},
		Linux: &specs.Linux{UIDMappings: maps, GIDMappings: maps, Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.UserNamespace}, {Type: specs.PIDNamespace}}},
	}
}

// FuzzMountOptions: any options compile to a program that checkProgram approves of, or
// are refused by the mount's name; and no attribute is both set and taken away but
// where the kernel wants the whole of a field said.
func FuzzMountOptions(f *testing.F) {
	for _, o := range []string{"ro,nosuid,nodev", "rbind,rro,rnoatime", "bind,nodiratime,norelatime,diratime", "mode=755,size=1k,noatime,atime",
		"tmpcopyup,ro", "shared,rslave,unbindable", "idmap", "ridmap=uids=0-0-1#@5-6-7;gids=0-0-1", "bind,context=x", "", ",,=,==", "rrelatime,relatime,strictatime"} {
		for _, kind := range []string{"", "tmpfs", "overlay", "cgroup"} {
			f.Add(kind, o)
		}
	}
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
	f.Fuzz(func(t *testing.T, kind, options string) {
		kind, options = strings.ToValidUTF8(kind, "?"), strings.ToValidUTF8(options, "?") // as JSON has it
		for _, user := range []bool{false, true} {
			s := mountSpec(kind, options, maps)
			if !user {
				s.Linux.Namespaces = s.Linux.Namespaces[:1]
				s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
			}
			p, err := Create(s, testHost, Config{ID: "f", Bundle: "/b"})
			if err != nil {
				if !strings.HasPrefix(err.Error(), "mounts[0] (") {
					t.Errorf("%q %q: error %v", kind, options, err)
				}
				continue
			}
			checkProgram(t, p)
			for i := range p.Ops {
				o := &p.Ops[i]
				if o.Do != OpSetattr {
					continue
				}
				if (o.A|o.B)&relatime != 0 || o.B&abi.MountAttrAtime != 0 && o.B&abi.MountAttrAtime != abi.MountAttrAtime ||
					o.A&o.B&^(abi.MountAttrAtime|abi.MountAttrNodiratime) != 0 {
					t.Errorf("%q %q: %s", kind, options, o.String())
				}
			}
		}
	})
}

// FuzzIDMap: any text of an idmap option is refused or becomes mappings whose every
// number is one that it has, or the user namespace's.
func FuzzIDMap(f *testing.F) {
	for _, text := range []string{"uids=0-0-10;gids=0-0-10", "uids=@0-5-1#1-2-3;gids=@9-9-1", "uids=4294967295-4294967295-4294967295;gids=0-0-0", "uids=;gids=", "#", "@--", "uids=0-0-1", "uids=@0-4294967295-1;gids=0-0-1"} {
		f.Add(text, uint32(0), uint32(1000), uint32(10))
	}
	f.Fuzz(func(t *testing.T, text string, container, host, size uint32) {
		own := []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
		b := newBuilder(mountSpec("", "", own), &testHost, &Config{}, 0)
		b.at("mounts[0]", "")
		ids := &MountIDs{}
		if err := b.optionIDs(ids, text); err != nil {
			if !strings.HasPrefix(err.Error(), "mounts[0]: ") {
				t.Errorf("%q: error %v", text, err)
			}
			return
		}
		for _, m := range []string{ids.UID, ids.GID} {
			for line := range strings.Lines(m) {
				fields := strings.Fields(line)
				if len(fields) != 3 || line != strings.Join(fields, " ")+"\n" || strings.Trim(line, "0123456789 \n") != "" {
					t.Errorf("%q: line %q", text, line)
				}
			}
		}
	})
}
