package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/plan"
	"github.com/strake-containers/strake/oci/resctrl"
	"github.com/strake-containers/strake/oci/spec"
)

// Create makes the container. When it returns, init exists, has done everything
// but its execve and waits for Start; that its program can be executed has been
// checked. The process is a child of the caller, who collects its exit. On an
// error, and when ctx ends, nothing is left and the poststop hooks have run.
func Create(ctx context.Context, o CreateOptions) (_ *Container, _ *Process, err error) {
	var own ownDir
	defer own.close() // once it has been undone
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. The config: decoded, checked, kept as it is now.
	if err := checkID(o.ID); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("container %s: %w", o.ID, err)
		}
	}()
	s, raw, err := loadSpec(&o)
	if err != nil {
		return nil, nil, err
	}
	if err := checkConsole(o.ConsoleSocket, s.Process); err != nil {
		return nil, nil, err
	}

	// 2. The program. Nothing has been made yet: a caller who is told ErrUnsealed
	// can begin again.
	cg, err := newCgroup(&o, s)
	if err != nil {
		return nil, nil, err
	}
	prog, err := compile(&o, s, cg)
	if err != nil {
		return nil, nil, err
	}
	prepared, err := launch.Prepare(prog)
	if err != nil {
		return nil, nil, err
	}
	defer prepared.Close()
	trace(o.Trace, prog)

	// 3. The id, with the state directory; the cgroup, with all limits.
	c, r, err := claim(ctx, &undo, &own, &o, s, raw, cg, false)
	if err != nil {
		return nil, nil, err
	}

	// 4. What else outlives the process.
	if cfg := s.Linux.IntelRdt; cfg != nil {
		group, err := resctrl.New(o.ID, cfg)
		if err != nil {
			return nil, nil, err
		}
		r.Resctrl, r.ResctrlMade = group.Dirs(), group.Missing()
		if err := c.save(r); err != nil {
			return nil, nil, err
		}
		undo.Push("remove resctrl group", func() error { return resctrl.Remove(r.ResctrlMade) })
		if err := group.Create(); err != nil {
			return nil, nil, err
		}
	}
	if prog.Stays != "" {
		if err := r.staysIn(prog, s); err != nil {
			return nil, nil, err
		}
		if err := c.save(r); err != nil {
			return nil, nil, err
		}
		undo.Push("unmount rootfs", r.unmount)
	}

	// 5. The descriptors that the program starts with.
	in := newInputs(o.Stdin, o.Stdout, o.Stderr, o.ExtraFiles)
	defer in.close()
	if o.Run == nil {
		gate, err := c.listen()
		if err != nil {
			return nil, nil, err
		}
		in.own(plan.InGate, gate)
	}
	if err := in.open(prog); err != nil {
		return nil, nil, err
	}
	cgroupFD, err := in.cgroupFD(cg)
	if err != nil {
		return nil, nil, err
	}

	// 6. The process, up to its gate. It is on record, and known to who is to
	// know it, before it can run its program; a process whose creator dies before
	// that ends by itself.
	proc := &Process{Warnings: append(prog.Warnings, cgroup.LeftOut(s.Linux.Resources)...)}
	undo.Push("close console", func() error { return closeFile(proc.Console) })
	place := func() error { return nil }
	var net netDevices
	undo.Push("return network devices", net.back)
	a := answers{prog: prog, hooks: &hookRunner{ctx: ctx, spec: s, id: o.ID, bundle: o.Bundle,
		creating: in.given[plan.InHook], created: in.given[plan.InCreated]}}
	defer a.close()
	child, err := launch.Run(ctx, launch.Request{
		Program:  prog,
		Prepared: prepared,
		Files:    in.fds,
		CgroupFD: cgroupFD,
		Thaw:     cgroup.LeaveFreezer,
		Sync: func(step, pid int) error {
			if step == plan.SyncNet {
				return net.move(pid, s.Linux.NetDevices)
			}
			return a.sync(step, pid)
		},
		Born: func(pid int) (err error) {
			if err := resctrl.Join(r.Resctrl, pid); err != nil {
				return err
			}
			place, err = c.stage(r, pid)
			return err
		},
		Ready: func(pid int) error {
			proc.Pid = pid
			if err := cg.Settle(); err != nil {
				return err
			}
			if err := place(); err != nil {
				return err
			}
			return ready(&o, proc)
		},
		Listener: func(pid int, f *os.File) error {
			if o.Agent != nil {
				return o.Agent(f)
			}
			state := specs.State{Version: specs.Version, ID: o.ID, Status: specs.StateCreating, Pid: pid, Bundle: o.Bundle, Annotations: s.Annotations}
			return sendListener(s, state, pid, f)
		},
		File: func(n int, f *os.File) {
			if a.file(n, f) {
				proc.Console = console(f, o.ConsoleSocket)
			}
		},
	})
	if err != nil {
		return nil, nil, hookError(initError(err, s, cg), in.given[plan.InHookOut])
	}
	undo.Push("kill init", func() error { return launch.Kill(child) })
	proc.PidFD = child.PidFD
	proc.Warnings = append(proc.Warnings, child.Warnings...)

	// 7. What is due once the program runs.
	if o.Run != nil {
		if err := c.runHooks(ctx, r, specs.StateRunning); err != nil {
			return nil, nil, err
		}
	}
	net.keep()
	undo.Release()
	c.made = r
	return c, proc, nil
}

// claim makes what a container is before it has a process: its state directory, which
// takes the id, its record, and its cgroup with all limits. Undo takes it back, and
// lets the poststop hooks run; own, which the caller closes after that, is the directory.
func claim(ctx context.Context, undo *cleanup.Stack, own *ownDir, o *CreateOptions, s *specs.Spec, raw []byte, cg *cgroup.Cgroup, restored bool) (*Container, *record, error) {
	c := &Container{id: o.ID, dir: filepath.Join(o.StateRoot, o.ID), agent: o.Agent}
	if err := c.makeDir(o.StateRoot); err != nil {
		return nil, nil, err
	}
	if err := own.open(c.dir); err != nil {
		_ = syscall.Rmdir(c.dir) // it is empty, or who has put something there has deleted it before
		return nil, nil, err
	}
	// Whoever deletes a container while it is made undoes this, and another may have the
	// id by then, whose is then all that is there by name.
	undoOurs := func(what string, run func() error) {
		undo.Push(what, func() error {
			if !own.there() {
				return nil
			}
			return run()
		})
	}
	undoOurs("remove state", func() error { return os.RemoveAll(c.dir) })
	if err := sys.WriteNewFile(filepath.Join(c.dir, configFile), raw, 0o600); err != nil {
		return nil, nil, err
	}
	if o.Notify {
		if err := c.makeNotifyDir(); err != nil {
			return nil, nil, err
		}
	}
	// The state is left to them, so that the id is not taken before they end.
	r := newRecord(o, s, cg)
	r.Restored = restored
	undoOurs("poststop hooks", func() error { return c.runHooks(context.WithoutCancel(ctx), &r, specs.StateStopped) })
	if err := c.makeCgroup(&r, o, s, cg); err != nil {
		return nil, nil, err
	}
	undo.Push("remove cgroup", func() error {
		if _, err := os.Lstat(c.dir); err == nil && !own.there() {
			return nil
		}
		return removeCgroup(cg)
	})
	return c, &r, nil
}

// sharesPIDs says whether init gets no PID namespace of its own.
func sharesPIDs(s *specs.Spec) bool {
	return !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace && n.Path == "" })
}

// newRecord is what is known of a container before it has a process.
func newRecord(o *CreateOptions, s *specs.Spec, cg *cgroup.Cgroup) record {
	r := record{Version: recordVersion, ID: o.ID, Bundle: o.Bundle, Rootfs: rootfsPath(o.Bundle, s),
		Created: time.Now().UTC(), Annotations: s.Annotations, Hooks: s.Hooks != nil, SharedPID: sharesPIDs(s), Notify: o.Notify}
	r.keepCgroup(cg)
	return r
}

// makeCgroup makes the container's cgroup, with all limits.
func (c *Container) makeCgroup(r *record, o *CreateOptions, s *specs.Spec, cg *cgroup.Cgroup) error {
	// Hooks ask for the state; and a Delete after a kill has no other way to know
	// of a scope, of what a rootless caller makes, or which of the cgroup's parents
	// were not there.
	if path.Dir(cg.Path()) != "/" && !o.SystemdCgroup {
		r.CgroupTop = cg.Missing()
	}
	if r.Hooks || o.SystemdCgroup || o.Rootless || r.CgroupTop != "" && r.CgroupTop != cg.Path() {
		if err := c.save(r); err != nil {
			return err
		}
	}
	if err := cg.Create(s.Linux.Resources); err != nil {
		return err
	}
	r.keepCgroup(cg)
	return nil
}

// removeCgroup undoes makeCgroup. With init dies what is in its PID namespace, but
// it need not have one; a rootless container need not have a cgroup.
func removeCgroup(cg *cgroup.Cgroup) error {
	err := cg.Kill(syscall.SIGKILL)
	if errors.Is(err, cgroup.ErrNone) {
		return nil
	}
	return errors.Join(err, cg.Delete())
}

// stage prepares the record of an init that is at work.
func (c *Container) stage(r *record, pid int) (place func() error, err error) {
	r.Pid = pid
	if r.StartTime, err = startTime(pid); err != nil {
		return nil, err
	}
	return atomicfile.Stage(filepath.Join(c.dir, stateFile), r.encode(), 0o600)
}

// ready tells everybody of an init that has done everything but its execve.
func ready(o *CreateOptions, proc *Process) error {
	if o.ConsoleSocket != "" && proc.Console != nil {
		if err := sendConsole(o.ConsoleSocket, proc); err != nil {
			return err
		}
	}
	if err := writePidFile(o.PidFile, proc.Pid); err != nil || o.Run == nil {
		return err
	}
	return o.Run(proc)
}

// compile makes the program of a container's init.
func compile(o *CreateOptions, s *specs.Spec, cg *cgroup.Cgroup) (*plan.Program, error) {
	if err := checkNetSysctls(s); err != nil {
		return nil, err
	}
	h, err := hostFacts()
	if err != nil {
		return nil, err
	}
	cfg := plan.Config{
		ID: o.ID, Bundle: o.Bundle, CgroupPath: cg.Path(), CgroupJoin: cg.JoinFiles(),
		ExtraFiles: len(o.ExtraFiles), NoPivot: o.NoPivot, NoNewKeyring: o.NoNewKeyring, NoGate: o.Run != nil,
		OwnStdio: ownStdio(o.Stdin, o.Stdout, o.Stderr),
	}
	for _, m := range o.RootfsMounts {
		cfg.RootfsMounts = append(cfg.RootfsMounts, plan.Mount(m))
	}
	if o.NoPivot {
		if cfg.Revealing, err = revealing(rootfsPath(o.Bundle, s)); err != nil {
			return nil, err
		}
	}
	if sharesMounts(s) {
		if cfg.RootfsParent, err = mountPointOf(rootfsPath(o.Bundle, s)); err != nil {
			return nil, fmt.Errorf("linux.rootfsPropagation: %w", err)
		}
	}
	return plan.Create(s, h, cfg)
}

// Plan compiles what Create would run, and does nothing.
func Plan(o CreateOptions) (*plan.Program, error) {
	s, _, err := loadSpec(&o)
	if err != nil {
		return nil, err
	}
	cg, err := newCgroup(&o, s)
	if err != nil {
		return nil, err
	}
	return compile(&o, s, cg)
}

// PlanExec compiles what Exec would run in a container made by o, and does nothing.
func PlanExec(o CreateOptions, process *specs.Process) (*plan.Program, error) {
	s, _, err := loadSpec(&o)
	if err != nil {
		return nil, err
	}
	cg, err := newCgroup(&o, s)
	if err != nil {
		return nil, err
	}
	p, err := fillProcess(process, s)
	if err != nil {
		return nil, err
	}
	h, err := hostFacts()
	if err != nil {
		return nil, err
	}
	return plan.Exec(s, p, h, plan.Config{ID: o.ID, Bundle: o.Bundle, CgroupPath: cg.Path(), CgroupJoin: cg.JoinFiles(),
		OwnStdio: ownStdio(o.Stdin, o.Stdout, o.Stderr)})
}

// checkNetSysctls refuses sysctls of a network namespace that is the host's by
// another name. The config alone does not show that, so that it has been valid.
func checkNetSysctls(s *specs.Spec) error {
	i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if i < 0 || s.Linux.Namespaces[i].Path == "" {
		return nil
	}
	for key := range s.Linux.Sysctl {
		if !strings.HasPrefix(spec.SysctlPath(key), "net/") {
			continue
		}
		name := s.Linux.Namespaces[i].Path
		theirs, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
		ours, err := os.Stat("/proc/self/ns/net")
		if err != nil {
			return err
		}
		if os.SameFile(ours, theirs) {
			return fmt.Errorf("linux.sysctl[%s]: the network namespace %s is the host's: it would change the host", key, name)
		}
		return nil
	}
	return nil
}

// newCgroup names the container's cgroup.
func newCgroup(o *CreateOptions, s *specs.Spec) (*cgroup.Cgroup, error) {
	if o.NoCgroup {
		if err := checkNoCgroup(s); err != nil {
			return nil, err
		}
		return cgroup.Open(cgroup.Saved{})
	}
	cg, err := cgroup.Name(cgroup.Config{
		Path: s.Linux.CgroupsPath, ID: o.ID, Systemd: o.SystemdCgroup, Annotations: s.Annotations, Hold: hold, Rootless: o.Rootless,
		Owner: cgroupOwner(s),
	})
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	return cg, nil
}

// checkNoCgroup refuses what a container without a cgroup cannot have. Its processes
// are found by nothing but its PID namespace.
func checkNoCgroup(s *specs.Spec) error {
	refuse := func(field, why string) error {
		return fmt.Errorf("%s: without a cgroup (--cgroup-manager disabled) %s: %w", field, why, plan.ErrUnsupported)
	}
	r := s.Linux.Resources
	switch {
	case s.Linux.CgroupsPath != "":
		return refuse("linux.cgroupsPath", "there is none at a path")
	case r != nil && (r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil || r.Network != nil ||
		len(r.Devices)+len(r.HugepageLimits)+len(r.Rdma)+len(r.Unified) > 0):
		return refuse("linux.resources", "nothing enforces them")
	case sharesPIDs(s):
		return refuse("linux.namespaces", "a PID namespace of the container's own is needed")
	}
	own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	for i, m := range s.Mounts {
		if (m.Type == "cgroup" || m.Type == "cgroup2") && !own {
			return refuse("mounts["+strconv.Itoa(i)+"]", "and without a cgroup namespace it would show the host's")
		}
	}
	return nil
}

// cgroupOwner is the host's user that the container's process is, if the
// specification wants the cgroup to be his: it has a cgroup namespace of its own
// and sees its cgroup writable (config-linux.md, "Cgroup ownership").
func cgroupOwner(s *specs.Spec) *int {
	own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.CgroupNamespace && n.Path == ""
	})
	writable := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Source == "cgroup" && m.Destination == "/sys/fs/cgroup" && !slices.Contains(m.Options, "ro")
	})
	if !own || !writable || s.Process == nil {
		return nil
	}
	uid := s.Process.User.UID
	for _, m := range s.Linux.UIDMappings {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			owner := int(m.HostID + uid - m.ContainerID)
			return &owner
		}
	}
	if len(s.Linux.UIDMappings) > 0 || uid == 0 {
		return nil // nobody, or root, whose it is already
	}
	owner := int(uid)
	return &owner
}

// initError says why there is no init. Of one that was killed, the cgroup, which
// is still there, knows whether its memory limit did that.
func initError(err error, s *specs.Spec, cg *cgroup.Cgroup) error {
	limits := s.Linux.Resources
	if !errors.Is(err, launch.ErrKilled) || limits == nil || limits.Memory == nil || limits.Memory.Limit == nil {
		return execError(err)
	}
	if stats, e := cg.Stats(); e != nil || stats.Memory.OOMKills == 0 {
		return err
	}
	return fmt.Errorf("linux.resources.memory.limit: %d bytes of memory are too few to start in: raise the limit", *limits.Memory.Limit)
}

// execError marks errors that are about the program to execute.
func execError(err error) error {
	var e *launch.Error
	if errors.As(err, &e) && (e.Op.Do == plan.OpLookup || e.Op.Do == plan.OpExec) {
		return &execFailure{err}
	}
	return err
}

// execFailure is an error of class ErrExec with the words of the cause alone.
type execFailure struct{ err error }

func (e *execFailure) Error() string   { return e.err.Error() }
func (e *execFailure) Unwrap() []error { return []error{ErrExec, e.err} }

// trace tells who wants to know it what a config has been compiled to.
func trace(to func(string), p *plan.Program) {
	if to == nil {
		return
	}
	for _, line := range p.Summary() {
		to(line)
	}
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	return atomicfile.WriteVolatile(path, []byte(strconv.Itoa(pid)), 0o644)
}

func rootfsPath(bundle string, s *specs.Spec) string {
	if filepath.IsAbs(s.Root.Path) {
		return s.Root.Path
	}
	return filepath.Join(bundle, s.Root.Path)
}
