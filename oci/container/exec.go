package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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

// Exec starts another process in the container and returns once it has executed
// its program. What o.Process leaves out of capabilities, labels and
// oom_score_adj is as for the container's init.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (_ *Process, err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)
	defer func() {
		if err != nil {
			err = fmt.Errorf("exec in container %s: %w", c.id, err)
		}
	}()

	if err := checkConsole(o.ConsoleSocket, o.Process); err != nil {
		return nil, err
	}

	// 1. The container's init, held by its pidfd.
	r, err := c.load()
	if err != nil {
		return nil, err
	}
	pidfd, err := openInit(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = pidfd.Close() }()

	// 2. The program.
	prog, cg, h, err := c.compileExec(r, &o)
	if err != nil {
		return nil, err
	}
	prepared, err := launch.Prepare(prog)
	if err != nil {
		return nil, err
	}
	defer prepared.Close()
	trace(o.Trace, prog)
	in := newInputs(o.Stdin, o.Stdout, o.Stderr, o.ExtraFiles)
	defer in.close()
	in.given[plan.InPidfd] = pidfd
	if prog.Input(plan.InRoot) != nil {
		root, err := sys.Open("/proc/"+strconv.Itoa(r.Pid)+"/root", sys.OPath)
		if err != nil {
			return nil, err
		}
		in.own(plan.InRoot, root)
	}
	if err := in.open(prog); err != nil {
		return nil, err
	}

	// 3. The process.
	proc := &Process{}
	undo.Push("close console", func() error { return closeFile(proc.Console) })
	runs := 0
	child, err := in.born(cg, r.Pid, len(o.CgroupSub) > 0, func(cgroupFD int) (*launch.Process, error) {
		p := prepared
		if runs++; runs > 1 { // it is for one run
			p = nil
		}
		return launch.Run(ctx, launch.Request{
			Program:  prog,
			Prepared: p,
			Files:    in.fds,
			CgroupFD: cgroupFD,
			Sync:     (&answers{prog: prog}).sync, // it sends no mounts
			Born:     func(pid int) error { return resctrl.Join(r.Resctrl, pid) },
			Listener: func(pid int, f *os.File) error { return c.giveListener(specs.StateRunning, r, pid, f) },
			File:     func(_ int, f *os.File) { proc.Console = console(f, o.ConsoleSocket) },
			Thaw:     cgroup.LeaveFreezer,
		})
	})
	if err != nil {
		if err = execError(err); ending(ctx, r, pidfd, err) {
			err = ErrNotRunning
		}
		return nil, err
	}
	undo.Push("kill process", func() error { return launch.Kill(child) })
	proc.Pid, proc.PidFD = child.Pid, child.PidFD
	proc.Warnings = append(prog.Warnings, child.Warnings...)
	if o.ConsoleSocket != "" && proc.Console != nil {
		if err := sendConsole(o.ConsoleSocket, proc); err != nil {
			return nil, err
		}
	}
	if err := writePidFile(o.PidFile, proc.Pid); err != nil {
		return nil, err
	}
	if o.Keep != "" && runs == 1 && len(proc.Warnings) == 0 && len(r.Resctrl) == 0 {
		c.keep(prepared, prog, cg, launch.KeepOptions{Request: stdioText(o.Stdin, o.Stdout, o.Stderr) + o.Keep, NoFile: h.NoFile})
	}
	undo.Release()
	return proc, nil
}

// keep leaves a program to who asks for the same again. That it cannot be is no matter.
func (c *Container) keep(p *launch.Prepared, prog *plan.Program, cg *cgroup.Cgroup, o launch.KeepOptions) {
	o.CgroupDir = cg.DirV2()
	if file := launch.Keep(p, prog, o); file != nil {
		_ = atomicfile.WriteVolatile(filepath.Join(c.dir, launch.KeptName(o.Request)), file, 0o600)
	}
}

// stdioText is what a kept program knows of the standard files, as oci/early has it.
func stdioText(files ...*os.File) string {
	text := []byte("---")
	for i, own := range ownStdio(files...) {
		if own {
			text[i] = 'o'
		}
	}
	return string(text)
}

// endingGrace is how long a container may take to show that it is ending. Its
// processes are killed one after the other, and on a busy node the last of them runs
// late. Only an error waits that long, and only one that looks like such an end.
const endingGrace = 2 * time.Second

// ending says whether a process could not join because the container's init is
// on its way out: the namespaces go before the process does.
func ending(ctx context.Context, r *record, pidfd *os.File, err error) bool {
	if errors.Is(err, ErrExec) || ctx.Err() != nil {
		return false
	}
	st, ok := readStat(r.Pid)
	if !ok || st.start != r.StartTime || st.flags&flagExiting != 0 {
		return true
	}
	// Or both have been killed at once, and only the one has noticed yet.
	if !errors.Is(err, launch.ErrKilled) && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.ENOMEM) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, endingGrace)
	defer cancel()
	return sys.WaitReadable(ctx, pidfd) == nil
}

// flagExiting is PF_EXITING.
const flagExiting = 0x4

func (c *Container) compileExec(r *record, o *ExecOptions) (prog *plan.Program, cg *cgroup.Cgroup, h plan.Host, err error) {
	s := o.Spec
	if s == nil {
		if s, err = c.Spec(); err != nil {
			return nil, nil, h, err
		}
	}
	if o.Process == nil {
		return nil, nil, h, errors.New("no process given")
	}
	p, err := fillProcess(o.Process, s)
	if err != nil {
		return nil, nil, h, err
	}
	if cg, err = c.cgroupOf(r); err != nil {
		return nil, nil, h, err
	}
	if len(o.CgroupSub) > 0 {
		if cg, err = cg.Sub(o.CgroupSub); err != nil {
			return nil, nil, h, err
		}
	}
	if h, err = hostFacts(); err != nil {
		return nil, nil, h, err
	}
	prog, err = plan.Exec(s, p, h, plan.Config{
		ID: c.id, Bundle: r.Bundle, CgroupPath: cg.Path(), CgroupJoin: cg.JoinFiles(), ExtraFiles: len(o.ExtraFiles),
		OwnStdio: ownStdio(o.Stdin, o.Stdout, o.Stderr),
	})
	return prog, cg, h, err
}

// fillProcess is a process with what it leaves out taken from the container's.
func fillProcess(process *specs.Process, s *specs.Spec) (*specs.Process, error) {
	p := *process
	if p.Cwd == "" {
		p.Cwd = s.Process.Cwd
	}
	if p.Capabilities == nil {
		p.Capabilities = s.Process.Capabilities
	}
	if p.ApparmorProfile == "" {
		p.ApparmorProfile = s.Process.ApparmorProfile
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = s.Process.SelinuxLabel
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = s.Process.OOMScoreAdj
	}
	return &p, spec.ValidateProcess(&p)
}
