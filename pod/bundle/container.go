package bundle

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultPath is for images that set none (as docker's).
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ContainerInput is what a container's spec is made from. Host paths in it are
// the caller's word; nothing is looked up here.
type ContainerInput struct {
	ID, PodID string
	Pod       *PodConfig
	Config    *ContainerConfig
	Image     *v1.ImageConfig
	Accounts  Accounts
	Sandbox   Sandbox
	Host      *Host
	// Devices are the nodes behind Config.Devices, one list for each (a directory
	// has many), or, if privileged, with all of the host's appended.
	Devices []DeviceNode
	// ImageMounts has, by index into Config.Mounts, what an image mount shows: one
	// directory or file, or the directories that overlay each other, topmost first.
	ImageMounts map[int][]string
	// TargetPID is the path of the PID namespace that mode TARGET joins.
	TargetPID string
	// Labels are the container's, of SELinux.
	Labels Labels
	// MaxPids limits a container that asks for no limit; 0: no limit.
	MaxPids int64
}

// DeviceNode is a device as it is found on the host.
type DeviceNode struct {
	Path         string // in the container
	Block        bool
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
	Permissions  string // of "rwm"
}

// Compiled is a container's spec with what else was decided on the way.
type Compiled struct {
	Spec       *specs.Spec
	User       User
	StopSignal string
	// Warnings are wishes that the host cannot fulfil and that are left out.
	Warnings []string
}

// Container compiles a container's spec.
func Container(in ContainerInput) (*Compiled, error) {
	c, s := in.Config, &in.Config.Security
	if err := ValidateContainer(in.Pod, c); err != nil {
		return nil, err
	}
	out := &Compiled{Spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: s.ReadonlyRootfs},
		Annotations: map[string]string{
			annotationType: "container", annotationPod: in.PodID, annotationPodName: in.Pod.Name,
			annotationNamespace: in.Pod.Namespace, annotationUID: in.Pod.UID, annotationContainer: c.Name,
		},
		Linux: &specs.Linux{
			CgroupsPath:       CgroupPath(in.Pod, in.ID),
			MountLabel:        in.Labels.Mount,
			RootfsPropagation: rootfsPropagation(c.Mounts),
		},
	}}
	spec := out.Spec
	var err error
	if spec.Mounts, err = allMounts(&in); err != nil {
		return nil, err
	}
	if spec.Linux.Namespaces, err = namespaces(&in); err != nil {
		return nil, err
	}
	if user := in.Pod.UserNS(); user != nil {
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = idMappings(user.UIDs), idMappings(user.GIDs)
	}
	if spec.Linux.Resources, err = LinuxResources(c.Resources, in.Host); err != nil {
		return nil, err
	}
	if spec.Linux.Resources.Pids == nil && in.MaxPids > 0 {
		spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &in.MaxPids}
	}
	spec.Linux.Devices, spec.Linux.Resources.Devices = devices(&in)
	if !s.Privileged {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = s.MaskedPaths, s.ReadonlyPaths
	}
	if spec.Process, err = process(&in, out); err != nil {
		return nil, err
	}
	if p := s.Seccomp; p != nil && p.Type != ProfileUnconfined && !s.Privileged {
		if spec.Linux.Seccomp, err = in.Host.Seccomp(*p, spec.Process.Capabilities.Bounding); err != nil {
			return nil, invalid("linux.security_context.seccomp", "%v", err)
		}
	}
	out.StopSignal, _ = StopSignal(c.StopSignal, in.Image.StopSignal)
	return out, nil
}

// process is the container's command with everything it inherits.
func process(in *ContainerInput, out *Compiled) (*specs.Process, error) {
	c, s := in.Config, &in.Config.Security
	p := &specs.Process{Terminal: c.TTY, NoNewPrivileges: s.NoNewPrivs}
	var err error
	if p.Args = arguments(c, in.Image); len(p.Args) == 0 {
		return nil, invalid("command", "is empty, and image %s has neither Entrypoint nor Cmd", c.Image)
	}
	if p.Args[0] == "" {
		return nil, invalid("command[0]", "is empty")
	}
	for _, dir := range []string{c.WorkingDir, in.Image.WorkingDir, "/"} {
		if dir != "" {
			p.Cwd = path.Join("/", dir)
			break
		}
	}
	user, home, err := containerUser(c, in.Image.User, in.Accounts)
	if err != nil {
		return nil, err
	}
	out.User = user
	p.User = specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups}
	p.Env = environment(in, home)
	var warnings []string
	if p.Capabilities, warnings, err = capabilities(s, in.Host); err != nil {
		return nil, err
	}
	out.Warnings = append(out.Warnings, warnings...)
	if r := c.Resources; r != nil {
		adj := int(r.OOMScoreAdj)
		p.OOMScoreAdj = &adj
	}
	if p.ApparmorProfile, err = appArmor(s, in.Host); err != nil {
		return nil, err
	}
	if !s.Privileged { // the policy says what a program of ours becomes
		p.SelinuxLabel = in.Labels.Process
	}
	if s.SELinux != nil && in.Labels == (Labels{}) {
		out.Warnings = append(out.Warnings, "linux.security_context.selinux_options: the host has no SELinux")
	}
	return p, nil
}

// arguments: a command replaces the image's entrypoint and, with it, its cmd.
func arguments(c *ContainerConfig, image *v1.ImageConfig) []string {
	command, args := c.Command, c.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	return slices.Concat(command, args)
}

// environment: the image's over the defaults, the request's over the image's.
func environment(in *ContainerInput, home string) []string {
	var env []string
	set := func(kv string) {
		key, _, _ := strings.Cut(kv, "=")
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		if i >= 0 {
			env[i] = kv
		} else {
			env = append(env, kv)
		}
	}
	set(defaultPath)
	if in.Config.TTY {
		set("TERM=xterm")
	}
	set("HOME=" + home)
	if in.Pod.Namespaces.Network == NamespacePod {
		set("HOSTNAME=" + Hostname(in.Pod))
	}
	for _, kv := range in.Image.Env {
		if strings.Contains(kv, "=") && !strings.Contains(kv, "\x00") {
			set(kv)
		}
	}
	for _, e := range in.Config.Env {
		set(e.Key + "=" + e.Value)
	}
	return env
}

// namespaces: the pod's by path, the node's by leaving them out, its own new.
func namespaces(in *ContainerInput) ([]specs.LinuxNamespace, error) {
	var out []specs.LinuxNamespace
	add := func(t specs.LinuxNamespaceType, nsPath string) {
		out = append(out, specs.LinuxNamespace{Type: t, Path: nsPath})
	}
	var err error
	shared := func(t specs.LinuxNamespaceType) {
		if p := in.Sandbox.Namespaces[string(t)]; p != "" {
			add(t, p)
		} else if err == nil {
			err = unsupported("linux.security_context.namespace_options", "the runtime handler's sandbox shares no %s namespace", t)
		}
	}
	pod := in.Pod.Namespaces
	if in.Pod.UserNS() != nil {
		shared(specs.UserNamespace)
	}
	add(specs.MountNamespace, "")
	if pod.Network == NamespacePod {
		shared(specs.NetworkNamespace)
		shared(specs.UTSNamespace)
	}
	if pod.IPC == NamespacePod {
		shared(specs.IPCNamespace)
	}
	switch mode := in.Config.Namespaces.PID; {
	case mode == NamespaceNode:
	case mode == NamespaceTarget:
		add(specs.PIDNamespace, in.TargetPID)
	case mode == NamespacePod && pod.PID == NamespacePod:
		shared(specs.PIDNamespace)
	default: // its own; so also "the pod's" where the pod's containers share none
		add(specs.PIDNamespace, "")
	}
	// On v1 the view of the hierarchy is made of bind mounts; see cgroups(7).
	if in.Host.CgroupV2 && !in.Config.Security.Privileged {
		add(specs.CgroupNamespace, "")
	}
	return out, err
}

// devices are the nodes to make beyond the runtime's own and the device
// cgroup's rules: nothing, then the harmless, then what was given.
func devices(in *ContainerInput) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup) {
	var nodes []specs.LinuxDevice
	n := func(v int64) *int64 { return &v }
	rules := []specs.LinuxDeviceCgroup{{Allow: in.Config.Security.Privileged, Access: "rwm"}}
	if !in.Config.Security.Privileged {
		rules = append(rules,
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "m"}, // mknod of anything, opened by nobody
			specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "m"})
		for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}} { // null zero full random urandom tty ptmx
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(d[0]), Minor: n(d[1]), Access: "rwm"})
		}
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(136), Access: "rwm"}) // pts
	}
	for _, d := range in.Devices {
		kind := "c"
		if d.Block {
			kind = "b"
		}
		node := specs.LinuxDevice{Path: d.Path, Type: kind, Major: d.Major, Minor: d.Minor, UID: &d.UID, GID: &d.GID}
		mode := fs.FileMode(d.Mode)
		node.FileMode = &mode
		// The last of two at one path wins, as with mounts.
		nodes = slices.DeleteFunc(nodes, func(o specs.LinuxDevice) bool { return o.Path == d.Path })
		nodes = append(nodes, node)
		if !in.Config.Security.Privileged {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: n(d.Major), Minor: n(d.Minor), Access: d.Permissions})
		}
	}
	return nodes, rules
}

func appArmor(s *Security, h *Host) (string, error) {
	const field = "linux.security_context.apparmor"
	p := s.AppArmor
	switch {
	case p == nil && (s.Privileged || !h.AppArmor),
		p != nil && (p.Type == ProfileUnconfined || s.Privileged && p.Type == ProfileRuntimeDefault):
		return "", nil
	case !h.AppArmor:
		return "", unsupported(field, "the host has no AppArmor")
	case p == nil || p.Type == ProfileRuntimeDefault:
		name, err := h.DefaultAppArmor()
		switch {
		case p == nil && errors.Is(err, ErrNoDefaultProfile):
			return "", nil // as with Docker and containerd
		case err != nil:
			return "", unsupported(field, "%v", err)
		}
		return name, nil
	}
	name := strings.TrimPrefix(p.LocalhostRef, "localhost/")
	if name == "" || hasControl(name) || len(name) > maxPath {
		return "", invalid(field+".localhost_ref", "%q is no name of a profile", p.LocalhostRef)
	}
	if !compound(name) && !h.AppArmorLoaded(name) {
		return "", invalid(field+".localhost_ref", "no profile %q is loaded: load the file that defines it with apparmor_parser -r FILE, on this node", name)
	}
	return name, nil
}

// compound says that a label is more than the name of one profile in the host's
// namespace: a stack of them, one of another namespace, or quoted words.
func compound(label string) bool {
	return strings.HasPrefix(label, ":") || strings.Contains(label, "//&") || strings.Contains(label, " ")
}
