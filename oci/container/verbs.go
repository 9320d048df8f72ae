package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/resctrl"
	"github.com/strake-containers/strake/oci/spec"
)

// Container is one container below a state root.
type Container struct {
	id, dir string
	agent   func(listener *os.File) error // see CreateOptions.Agent
	// made is the record of a container that was made, or is being started, by way of this:
	// whatever else has the id later is not meant. Nil means who has it.
	made *record
}

// SetAgent is CreateOptions.Agent of a container that was created before.
func (c *Container) SetAgent(agent func(listener *os.File) error) { c.agent = agent }

// ID is the container's id.
func (c *Container) ID() string { return c.id }

// listen makes the gate: a unix socket at which init waits for a connection. The
// connection tells the starter how it went: it ends at the execve, or carries
// the error. Nobody listens any more once init has died or gone on.
func (c *Container) listen() (*os.File, error) { return sys.ListenPacket(c.dir, gateSocket) }

// Start lets init execute its program, returns once that has happened, and runs
// the poststart hooks. The error is of class ErrExec if it was the execve that
// failed, and ErrNotCreated if init does not wait (any more). When a hook fails,
// nothing is left of the container but what Delete leaves.
func (c *Container) Start(ctx context.Context) error {
	r, err := c.load()
	if err != nil {
		return err
	}
	// Opened before the status is asked for, it is init's if that is good; with it the
	// kernel remembers how init ends.
	pidfd, err := sys.OpenPidFD(r.Pid)
	if err == nil {
		defer func() { _ = pidfd.Close() }()
	}
	status, err := c.status(r)
	if err != nil {
		return err
	}
	if status != specs.StateCreated {
		what := string(status)
		if status == specs.StateStopped {
			what = "stopped: its init " + howEnded(r, pidfd)
		}
		return fmt.Errorf("start container %s: %w: it is %s", c.id, ErrNotCreated, what)
	}
	conn, err := sys.DialPacket(c.dir, gateSocket)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return c.notStarted(ctx, r, pidfd, errors.New("it was started by somebody else"))
		}
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	return c.await(ctx, r, pidfd, conn)
}

// GoOn is the rest of a Start whose connection to the gate, which it takes over, has
// been made already (oci/early).
func (c *Container) GoOn(ctx context.Context, conn *os.File) error {
	r, err := c.load()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	pidfd, err := sys.OpenPidFD(r.Pid)
	if err == nil {
		defer func() { _ = pidfd.Close() }()
	}
	return c.await(ctx, r, pidfd, conn)
}

// await waits on a connection to the gate until init has executed its program. It closes
// the connection.
func (c *Container) await(ctx context.Context, r *record, pidfd, conn *os.File) error {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = sys.Shutdown(conn) })
	at, err := launch.AwaitExec(conn, func() (*os.File, error) { return openInit(r) },
		func(f *os.File) error { return c.giveListener(specs.StateCreated, r, r.Pid, f) })
	stop()
	if cause := context.Cause(ctx); cause != nil {
		if at == "" {
			at = "its init does not come out of the gate: it is stopped, frozen or killed"
		}
		return fmt.Errorf("start container %s: %s: %w", c.id, at, cause)
	}
	if err != nil {
		var gate *launch.GateError
		isGate := errors.As(err, &gate)
		if isGate && gate.IsHook() {
			return c.undoStart(ctx, r, err)
		}
		if isGate && gate.IsExec() {
			err = &execFailure{err}
		}
		if !isGate {
			return c.notStarted(ctx, r, pidfd, err)
		}
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	_ = os.Remove(filepath.Join(c.dir, gateSocket)) // delete removes it with the rest
	if err := c.runHooks(ctx, r, specs.StateRunning); err != nil {
		return c.undoStart(ctx, r, err)
	}
	return nil
}

// notStarted is the error of a start whose gate closed. It does so too when init is
// killed, a moment before that shows.
func (c *Container) notStarted(ctx context.Context, r *record, pidfd *os.File, cause error) error {
	if pidfd != nil {
		ctx, cancel := context.WithTimeout(ctx, endingGrace)
		defer cancel()
		if sys.WaitReadable(ctx, pidfd) == nil {
			cause = errors.New("its init " + howEnded(r, pidfd))
		}
	}
	return fmt.Errorf("start container %s: %w: %w", c.id, ErrNotCreated, cause)
}

// howEnded says how an init has ended, as far as that is known; pidfd, its own, may
// be nil.
func howEnded(r *record, pidfd *os.File) string {
	if pidfd == nil {
		return "has died"
	}
	exit, known := sys.ZombieExit(sys.Fd(pidfd), r.Pid)
	if !known {
		exit, known, _ = sys.PidFDExit(sys.Fd(pidfd))
	}
	switch {
	case !known:
		return "has died"
	case exit.Signaled:
		return "has died: signal: " + syscall.Signal(exit.Status).String()
	}
	return "has died: exit status " + strconv.Itoa(exit.Status)
}

// undoStart is what a failing hook of a start has for a consequence: the container
// is stopped and destroyed, and the poststop hooks run (runtime.md, "Lifecycle",
// steps 7 and 9).
func (c *Container) undoStart(ctx context.Context, r *record, cause error) error {
	started := Container{id: c.id, dir: c.dir, made: r}
	return errors.Join(fmt.Errorf("start container %s: %w", c.id, cause), started.Delete(context.WithoutCancel(ctx), true))
}

// giveListener hands a seccomp listener to our own agent, or to the one that the config
// names.
func (c *Container) giveListener(status specs.ContainerState, r *record, pid int, f *os.File) error {
	if c.agent != nil {
		return c.agent(f)
	}
	s, err := c.Spec()
	if err != nil {
		return err
	}
	state := specs.State{Version: specs.Version, ID: c.id, Status: status, Pid: r.Pid, Bundle: r.Bundle, Annotations: r.Annotations}
	return sendListener(s, state, pid, f)
}

// Kill signals init or, with all, every process of the container's cgroup. So does
// SIGKILL where the end of init would leave the others alive, in a PID namespace
// that they share, even if init has ended already. It ends a frozen container, too.
func (c *Container) Kill(sig syscall.Signal, all bool) error {
	r, err := c.load()
	if err != nil {
		return err
	}
	if sig == syscall.SIGKILL && r.SharedPID && r.Cgroup != "" {
		if status, err := c.status(r); err == nil && status == specs.StateStopped {
			if pids, err := c.Pids(); err != nil || len(pids) == 0 {
				return fmt.Errorf("kill container %s: %w", c.id, ErrNotRunning)
			}
		}
		all = true
	}
	if all {
		cg, err := c.cgroupOf(r)
		if err != nil {
			return err
		}
		if err := cg.Kill(sig); err != nil {
			return fmt.Errorf("kill container %s: %w", c.id, err)
		}
		return nil
	}
	pidfd, err := openInit(r)
	if err != nil {
		return fmt.Errorf("kill container %s: %w", c.id, err)
	}
	defer func() { _ = pidfd.Close() }()
	if err := sys.KillPidFD(sys.Fd(pidfd), sig); err != nil {
		return fmt.Errorf("kill container %s: %w", c.id, err)
	}
	if sig == syscall.SIGKILL {
		_ = cgroup.ThawProcess(r.Pid, pidfd) // who is held from elsewhere dies when he is let go
	}
	return nil
}

// openInit opens a pidfd of the container's init. ErrNotRunning if it has ended;
// a process that got its number since is not taken for it.
func openInit(r *record) (*os.File, error) {
	if r.Pid == 0 {
		return nil, fmt.Errorf("%w: it is being created", ErrNotRunning)
	}
	return OpenProcess(r.Pid, r.StartTime)
}

// OpenProcess opens a pidfd of a process that began at a StartTime. ErrNotRunning
// if it has ended; one that got its number since is not taken for it.
func OpenProcess(pid int, start uint64) (*os.File, error) {
	pidfd, err := sys.OpenPidFD(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	if st, ok := readStat(pid); !ok || st.start != start || st.state == 'Z' || st.state == 'X' {
		return nil, errors.Join(ErrNotRunning, pidfd.Close())
	}
	return pidfd, nil
}

// StartTime is when a process began, as OpenProcess wants it.
func StartTime(pid int) (uint64, error) { return startTime(pid) }

// Init is the container's first process, for another than its creator. Pidfd is
// the caller's; it is nil and the error ErrNotRunning if the process has ended.
func (c *Container) Init() (pid int, pidfd *os.File, err error) {
	r, err := c.load()
	if err != nil {
		return 0, nil, err
	}
	pidfd, err = openInit(r)
	return r.Pid, pidfd, err
}

// Delete removes a container that is stopped or has not been started or, with
// force, any: also what a creator left that was killed half-way. One that was made by way
// of this Container is the only one that it deletes. It returns when
// no process is left; one that cannot die is waited for as long as ctx allows. An
// error of class ErrPoststop is a warning.
func (c *Container) Delete(ctx context.Context, force bool) error {
	// Two may delete it, and a third make the next one of the id: what goes by name is
	// that one's then.
	var own ownDir
	defer own.close()
	if err := own.open(c.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	r, err := c.load()
	if err == nil && (!own.there() || c.made != nil && !r.sameInit(c.made)) {
		err = fmt.Errorf("container %s: %w", c.id, ErrNotExist)
	}
	if errors.Is(err, ErrNotExist) && own.file != nil {
		if made, err := c.halfMadeFiles(); err == nil && !made { // a removal that was cut off is finished
			if err := c.removeDir(&own); err != nil {
				return fmt.Errorf("delete container %s: %w", c.id, err)
			}
			return nil
		}
	}
	if errors.Is(err, errNoRecord) && force {
		r, err = c.halfMade() // what can be known without it
	}
	if errors.Is(err, ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.end(ctx, r, force); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if !own.there() {
		return nil
	}
	if r.Cgroup != "" {
		cg, err := c.cgroupOf(r)
		if err != nil {
			return err
		}
		// What is left in it: processes of a shared PID namespace, or of an
		// init whose creator died before its pid was on record.
		if !cg.Empty() {
			if err := cg.Kill(syscall.SIGKILL); err != nil {
				return fmt.Errorf("delete container %s: %w", c.id, err)
			}
			if err := cg.WaitEmpty(ctx); err != nil {
				return fmt.Errorf("delete container %s: %w", c.id, err)
			}
		}
		if err := cg.Delete(); err != nil {
			return fmt.Errorf("delete container %s: %w", c.id, err)
		}
	}
	if err := r.unmount(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if err := resctrl.Remove(r.ResctrlMade); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	hookErr := c.runHooks(ctx, r, specs.StateStopped)
	if err := c.removeDir(&own); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if hookErr != nil {
		return fmt.Errorf("container %s is deleted: %w: %w", c.id, ErrPoststop, hookErr)
	}
	return nil
}

// end makes sure that init has ended.
func (c *Container) end(ctx context.Context, r *record, force bool) error {
	status, err := c.status(r)
	if err != nil {
		return err
	}
	switch status {
	case specs.StateStopped:
		return nil
	case specs.StateCreating:
		if !force {
			return fmt.Errorf("%w: it is being created, or its creator was killed; use force", ErrRunning)
		}
		return nil
	case specs.StateCreated:
	default:
		if !force {
			return fmt.Errorf("%w: stop it first, or use force", ErrRunning)
		}
	}
	pidfd, err := openInit(r)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = pidfd.Close() }()
	if err := sys.KillPidFD(sys.Fd(pidfd), syscall.SIGKILL); err != nil {
		return err
	}
	if status == StatePaused {
		if cg, err := c.cgroupOf(r); err == nil {
			if err := cg.Thaw(); err != nil { // on v1 a frozen process does not die
				return err
			}
		}
	}
	if err := cgroup.ThawProcess(r.Pid, pidfd); err != nil {
		return err
	}
	return sys.WaitReadable(ctx, pidfd)
}

// Cgroup is the container's cgroup.
func (c *Container) Cgroup() (*cgroup.Cgroup, error) {
	r, err := c.load()
	if err != nil {
		return nil, err
	}
	if r.Cgroup == "" {
		return nil, fmt.Errorf("container %s: %w: it has no cgroup yet", c.id, ErrNotRunning)
	}
	return c.cgroupOf(r)
}

// Pids lists the container's processes, those of sub-cgroups too.
func (c *Container) Pids() ([]int, error) {
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return cg.Pids(true)
}

// Stats reads the cgroup's counters.
func (c *Container) Stats() (*cgroup.Stats, error) {
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return cg.Stats()
}

// Update changes limits; those that r leaves out stay.
func (c *Container) Update(r *specs.LinuxResources) error {
	cg, err := c.running()
	if err != nil {
		return err
	}
	return cg.Set(r)
}

// UpdateIntelRdt changes the schemata of the container's class of service, as its config has
// them; "" leaves one as it is. A container whose config has no intelRdt is in no class.
func (c *Container) UpdateIntelRdt(l3Cache, memBw string) error {
	if err := spec.ValidateIntelRdt(&specs.LinuxIntelRdt{L3CacheSchema: l3Cache, MemBwSchema: memBw}); err != nil {
		return err
	}
	if _, err := c.running(); err != nil {
		return err
	}
	s, err := c.Spec()
	if err != nil {
		return err
	}
	if s.Linux.IntelRdt == nil {
		return fmt.Errorf("container %s: linux.intelRdt: its config has none, and a running container gets none", c.id)
	}
	g, err := resctrl.New(c.id, s.Linux.IntelRdt)
	if err != nil {
		return err
	}
	return g.Set(l3Cache, memBw)
}

// Pause freezes all processes.
func (c *Container) Pause(ctx context.Context) error {
	cg, err := c.running()
	if err != nil {
		return err
	}
	return cg.Freeze(ctx)
}

// Resume lets them go on.
func (c *Container) Resume() error {
	cg, err := c.running()
	if err != nil {
		return err
	}
	return cg.Thaw()
}

// running is the cgroup of a container that has a live init.
func (c *Container) running() (*cgroup.Cgroup, error) {
	r, err := c.load()
	if err != nil {
		return nil, err
	}
	status, err := c.status(r)
	if err != nil {
		return nil, err
	}
	if status == specs.StateStopped || status == specs.StateCreating {
		return nil, fmt.Errorf("container %s: %w: it is %s", c.id, ErrNotRunning, status)
	}
	return c.cgroupOf(r)
}

// Spec is the config that the container was made from.
func (c *Container) Spec() (*specs.Spec, error) {
	raw, err := sys.ReadFile(filepath.Join(c.dir, configFile), spec.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	return spec.Decode(raw)
}
