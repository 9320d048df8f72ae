package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
)

// Container is a container of a Runtime. Its methods may be called concurrently, as
// far as the runtime bears that.
type Container struct {
	r          *Runtime
	id, bundle string
	cgroup     string // of its spec
}

// Open names a container that is there.
func Open(r *Runtime, id, bundle, cgroupsPath string) *Container {
	return &Container{r: r, id: id, bundle: bundle, cgroup: cgroupsPath}
}

// Create makes a container of the bundle's config.json; its init waits for Start.
// What it began is undone if it fails.
func Create(ctx context.Context, r *Runtime, o container.CreateOptions) (_ *Container, _ *container.Process, err error) {
	if len(o.ExtraFiles) > 0 || o.Run != nil {
		return nil, nil, errors.New("an OCI runtime's program takes no extra files") // a mistake of ours
	}
	c := Open(r, o.ID, o.Bundle, o.Spec.Linux.CgroupsPath)
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. Its rootfs, where the runtime looks for it.
	rootfs := o.Spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(o.Bundle, rootfs)
	}
	undo.Push("unmount rootfs", c.unmount)
	for i, m := range o.RootfsMounts {
		if m.Target != "" || i > 0 {
			return nil, nil, fmt.Errorf("rootfs[%d] on %q: for an OCI runtime's program one mount is made, of the root itself", i, m.Target)
		}
		if err := sys.MountFS(m.Type, m.Source, rootfs, m.Options); err != nil {
			return nil, nil, fmt.Errorf("rootfs: %w", err)
		}
	}

	// 2. The container.
	args := []string{"create", "--bundle", o.Bundle}
	if o.NoPivot {
		args = append(args, "--no-pivot")
	}
	if o.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	undo.Push("delete container", func() error { return c.remove(context.WithoutCancel(ctx)) })
	p, err := c.launch(ctx, call{args: args, bundle: o.Bundle, stdin: o.Stdin, stdout: o.Stdout, stderr: o.Stderr}, o.Spec.Process.Terminal)
	if err != nil {
		return nil, nil, err
	}
	undo.Release()
	return c, p, nil
}

// launch runs a call that makes a process, which the caller's args must leave room
// for at their end: for the id.
func (c *Container) launch(ctx context.Context, call call, terminal bool) (_ *container.Process, err error) {
	dir, err := os.MkdirTemp(c.bundle, "runtime-call-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	pidFile := filepath.Join(dir, "pid")
	call.args = append(call.args, "--pid-file", pidFile)
	var consoles *net.UnixListener
	if terminal {
		socket := filepath.Join(dir, "tty")
		if consoles, err = listen(socket); err != nil {
			return nil, fmt.Errorf("terminal: %w", err)
		}
		defer func() { _ = consoles.Close() }() // one connection is all
		// Relative: a socket's path has no room for two ids.
		call.args = append(call.args, "--console-socket", filepath.Join(filepath.Base(dir), "tty"))
		call.stdin, call.stdout, call.stderr = nil, nil, nil
	}
	call.args = append(call.args, c.id)
	if err := c.r.run(ctx, call); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.r.Path, err)
	}
	p := &container.Process{}
	if p.Pid, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return nil, fmt.Errorf("%s: pid file: %w", c.r.Path, err)
	}
	if p.PidFD, err = sys.OpenPidFD(p.Pid); err != nil {
		return nil, err
	}
	if consoles != nil {
		if p.Console, err = receiveConsole(consoles); err != nil {
			return nil, errors.Join(fmt.Errorf("terminal: %w", err), p.PidFD.Close())
		}
	}
	return p, nil
}

// consoleTimeout bounds the wait for what the runtime has sent before it exited.
const consoleTimeout = 10 * time.Second

// listen makes a socket whose path may be longer than a socket's address.
func listen(path string) (*net.UnixListener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only a way to the socket
	return net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), Net: "unix"})
}

// receiveConsole takes the terminal's master (runc's --console-socket).
func receiveConsole(l *net.UnixListener) (*os.File, error) {
	if err := l.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return nil, err
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // read from only
	if err := conn.SetDeadline(time.Now().Add(consoleTimeout)); err != nil {
		return nil, err
	}
	name, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("the runtime sent no descriptor"), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("the runtime sent no descriptor"), err)
	}
	syscall.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// Exec adds a process.
func (c *Container) Exec(ctx context.Context, o container.ExecOptions) (*container.Process, error) {
	data, err := json.Marshal(o.Process)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(c.bundle, "runtime-process-") // 0600: it has the environment
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(file.Name()) }() // or with the bundle
	if _, err = file.Write(data); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	return c.launch(ctx, call{
		args: []string{"exec", "--detach", "--process", file.Name()}, bundle: c.bundle,
		stdin: o.Stdin, stdout: o.Stdout, stderr: o.Stderr,
	}, o.Process.Terminal)
}

// Start lets init execute its program.
func (c *Container) Start(ctx context.Context) error { return c.do(ctx, "start", c.id) }

// Kill signals init, or all processes.
func (c *Container) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	return c.do(ctx, append(args, c.id, strconv.Itoa(int(sig)))...)
}

// Pause freezes all processes.
func (c *Container) Pause(ctx context.Context) error { return c.do(ctx, "pause", c.id) }

// Resume lets them go on.
func (c *Container) Resume(ctx context.Context) error { return c.do(ctx, "resume", c.id) }

// Update changes limits.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(c.bundle, "runtime-resources.json")
	if err := atomicfile.WriteVolatile(path, data, 0o600); err != nil {
		return err
	}
	return c.do(ctx, "update", "--resources", path, c.id)
}

// Checkpoint saves the container as CRIU images.
func (c *Container) Checkpoint(ctx context.Context, o container.CheckpointOptions) error {
	args := []string{"checkpoint", "--image-path", o.Images.Path, "--work-path", o.Images.Work}
	for flag, set := range map[string]bool{
		"--leave-running": o.LeaveRunning, "--tcp-established": o.Images.TCPEstablished, "--ext-unix-sk": o.Images.ExtUnixSockets,
		"--shell-job": o.Images.ShellJob, "--file-locks": o.Images.FileLocks,
	} {
		if set {
			args = append(args, flag)
		}
	}
	if o.Images.CgroupsMode != "" {
		args = append(args, "--manage-cgroups-mode", o.Images.CgroupsMode)
	}
	for _, ns := range o.Images.EmptyNS {
		args = append(args, "--empty-ns", ns)
	}
	return c.do(ctx, append(args, c.id)...)
}

// Delete removes the container, whatever runs in it, and its rootfs's mount. One
// that is not there is no error.
func (c *Container) Delete(ctx context.Context) error {
	if err := c.remove(ctx); err != nil {
		return err
	}
	return c.unmount()
}

func (c *Container) remove(ctx context.Context) error {
	err := c.do(ctx, "delete", "--force", c.id)
	if errors.Is(err, container.ErrNotExist) {
		return nil
	}
	return err
}

// unmount takes the rootfs's mount away.
func (c *Container) unmount() error { return sys.Unmount(filepath.Join(c.bundle, "rootfs")) }

// State asks for the container's state. It is container.ErrNotExist if there is
// none.
func (c *Container) State(ctx context.Context) (specs.State, error) {
	out, err := c.r.verb(ctx, c.bundle, "state", c.id)
	if err != nil {
		return specs.State{}, err
	}
	var s specs.State
	if err := json.Unmarshal(out, &s); err != nil {
		return specs.State{}, fmt.Errorf("%s state: %w", filepath.Base(c.r.Path), err)
	}
	return s, nil
}

// Runs says whether its command has been executed and has not ended.
func (c *Container) Runs(ctx context.Context) bool {
	s, err := c.State(ctx)
	return err == nil && (s.Status == specs.StateRunning || s.Status == "paused")
}

// Cgroup is where the spec has its processes be.
func (c *Container) Cgroup() (*cgroup.Cgroup, error) {
	cg, err := cgroup.Name(cgroup.Config{Path: c.cgroup, Systemd: c.r.SystemdCgroup})
	if err != nil {
		return nil, err
	}
	return cg.Existing()
}

// Pids lists the container's processes.
func (c *Container) Pids(context.Context) ([]int, error) {
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return cg.Pids(true)
}

// Stats reads the cgroup's counters.
func (c *Container) Stats(context.Context) (*cgroup.Stats, error) {
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	return cg.Stats()
}

func (c *Container) do(ctx context.Context, args ...string) error {
	_, err := c.r.verb(ctx, c.bundle, args...)
	return err
}
