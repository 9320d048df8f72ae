package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/strake-containers/strake/internal/sdnotify"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// createFlags are those of create and run.
type createFlags struct {
	bundle, config                      string
	pidFile, consoleSocket, pidfdSocket string
	noPivot, noNewKeyring               bool
	preserveFDs                         int
	timeout                             time.Duration
}

func (c *createFlags) bind(f *flags) {
	f.text(&c.bundle, "bundle,b", "DIR", "directory of config.json, the current one by default")
	f.text(&c.config, "config,f", "FILE", "the config, config.json in the bundle by default")
	f.text(&c.pidFile, "pid-file", "FILE", "write the pid of the container's init to this file")
	f.text(&c.consoleSocket, "console-socket", "SOCKET", "unix socket that gets the terminal's master")
	f.text(&c.pidfdSocket, "pidfd-socket", "SOCKET", "unix socket that gets a pidfd of the container's init")
	f.flag(&c.noPivot, "no-pivot", "do not pivot_root (for a rootfs on a ramdisk)")
	f.flag(&c.noNewKeyring, "no-new-keyring", "keep the caller's session keyring")
	bindTimeout(f, &c.timeout, "give up, undo everything and say which step it was if the container is not made")
	f.number(&c.preserveFDs, "preserve-fds", "N", "hand on N descriptors from 3 on")
}

// options turns the flags into what the library wants. The caller closes the
// extra files once the container is made.
func (c *createFlags) options(a *app, id string) (container.CreateOptions, error) {
	o := container.CreateOptions{
		ID: id, StateRoot: a.root,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ConsoleSocket: c.consoleSocket, PidFile: c.pidFile,
		NoPivot: c.noPivot, NoNewKeyring: c.noNewKeyring,
		SystemdCgroup: a.systemd, Rootless: a.rootless, NoCgroup: a.noCgroup, Trace: a.log.tracer(),
	}
	var err error
	if o.Bundle, err = filepath.Abs(c.bundle); err != nil {
		return o, fmt.Errorf("--bundle: %w", err)
	}
	o.Config = c.config
	o.ExtraFiles, err = a.extraFiles(c.preserveFDs)
	if err != nil {
		return o, err
	}
	o.Env = activation()
	name, err := sdnotify.Socket()
	o.Notify = name != ""
	return o, err
}

// maxPreserved bounds --preserve-fds.
const maxPreserved = 1 << 16

// extraFiles are the descriptors from 3 on that the container is to have: those
// of socket activation (sd_listen_fds(3)), then those of --preserve-fds.
func (a *app) extraFiles(preserve int) ([]*os.File, error) {
	listen := activated()
	if preserve < 0 || preserve > maxPreserved-listen {
		return nil, fmt.Errorf("--preserve-fds: %d is not 0 to %d", preserve, maxPreserved-listen)
	}
	files := make([]*os.File, 0, listen+preserve)
	for fd := 3; fd < 3+listen+preserve; fd++ {
		f, err := sys.InheritedFile(fd, fmt.Sprintf("descriptor %d", fd))
		if err != nil {
			who := fmt.Sprintf("--preserve-fds=%d", preserve)
			if fd < 3+listen {
				who = fmt.Sprintf("environment: LISTEN_FDS=%d", listen)
			}
			return nil, fmt.Errorf("%s: descriptor %d is not open: %w", who, fd, err)
		}
		files = append(files, f)
	}
	a.extra = files
	return files, nil
}

// activated is the number of descriptors that socket activation has given us, and not
// a process that we are a descendant of.
func activated() int {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid := os.Getenv("LISTEN_PID"); err != nil || n < 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return min(n, maxPreserved)
}

// activation tells the container's program of them.
func activation() []string {
	if n := activated(); n > 0 {
		return []string{"LISTEN_FDS=" + strconv.Itoa(n), "LISTEN_PID=1"}
	}
	return nil
}

func bindCreate(a *app, f *flags) func(context.Context, []string) error {
	var c createFlags
	c.bind(f)
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		box, p, err := a.create(ctx, &c, id, nil)
		if err != nil {
			return err
		}
		if p.Console != nil {
			err = errors.New("create: a container with a terminal needs --console-socket")
			return errors.Join(err, p.Console.Close(), p.PidFD.Close(), a.remove(context.WithoutCancel(ctx), box, true))
		}
		return p.PidFD.Close()
	}
}

// create makes the container and hands over its pidfd if that is asked for. With
// run it starts it too (container.CreateOptions.Run).
func (a *app) create(ctx context.Context, c *createFlags, id string, run func(*container.Process) error) (_ *container.Container, _ *container.Process, err error) {
	ctx, cancel := within(ctx, c.timeout)
	defer cancel()

	// 1. The container. Its pidfd is with who wants it before its program runs.
	o, err := c.options(a, id)
	if err != nil {
		return nil, nil, err
	}
	if run != nil {
		o.Run = func(p *container.Process) error {
			if err := sendPidFD(c.pidfdSocket, p.Pid); err != nil {
				return err
			}
			return run(p)
		}
	}
	box, p, err := container.Create(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	a.log.warn(p.Warnings...)
	a.log.trace(fmt.Sprintf("container %s: created, pid %d", id, p.Pid))

	// 2. Of one that is not started yet, too.
	if run == nil {
		if err := sendPidFD(c.pidfdSocket, p.Pid); err != nil {
			return nil, nil, errors.Join(err, p.PidFD.Close(), a.remove(context.WithoutCancel(ctx), box, true))
		}
	}
	return box, p, nil
}

// sendPidFD sends a pidfd of a child to the socket of who wants it, if any.
func sendPidFD(socket string, pid int) error {
	if socket == "" {
		return nil
	}
	pidfd, err := sys.OpenPidFD(pid)
	if err == nil {
		err = errors.Join(sys.SendFile(socket, []byte("pidfd"), pidfd), pidfd.Close())
	}
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	return nil
}
