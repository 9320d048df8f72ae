// Package container is the life of one OCI container on this host: create,
// start, exec, kill, delete, and the state that lets another process take over
// between any two of them. It is what strake-runtime's verbs and the monitor's
// Task service call.
//
// It compiles the config (oci/spec, oci/plan), has it launched (oci/launch) and
// keeps STATEROOT/ID/state.json. It never waits for a container's end on its
// own: the caller of Create and Exec is the parent and collects the exit.
//
// Files of a container, all in STATEROOT/ID (0700), which is on a tmpfs (/run):
//
//	config.json  the config as it was at create
//	state.json   what State and the later verbs need; replaced atomically, never
//	             fsynced: pids and namespaces die with the boot anyway
//	start.sock   the gate at which init waits for Start, if it does
//	notify/      what a container that notifies has at /run/notify: a socket, once
//	             it is being started
//
// Crash-only: the directory is made first and removed last, and config.json is
// there before any cgroup or process. It says what to look for until state.json
// is written, which is when the first process is ready to run its program. So a
// creator that is killed between any two steps leaves something that Delete with
// force removes.
//
// A Container holds no descriptors and no locks; each verb reads what it needs.
// Concurrent verbs on one container are safe as far as the kernel's are: two
// Starts have one winner, two Deletes both succeed.
package container

import (
	"errors"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Classes of errors, for errors.Is.
var (
	// ErrNotExist is a container id that is not below the state root.
	ErrNotExist = errors.New("container does not exist")
	// ErrExists is an id that is taken.
	ErrExists = errors.New("container already exists")
	// ErrInvalidID is an id that cannot be a directory's name.
	ErrInvalidID = errors.New("invalid container id")
	// ErrNotRunning is a verb that needs a live process when there is none.
	ErrNotRunning = errors.New("container is not running")
	// ErrNotCreated is a Start of what is not (or no longer) waiting for it.
	ErrNotCreated = errors.New("container is not in state created")
	// ErrRunning is a Delete without force of what is alive.
	ErrRunning = errors.New("container is still running")
	// ErrPoststop is a Delete that has been done, while poststop hooks failed: to be
	// warned of and no more (runtime.md, "Lifecycle", step 13).
	ErrPoststop = errors.New("poststop hooks failed")
	// ErrExec is a program that cannot be executed: missing, not executable.
	ErrExec = errors.New("exec")
)

// Mount is a mount that the caller wants made inside the container's own mount
// namespace before anything of the config, in the shape of the Task API.
type Mount struct {
	Type    string   // "overlay", "bind", or any file system type
	Source  string   // device or directory; ignored by overlay
	Options []string // as in fstab: "lowerdir=/a:/b", "upperdir=/c", "ro"
	Target  string   // "" is the rootfs itself, else a path inside it
}

// CreateOptions says what Create is to make.
type CreateOptions struct {
	ID        string
	Bundle    string      // absolute; relative paths of the config start here
	StateRoot string      // directory of all containers' state, below /run
	Spec      *specs.Spec // nil: read Config
	Config    string      // the config's file; "" is Bundle/config.json, and a relative one is below Bundle

	// RootfsMounts are mounted by the container's first process in its own
	// mount namespace, so that the host's mount table does not grow.
	RootfsMounts []Mount

	// Stdin, Stdout and Stderr stay the caller's; nil is /dev/null. They are
	// not used where the process has a terminal.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket is the path of a unix socket that gets the terminal's
	// master. Empty with a terminal: Process.Console holds it. Without one it is refused.
	ConsoleSocket string
	// ExtraFiles become descriptors 3, 4, … of the process.
	ExtraFiles []*os.File

	// SystemdCgroup has the cgroup be a scope of systemd's; linux.cgroupsPath is
	// slice:prefix:name then. Rootless is a caller who may not be allowed to make
	// cgroups: see cgroup.Config.
	SystemdCgroup, Rootless bool
	// NoCgroup leaves the container in the caller's cgroup.
	NoCgroup bool

	// Env is added to the environment of the config's process.
	Env []string
	// Notify gives the container a place for a socket by which its program can say
	// that it is ready (Container.ListenNotify), and its process the variable
	// NOTIFY_SOCKET, unless the config has one.
	Notify bool

	// Agent, if not nil, gets the listeners of the seccomp filters of the container's
	// processes, instead of the agent at linux.seccomp.listenerPath. It borrows them.
	// Container.SetAgent is for a container that was created before.
	Agent func(listener *os.File) error

	NoPivot      bool   // MS_MOVE and chroot instead of pivot_root (ramfs)
	NoNewKeyring bool   // keep the caller's session keyring
	PidFile      string // gets init's pid, atomically, before the program can run

	// Trace, if not nil, is told what the config has been compiled to.
	Trace func(message string)

	// Run has Create start the program too, unless it returns an error: it is
	// called when everything but the execve has been done. The process is not
	// the caller's before Create has returned, except for its Console. Without a
	// gate for somebody else to open this takes less than Create and Start.
	Run func(*Process) error
}

// ExecOptions says which process Exec adds to a container.
type ExecOptions struct {
	Process               *specs.Process
	Stdin, Stdout, Stderr *os.File // as in CreateOptions
	ConsoleSocket         string
	ExtraFiles            []*os.File
	Spec                  *specs.Spec // the container's, if the caller has read it (Container.Spec)
	CgroupSub             []string    // cgroups below the container's: see cgroup.Sub
	PidFile               string
	Trace                 func(string) // as in CreateOptions
	// Keep is all that the caller was asked for, if that made nothing but Process and
	// the standard files: the program is kept for who asks for the same again (ADR 45).
	Keep string
}

// Process is a new process of a container, a child of this process.
type Process struct {
	Pid     int
	PidFD   *os.File // pollable; the caller owns it
	Console *os.File // the terminal's master, or nil; the caller owns it
	// Warnings are wishes of the config that this host could not fulfil and
	// that may be left out, such as a negative oom_score_adj without
	// CAP_SYS_RESOURCE.
	Warnings []string
}

// State is the runtime-spec state plus what list and the callers show.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"` // of the state directory: a user's name, or #UID
}

// Namespaces are open descriptors of namespaces, by runtime-spec type. The
// caller owns the files.
type Namespaces map[specs.LinuxNamespaceType]*os.File

// Close closes all of them.
func (n Namespaces) Close() error {
	var errs []error
	for _, f := range n {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
