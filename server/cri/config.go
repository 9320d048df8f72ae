package cri

import (
	"encoding/json"
	"fmt"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// What a request may hold before it is looked at any closer; pod checks values.
const (
	maxID     = 256
	maxLabels = 4096
)

// checkID refuses what cannot be an id. Prefixes of ids are ids here: people
// type them, and pod resolves them.
func checkID(field, id string) error {
	if id == "" {
		return invalid(field, "is empty")
	}
	if len(id) > maxID {
		return invalid(field, fmt.Sprintf("longer than %d bytes", maxID))
	}
	for _, r := range id {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("_.-", r) {
			return invalid(field, fmt.Sprintf("%q is no id", id))
		}
	}
	return nil
}

func checkMaps(labels, annotations map[string]string) error {
	if len(labels) > maxLabels {
		return invalid("labels", fmt.Sprintf("more than %d", maxLabels))
	}
	if len(annotations) > maxLabels {
		return invalid("annotations", fmt.Sprintf("more than %d", maxLabels))
	}
	return nil
}

// podConfig translates what RunPodSandbox asks for.
func podConfig(c *runtimeapi.PodSandboxConfig) (pod.PodConfig, error) {
	switch {
	case c == nil:
		return pod.PodConfig{}, invalid("config", "is missing")
	case c.Metadata == nil:
		return pod.PodConfig{}, invalid("config.metadata", "is missing")
	case c.Windows != nil:
		return pod.PodConfig{}, unsupported("config.windows")
	}
	if err := checkMaps(c.Labels, c.Annotations); err != nil {
		return pod.PodConfig{}, err
	}
	p := pod.PodConfig{
		Name:         c.Metadata.Name,
		Namespace:    c.Metadata.Namespace,
		UID:          c.Metadata.Uid,
		Attempt:      c.Metadata.Attempt,
		Hostname:     c.Hostname,
		LogDirectory: c.LogDirectory,
		Labels:       c.Labels,
		Annotations:  c.Annotations,
	}
	if d := c.DnsConfig; d != nil {
		p.DNS = &bundle.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	for _, m := range c.PortMappings {
		p.PortMappings = append(p.PortMappings, bundle.PortMapping{
			Protocol:      strings.ToLower(m.GetProtocol().String()),
			ContainerPort: m.GetContainerPort(),
			HostPort:      m.GetHostPort(),
			HostIP:        m.GetHostIp(),
		})
	}
	l := c.Linux
	if l == nil {
		return p, nil
	}
	p.CgroupParent = l.CgroupParent
	p.Sysctls = l.Sysctls
	p.Overhead = resources(l.Overhead)
	p.Resources = resources(l.Resources)
	sc := l.SecurityContext
	if sc == nil {
		return p, nil
	}
	var err error
	if p.Namespaces, err = namespaces(sc.NamespaceOptions); err != nil {
		return pod.PodConfig{}, err
	}
	p.Security = bundle.PodSecurity{
		Privileged:               sc.Privileged,
		SELinux:                  selinux(sc.SelinuxOptions),
		RunAsUser:                value(sc.RunAsUser),
		RunAsGroup:               value(sc.RunAsGroup),
		ReadonlyRootfs:           sc.ReadonlyRootfs,
		SupplementalGroups:       sc.SupplementalGroups,
		SupplementalGroupsPolicy: groupsPolicy(sc.SupplementalGroupsPolicy),
	}
	if p.Security.Seccomp, err = profile("seccomp", sc.Seccomp, sc.SeccompProfilePath); err != nil { //nolint:staticcheck // deprecated, yet sent by clients that are in use
		return pod.PodConfig{}, err
	}
	if p.Security.AppArmor, err = profile("apparmor", sc.Apparmor, ""); err != nil {
		return pod.PodConfig{}, err
	}
	return p, nil
}

// containerConfig translates what CreateContainer asks for.
func containerConfig(c *runtimeapi.ContainerConfig) (pod.ContainerConfig, error) {
	switch {
	case c == nil:
		return pod.ContainerConfig{}, invalid("config", "is missing")
	case c.Metadata == nil:
		return pod.ContainerConfig{}, invalid("config.metadata", "is missing")
	case c.Image == nil:
		return pod.ContainerConfig{}, invalid("config.image", "is missing")
	case c.Windows != nil:
		return pod.ContainerConfig{}, unsupported("config.windows")
	}
	if err := checkMaps(c.Labels, c.Annotations); err != nil {
		return pod.ContainerConfig{}, err
	}
	out := pod.ContainerConfig{
		Name:           c.Metadata.Name,
		Attempt:        c.Metadata.Attempt,
		Image:          c.Image.Image,
		UserImage:      c.Image.UserSpecifiedImage,
		RuntimeHandler: c.Image.RuntimeHandler,
		Command:        c.Command,
		Args:           c.Args,
		WorkingDir:     c.WorkingDir,
		Labels:         c.Labels,
		Annotations:    c.Annotations,
		LogPath:        c.LogPath,
		Stdin:          c.Stdin,
		StdinOnce:      c.StdinOnce,
		TTY:            c.Tty,
		StopSignal:     signalName(c.StopSignal),
	}
	var err error
	if out.Log, err = logConfig(c.Annotations); err != nil {
		return pod.ContainerConfig{}, err
	}
	for _, e := range c.Envs {
		out.Env = append(out.Env, bundle.KeyValue{Key: e.GetKey(), Value: string(e.GetValue())})
	}
	for i, m := range c.Mounts {
		mount, err := mountOf(m)
		if err != nil {
			return pod.ContainerConfig{}, fmt.Errorf("config.mounts[%d]: %w", i, err)
		}
		out.Mounts = append(out.Mounts, mount)
	}
	for _, d := range c.Devices {
		out.Devices = append(out.Devices, bundle.Device{HostPath: d.GetHostPath(), ContainerPath: d.GetContainerPath(), Permissions: d.GetPermissions()})
	}
	for _, d := range c.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, d.GetName())
	}
	if c.Linux == nil {
		return out, nil
	}
	out.Resources = resources(c.Linux.Resources)
	out.Namespaces, out.Security, err = security(c.Linux.SecurityContext)
	return out, err
}

// logConfig is the log driver that annotations ask for; nil is none.
func logConfig(annotations map[string]string) (*bundle.LogConfig, error) {
	driver, named := annotations[strakev1.LogDriver]
	options, chosen := annotations[strakev1.LogOptions]
	if !named && !chosen {
		return nil, nil
	}
	log := &bundle.LogConfig{Driver: driver}
	if chosen {
		if err := json.Unmarshal([]byte(options), &log.Options); err != nil {
			return nil, invalid("config.annotations["+strakev1.LogOptions+"]", fmt.Sprintf("%v: write a JSON object of strings", err))
		}
	}
	return log, nil
}

// security translates a container's security context.
func security(sc *runtimeapi.LinuxContainerSecurityContext) (ns bundle.Namespaces, s bundle.Security, err error) {
	if sc == nil {
		return ns, s, nil
	}
	if ns, err = namespaces(sc.NamespaceOptions); err != nil {
		return ns, s, err
	}
	s = bundle.Security{
		Privileged: sc.Privileged,
		Capabilities: bundle.Capabilities{
			Add:        sc.GetCapabilities().GetAddCapabilities(),
			Drop:       sc.GetCapabilities().GetDropCapabilities(),
			AddAmbient: sc.GetCapabilities().GetAddAmbientCapabilities(),
		},
		SELinux:                  selinux(sc.SelinuxOptions),
		RunAsUser:                value(sc.RunAsUser),
		RunAsGroup:               value(sc.RunAsGroup),
		RunAsUsername:            sc.RunAsUsername,
		ReadonlyRootfs:           sc.ReadonlyRootfs,
		SupplementalGroups:       sc.SupplementalGroups,
		SupplementalGroupsPolicy: groupsPolicy(sc.SupplementalGroupsPolicy),
		NoNewPrivs:               sc.NoNewPrivs,
		MaskedPaths:              sc.MaskedPaths,
		ReadonlyPaths:            sc.ReadonlyPaths,
	}
	if s.Seccomp, err = profile("seccomp", sc.Seccomp, sc.SeccompProfilePath); err != nil { //nolint:staticcheck // deprecated, yet sent by clients that are in use
		return ns, s, err
	}
	s.AppArmor, err = profile("apparmor", sc.Apparmor, sc.ApparmorProfile) //nolint:staticcheck // deprecated, yet sent by clients that are in use
	return ns, s, err
}

// mountOf translates a mount.
func mountOf(m *runtimeapi.Mount) (bundle.Mount, error) {
	out := bundle.Mount{
		ContainerPath:     m.GetContainerPath(),
		HostPath:          m.GetHostPath(),
		Readonly:          m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(),
		SELinuxRelabel:    m.GetSelinuxRelabel(),
		UIDMappings:       idMappings(m.GetUidMappings()),
		GIDMappings:       idMappings(m.GetGidMappings()),
		Image:             m.GetImage().GetImage(),
		ImageSubPath:      m.GetImageSubPath(),
		Options:           m.GetMountOptions(),
	}
	if m.GetImage() != nil && out.Image == "" {
		return out, invalid("image.image", "is empty")
	}
	switch p := m.GetPropagation(); p {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		out.Propagation = bundle.PropagationHostToContainer
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		out.Propagation = bundle.PropagationBidirectional
	default:
		return out, invalid("propagation", fmt.Sprintf("%d is unknown", p))
	}
	return out, nil
}

// modes of a namespace; CRI's zero is POD.
var modes = map[runtimeapi.NamespaceMode]bundle.NamespaceMode{
	runtimeapi.NamespaceMode_POD:       bundle.NamespacePod,
	runtimeapi.NamespaceMode_CONTAINER: bundle.NamespaceContainer,
	runtimeapi.NamespaceMode_NODE:      bundle.NamespaceNode,
	runtimeapi.NamespaceMode_TARGET:    bundle.NamespaceTarget,
}

func namespaces(o *runtimeapi.NamespaceOption) (bundle.Namespaces, error) {
	if o == nil {
		return bundle.Namespaces{}, nil
	}
	for field, m := range map[string]runtimeapi.NamespaceMode{"network": o.Network, "pid": o.Pid, "ipc": o.Ipc, "userns_options.mode": o.GetUsernsOptions().GetMode()} {
		if _, ok := modes[m]; !ok {
			return bundle.Namespaces{}, invalid("linux.security_context.namespace_options."+field, fmt.Sprintf("mode %d is unknown", m))
		}
	}
	out := bundle.Namespaces{Network: modes[o.Network], PID: modes[o.Pid], IPC: modes[o.Ipc], TargetID: o.TargetId}
	if u := o.UsernsOptions; u != nil {
		out.User = &bundle.UserNamespace{Mode: modes[u.Mode], UIDs: idMappings(u.Uids), GIDs: idMappings(u.Gids)}
	}
	return out, nil
}

func idMappings(in []*runtimeapi.IDMapping) []bundle.IDMapping {
	var out []bundle.IDMapping
	for _, m := range in {
		out = append(out, bundle.IDMapping{HostID: m.GetHostId(), ContainerID: m.GetContainerId(), Length: m.GetLength()})
	}
	return out
}

// profile translates a security profile; old is the deprecated string, which
// counts when the message is absent.
func profile(field string, p *runtimeapi.SecurityProfile, old string) (*bundle.Profile, error) {
	field = "linux.security_context." + field
	if p == nil {
		switch localhost, isLocal := strings.CutPrefix(old, "localhost/"); {
		case old == "":
			return nil, nil
		case old == "runtime/default" || old == "docker/default":
			return &bundle.Profile{Type: bundle.ProfileRuntimeDefault}, nil
		case old == "unconfined":
			return &bundle.Profile{Type: bundle.ProfileUnconfined}, nil
		case isLocal:
			return &bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: localhost}, nil
		}
		return nil, invalid(field, fmt.Sprintf("%q is no profile", old))
	}
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		return &bundle.Profile{Type: bundle.ProfileRuntimeDefault}, nil
	case runtimeapi.SecurityProfile_Unconfined:
		return &bundle.Profile{Type: bundle.ProfileUnconfined}, nil
	case runtimeapi.SecurityProfile_Localhost:
		return &bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: p.LocalhostRef}, nil
	}
	return nil, invalid(field+".profile_type", fmt.Sprintf("%d is unknown", p.ProfileType))
}

func selinux(o *runtimeapi.SELinuxOption) *bundle.SELinux {
	if o == nil {
		return nil
	}
	return &bundle.SELinux{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func groupsPolicy(p runtimeapi.SupplementalGroupsPolicy) bundle.GroupsPolicy {
	if p == runtimeapi.SupplementalGroupsPolicy_Strict {
		return bundle.GroupsStrict
	}
	return bundle.GroupsMerge
}

func value(v *runtimeapi.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

// resources translates limits; CRI's zero is "not specified", as is ours.
func resources(r *runtimeapi.LinuxContainerResources) *pod.Resources {
	if r == nil {
		return nil
	}
	out := &pod.Resources{
		CPUPeriod:       r.CpuPeriod,
		CPUQuota:        r.CpuQuota,
		CPUShares:       r.CpuShares,
		MemoryLimit:     r.MemoryLimitInBytes,
		MemorySwapLimit: r.MemorySwapLimitInBytes,
		OOMScoreAdj:     r.OomScoreAdj,
		CpusetCPUs:      r.CpusetCpus,
		CpusetMems:      r.CpusetMems,
		Unified:         r.Unified,
	}
	for _, h := range r.HugepageLimits {
		out.HugepageLimits = append(out.HugepageLimits, bundle.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

// signalName is "SIGTERM" for SIGNAL_SIGTERM and "" for the runtime's default.
func signalName(s runtimeapi.Signal) string {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	return strings.TrimPrefix(s.String(), "SIGNAL_")
}
