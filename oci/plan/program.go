// Package plan compiles an OCI config into the program that makes the container.
//
// A Program is a linear list of operations, each about one system call, which
// the container's first process runs between its fork and its execve (package
// launch runs it). Descriptors learnt on the way live in registers. Every
// operation knows the field of the config that it comes from, so that a failure
// in the child reads as `mounts[3] ("proc" on "/proc"): fsmount: operation not
// permitted`.
//
// The package is pure: what it knows of the host it gets as a Host. It names no
// path inside a rootfs other than relative to a descriptor of that rootfs, with
// openat2(2)'s RESOLVE_IN_ROOT; only sources that the config names (bind
// sources, the rootfs itself) are resolved on the host.
package plan

import (
	"strconv"
	"strings"
)

// Reg is a register: a slot for one descriptor. 0 is no register. A register
// that nothing was put into, or whose operation was allowed to fail, is empty.
type Reg int

// Code says what an operation does.
type Code string

// The operations. D, E are descriptors read, Out the one made; A, B, C, D4 numbers.
const (
	OpOpen      Code = "open"      // Out = openat2(Dir, Path, flags A, mode B, resolve C)
	OpMkpath    Code = "mkpath"    // Out = handle of Path below Dir, made if missing: A = Kind, B = mode; On = model of KindLike
	OpMkdir     Code = "mkdir"     // mkdirat(Dir, Path, mode A)
	OpSymlink   Code = "symlink"   // symlinkat(Data, Dir, Path)
	OpUnlink    Code = "unlink"    // unlinkat(Dir, Path)
	OpMknod     Code = "mknod"     // mknodat(Dir, Path, mode A, device B)
	OpChown     Code = "chown"     // fchownat(Dir, Path, uid A, gid B, nofollow)
	OpChmod     Code = "chmod"     // fchmodat(Dir, Path, mode A)
	OpChownFD   Code = "chownfd"   // fchown(Dir, uid A), the group stays
	OpClose     Code = "close"     // close(Dir)
	OpWrite     Code = "write"     // open Path below Dir (a procfs), write Data, close; without Path write to Dir
	OpIsDir     Code = "isdir"     // skip A operations unless Dir is a directory
	OpIfOpen    Code = "ifopen"    // skip A operations if Dir is empty
	OpSkip      Code = "skip"      // skip A operations
	OpCheckFS   Code = "checkfs"   // fail unless Dir is on a file system of magic A (B=1: unless not)
	OpCheckDev  Code = "checkdev"  // fail unless Dir is a device: mode type A, number B
	OpFsopen    Code = "fsopen"    // Out = fsopen(Path)
	OpFsset     Code = "fsset"     // fsconfig(Dir, set string Path=Data; A=1: set flag Path)
	OpFsmount   Code = "fsmount"   // Out = fsmount(Dir, attributes A) after fsconfig create; closes Dir
	OpOpenTree  Code = "opentree"  // Out = open_tree(Dir, Path, flags A)
	OpSetattr   Code = "setattr"   // mount_setattr(Dir, Path: set A, clear B, propagation C, userns On; D = flags); Nums = set, clear where that meets locked attributes
	OpMove      Code = "move"      // move_mount(Dir → On)
	OpFsmode    Code = "fsmode"    // fsconfig(Dir, set string mode = that of directory On)
	OpCopyUp    Code = "copyup"    // copy what is in directory On into the mount Dir
	OpLabel     Code = "label"     // security.selinux of directory Dir = Data
	OpMount     Code = "mount"     // mount(Path, On as cwd, Data…) the old call, for old kernels
	OpUmount    Code = "umount"    // umount2(Path, flags A)
	OpPivot     Code = "pivot"     // pivot_root(".", ".")
	OpChroot    Code = "chroot"    // chroot(".")
	OpChdir     Code = "chdir"     // chdir(Path)
	OpFchdir    Code = "fchdir"    // fchdir(Dir)
	OpCheckCwd  Code = "checkcwd"  // fail if the working directory is outside of the root
	OpUnshare   Code = "unshare"   // unshare(A)
	OpSetns     Code = "setns"     // setns(Dir, A), then close(Dir)
	OpFork      Code = "fork"      // go on in a sibling with new namespaces A; the parent learns its pid
	OpSync      Code = "sync"      // tell the parent that step A is reached and wait for its answer
	OpHostname  Code = "hostname"  // sethostname(Data)
	OpDomain    Code = "domain"    // setdomainname(Data)
	OpLoopback  Code = "loopback"  // set the interface lo up
	OpKeyring   Code = "keyring"   // keyctl(JOIN_SESSION_KEYRING, Data)
	OpSetsid    Code = "setsid"    // setsid()
	OpPty       Code = "pty"       // Out = open ptmx below Dir, On = its peer; unlock; window A×B
	OpSendFD    Code = "sendfd"    // send descriptor Dir to the parent as number A
	OpCtty      Code = "ctty"      // make Dir the controlling terminal
	OpStdio     Code = "stdio"     // Regs become descriptors 0, 1, 2, 3…; all others close on exec
	OpRlimit    Code = "rlimit"    // prlimit(resource A, soft B, hard C)
	OpPrctl     Code = "prctl"     // prctl(A, B, C)
	OpCapset    Code = "capset"    // effective A, permitted B, inheritable C
	OpGroups    Code = "groups"    // setgroups(Nums)
	OpSetgid    Code = "setgid"    // setresgid(A)
	OpSetuid    Code = "setuid"    // setresuid(A)
	OpSeccomp   Code = "seccomp"   // seccomp(flags A, filter Raw); Out = listener
	OpListener  Code = "listener"  // tell the parent, or who opened the gate, which descriptor Dir is; wait until it has it
	OpUmask     Code = "umask"     // umask(A)
	OpPersona   Code = "persona"   // personality(A)
	OpSched     Code = "sched"     // sched_setattr(Nums = policy, flags, nice, priority, runtime, deadline, period)
	OpIoprio    Code = "ioprio"    // ioprio_set(A)
	OpAffinity  Code = "affinity"  // sched_setaffinity(mask Raw)
	OpMempolicy Code = "mempolicy" // set_mempolicy(mode A, mask Raw)
	OpHome      Code = "home"      // HOME=… of uid A from the rootfs's /etc/passwd, unless Env has it
	OpLookup    Code = "lookup"    // find Args[0] in Paths, keep it for exec
	OpGate      Code = "gate"      // report ready and wait for the answer, then, with Dir, for a connection on it; errors go there from now on
	OpHook      Code = "hook"      // run Path, Args, Env (B=1: with HOME as for exec); Data says that it failed; A = timeout in s; Dir = its stdin; On = its stdout and stderr, if not the process's
	OpExec      Code = "exec"      // execve(what lookup found, Args, Env)
	OpExit      Code = "exit"      // exit(A) (programs that only prepare namespaces)
	OpPause     Code = "pause"     // wait until killed
)

// Kinds of OpMkpath.
const (
	KindDir  = 0
	KindFile = 1
	KindLike = 2 // a directory if On is one, else a file
)

// Flags of OpOpen whose numbers differ between architectures; the executor
// translates them.
const (
	FlagDirectory = 1 << 40
	FlagNofollow  = 1 << 41
)

// Op is one operation. Which members mean what is said at its Code.
type Op struct {
	Do   Code     `json:"do"`
	Out  Reg      `json:"out,omitempty"`
	Dir  Reg      `json:"dir,omitempty"` // 0 with a path: the host's working directory, path absolute
	On   Reg      `json:"on,omitempty"`
	Path string   `json:"path,omitempty"`
	Data string   `json:"data,omitempty"`
	A    uint64   `json:"a,omitempty"`
	B    uint64   `json:"b,omitempty"`
	C    uint64   `json:"c,omitempty"`
	D    uint64   `json:"d,omitempty"`
	Regs []Reg    `json:"regs,omitempty"`
	Nums []uint64 `json:"nums,omitempty"`
	Args []string `json:"args,omitempty"`
	Env  []string `json:"env,omitempty"`
	Raw  []byte   `json:"raw,omitempty"`

	// Allow lists the errors (errno) after which the program goes on, with Out
	// empty. With Warn the parent is told of them.
	Allow []int `json:"allow,omitempty"`
	Warn  bool  `json:"warn,omitempty"`

	// Field is the config's field, Note what its value is about.
	Field string `json:"field,omitempty"`
	Note  string `json:"note,omitempty"`
}

// Where says which part of the config the operation is for.
func (o *Op) Where() string {
	if o.Note == "" {
		return o.Field
	}
	return o.Field + " (" + o.Note + ")"
}

// Inputs that a program finds in its registers when it starts.
const (
	InSync    = "sync"         // socket to the parent
	InProc    = "proc"         // the host's /proc, O_PATH
	InNull    = "null"         // the host's /dev/null, read and write
	InStdin   = "stdin"        // caller's
	InStdout  = "stdout"       // caller's
	InStderr  = "stderr"       // caller's
	InExtra   = "extra"        // caller's, Index counts from 0
	InGate    = "gate"         // listening socket of the start gate
	InNS      = "namespace"    // Path (or the target process) and Type say which
	InPidfd   = "pidfd"        // of the process to join
	InRoot    = "root"         // root directory of the process to join, O_PATH
	InHook    = "hookstate"    // memfd with the state for createContainer hooks
	InCreated = "createdstate" // memfd with the state for startContainer hooks
	InHookOut = "hookoutput"   // memfd for what createContainer hooks write
	InIDMapNS = "idmap"        // user namespace with a mount's mapping: IDMap
	InMount   = "mount"        // copy of the mount tree at the runtime's Path, attached nowhere; with IDMap idmapped
	InOverlay = "overlay"      // overlay of Args (fs options) whose lower layers have IDMap, attached nowhere
	InDevice  = "device"       // a device node as a mount attached nowhere: Device
	InCgroup  = "cgroup"       // file of a cgroup to write to, Path
)

// Input is one of them.
type Input struct {
	Reg   Reg    `json:"reg"`
	Kind  string `json:"kind"`
	Type  string `json:"type,omitempty"`
	Path  string `json:"path,omitempty"`
	Index int    `json:"index,omitempty"`
	Field string `json:"field,omitempty"`

	IDMap     *MountIDs `json:"idmap,omitempty"`
	Device    *Device   `json:"device,omitempty"`
	Recursive bool      `json:"recursive,omitempty"` // of InMount: all mounts below too
	Args      []string  `json:"args,omitempty"`      // of InOverlay
}

// Device is a device node that the parent makes; the ids are the host's.
type Device struct {
	Mode   uint64 `json:"mode"` // type and permissions
	Number uint64 `json:"number"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
}

// MountIDs is a mount's id mapping: maps in the form of /proc/PID/uid_map or a
// user namespace that has them.
type MountIDs struct {
	UID       string `json:"uid,omitempty"`
	GID       string `json:"gid,omitempty"`
	UserNS    string `json:"userns,omitempty"`    // path
	Recursive bool   `json:"recursive,omitempty"` // mounts below get it too
}

// Steps at which the child waits for the parent (OpSync's A).
const (
	SyncUserNS = 1 // write the id maps, oom_score_adj
	SyncHooks  = 2 // run prestart and createRuntime hooks; write the other hooks' states
	SyncPin    = 4 // open the namespaces
	SyncLimits = 3 // set the limits that need privilege on the host
	SyncNet    = 5 // move network devices into the network namespace
	SyncIDMap  = 6 // map the ids of the mount that was sent last
)

// Program makes one process.
type Program struct {
	// CloneFlags are the namespaces made by the clone itself.
	CloneFlags uint64 `json:"cloneFlags"`
	// PidNS is the input with the PID namespace that the process is born in,
	// or 0 for the parent's (or a new one).
	PidNS  Reg     `json:"pidns,omitempty"`
	Inputs []Input `json:"inputs"`
	Ops    []Op    `json:"ops"`
	Regs   int     `json:"regs"` // registers are 1…Regs

	// What the parent does at the syncs.
	UIDMap string `json:"uidMap,omitempty"`
	GIDMap string `json:"gidMap,omitempty"`
	// DenySetgroups goes before the map of groups, where the parent is an ordinary
	// user (user_namespaces(7)).
	DenySetgroups bool `json:"denySetgroups,omitempty"`
	// MapHelpers says that the maps are more than an ordinary user may write, so that
	// newuidmap(1) and newgidmap(1) do, who know what the system grants him.
	MapHelpers bool `json:"mapHelpers,omitempty"`

	// TimeOffsets are those of the time namespace, if the process may not set them.
	TimeOffsets string `json:"timeOffsets,omitempty"`

	// IDMaps are those of the mounts that the process sends for SyncIDMap, the first
	// as descriptor 1.
	IDMaps []MountIDs `json:"idMaps,omitempty"`

	OOM    *int    `json:"oomScoreAdj,omitempty"` // by the parent: the child lacks the privilege
	Limits []Limit `json:"limits,omitempty"`
	// Stays is where the process leaves a mount that outlives it, since its mount
	// namespace does: the runtime removes it when the container is deleted.
	Stays string `json:"stays,omitempty"`
	// Terminal says that the program sends the master of a terminal.
	Terminal bool `json:"terminal,omitempty"`
	// Target is the number of descriptors from 0 that the process is to have.
	Target int `json:"target"`
	// Seal says what in the config makes it necessary that the runtime's own
	// program is sealed while this one runs; "" is nothing (docs/adr/0014).
	Seal string `json:"seal,omitempty"`
	// Warnings are wishes left out, already known at compile time.
	Warnings []string `json:"warnings,omitempty"`
}

// Limit is a resource limit for the parent to set.
type Limit struct {
	Field    string `json:"field"`
	Resource uint64 `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}

// Input returns the first input of a kind, or nil.
func (p *Program) Input(kind string) *Input {
	for i := range p.Inputs {
		if p.Inputs[i].Kind == kind {
			return &p.Inputs[i]
		}
	}
	return nil
}

// Registers for fd names in dumps.
func regName(r Reg) string {
	if r == 0 {
		return "-"
	}
	return "r" + strconv.Itoa(int(r))
}

func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strconv.Quote(s)
	}
	return strings.Join(out, " ")
}
