package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/strake-containers/strake/internal/sdnotify"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// bindImages declares what checkpoint and restore have in common.
func bindImages(f *flags, i *container.Images) {
	f.text(&i.Path, "image-path", "DIR", "CRIU's images, by default checkpoint in the current directory")
	f.text(&i.Work, "work-path", "DIR", "CRIU's logs, by default with the images")
	f.flag(&i.TCPEstablished, "tcp-established", "keep open TCP connections")
	f.flag(&i.ExtUnixSockets, "ext-unix-sk", "keep connections to unix sockets outside")
	f.flag(&i.ShellJob, "shell-job", "the container may share a session or terminal with the outside")
	f.flag(&i.LazyPages, "lazy-pages", "restore memory when it is used")
	f.flag(&i.FileLocks, "file-locks", "keep file locks")
	f.text(&i.CgroupsMode, "manage-cgroups-mode", "soft|full|strict|ignore", "how CRIU treats cgroups, soft by default")
	f.list(&i.EmptyNS, "empty-ns", "network", "leave the namespace's contents out; always so for the network")
	f.flag(&i.AutoDedup, "auto-dedup", "drop pages that a parent image has twice")
}

// finishImages makes paths absolute: CRIU works elsewhere.
func (a *app) finishImages(i *container.Images) (err error) {
	if i.Path == "" {
		i.Path = "checkpoint"
	}
	if i.Path, err = filepath.Abs(i.Path); err != nil {
		return fmt.Errorf("--image-path: %w", err)
	}
	if i.Work != "" {
		if i.Work, err = filepath.Abs(i.Work); err != nil {
			return fmt.Errorf("--work-path: %w", err)
		}
	}
	i.Program = a.criu
	return nil
}

func bindCheckpoint(a *app, f *flags) func(context.Context, []string) error {
	var o container.CheckpointOptions
	statusFD := -1
	bindImages(f, &o.Images)
	f.text(&o.Parent, "parent-path", "DIR", "images of an earlier --pre-dump, relative to --image-path")
	f.flag(&o.LeaveRunning, "leave-running", "let the container go on")
	f.flag(&o.TCPSkipInFlight, "tcp-skip-in-flight", "leave out TCP connections that are being made")
	f.flag(&o.LinkRemap, "link-remap", "give open files without a name one for the time")
	f.number(&statusFD, "status-fd", "FD", "gets a zero byte once lazy pages can be asked for")
	f.text(&o.PageServer, "page-server", "ADDRESS:PORT", "send memory to, or with --lazy-pages serve it at, this address")
	f.flag(&o.PreDump, "pre-dump", "save memory only and let the container go on")
	return func(ctx context.Context, args []string) (err error) {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		if err := a.finishImages(&o.Images); err != nil {
			return err
		}
		if err := o.CheckParent(); err != nil {
			return fmt.Errorf("--parent-path: %w", err)
		}
		if statusFD >= 0 {
			if o.Status, err = sys.InheritedFile(statusFD, "--status-fd"); err != nil {
				return fmt.Errorf("--status-fd %d: %w", statusFD, err)
			}
			defer func() { err = errors.Join(err, o.Status.Close()) }()
		}
		if err := c.Checkpoint(ctx, o); err != nil || o.LeaveRunning || o.PreDump {
			return err
		}
		return a.remove(ctx, c, true)
	}
}

func bindRestore(a *app, f *flags) func(context.Context, []string) error {
	var o container.RestoreOptions
	var bundle string
	var detach, noSubreaper bool
	bindImages(f, &o.Images)
	f.text(&bundle, "bundle,b", "DIR", "directory of config.json, the current one by default")
	f.flag(&detach, "detach,d", "return once the container goes on")
	f.text(&o.PidFile, "pid-file", "FILE", "write the pid of the container's init to this file")
	f.text(&o.ConsoleSocket, "console-socket", "SOCKET", "unix socket that gets the terminal's master")
	f.flag(&noSubreaper, "no-subreaper", "leave orphans of the container to the parent")
	f.flag(&o.NoPivot, "no-pivot", "taken for runc's sake: CRIU enters the rootfs in its own way")
	f.text(&o.LSMProfile, "lsm-profile", "TYPE:NAME", "LSM profile instead of that in the images")
	f.text(&o.LSMMountContext, "lsm-mount-context", "CONTEXT", "SELinux context of mounts instead of that in the images")
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if err := a.finishImages(&o.Images); err != nil {
			return err
		}
		if o.Bundle, err = filepath.Abs(bundle); err != nil {
			return fmt.Errorf("--bundle: %w", err)
		}
		name, err := sdnotify.Socket()
		if err != nil {
			return err
		}
		o.Notify = name != "" // whose images have the mount has to have it again
		o.ID, o.StateRoot, o.SystemdCgroup, o.Rootless = id, a.root, a.systemd, a.rootless
		o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
		if detach {
			return a.restoreDetached(ctx, &o)
		}
		if !noSubreaper {
			if err := sys.SetSubreaper(); err != nil {
				return fmt.Errorf("become a subreaper: %w", err)
			}
		}
		return a.restoreForeground(ctx, &o)
	}
}

func (a *app) restoreDetached(ctx context.Context, o *container.RestoreOptions) error {
	c, p, err := container.Restore(ctx, *o)
	if err != nil {
		return err
	}
	if p.Console != nil {
		err = errors.New("a detached container with a terminal needs --console-socket")
		return errors.Join(err, p.Console.Close(), p.PidFD.Close(), a.remove(ctx, c, true))
	}
	return p.PidFD.Close()
}

// restoreForeground is like runForeground for a container that runs already.
func (a *app) restoreForeground(ctx context.Context, o *container.RestoreOptions) error {
	signals, err := catchSignals()
	if err != nil {
		return err
	}
	c, p, err := container.Restore(ctx, *o)
	if err != nil {
		return err
	}
	t, err := openTTY(p.Console)
	if err != nil {
		return errors.Join(err, p.PidFD.Close(), a.remove(ctx, c, true))
	}
	code, err := wait(p, signals, t)
	if err := errors.Join(err, t.close(), a.remove(ctx, c, true)); err != nil {
		return err
	}
	return exitStatus{code: code}
}
