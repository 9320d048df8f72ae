package plan

import (
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hostPaths are the paths of the host that a config and its caller name, and the
// few that are the compiler's own.
func hostPaths(s *specs.Spec, h Host, cfg Config) map[string]bool {
	abs := func(p string) string {
		if path.IsAbs(p) {
			return p
		}
		return path.Join(cfg.Bundle, p)
	}
	ok := map[string]bool{"/": true, "/dev/null": true, abs(s.Root.Path): true, cfg.RootfsParent: true}
	for _, m := range s.Mounts {
		ok[abs(m.Source)] = true
	}
	for _, m := range cfg.RootfsMounts {
		ok[m.Source] = true
	}
	for _, d := range append(s.Linux.Devices, defaultDevices...) {
		ok[path.Clean(d.Path)] = true
	}
	for _, c := range h.CgroupV1 {
		ok[c.Mountpoint+cfg.CgroupPath] = true
	}
	if h.CgroupV2 {
		ok["/sys/fs/cgroup"] = true // which a user namespace may not mount itself
	}
	for _, f := range cfg.CgroupJoin {
		ok[f] = true
	}
	for _, n := range s.Linux.Namespaces {
		ok[n.Path] = true
	}
	if s.Hooks != nil {
		for _, hook := range s.Hooks.CreateContainer {
			ok[hook.Path] = true
		}
	}
	return ok
}

// checkPaths: a program never names a path outside of the rootfs but where the
// config asks for it, until the rootfs is the root.
func checkPaths(t *testing.T, p *Program, s *specs.Spec, h Host, cfg Config) {
	t.Helper()
	ok := hostPaths(s, h, cfg)
	for _, in := range p.Inputs {
		if in.Path != "" && !ok[in.Path] {
			t.Errorf("input %s: path %s", in.Kind, in.Path)
		}
	}
	proc := p.Input(InProc).Reg
	for i := range p.Ops {
		o := &p.Ops[i]
		switch {
		case o.Do == OpPivot || o.Do == OpChroot:
			return // the root is the container's
		case o.Do == OpFsopen || o.Path == "" || o.Path == "." && o.Do == OpUmount:
		case o.Dir == proc && o.Do == OpWrite:
			if !strings.HasPrefix(o.Path, "self/") && !strings.HasPrefix(o.Path, "sys/") || strings.Contains(o.Path, "..") {
				t.Errorf("operation %d writes to %s of the host's /proc", i, o.Path)
			}
		case (o.Dir == 0 || o.Do == OpHook) && !ok[o.Path]:
			t.Errorf("operation %d names %s: %s", i, o.Path, o)
		}
	}
}

func TestProgramsNameNoOtherPaths(t *testing.T) {
	for _, name := range []string{"default", "docker", "pod", "userns", "shared"} {
		for _, h := range []Host{testHost, v1Host()} {
			for _, change := range []func(*specs.Spec){
				func(*specs.Spec) {},
				func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, specs.Mount{Destination: "/../../escape", Source: "/vol", Options: []string{"bind"}})
					s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/../../etc/shadow")
					s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/../../x/y", Type: "p"})
					s.Process.Cwd = "/../../tmp"
					s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/hook"}}, StartContainer: []specs.Hook{{Path: "/inside"}}}
				},
			} {
				s := readConfig(t, name)
				change(s)
				cfg := Config{ID: "c", Bundle: "/bundle", CgroupPath: "/c", CgroupJoin: []string{"/sys/fs/cgroup/memory/c/tasks"}}
				p, err := Create(s, h, cfg)
				if err != nil {
					if h.Kernel == testHost.Kernel {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				checkPaths(t, p, s, h, cfg)
			}
		}
	}
}
