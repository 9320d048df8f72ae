// One thread of ours does all the work, so Go need not watch, in cgroup files, how many
// more it might use. (That it does not look once has another reason: takeFiles of oci/early.)
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
//go:debug decoratemappings=0

// Command strake-runtime is an OCI runtime in the shape of runc: the same verbs,
// flags, outputs and exit codes, so that containerd, CRI-O, Docker, Podman and
// scripts can call it in runc's place.
//
// It parses, calls oci/container and shows what came out; each verb is a file.
// It starts as fast as an empty Go program and must stay so: no flag library, no
// protobuf, no net/http, no regexp, nothing done before it is asked for (a test
// in internal/layout guards the import graph).
//
// Exit codes: that of the container's process for run and exec (128 plus the
// signal's number if one killed it), 255 for an exec that failed, 3 for a verb that
// there is not, 1 for anything else that failed. What failed goes to the file of --log, in runc's format, and
// in one line to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/early"
	"github.com/strake-containers/strake/oci/launch"
)

// app is what the global flags said.
type app struct {
	root    string
	ownRoot bool // not the default
	criu    string
	log     *logger
	// extra are the descriptors that the container is to have beside its standard
	// ones; they must outlive an execution of this program by itself.
	extra []*os.File
	// systemd has cgroups made by systemd; rootless may do without any, noCgroup does.
	systemd, rootless, noCgroup bool
}

// verb is one command.
type verb struct {
	name, args, help string
	waits            bool // and has something to undo when it is terminated meanwhile
	// bind declares the verb's flags and returns what runs it with the
	// positional arguments that are left.
	bind func(*app, *flags) func(ctx context.Context, args []string) error
}

// verbs in the order of the help text.
func verbs() []verb {
	return []verb{
		{"create", "ID", "make a container from a bundle; start runs its program", true, bindCreate},
		{"start", "ID", "run the program of a created container", false, bindStart},
		{"run", "ID", "create and start; wait for its end unless detached", false, bindRun},
		{"exec", "ID COMMAND [ARG...] | --process FILE ID", "run one more process in a container", false, bindExec},
		{"state", "ID", "show a container's state as JSON", false, bindState},
		{"kill", "ID [SIGNAL]", "send a signal, SIGTERM by default, to the container's init", false, bindKill},
		{"delete", "ID", "remove a stopped container", false, bindDelete},
		{"list", "", "list the containers below --root", false, bindList},
		{"ps", "ID [PS OPTION...]", "list a container's processes", false, bindPs},
		{"pause", "ID", "stop all processes of a container where they are", true, bindPause},
		{"resume", "ID", "let a paused container go on", false, bindResume},
		{"update", "ID", "change a container's limits", false, bindUpdate},
		{"checkpoint", "ID", "save a running container as CRIU images", false, bindCheckpoint},
		{"restore", "ID", "make a container that goes on from a checkpoint", false, bindRestore},
		{"events", "ID", "show counters and out-of-memory kills as JSON lines", true, bindEvents},
		{"spec", "", "write a config.json to start from", false, bindSpec},
		{"features", "", "show as JSON what this runtime can do", false, bindFeatures},
		{"plan", "BUNDLE", "print the program that create would run for a bundle", false, bindPlan},
	}
}

func main() {
	sys.ShortLife(early.TimerSlack)
	leaveEnvironment()
	os.Exit(run(os.Args))
}

func run(args []string) int {
	name := filepath.Base(args[0])
	a := &app{log: &logger{}}
	defer a.log.close()

	v, rest, err := a.globals(name, args[1:])
	if err == nil && v != nil {
		err = a.call(name, v, rest)
	}
	return a.outcome(name, err)
}

// outcome reports an error and turns it into the exit code.
func (a *app) outcome(name string, err error) int {
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status) && status.err == nil:
		return status.code
	case errors.As(err, &status):
		a.fail(name, status.err)
		return status.code
	}
	a.fail(name, err)
	return 1
}

func (a *app) fail(name string, err error) {
	a.log.write(levelError, err.Error())
	if a.log.toStderr() {
		return
	}
	// What the execve of the container's program says is the program's own line, as
	// a shell's would be: callers look for it alone.
	if refusal := launch.Execve(err); refusal != nil {
		fmt.Fprintln(os.Stderr, refusal)
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
}

// noVerb is the exit code where there is no such verb.
const noVerb = 3

// exitStatus ends the program with a code; err, if any, is shown.
type exitStatus struct {
	code int
	err  error
}

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", e.code) }
func (e exitStatus) Unwrap() error { return e.err }

// globals parses what comes before the verb. The verb is nil if there is nothing
// left to do.
func (a *app) globals(name string, args []string) (*verb, []string, error) {
	var f flags
	var debug, showVersion, help bool
	var logFile, logLevel string
	logFormat, manager, rootless := "text", "", "auto"
	a.root = ""
	f.text(&a.root, "root", "DIR", "state of the containers; on a tmpfs")
	f.flag(&debug, "debug", "log more: --log-level debug")
	f.text(&logFile, "log", "[file:]FILE|journald:ID|syslog:ID", "where to log to")
	f.text(&logFormat, "log-format", "text|json", "format of the log")
	f.text(&logLevel, "log-level", "error|warning|debug", "what to log, warnings and errors by default")
	f.text(&manager, "cgroup-manager", "cgroupfs|systemd|disabled", "who makes the cgroups: systemd is --systemd-cgroup; disabled leaves containers in the caller's")
	f.flag(&a.systemd, "systemd-cgroup", "have systemd make cgroups: linux.cgroupsPath is slice:prefix:name")
	f.text(&rootless, "rootless", "true|false|auto", "do without a cgroup where none may be made")
	f.text(&a.criu, "criu", "FILE", "CRIU's program, for checkpoint and restore")
	f.flag(&showVersion, "version,v,V", "print the version")
	f.flag(&help, "help,h", "print this help")
	rest, err := f.parse(args, stopAtArgument)
	if err != nil {
		return nil, nil, err
	}
	level, err := parseLevel(logLevel)
	if err != nil {
		return nil, nil, err
	}
	if debug {
		level = levelDebug
	}
	if err := a.log.open(logFile, logFormat, level); err != nil {
		return nil, nil, err
	}
	switch manager {
	case "":
	case "cgroupfs":
		a.systemd = false
	case "systemd":
		a.systemd = true
	case "disabled":
		a.systemd, a.noCgroup = false, true
	default:
		return nil, nil, fmt.Errorf("--cgroup-manager: %q is not cgroupfs, systemd or disabled", manager)
	}
	switch {
	case showVersion:
		return nil, nil, printVersion(name)
	case help || len(rest) == 0 || rest[0] == "help":
		return nil, nil, printHelp(name, &f)
	}
	switch rootless {
	case "true":
		a.rootless = true
	case "false":
	case "", "auto":
		if a.rootless, err = container.Rootless(); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, fmt.Errorf("--rootless: %q is not true, false or auto", rootless)
	}
	a.ownRoot = a.root != ""
	if !a.ownRoot {
		a.root = defaultRoot()
	}
	// Every process that looks for a container compares paths below root.
	if a.root, err = filepath.Abs(a.root); err != nil {
		return nil, nil, fmt.Errorf("--root: %w", err)
	}
	if a.root == "/" {
		return nil, nil, errors.New("--root: / is not for containers alone: name a directory that is")
	}
	for _, v := range verbs() {
		if v.name == rest[0] {
			return &v, rest[1:], nil
		}
	}
	return nil, nil, exitStatus{noVerb, fmt.Errorf("No help topic for '%.100s': there is no such command: see %s --help", rest[0], name)}
}

func (a *app) call(name string, v *verb, args []string) error {
	var f flags
	var help bool
	runVerb := v.bind(a, &f)
	f.flag(&help, "help,h", "print this help")
	mode := flagsAnywhere
	if v.name == "exec" || v.name == "ps" { // what comes after the id is the command's own
		mode = stopAtArgument
	}
	rest, err := f.parse(args, mode)
	if err != nil {
		return fmt.Errorf("%s: %w: see %s %s --help", v.name, err, name, v.name)
	}
	if help {
		return printVerbHelp(name, v, &f)
	}
	switch v.name {
	case "create", "start", "run", "exec", "state", "kill", "delete": // do one thing after the other, as a rule
	default:
		sys.Concurrent()
	}
	ctx := context.Background()
	if v.waits {
		if ctx, err = untilTerminated(); err != nil {
			return err
		}
	}
	err = runVerb(ctx, rest)
	if errors.Is(err, container.ErrUnsealed) {
		// Nothing has been done yet; once more, out of the container's reach.
		err = fmt.Errorf("%w: %w", err, container.Seal(a.extra...))
	}
	return err
}

// defaultRoot is below $XDG_RUNTIME_DIR for an ordinary user, also one who is the root of a
// user namespace, as Podman makes him; but not where USER says that he is root there, as in
// a container with an own /run. oci/early knows the other case only.
func defaultRoot() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir != "" && (os.Geteuid() != 0 || os.Getenv("USER") != "root") {
		if ordinary, err := container.Rootless(); err == nil && ordinary {
			return filepath.Join(dir, "strake-runtime")
		}
	}
	return "/run/strake-runtime"
}

// printVersion writes lines in the form that go-runc and Podman read.
func printVersion(name string) error {
	v := strings.TrimPrefix(version.Version, "v")
	if major, _, ok := strings.Cut(v, "."); !ok || strings.Trim(major, "0123456789") != "" {
		v = "0.0.0-" + v // built from no release
	}
	_, err := fmt.Printf("%s version %s\ncommit: %s\nspec: %s\n", name, v, version.Version, specs.Version)
	return err
}

// printHelp and printVerbHelp begin as runc's do: scripts look for the name.
func printHelp(name string, f *flags) error {
	fmt.Printf("NAME:\n   %s - Open Container Initiative runtime\n\nUSAGE:\n   %s [global options] command [command options] [arguments...]\n\nCOMMANDS:\n", name, name)
	for _, v := range verbs() {
		fmt.Printf("   %-10s %s\n", v.name, v.help)
	}
	fmt.Println("\nGLOBAL OPTIONS:")
	return f.print()
}

func printVerbHelp(name string, v *verb, f *flags) error {
	fmt.Printf("NAME:\n   %s %s - %s\n\nUSAGE:\n   %s %s [command options] %s\n\nOPTIONS:\n", name, v.name, v.help, name, v.name, v.args)
	return f.print()
}

// oneID checks that there is exactly one argument, the container's id.
func oneID(args []string) (string, error) {
	if len(args) != 1 {
		return "", fmt.Errorf("one container id is wanted, not %d arguments", len(args))
	}
	return args[0], nil
}
