package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/spec"
)

// execFlags are those of exec.
type execFlags struct {
	process, cwd, user, apparmor, label              string
	pidFile, consoleSocket, pidfdSocket              string
	env, caps, groups, cgroup                        []string
	tty, detach, noNewPrivs, ignorePaused, subreaper bool
	preserveFDs                                      int
	timeout                                          time.Duration
}

// execFailed is the exit code of an exec that did not get to run its program.
const execFailed = 255

func bindExec(a *app, f *flags) func(context.Context, []string) error {
	var e execFlags
	f.text(&e.process, "process,p", "FILE", "JSON of the process (an OCI process object)")
	f.flag(&e.tty, "tty,t", "give it a terminal")
	f.text(&e.cwd, "cwd", "DIR", "its working directory")
	f.list(&e.env, "env,e", "NAME=VALUE", "add to its environment")
	f.text(&e.user, "user,u", "UID[:GID]", "who it runs as")
	f.list(&e.groups, "additional-gids,g", "GID", "add a group")
	f.list(&e.caps, "cap,c", "CAP_NAME", "add a capability")
	f.flag(&e.noNewPrivs, "no-new-privs", "it can gain no privileges")
	f.text(&e.apparmor, "apparmor", "PROFILE", "its AppArmor profile")
	f.text(&e.label, "process-label", "LABEL", "its SELinux label")
	f.list(&e.cgroup, "cgroup", "[CONTROLLER,...:]PATH", "run it in this cgroup below the container's")
	f.flag(&e.ignorePaused, "ignore-paused", "wait for a paused container instead of failing")
	f.flag(&e.detach, "detach,d", "return once the program runs")
	f.text(&e.pidFile, "pid-file", "FILE", "write its pid to this file")
	f.text(&e.consoleSocket, "console-socket", "SOCKET", "unix socket that gets the terminal's master")
	f.text(&e.pidfdSocket, "pidfd-socket", "SOCKET", "unix socket that gets a pidfd of it")
	bindTimeout(f, &e.timeout, "give up and say which step it was if the program does not run")
	f.number(&e.preserveFDs, "preserve-fds", "N", "hand on N descriptors from 3 on")
	f.flag(&e.subreaper, "no-subreaper", "taken for runc's sake")
	return func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return errors.New("exec: a container id is wanted")
		}
		err := a.exec(ctx, &e, args)
		var status exitStatus
		if err != nil && !errors.As(err, &status) {
			return exitStatus{execFailed, err}
		}
		return err
	}
}

func (a *app) exec(ctx context.Context, e *execFlags, args []string) (err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. The container.
	box, err := container.Load(a.root, args[0])
	if err != nil {
		return err
	}
	if err := executable(box, e.ignorePaused); err != nil {
		return fmt.Errorf("container %s: %w", args[0], err)
	}

	// 2. The process.
	o := container.ExecOptions{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ConsoleSocket: e.consoleSocket, PidFile: e.pidFile, CgroupSub: e.cgroup, Trace: a.log.tracer(),
	}
	if o.Process, o.Spec, o.Keep, err = e.processOf(box, args[1:]); err != nil {
		return err
	}
	o.Process.Env = append(o.Process.Env, activation()...)
	if o.Process.Terminal && e.detach && e.consoleSocket == "" {
		return errors.New("exec: a detached process with a terminal needs --console-socket")
	}
	if o.ExtraFiles, err = a.extraFiles(e.preserveFDs); err != nil {
		return err
	}
	if !e.isPlain() || activated() > 0 {
		o.Keep = ""
	}

	// 3. It runs.
	var signals *sys.Signals
	if !e.detach {
		if signals, err = catchSignals(); err != nil {
			return err
		}
	}
	starting, cancel := within(ctx, e.timeout)
	defer cancel()
	p, err := box.Exec(starting, o)
	if err != nil {
		return err
	}
	undo.Push("kill process", func() error { return launch.Kill(&launch.Process{Pid: p.Pid, PidFD: p.PidFD}) })
	a.log.warn(p.Warnings...)
	a.log.trace(fmt.Sprintf("container %s: exec, pid %d", args[0], p.Pid))
	if err := sendPidFD(e.pidfdSocket, p.Pid); err != nil {
		return err
	}
	if e.detach {
		undo.Release()
		return nil
	}

	// 4. Its end.
	t, err := openTTY(p.Console)
	if err != nil {
		return err
	}
	undo.Release()
	code, err := wait(p, signals, t)
	if err = errors.Join(err, t.close()); err != nil {
		return err
	}
	return exitStatus{code: code}
}

// isPlain says whether the process is the file's, or the container's own with another
// command, and nothing else than descriptors is asked of its start.
func (e *execFlags) isPlain() bool {
	return e.cwd == "" && e.user == "" && e.apparmor == "" && e.label == "" && e.consoleSocket == "" && e.pidfdSocket == "" &&
		len(e.env) == 0 && len(e.caps) == 0 && len(e.groups) == 0 && len(e.cgroup) == 0 &&
		!e.tty && !e.noNewPrivs && !e.ignorePaused && e.preserveFDs == 0 && e.timeout == 0
}

// executable says in runc's words why a container takes no process.
func executable(box *container.Container, ignorePaused bool) error {
	status, err := box.Status()
	if err != nil {
		return err
	}
	switch {
	case status == specs.StateStopped:
		return errors.New("cannot exec in a stopped container")
	case status == container.StatePaused && !ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	return nil
}

// processOf is the process of the file, or of the flags on top of the
// container's own; then it returns the container's config too. Asked is what of the
// command line says so, as oci/early has it.
func (e *execFlags) processOf(box *container.Container, args []string) (p *specs.Process, s *specs.Spec, asked string, err error) {
	if e.process != "" {
		if st, err := os.Stat(e.process); err != nil || !st.Mode().IsRegular() {
			// What can be read only once must not be read before we know that we
			// need not begin again.
			if err := container.Seal(); err != nil {
				return nil, nil, "", err
			}
		}
		data, err := readInput(e.process)
		if err != nil {
			return nil, nil, "", fmt.Errorf("--process: %w", err)
		}
		if p, err = spec.DecodeProcess(data); err != nil {
			return nil, nil, "", fmt.Errorf("--process %s: %w", e.process, err)
		}
		return p, nil, "p" + string(data), nil
	}
	if len(args) == 0 {
		return nil, nil, "", errors.New("exec: a command is wanted, or --process")
	}
	if s, err = box.Spec(); err != nil {
		return nil, nil, "", err
	}
	p = s.Process
	p.Args = args
	p.Terminal = e.tty
	p.ConsoleSize = nil
	for _, variable := range e.env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return nil, nil, "", fmt.Errorf("--env: %q is not NAME=VALUE", variable)
		}
	}
	p.Env = append(p.Env, e.env...)
	if e.cwd != "" {
		p.Cwd = e.cwd
	}
	if e.apparmor != "" {
		p.ApparmorProfile = e.apparmor
	}
	if e.label != "" {
		p.SelinuxLabel = e.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || e.noNewPrivs
	e.addCapabilities(p)
	if e.user != "" {
		if p.User.UID, p.User.GID, err = parseUser(e.user, p.User.GID); err != nil {
			return nil, nil, "", err
		}
	}
	for _, group := range e.groups {
		gid, err := parseID(group)
		if err != nil {
			return nil, nil, "", fmt.Errorf("--additional-gids: %w", err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, gid)
	}
	return p, s, "a" + strings.Join(args, "\x00") + "\x00", nil
}

// addCapabilities never makes one inheritable, as runc since CVE-2022-29162. It
// becomes ambient where the config has made it inheritable, which that needs.
func (e *execFlags) addCapabilities(p *specs.Process) {
	if len(e.caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	for _, name := range e.caps {
		name = strings.ToUpper(name)
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		c := p.Capabilities
		c.Bounding, c.Effective, c.Permitted = append(c.Bounding, name), append(c.Effective, name), append(c.Permitted, name)
		if slices.Contains(c.Inheritable, name) {
			c.Ambient = append(c.Ambient, name)
		}
	}
}

// parseUser reads UID or UID:GID. Whatever else it is, it is nobody: a number
// that only starts well must not become somebody (CVE-2026-30892 of crun).
func parseUser(text string, gid uint32) (uint32, uint32, error) {
	uidText, gidText, both := strings.Cut(text, ":")
	uid, err := parseID(uidText)
	if err == nil && both {
		gid, err = parseID(gidText)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("--user %q: %w: give UID or UID:GID", text, err)
	}
	return uid, gid, nil
}

func parseID(text string) (uint32, error) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not an id", text)
	}
	return uint32(n), nil
}

// printJSON writes a value to standard output, indented as runc's.
func printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", data)
	return err
}
