package plan

import "strconv"

// Host is what the compiler has to know of the host: plain values, so that a
// program can be compiled anywhere, by a test without root too.
type Host struct {
	Kernel       [2]int `json:"kernel"` // major, minor
	Arch         string `json:"arch"`   // as seccomp profiles name it: SCMP_ARCH_X86_64
	Capabilities uint64 `json:"capabilities"`
	// NoMounts says that the runtime may not copy mounts of its own mount
	// namespace, only a process in new ones may.
	NoMounts bool `json:"noMounts,omitempty"`
	// UserNS says that the runtime is in a user namespace other than the first, where
	// nobody makes device nodes.
	UserNS   bool `json:"userNS,omitempty"`
	AppArmor bool `json:"apparmor"`
	SELinux  bool `json:"selinux"`
	// CgroupV2 says that the hierarchy with the controllers is version 2.
	CgroupV2 bool       `json:"cgroupV2"`
	CgroupV1 []CgroupV1 `json:"cgroupV1,omitempty"`
	Kcore    bool       `json:"kcore"` // /proc/kcore exists
	// NoFile is the soft limit of open files to restore when the config sets
	// none, 0 for as it is: Go raises its own.
	NoFile Limit `json:"noFile"`
}

// CgroupV1 is one hierarchy of version 1 as the host has it mounted.
type CgroupV1 struct {
	Mountpoint  string   `json:"mountpoint"`
	Controllers []string `json:"controllers,omitempty"` // none for a named hierarchy
	Name        string   `json:"name,omitempty"`
}

func (h *Host) has(capability int) bool { return h.Capabilities&(1<<capability) != 0 }

// AtLeast says whether the kernel is of this version or later.
func (h *Host) AtLeast(major, minor int) bool {
	return h.Kernel[0] > major || h.Kernel[0] == major && h.Kernel[1] >= minor
}

func (h *Host) version() string { return version(h.Kernel[0], h.Kernel[1]) }

func version(major, minor int) string { return strconv.Itoa(major) + "." + strconv.Itoa(minor) }

// Mount is a mount that the caller asks for beside the config's.
type Mount struct {
	Type, Source string
	Options      []string
	Target       string // "" is the rootfs itself
}

// Config is a container to compile: the OCI config and what the caller adds.
type Config struct {
	ID     string
	Bundle string // absolute directory that relative paths start in
	// RootfsMounts are made before the config's mounts.
	RootfsMounts []Mount
	// RootfsParent is the mount point that holds the rootfs directory; needed
	// only where mounts propagate to the host (linux.rootfsPropagation shared).
	RootfsParent string
	// CgroupPath is the container's cgroup, relative to each hierarchy's mount.
	CgroupPath string
	// CgroupJoin are files that the process writes "0" to; the rest of its
	// cgroups it is born in.
	CgroupJoin []string
	ExtraFiles int
	// OwnStdio says for stdin, stdout and stderr whether the file is to belong to
	// the process's user, who may want to open it again by /dev/stdout: pipes and
	// sockets, never devices of the host.
	OwnStdio     [3]bool
	NoPivot      bool
	NoNewKeyring bool
	// Revealing are the host's mounts of procfs and sysfs, each before those below
	// it: with NoPivot they would stay in the mount namespace, and as long as they
	// are there the kernel lets a user namespace mount others without masks.
	Revealing []string
	// NoGate has the program go on as soon as its parent knows that it is ready.
	NoGate bool
}
