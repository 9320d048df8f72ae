package bundle

import (
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/strake-containers/strake/internal/abi"
)

// Limits of what a request may hold; far above use, far below harm.
const (
	maxName     = 253  // as Kubernetes object names
	maxHostname = 64   // HOST_NAME_MAX
	maxPath     = 4095 // PATH_MAX without its NUL
	maxList     = 4096 // mounts, devices, variables, mappings …
	maxArgs     = 2 << 20
)

// ValidatePod refuses what no pod can have, by the name of the field, before
// anything is made. What only the host can refuse shows later.
func ValidatePod(c *PodConfig) error {
	if c.Name == "" {
		return invalid("metadata.name", "is empty")
	}
	for _, f := range []struct{ field, value string }{
		{"metadata.name", c.Name}, {"metadata.namespace", c.Namespace}, {"metadata.uid", c.UID},
	} {
		if len(f.value) > maxName || hasControl(f.value) {
			return invalid(f.field, "%q is longer than %d bytes or has control characters", f.value, maxName)
		}
	}
	if err := validHostname("hostname", c.Hostname); err != nil {
		return err
	}
	if c.LogDirectory != "" {
		if err := absolute("log_directory", c.LogDirectory); err != nil {
			return err
		}
	}
	if err := validDNS(c.DNS); err != nil {
		return err
	}
	for i, p := range c.PortMappings {
		if err := validPort(index("port_mappings", i), p); err != nil {
			return err
		}
	}
	if err := validCgroupParent(c.CgroupParent); err != nil {
		return err
	}
	if err := validPodNamespaces(c.Namespaces); err != nil {
		return err
	}
	return validSysctls(c)
}

// ValidateContainer is ValidatePod for a container of pod p.
func ValidateContainer(p *PodConfig, c *ContainerConfig) error {
	if c.Name == "" {
		return invalid("metadata.name", "is empty")
	}
	if len(c.Name) > maxName || hasControl(c.Name) {
		return invalid("metadata.name", "%q is longer than %d bytes or has control characters", c.Name, maxName)
	}
	if c.Image == "" {
		return invalid("image.image", "is empty")
	}
	if c.LogPath != "" {
		// Relative to LogDirectory and never out of it.
		if path.IsAbs(c.LogPath) || hasControl(c.LogPath) || len(c.LogPath) > maxPath || climbs(c.LogPath) {
			return invalid("log_path", "%q: has to be a path below log_directory", c.LogPath)
		}
		if p.LogDirectory == "" {
			return invalid("log_path", "%q: the pod has no log_directory", c.LogPath)
		}
	}
	if err := validStrings(c); err != nil {
		return err
	}
	for i := range c.Mounts {
		if err := validMount(index("mounts", i), &c.Mounts[i]); err != nil {
			return err
		}
	}
	for i, d := range c.Devices {
		if err := validDevice(index("devices", i), d); err != nil {
			return err
		}
	}
	if len(c.CDIDevices) > maxList {
		return invalid("CDI_devices", "more than %d", maxList)
	}
	if c.Security.Privileged && !p.Security.Privileged {
		return invalid("linux.security_context.privileged", "the pod sandbox is not privileged")
	}
	if _, err := ParseSignal(c.StopSignal); c.StopSignal != "" && err != nil {
		return err
	}
	return validNamespaces(p, &c.Namespaces)
}

func validNamespaces(p *PodConfig, n *Namespaces) error {
	const field = "linux.security_context.namespace_options"
	if n.PID == NamespaceTarget && n.TargetID == "" {
		return invalid(field+".target_id", "is empty with pid mode TARGET")
	}
	if p.UserNS() != nil && n.PID == NamespaceNode {
		return unsupported(field+".pid", "NODE with a user namespace of the pod's own")
	}
	if u := n.User; u != nil {
		own := p.UserNS()
		if (u.Mode == NamespacePod) != (own != nil) || own != nil && (!slices.Equal(u.UIDs, own.UIDs) || !slices.Equal(u.GIDs, own.GIDs)) {
			return invalid(field+".userns_options", "is another than the pod's")
		}
	}
	return nil
}

func validHostname(field, h string) error {
	if len(h) > maxHostname {
		return invalid(field, "%q is longer than %d bytes", h, maxHostname)
	}
	ok := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '.' || r == '_'
	}
	if strings.ContainsFunc(h, func(r rune) bool { return !ok(r) }) {
		return invalid(field, "%q: only letters, digits, '-', '.' and '_'", h)
	}
	return nil
}

func validDNS(d *DNS) error {
	if d == nil {
		return nil
	}
	for _, l := range []struct {
		field  string
		values []string
	}{{"dns_config.servers", d.Servers}, {"dns_config.searches", d.Searches}, {"dns_config.options", d.Options}} {
		if len(l.values) > maxList {
			return invalid(l.field, "more than %d", maxList)
		}
		for i, v := range l.values {
			// Blanks would become entries of their own, newlines lines.
			if v == "" || hasControl(v) || strings.Contains(v, " ") {
				return invalid(index(l.field, i), "%q is empty or has blanks", v)
			}
		}
	}
	return nil
}

func validPort(field string, p PortMapping) error {
	switch p.Protocol {
	case "", "tcp", "udp", "sctp":
	default:
		return invalid(field+".protocol", "%q: tcp, udp or sctp", p.Protocol)
	}
	if p.HostPort < 0 || p.HostPort > 65535 {
		return invalid(field+".host_port", "%d", p.HostPort)
	}
	if p.HostPort != 0 && (p.ContainerPort < 1 || p.ContainerPort > 65535) {
		return invalid(field+".container_port", "%d", p.ContainerPort)
	}
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(p.HostIP); err != nil {
			return invalid(field+".host_ip", "%q is no address", p.HostIP)
		}
	}
	return nil
}

func validCgroupParent(p string) error {
	const field = "linux.cgroup_parent"
	switch {
	case p == "":
		return nil
	case isSlice(p):
		// The kubelet gives the slice's whole path; its name says it all.
		whole, err := abi.ExpandSlice(path.Base(p))
		if err != nil {
			return invalid(field, "%v", err)
		}
		if p != path.Base(p) && p != whole {
			return invalid(field, "%q: systemd has this slice at %s", p, whole)
		}
		return nil
	case !path.IsAbs(p) || climbs(p) || hasControl(p) || strings.Contains(p, ":") || len(p) > maxPath:
		return invalid(field, "%q: has to be an absolute path below the cgroup root", p)
	}
	return nil
}

func validPodNamespaces(n Namespaces) error {
	const field = "linux.security_context.namespace_options"
	for _, m := range []struct {
		name string
		mode NamespaceMode
	}{{".network", n.Network}, {".ipc", n.IPC}} {
		if m.mode != NamespacePod && m.mode != NamespaceNode {
			return invalid(field+m.name, "%q: POD or NODE", m.mode)
		}
	}
	switch n.PID {
	case NamespacePod, NamespaceContainer, NamespaceNode:
	default:
		return invalid(field+".pid", "%q: POD, CONTAINER or NODE", n.PID)
	}
	return validUserNS(field, &n)
}

// validUserNS: a user namespace of the pod's own owns those of its containers,
// which the host's IPC and PID namespaces cannot be.
func validUserNS(field string, n *Namespaces) error {
	u := n.User
	switch {
	case u == nil:
		return nil
	case u.Mode == NamespaceNode:
		if len(u.UIDs)+len(u.GIDs) > 0 {
			return invalid(field+".userns_options.uids", "the node's user namespace has no mappings")
		}
		return nil
	case u.Mode != NamespacePod:
		return invalid(field+".userns_options.mode", "%q: POD or NODE", u.Mode)
	case n.IPC == NamespaceNode:
		return unsupported(field+".ipc", "NODE with a user namespace of the pod's own")
	case n.PID == NamespaceNode:
		return unsupported(field+".pid", "NODE with a user namespace of the pod's own")
	}
	for _, t := range []struct {
		name  string
		table []IDMapping
	}{{".userns_options.uids", u.UIDs}, {".userns_options.gids", u.GIDs}} {
		if err := validIDs(field+t.name, t.table); err != nil {
			return err
		}
		if !slices.ContainsFunc(t.table, func(m IDMapping) bool { return m.ContainerID == 0 }) {
			return invalid(field+t.name, "has no id for root (container_id 0)")
		}
	}
	return nil
}

// maxMappings is the kernel's limit (user_namespaces(7)).
const maxMappings = 340

// validIDs refuses a table that the kernel would not take.
func validIDs(field string, table []IDMapping) error {
	if len(table) > maxMappings {
		return invalid(field, "%d entries, the kernel takes %d", len(table), maxMappings)
	}
	overlap := func(a, b, n, m uint32) bool {
		return uint64(a) < uint64(b)+uint64(m) && uint64(b) < uint64(a)+uint64(n)
	}
	for i, m := range table {
		if m.Length == 0 || uint64(m.HostID)+uint64(m.Length) > math.MaxUint32 || uint64(m.ContainerID)+uint64(m.Length) > math.MaxUint32 {
			return invalid(index(field, i), "maps no ids, or some that do not exist")
		}
		for _, o := range table[:i] {
			if overlap(m.HostID, o.HostID, m.Length, o.Length) || overlap(m.ContainerID, o.ContainerID, m.Length, o.Length) {
				return invalid(index(field, i), "overlaps another")
			}
		}
	}
	return nil
}

// validSysctls lets through what belongs to a namespace of the pod.
func validSysctls(c *PodConfig) error {
	for key := range c.Sysctls {
		field := "linux.sysctls[" + key + "]"
		name := strings.ReplaceAll(key, "/", ".")
		if hasControl(key) || hasControl(c.Sysctls[key]) || strings.Contains(name, "..") || strings.HasPrefix(name, ".") {
			return invalid(field, "is no name of a sysctl")
		}
		switch {
		case strings.HasPrefix(name, "net."):
			if c.Namespaces.Network == NamespaceNode {
				return invalid(field, "the pod has the host's network namespace")
			}
		case name == "kernel.sem", strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"),
			strings.HasPrefix(name, "fs.mqueue."):
			if c.Namespaces.IPC == NamespaceNode {
				return invalid(field, "the pod has the host's IPC namespace")
			}
		default:
			return invalid(field, "is not one of a pod's namespaces (net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*)")
		}
	}
	return nil
}

// validStrings refuses what execve cannot pass.
func validStrings(c *ContainerConfig) error {
	total := 0
	for _, l := range []struct {
		field  string
		values []string
	}{{"command", c.Command}, {"args", c.Args}} {
		for i, v := range l.values {
			if total += len(v) + 1; total > maxArgs || strings.Contains(v, "\x00") {
				return invalid(index(l.field, i), "has a NUL or is too long")
			}
		}
	}
	for i, e := range c.Env {
		total += len(e.Key) + len(e.Value) + 2
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || strings.Contains(e.Value, "\x00") || total > maxArgs {
			return invalid(index("envs", i), "%q is no name of a variable, has a NUL or is too long", e.Key)
		}
	}
	if c.WorkingDir != "" && (hasControl(c.WorkingDir) || len(c.WorkingDir) > maxPath) {
		return invalid("working_dir", "%q", c.WorkingDir)
	}
	return nil
}

func validMount(field string, m *Mount) error {
	if err := absolute(field+".container_path", m.ContainerPath); err != nil {
		return err
	}
	if path.Clean(m.ContainerPath) == "/" {
		return invalid(field+".container_path", "the root itself cannot be mounted over")
	}
	switch {
	case m.Image != "":
		if m.ImageSubPath != "" && (path.IsAbs(m.ImageSubPath) || climbs(m.ImageSubPath) || hasControl(m.ImageSubPath)) {
			return invalid(field+".image_sub_path", "%q: has to be a path inside the image", m.ImageSubPath)
		}
		if !m.Readonly {
			return invalid(field+".readonly", "an image is mounted read-only")
		}
	case m.Tmpfs > 0:
	default:
		if err := absolute(field+".host_path", m.HostPath); err != nil {
			return err
		}
	}
	switch m.Propagation {
	case PropagationPrivate, PropagationHostToContainer, PropagationBidirectional:
	default:
		return invalid(field+".propagation", "%q", m.Propagation)
	}
	if m.RecursiveReadOnly && !m.Readonly {
		return invalid(field+".recursive_read_only", "needs readonly")
	}
	if m.RecursiveReadOnly && m.Propagation != PropagationPrivate {
		return invalid(field+".recursive_read_only", "needs private propagation")
	}
	if (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0) {
		return invalid(field+".uid_mappings", "uid_mappings and gid_mappings come together")
	}
	if err := validIDs(field+".uid_mappings", m.UIDMappings); err != nil {
		return err
	}
	if err := validIDs(field+".gid_mappings", m.GIDMappings); err != nil {
		return err
	}
	for i, o := range m.Options {
		if !slices.Contains(bindOptions, strings.TrimPrefix(o, "r")) && !slices.Contains(bindOptions, o) {
			return invalid(index(field+".mount_options", i), "%q: one of %s, or with \"r\" before it for the mounts below as well", o, strings.Join(bindOptions, " "))
		}
	}
	if len(m.Options) > 0 && (m.Image != "" || m.Tmpfs > 0) {
		return unsupported(field+".mount_options", "of an image or a tmpfs")
	}
	return nil
}

func validDevice(field string, d Device) error {
	if err := absolute(field+".host_path", d.HostPath); err != nil {
		return err
	}
	if d.ContainerPath != "" {
		if err := absolute(field+".container_path", d.ContainerPath); err != nil {
			return err
		}
	}
	if strings.Trim(d.Permissions, "rwm") != "" {
		return invalid(field+".permissions", "%q: of r, w and m", d.Permissions)
	}
	return nil
}

// absolute refuses what is no clean-able absolute path.
func absolute(field, p string) error {
	if !path.IsAbs(p) || len(p) > maxPath || hasControl(p) {
		return invalid(field, "%q is not an absolute path", p)
	}
	if climbs(p) {
		return invalid(field, "%q has \"..\" in it", p)
	}
	return nil
}

// climbs reports whether a path has a ".." component.
func climbs(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
