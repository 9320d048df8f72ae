package bundle

import (
	"maps"
	"math"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// ShmSize is the size of a pod's /dev/shm, as docker's.
const ShmSize = "65536k"

// DefaultCgroupParent is where containers go whose pod names no parent.
const DefaultCgroupParent = "/strake"

// The annotations by which runtimes that keep sandboxes (Kata, gVisor) know what
// they are given.
const (
	annotationType      = "io.kubernetes.cri.container-type"
	annotationPod       = "io.kubernetes.cri.sandbox-id"
	annotationPodName   = "io.kubernetes.cri.sandbox-name"
	annotationNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationUID       = "io.kubernetes.cri.sandbox-uid"
	annotationContainer = "io.kubernetes.cri.container-name"
)

// oldVersion of the runtime-spec has all that is asked of other runtimes; many refuse
// one that is newer than they are.
const oldVersion = "1.0.2"

// ForOthers makes a spec one for another runtime than the monitor. Without a sandbox
// (an OCI runtime's program has no verb for one) it must not look like a part of one.
func ForOthers(spec *specs.Spec, sandbox bool) {
	spec.Version = oldVersion
	if !sandbox {
		delete(spec.Annotations, annotationType)
		delete(spec.Annotations, annotationPod)
	}
}

// PodInput is what a pod's sandbox spec is made from.
type PodInput struct {
	ID     string
	Config *PodConfig
	NetNS  string // path; "" with the host's network
	Labels Labels
}

// Sandbox is what a container needs of its pod's sandbox once that runs. Empty
// fields are not there.
type Sandbox struct {
	// Namespaces are paths to join: "network", "ipc", "uts", "pid".
	Namespaces map[string]string
	Shm        string // what is bind mounted on /dev/shm
	// Host paths of the files that the pod's containers share.
	Hosts, Hostname, ResolvConf string
}

// Pod compiles the spec of a pod's namespaces: new ones to be pinned, the ready
// made network's by its path. It has no process and no root.
func Pod(in PodInput) (*specs.Spec, error) {
	c := in.Config
	if err := ValidatePod(c); err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Annotations: map[string]string{
			annotationType: "sandbox", annotationPod: in.ID, annotationPodName: c.Name,
			annotationNamespace: c.Namespace, annotationUID: c.UID,
		},
		Linux: &specs.Linux{CgroupsPath: CgroupPath(c, in.ID), MountLabel: in.Labels.Mount},
	}
	add := func(t specs.LinuxNamespaceType, nsPath string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: nsPath})
	}
	user := c.UserNS()
	if user != nil {
		add(specs.UserNamespace, "")
		s.Linux.UIDMappings, s.Linux.GIDMappings = idMappings(user.UIDs), idMappings(user.GIDs)
		in.NetNS = "" // to be owned by the user namespace, it is made in it
	}
	if c.Namespaces.Network == NamespacePod {
		add(specs.NetworkNamespace, in.NetNS)
		add(specs.UTSNamespace, "")
		s.Hostname = Hostname(c)
	}
	if c.Namespaces.IPC == NamespacePod {
		add(specs.IPCNamespace, "")
		options := []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + ShmSize}
		if user != nil {
			uid, gid := user.Root()
			options = append(options, "uid="+strconv.Itoa(uid), "gid="+strconv.Itoa(gid))
		}
		if l := in.Labels.Mount; l != "" {
			options = append(options, "context="+l)
		}
		s.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: options}}
	}
	if c.Namespaces.PID == NamespacePod {
		add(specs.PIDNamespace, "")
	}
	s.Linux.Sysctl = sysctls(c)
	return s, nil
}

// sysctls are those asked for and, as everywhere else today, unprivileged ports
// and ping for a pod with a network of its own.
func sysctls(c *PodConfig) map[string]string {
	set := map[string]string{}
	if c.Namespaces.Network == NamespacePod {
		set["net.ipv4.ip_unprivileged_port_start"] = "0"
		set["net.ipv4.ping_group_range"] = "0 " + strconv.FormatUint(lastGID(c.UserNS()), 10)
	}
	maps.Copy(set, c.Sysctls)
	if len(set) == 0 {
		return nil
	}
	return set
}

// lastGID ends the pod's groups: of a user namespace those that follow its root's.
func lastGID(user *UserNamespace) uint64 {
	if user != nil {
		for _, m := range user.GIDs {
			if m.ContainerID == 0 {
				return uint64(m.Length) - 1
			}
		}
	}
	return math.MaxInt32
}

// Hostname is the pod's UTS host name. A pod's name may be longer than the
// kernel's 64 bytes; its beginning is as good.
func Hostname(c *PodConfig) string {
	if c.Hostname != "" {
		return c.Hostname
	}
	return strings.TrimRight(c.Name[:min(len(c.Name), maxHostname)], ".-")
}

// CgroupPath is where a container (or sandbox) of the pod is put, as its spec's
// linux.cgroupsPath has it: a path or, below a slice of systemd's, slice:prefix:name.
func CgroupPath(c *PodConfig, id string) string {
	switch {
	case c.CgroupParent == "":
		return path.Join(DefaultCgroupParent, id)
	case isSlice(c.CgroupParent):
		return path.Base(c.CgroupParent) + ":strake:" + id
	}
	return path.Join(c.CgroupParent, id)
}

// CgroupParentPath is the path of the pod's own cgroup; "" if it has none.
func CgroupParentPath(c *PodConfig) string {
	if !isSlice(c.CgroupParent) {
		return c.CgroupParent
	}
	p, err := abi.ExpandSlice(path.Base(c.CgroupParent))
	if err != nil {
		return c.CgroupParent // ValidatePod has refused it
	}
	return p
}

func isSlice(cgroupParent string) bool { return strings.HasSuffix(cgroupParent, ".slice") }

// ResolvConf is the text of resolv.conf(5), or "" if the host's is meant.
func ResolvConf(d *DNS) string {
	var b strings.Builder
	if d == nil {
		return ""
	}
	line := func(key string, values ...string) {
		if len(values) > 0 {
			b.WriteString(key + " " + strings.Join(values, " ") + "\n")
		}
	}
	line("search", d.Searches...)
	for _, s := range d.Servers {
		line("nameserver", s)
	}
	line("options", d.Options...)
	return b.String()
}

// Hosts is the text of hosts(5) for a pod with these addresses, primary first.
func Hosts(hostname string, ips []string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	if len(ips) == 0 {
		ips = []string{"127.0.0.1"}
	}
	for _, ip := range ips {
		b.WriteString(ip + "\t" + hostname + "\n")
	}
	return b.String()
}
