// Package bundle compiles what was asked for — a pod, a container, its image's
// configuration and a few host facts — into OCI specs, and checks it on the way.
//
// It is pure: it reads no file, makes no system call and knows no clock, so
// everything the kubelet expects of a container is a table of golden files. What
// it cannot give is refused by the name of the field. The types here are also the
// on-disk form of the requests (docs/format/pods.md): fields are only ever added,
// and the zero value of each means "not asked for".
//
// Sources: OCI runtime-spec 1.3, image-spec 1.1 (config.md), Kubernetes CRI v1.
package bundle

// PodConfig is a pod as it was asked for. Name, Namespace, UID and Attempt
// identify it: a second request with the same four is a retry of the first.
type PodConfig struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	UID       string `json:"uid,omitempty"`
	Attempt   uint32 `json:"attempt,omitempty"`

	// Hostname is the UTS host name; "" takes the pod's name. Ignored with the host's network.
	Hostname string `json:"hostname,omitempty"`
	// LogDirectory is absolute; containers' LogPath is relative to it. "" keeps logs in the container's directory.
	LogDirectory string            `json:"logDirectory,omitempty"`
	DNS          *DNS              `json:"dns,omitempty"` // nil: the host's resolv.conf
	PortMappings []PortMapping     `json:"portMappings,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`

	CgroupParent string            `json:"cgroupParent,omitempty"` // absolute below the cgroup root; "" is /strake
	Namespaces   Namespaces        `json:"namespaces,omitzero"`
	Sysctls      map[string]string `json:"sysctls,omitempty"`
	Security     PodSecurity       `json:"security,omitzero"`
	Overhead     *Resources        `json:"overhead,omitempty"`
	Resources    *Resources        `json:"resources,omitempty"` // the sum of its containers', as the caller computed it
}

// NetworkAnnotation with the value NetworkNone gives a pod a network namespace
// of its own with nothing but loopback in it.
const (
	NetworkAnnotation = "strake.containers/network"
	NetworkNone       = "none"
)

// DNS is the content of a pod's resolv.conf; an empty one means the host's.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping forwards a port of the host to the pod.
type PortMapping struct {
	Protocol      string `json:"protocol,omitempty"` // "tcp" (or ""), "udp", "sctp"
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort,omitempty"` // 0: not forwarded
	HostIP        string `json:"hostIP,omitempty"`
}

// NamespaceMode says whose namespace a pod or container is in.
type NamespaceMode string

const (
	NamespacePod       NamespaceMode = ""          // the pod's
	NamespaceContainer NamespaceMode = "container" // its own
	NamespaceNode      NamespaceMode = "node"      // the host's
	NamespaceTarget    NamespaceMode = "target"    // that of container TargetID
)

// Namespaces are the namespaces of a pod or a container.
type Namespaces struct {
	Network  NamespaceMode  `json:"network,omitempty"`
	PID      NamespaceMode  `json:"pid,omitempty"`
	IPC      NamespaceMode  `json:"ipc,omitempty"`
	TargetID string         `json:"targetID,omitempty"` // with PID NamespaceTarget: a container of the same pod
	User     *UserNamespace `json:"user,omitempty"`
}

// UserNamespace maps ids; Mode is NamespacePod (own, with mappings) or NamespaceNode.
type UserNamespace struct {
	Mode NamespaceMode `json:"mode,omitempty"`
	UIDs []IDMapping   `json:"uids,omitempty"`
	GIDs []IDMapping   `json:"gids,omitempty"`
}

// UserNS is the pod's own user namespace; nil is the host's.
func (c *PodConfig) UserNS() *UserNamespace {
	if u := c.Namespaces.User; u != nil && u.Mode == NamespacePod {
		return u
	}
	return nil
}

// Root is root of the user namespace as the host numbers it; nil is the host's own.
func (u *UserNamespace) Root() (uid, gid int) {
	host := func(table []IDMapping) int {
		for _, m := range table {
			if m.ContainerID == 0 {
				return int(m.HostID)
			}
		}
		return 0
	}
	if u == nil {
		return 0, 0
	}
	return host(u.UIDs), host(u.GIDs)
}

// IDMapping maps Length ids from ContainerID on to those from HostID on.
type IDMapping struct {
	HostID      uint32 `json:"hostID"`
	ContainerID uint32 `json:"containerID"`
	Length      uint32 `json:"length"`
}

// GroupsPolicy says whether the image's /etc/group adds supplemental groups.
type GroupsPolicy string

const (
	GroupsMerge  GroupsPolicy = ""       // the image's groups of the user, and those asked for
	GroupsStrict GroupsPolicy = "strict" // only those asked for
)

// PodSecurity is the security context of the sandbox. Without a sandbox
// process only the namespaces' part of it has an effect; the rest is recorded.
type PodSecurity struct {
	Privileged               bool         `json:"privileged,omitempty"` // privileged containers are allowed
	SELinux                  *SELinux     `json:"selinux,omitempty"`
	RunAsUser                *int64       `json:"runAsUser,omitempty"`
	RunAsGroup               *int64       `json:"runAsGroup,omitempty"`
	ReadonlyRootfs           bool         `json:"readonlyRootfs,omitempty"`
	SupplementalGroups       []int64      `json:"supplementalGroups,omitempty"`
	SupplementalGroupsPolicy GroupsPolicy `json:"supplementalGroupsPolicy,omitempty"`
	Seccomp                  *Profile     `json:"seccomp,omitempty"`
	AppArmor                 *Profile     `json:"apparmor,omitempty"`
}

// SELinux is a process label in parts.
type SELinux struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// Labels are those of SELinux; both are "" without.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"` // of what it is to read and write
}

// ProfileType is where a seccomp or AppArmor profile comes from.
type ProfileType string

const (
	ProfileRuntimeDefault ProfileType = "runtime/default"
	ProfileUnconfined     ProfileType = "unconfined"
	ProfileLocalhost      ProfileType = "localhost"
)

// Profile is a seccomp or AppArmor profile. LocalhostRef is a file (seccomp,
// absolute) or the name of a loaded profile (AppArmor).
type Profile struct {
	Type         ProfileType `json:"type"`
	LocalhostRef string      `json:"localhostRef,omitempty"`
}

// Resources are limits; 0 or "" is "not asked for".
type Resources struct {
	CPUPeriod       int64             `json:"cpuPeriod,omitempty"` // µs
	CPUQuota        int64             `json:"cpuQuota,omitempty"`  // µs per period; negative: no limit
	CPUShares       int64             `json:"cpuShares,omitempty"`
	MemoryLimit     int64             `json:"memoryLimit,omitempty"` // bytes
	MemorySwapLimit int64             `json:"memorySwapLimit,omitempty"`
	OOMScoreAdj     int64             `json:"oomScoreAdj,omitempty"`
	CpusetCPUs      string            `json:"cpusetCPUs,omitempty"`
	CpusetMems      string            `json:"cpusetMems,omitempty"`
	PidsLimit       int64             `json:"pidsLimit,omitempty"` // negative: no limit
	HugepageLimits  []HugepageLimit   `json:"hugepageLimits,omitempty"`
	Unified         map[string]string `json:"unified,omitempty"` // cgroup v2 files
}

// HugepageLimit limits one page size, named as in the hugetlb cgroup ("2MB").
type HugepageLimit struct {
	PageSize string `json:"pageSize"`
	Limit    uint64 `json:"limit"` // bytes
}

// ContainerConfig is a container as it was asked for. Name and Attempt identify
// it within its pod.
type ContainerConfig struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt,omitempty"`

	Image          string `json:"image"`                    // id, tag or digest: what is looked up in the image store
	UserImage      string `json:"userImage,omitempty"`      // the reference as the user wrote it, for status; may be ""
	RuntimeHandler string `json:"runtimeHandler,omitempty"` // of the image

	Command    []string   `json:"command,omitempty"` // replaces the image's entrypoint (and its cmd)
	Args       []string   `json:"args,omitempty"`    // replaces the image's cmd
	WorkingDir string     `json:"workingDir,omitempty"`
	Env        []KeyValue `json:"env,omitempty"`
	Mounts     []Mount    `json:"mounts,omitempty"`
	Devices    []Device   `json:"devices,omitempty"`
	CDIDevices []string   `json:"cdiDevices,omitempty"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	LogPath     string            `json:"logPath,omitempty"` // relative to the pod's LogDirectory
	Log         *LogConfig        `json:"log,omitempty"`     // nil: as the node is configured

	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	TTY       bool `json:"tty,omitempty"`

	Resources  *Resources `json:"resources,omitempty"`
	Namespaces Namespaces `json:"namespaces,omitzero"`
	Security   Security   `json:"security,omitzero"`
	StopSignal string     `json:"stopSignal,omitempty"` // "SIGTERM", "SIGRTMIN+3"; "" is the image's, then SIGTERM
}

// LogConfig is a log driver by its name, "" for the node's, and its options.
type LogConfig struct {
	Driver  string            `json:"driver,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// KeyValue is an environment variable.
type KeyValue struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// Propagation is that of a mount.
type Propagation string

const (
	PropagationPrivate         Propagation = ""
	PropagationHostToContainer Propagation = "hostToContainer"
	PropagationBidirectional   Propagation = "bidirectional"
)

// Mount puts HostPath (or the root of Image) at ContainerPath.
type Mount struct {
	ContainerPath     string      `json:"containerPath"`
	HostPath          string      `json:"hostPath,omitempty"`
	Readonly          bool        `json:"readonly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	SELinuxRelabel    bool        `json:"selinuxRelabel,omitempty"`
	Propagation       Propagation `json:"propagation,omitempty"`
	UIDMappings       []IDMapping `json:"uidMappings,omitempty"`
	GIDMappings       []IDMapping `json:"gidMappings,omitempty"`
	Image             string      `json:"image,omitempty"`
	ImageSubPath      string      `json:"imageSubPath,omitempty"`
	Options           []string    `json:"options,omitempty"`
	// Tmpfs mounts an empty tmpfs of this size in bytes instead of HostPath; 0: no tmpfs.
	Tmpfs int64 `json:"tmpfs,omitempty"`
}

// Device is a host device, or a directory of them, given to a container.
type Device struct {
	HostPath      string `json:"hostPath"`
	ContainerPath string `json:"containerPath"`
	Permissions   string `json:"permissions,omitempty"` // of "rwm"
}

// Capabilities changes the default set. Names may lack "CAP_"; "ALL" is all.
type Capabilities struct {
	Add        []string `json:"add,omitempty"`
	Drop       []string `json:"drop,omitempty"`
	AddAmbient []string `json:"addAmbient,omitempty"`
}

// Security is the security context of a container.
type Security struct {
	Privileged               bool         `json:"privileged,omitempty"`
	Capabilities             Capabilities `json:"capabilities,omitzero"`
	SELinux                  *SELinux     `json:"selinux,omitempty"`
	RunAsUser                *int64       `json:"runAsUser,omitempty"`
	RunAsGroup               *int64       `json:"runAsGroup,omitempty"`
	RunAsUsername            string       `json:"runAsUsername,omitempty"` // name or number, "user:group" too
	ReadonlyRootfs           bool         `json:"readonlyRootfs,omitempty"`
	SupplementalGroups       []int64      `json:"supplementalGroups,omitempty"`
	SupplementalGroupsPolicy GroupsPolicy `json:"supplementalGroupsPolicy,omitempty"`
	NoNewPrivs               bool         `json:"noNewPrivs,omitempty"`
	MaskedPaths              []string     `json:"maskedPaths,omitempty"`   // exactly these: the caller has decided (CRI); nil masks nothing
	ReadonlyPaths            []string     `json:"readonlyPaths,omitempty"` // likewise
	Seccomp                  *Profile     `json:"seccomp,omitempty"`       // nil: unconfined
	AppArmor                 *Profile     `json:"apparmor,omitempty"`      // nil: the host's default where it has one
}

// User is what a container's process runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}
