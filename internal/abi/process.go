package abi

// Namespace flags of clone3(2), unshare(2) and setns(2).
const (
	CloneNewTime   = 0x80
	CloneNewNS     = 0x20000
	CloneNewCgroup = 0x2000000
	CloneNewUTS    = 0x4000000
	CloneNewIPC    = 0x8000000
	CloneNewUser   = 0x10000000
	CloneNewPID    = 0x20000000
	CloneNewNet    = 0x40000000
)

// Commands of prctl(2).
const (
	PrSetDumpable     = 4
	PrCapbsetDrop     = 24
	PrSetSecurebits   = 28
	PrSetNoNewPrivs   = 38
	PrCapAmbient      = 47
	PrCapAmbientRaise = 2
	PrCapAmbientClear = 4
)

// SecbitKeepCaps keeps the permitted set over setuid(2); exec clears it.
const SecbitKeepCaps = 1 << 4

// Rlimits are the resources of setrlimit(2), by their runtime-spec names, in the
// order of their numbers. (These tables are no maps: a map is built whenever a
// program that links this package starts.)
var Rlimits = []string{
	"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK",
	"RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE",
	"RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING",
	"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
}

// RlimitNofile is a number in Rlimits.
const RlimitNofile = 7

// Capabilities in the order of their numbers.
var Capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// Numbers of capabilities in Capabilities.
const (
	CapSetgid      = 6
	CapSysAdmin    = 21
	CapSysResource = 24
)

// Errno values that programs tolerate at a step.
const (
	EPERM      = 1
	ENOENT     = 2
	EBADF      = 9
	EACCES     = 13
	EEXIST     = 17
	ENOTDIR    = 20
	EINVAL     = 22
	ENOSYS     = 38
	EROFS      = 30
	ELOOP      = 40
	EOPNOTSUPP = 95
)
