package bundle

import (
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultMounts are what every Linux container has, in order (runtime-spec,
// config-linux.md, "Default Filesystems", and what images expect on top).
func defaultMounts(in *ContainerInput) []specs.Mount {
	access := "ro"
	if in.Config.Security.Privileged {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if in.Pod.UserNS() != nil && in.Pod.Namespaces.Network == NamespaceNode {
		// sysfs shows a network namespace, and is mounted only by who owns that.
		mounts[4] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"bind", "rprivate", "nosuid", "noexec", "nodev", access}}
	}
	if in.Sandbox.Shm != "" {
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Sandbox.Shm, Options: []string{"rbind", "nosuid", "noexec", "nodev", "rw"}})
	} else {
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + ShmSize}})
	}
	etc := []string{"rbind", "rprivate", "rw"}
	if in.Config.Security.ReadonlyRootfs {
		etc[2] = "ro"
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/hostname", in.Sandbox.Hostname}, {"/etc/hosts", in.Sandbox.Hosts}, {"/etc/resolv.conf", in.Sandbox.ResolvConf},
	} {
		if f.source != "" {
			mounts = append(mounts, specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: etc})
		}
	}
	return mounts
}

// allMounts puts what was asked for over the defaults: a mount at a default's
// place replaces it, one at /dev everything below /dev, and a mount comes after
// those above it.
func allMounts(in *ContainerInput) ([]specs.Mount, error) {
	asked := make([]specs.Mount, 0, len(in.Config.Mounts))
	for i := range in.Config.Mounts {
		m, err := askedMount(in, i)
		if err != nil {
			return nil, err
		}
		asked = append(asked, m)
	}
	slices.SortStableFunc(asked, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	covered := func(d specs.Mount) bool {
		return slices.ContainsFunc(asked, func(a specs.Mount) bool {
			return a.Destination == d.Destination ||
				(a.Destination == "/dev" || a.Destination == "/sys") && strings.HasPrefix(d.Destination, a.Destination+"/")
		})
	}
	return append(slices.DeleteFunc(defaultMounts(in), covered), asked...), nil
}

// bindOptions are what a mount may ask for beside what has a field of its own.
var bindOptions = []string{"nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime",
	"nodiratime", "diratime", "nosymfollow", "symfollow"}

func askedMount(in *ContainerInput, i int) (specs.Mount, error) {
	m := &in.Config.Mounts[i]
	field := index("mounts", i)
	out := specs.Mount{Destination: path.Clean(m.ContainerPath), Type: "bind", Source: m.HostPath}
	if m.Tmpfs > 0 {
		out.Type, out.Source = "tmpfs", "tmpfs"
		out.Options = []string{"nosuid", "nodev", "mode=1777", "size=" + strconv.FormatInt(m.Tmpfs, 10)}
		return out, nil
	}
	if m.Image != "" {
		layers := in.ImageMounts[i]
		if len(layers) == 0 {
			return out, invalid(field+".image", "%q is not there", m.Image)
		}
		if len(layers) > 1 && !in.Host.Layered {
			return out, unsupported(field+".image", "%q has %d layers, which needs Linux 6.8", m.Image, len(layers))
		}
		if user := in.Pod.UserNS(); user != nil {
			out.UIDMappings, out.GIDMappings = idMappings(user.UIDs), idMappings(user.GIDs)
		}
		if len(layers) > 1 {
			// One option for each: the kernel takes 256 bytes in one.
			out.Type, out.Source, out.Options = "overlay", "overlay", []string{"ro"}
			for _, l := range layers {
				out.Options = append(out.Options, "lowerdir+="+l)
			}
			return out, nil
		}
		out.Source = layers[0]
	}
	out.Options = []string{"rbind"}
	switch m.Propagation {
	case PropagationPrivate:
		out.Options = append(out.Options, "rprivate")
	case PropagationHostToContainer:
		out.Options = append(out.Options, "rslave")
	case PropagationBidirectional:
		out.Options = append(out.Options, "rshared")
	}
	switch {
	case m.RecursiveReadOnly:
		out.Options = append(out.Options, "rro")
	case m.Readonly:
		out.Options = append(out.Options, "ro")
	default:
		out.Options = append(out.Options, "rw")
	}
	out.Options = append(out.Options, m.Options...)
	if len(m.UIDMappings) > 0 {
		out.UIDMappings, out.GIDMappings = idMappings(m.UIDMappings), idMappings(m.GIDMappings)
	}
	if len(out.UIDMappings) > 0 {
		out.Options = append(out.Options, "idmap")
	}
	return out, nil
}

// rootfsPropagation is what the container's root needs for its mounts to
// receive, or send, propagation.
func rootfsPropagation(mounts []Mount) string {
	propagation := ""
	for i := range mounts {
		switch mounts[i].Propagation {
		case PropagationBidirectional:
			return "rshared"
		case PropagationHostToContainer:
			propagation = "rslave"
		case PropagationPrivate:
		}
	}
	return propagation
}

func idMappings(in []IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Length})
	}
	return out
}
