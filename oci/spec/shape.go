package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/leanjson"
)

// The shape of a config, for leanjson: what runc spec, containerd, CRI-O, Docker
// and Podman write. Rarer members are read by encoding/json, one by one (Other);
// with one that is not named here at all, encoding/json reads the whole config.

type reader = leanjson.Reader

// readSpec reads an ordinary config; ok is false for one that is not.
func readSpec(data []byte) (s *specs.Spec, ok bool) {
	r := leanjson.NewReader(data)
	s = new(specs.Spec)
	config(r, s)
	return s, r.Done()
}

// readProcess reads an ordinary process.json.
func readProcess(data []byte) (p *specs.Process, ok bool) {
	r := leanjson.NewReader(data)
	p = new(specs.Process)
	process(r, p)
	return p, r.Done()
}

func config(r *reader, s *specs.Spec) {
	r.Object(func(name string) bool {
		switch name {
		case "ociVersion":
			leanjson.Text(r, &s.Version)
		case "process":
			leanjson.Pointer(r, &s.Process, process)
		case "root":
			leanjson.Pointer(r, &s.Root, root)
		case "hostname":
			leanjson.Text(r, &s.Hostname)
		case "domainname":
			leanjson.Text(r, &s.Domainname)
		case "mounts":
			leanjson.List(r, &s.Mounts, mount)
		case "hooks":
			leanjson.Other(r, &s.Hooks)
		case "annotations":
			leanjson.TextMap(r, &s.Annotations)
		case "linux":
			leanjson.Pointer(r, &s.Linux, linux)
		default:
			return false
		}
		return true
	})
}

func process(r *reader, p *specs.Process) {
	r.Object(func(name string) bool {
		switch name {
		case "terminal":
			leanjson.Bool(r, &p.Terminal)
		case "consoleSize":
			leanjson.Other(r, &p.ConsoleSize)
		case "user":
			user(r, &p.User)
		case "args":
			leanjson.Texts(r, &p.Args)
		case "commandLine":
			leanjson.Text(r, &p.CommandLine)
		case "env":
			leanjson.Texts(r, &p.Env)
		case "cwd":
			leanjson.Text(r, &p.Cwd)
		case "capabilities":
			leanjson.Pointer(r, &p.Capabilities, capabilities)
		case "rlimits":
			leanjson.List(r, &p.Rlimits, rlimit)
		case "noNewPrivileges":
			leanjson.Bool(r, &p.NoNewPrivileges)
		case "apparmorProfile":
			leanjson.Text(r, &p.ApparmorProfile)
		case "oomScoreAdj":
			leanjson.Pointer(r, &p.OOMScoreAdj, leanjson.Int[int])
		case "scheduler":
			leanjson.Other(r, &p.Scheduler)
		case "selinuxLabel":
			leanjson.Text(r, &p.SelinuxLabel)
		case "ioPriority":
			leanjson.Other(r, &p.IOPriority)
		case "execCPUAffinity":
			leanjson.Other(r, &p.ExecCPUAffinity)
		default:
			return false
		}
		return true
	})
}

func user(r *reader, u *specs.User) {
	r.Object(func(name string) bool {
		switch name {
		case "uid":
			leanjson.Uint(r, &u.UID)
		case "gid":
			leanjson.Uint(r, &u.GID)
		case "umask":
			leanjson.Pointer(r, &u.Umask, leanjson.Uint[uint32])
		case "additionalGids":
			leanjson.List(r, &u.AdditionalGids, leanjson.Uint[uint32])
		case "username":
			leanjson.Text(r, &u.Username)
		default:
			return false
		}
		return true
	})
}

func capabilities(r *reader, c *specs.LinuxCapabilities) {
	r.Object(func(name string) bool {
		switch name {
		case "bounding":
			leanjson.Texts(r, &c.Bounding)
		case "effective":
			leanjson.Texts(r, &c.Effective)
		case "inheritable":
			leanjson.Texts(r, &c.Inheritable)
		case "permitted":
			leanjson.Texts(r, &c.Permitted)
		case "ambient":
			leanjson.Texts(r, &c.Ambient)
		default:
			return false
		}
		return true
	})
}

func rlimit(r *reader, l *specs.POSIXRlimit) {
	r.Object(func(name string) bool {
		switch name {
		case "type":
			leanjson.Text(r, &l.Type)
		case "hard":
			leanjson.Uint(r, &l.Hard)
		case "soft":
			leanjson.Uint(r, &l.Soft)
		default:
			return false
		}
		return true
	})
}

func root(r *reader, o *specs.Root) {
	r.Object(func(name string) bool {
		switch name {
		case "path":
			leanjson.Text(r, &o.Path)
		case "readonly":
			leanjson.Bool(r, &o.Readonly)
		default:
			return false
		}
		return true
	})
}

func mount(r *reader, m *specs.Mount) {
	r.Object(func(name string) bool {
		switch name {
		case "destination":
			leanjson.Text(r, &m.Destination)
		case "type":
			leanjson.Text(r, &m.Type)
		case "source":
			leanjson.Text(r, &m.Source)
		case "options":
			leanjson.Texts(r, &m.Options)
		case "uidMappings":
			leanjson.List(r, &m.UIDMappings, idMapping)
		case "gidMappings":
			leanjson.List(r, &m.GIDMappings, idMapping)
		default:
			return false
		}
		return true
	})
}

func idMapping(r *reader, m *specs.LinuxIDMapping) {
	r.Object(func(name string) bool {
		switch name {
		case "containerID":
			leanjson.Uint(r, &m.ContainerID)
		case "hostID":
			leanjson.Uint(r, &m.HostID)
		case "size":
			leanjson.Uint(r, &m.Size)
		default:
			return false
		}
		return true
	})
}

func linux(r *reader, l *specs.Linux) {
	r.Object(func(name string) bool {
		switch name {
		case "uidMappings":
			leanjson.List(r, &l.UIDMappings, idMapping)
		case "gidMappings":
			leanjson.List(r, &l.GIDMappings, idMapping)
		case "sysctl":
			leanjson.TextMap(r, &l.Sysctl)
		case "resources":
			leanjson.Pointer(r, &l.Resources, resources)
		case "cgroupsPath":
			leanjson.Text(r, &l.CgroupsPath)
		case "namespaces":
			leanjson.List(r, &l.Namespaces, namespace)
		case "devices":
			leanjson.List(r, &l.Devices, device)
		case "netDevices":
			leanjson.Other(r, &l.NetDevices)
		case "seccomp":
			leanjson.Pointer(r, &l.Seccomp, seccomp)
		case "rootfsPropagation":
			leanjson.Text(r, &l.RootfsPropagation)
		case "maskedPaths":
			leanjson.Texts(r, &l.MaskedPaths)
		case "readonlyPaths":
			leanjson.Texts(r, &l.ReadonlyPaths)
		case "mountLabel":
			leanjson.Text(r, &l.MountLabel)
		case "intelRdt":
			leanjson.Other(r, &l.IntelRdt)
		case "memoryPolicy":
			leanjson.Other(r, &l.MemoryPolicy)
		case "personality":
			leanjson.Other(r, &l.Personality)
		case "timeOffsets":
			leanjson.Other(r, &l.TimeOffsets)
		default:
			return false
		}
		return true
	})
}

func namespace(r *reader, n *specs.LinuxNamespace) {
	r.Object(func(name string) bool {
		switch name {
		case "type":
			leanjson.Text(r, &n.Type)
		case "path":
			leanjson.Text(r, &n.Path)
		default:
			return false
		}
		return true
	})
}

func device(r *reader, d *specs.LinuxDevice) {
	r.Object(func(name string) bool {
		switch name {
		case "path":
			leanjson.Text(r, &d.Path)
		case "type":
			leanjson.Text(r, &d.Type)
		case "major":
			leanjson.Int(r, &d.Major)
		case "minor":
			leanjson.Int(r, &d.Minor)
		case "fileMode":
			leanjson.Other(r, &d.FileMode)
		case "uid":
			leanjson.Pointer(r, &d.UID, leanjson.Uint[uint32])
		case "gid":
			leanjson.Pointer(r, &d.GID, leanjson.Uint[uint32])
		default:
			return false
		}
		return true
	})
}
