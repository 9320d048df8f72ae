package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/program"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/stdio"
	"github.com/strake-containers/strake/shim/wire"
)

// maxConfig bounds a config.json.
const maxConfig = 16 << 20

// create makes a container; its init waits for Start. One of a checkpoint goes on
// at once: CRIU cannot hold it back.
func (s *Service) create(ctx context.Context, r *createTaskRequest) (_ *pidResponse, err error) {
	s.rest.Busy()
	if r.ParentCheckpoint != "" {
		return nil, wire.Errorf(wire.Unimplemented, "parent_checkpoint: CRIU finds the parent by a link in the images: leave it out")
	}
	// 1. Nobody else makes one with this id.
	pod := s.podOf(r.Bundle)
	if err := s.reserve(r.ID, pod); err != nil {
		return nil, err
	}
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("release id", func() error { s.settleID(r.ID, nil); return nil })

	// 2. What is wanted, and of whom.
	h := podHandler(pod)
	if h.Program != "" && r.Checkpoint != "" {
		return nil, wire.Errorf(wire.Unimplemented, "checkpoint: a container is not restored by %s: only by this program or a shim", h.Program)
	}
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "%w", err)
	}
	options, err := s.decodeOptions(r.Options)
	if err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "options: %w", err)
	}
	t := &task{service: s, pod: pod, id: r.ID, bundle: r.Bundle, privatePID: hasPrivatePID(spec) || h.Shim != "", idMaps: idMapsOf(spec),
		criu: options.criu, execs: map[string]*process{}}
	p := &process{
		terminal: r.Terminal, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr,
		done: make(chan struct{}), phase: created, busy: true,
	}
	t.init = p
	if options.countForbidden && spec.Linux != nil && spec.Linux.Seccomp != nil {
		if !h.native() || r.Checkpoint != "" {
			return nil, wire.Errorf(wire.Unimplemented, "options: count_forbidden: only for a new container of this program")
		}
		if err := t.watchForbidden(spec.Linux.Seccomp, options.stopForbidden); err != nil {
			return nil, wire.Errorf(wire.InvalidArgument, "%w", err)
		}
		undo.Push("count no forbidden calls", func() error { t.forbidden.close(); return nil })
		if err := notifyForbidden(spec, r.Bundle); err != nil {
			return nil, wire.Errorf(wire.InvalidArgument, "%w", err)
		}
	}
	if !t.privatePID {
		s.reaper.AdoptOrphans()
	}

	// 3. Its streams.
	uid, gid := t.idMaps.host(spec.Process)
	p.io, err = stdio.Open(ctx, t.named(p, stdio.Config{
		ContainerID: r.ID, Namespace: s.options.Namespace, Dir: r.Bundle, Terminal: r.Terminal,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		StdinOnce: options.stdinOnce, LogMaxBytes: options.logMaxBytes,
		UID: uid, GID: gid, StartChild: s.reaper.Start,
	}))
	if err != nil {
		return nil, err
	}
	undo.Push("close streams", p.io.Close)

	// 4. What another monitor has to know of it, before there is anything.
	root := options.stateRoot
	t.createdAt = time.Now()
	t.record = taskRecord{
		StateRoot: root, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		StdinOnce: options.stdinOnce, LogMaxBytes: options.logMaxBytes, CreatedAt: t.createdAt,
		CountForbidden: options.countForbidden, StopForbidden: options.stopForbidden,
	}
	if err := writeRecord(t.recordPath(), &t.record); err != nil {
		return nil, err
	}

	// 5. The container and its init.
	create := container.CreateOptions{
		ID: r.ID, Bundle: r.Bundle, StateRoot: root, Spec: spec, RootfsMounts: rootfsMounts(r.Rootfs),
		NoPivot: options.noPivot, NoNewKeyring: options.noNewKeyring,
		SystemdCgroup: options.systemdCgroup || spec != nil && spec.Linux != nil && cgroup.IsScope(spec.Linux.CgroupsPath),
	}
	create.Stdin, create.Stdout, create.Stderr = p.io.Files()
	if t.forbidden != nil {
		create.Agent = t.forbidden.agent
	}
	t.restored = r.Checkpoint != ""
	var console *os.File
	switch {
	case h.Shim != "":
		err = t.createForeign(ctx, r, spec)
	case h.Program != "":
		console, err = s.launch(p, t, func() (*container.Process, error) {
			c, init, err := program.Create(ctx, h.runtime(spec.Linux.CgroupsPath, s.reaper.Start), create)
			if err == nil {
				t.container = c
			}
			return init, err
		})
		if err == nil {
			err = t.recordInit()
		}
	default:
		console, err = s.launch(p, t, func() (*container.Process, error) {
			c, init, err := createNative(ctx, create, r.Checkpoint, options.criu)
			if c != nil {
				t.container = native{c}
			}
			return init, err
		})
	}
	if t.container != nil { // made, even if it cannot be watched
		undo.Push("delete container", func() error { return t.abandon(ctx) })
	}
	if err != nil {
		return nil, t.explain(err)
	}

	// 6. Its streams flow, its OOM kills are seen.
	if err := p.io.Started(console); err != nil {
		return nil, err
	}
	if err := t.watchOOM(false); err != nil && h.native() { // another may not put it where the spec says
		return nil, err
	}
	if err := s.pinProcess(t, p); err != nil {
		return nil, err
	}
	undo.Release()

	// 7. It is there.
	s.settleID(r.ID, t)
	t.settle(p, func() {
		s.events.publish("/tasks/create", "containerd.events.TaskCreate", &taskCreate{
			ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: uint32(p.pid),
			IO: &taskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		})
	})
	return &pidResponse{Pid: uint32(p.pid)}, nil
}

// createNative makes a container here, or makes it again from a checkpoint. One that
// was made is returned even if it cannot be used.
func createNative(ctx context.Context, o container.CreateOptions, checkpoint, criu string) (*container.Container, *container.Process, error) {
	if checkpoint == "" {
		return container.Create(ctx, o)
	}
	return container.Restore(ctx, container.RestoreOptions{CreateOptions: o, Images: container.Images{
		Path: checkpoint, Work: filepath.Join(o.Bundle, criuWork), Program: criu,
	}})
}

// recordInit writes down which process is the init of a program's container, for
// another monitor.
func (t *task) recordInit() error {
	start, err := container.StartTime(t.init.pid)
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	t.record.Pid, t.record.StartTime = t.init.pid, start
	return writeRecord(t.recordPath(), &t.record)
}

// launch runs start, which makes p's process, and watches that. It returns the
// master of the process's terminal.
func (s *Service) launch(p *process, t *task, start func() (*container.Process, error)) (console *os.File, err error) {
	release := s.reaper.Hold()
	defer release()
	made, err := start()
	if err != nil {
		return nil, err
	}
	if p == t.init { // an exec's are the same, and there can be one every second
		for _, w := range made.Warnings {
			logf("%s: %s", t.name(p), w)
		}
	}
	if made.Console != nil && s.adoptable() {
		if err := s.kept.keep(t.keepName(p), made.Console); err != nil {
			logf("%s: keep its terminal: %v", t.name(p), err) // no descriptors left; it works all the same
		}
	}
	if err := s.reaper.Watch(made.Pid, made.PidFD, func(e reap.Exit) { t.exited(p, e) }); err != nil {
		// No descriptors left. What cannot be watched is ended, and left to the
		// orphan collector.
		s.reaper.AdoptOrphans()
		err = errors.Join(err, signalFD(made.PidFD, syscall.SIGKILL), made.PidFD.Close())
		if made.Console != nil {
			err = errors.Join(err, made.Console.Close())
		}
		return nil, err
	}
	t.mu.Lock()
	p.pid, p.pidfd = made.Pid, made.PidFD
	t.mu.Unlock()
	return made.Console, nil
}

// abandon removes a container that could not be finished. It runs even if the
// caller has gone.
func (t *task) abandon(ctx context.Context) error {
	release := t.service.reaper.Hold()
	err := t.container.Delete(context.WithoutCancel(ctx))
	release()
	t.oom.close()
	if t.init.pidfd != nil {
		_ = t.init.pidfd.Close() // only waited on
	}
	return err
}

// readSpec reads a bundle's config.json.
func readSpec(bundle string) (*specs.Spec, error) {
	if !filepath.IsAbs(bundle) {
		return nil, fmt.Errorf("bundle %q: its path must be absolute", bundle)
	}
	path := filepath.Join(bundle, "config.json")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read from only
	var spec specs.Spec
	if err := json.NewDecoder(io.LimitReader(f, maxConfig)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &spec, nil
}

// hasPrivatePID: all processes of the container end with its init.
func hasPrivatePID(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return false
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path == ""
		}
	}
	return false
}

// idMaps are the tables of a container's user namespace; both empty without one.
type idMaps struct{ uid, gid []specs.LinuxIDMapping }

func idMapsOf(spec *specs.Spec) idMaps {
	if spec.Linux == nil {
		return idMaps{}
	}
	return idMaps{spec.Linux.UIDMappings, spec.Linux.GIDMappings}
}

// host is a process's user as the host numbers it.
func (m idMaps) host(p *specs.Process) (uid, gid int) {
	if p == nil {
		return 0, 0
	}
	return hostID(m.uid, int(p.User.UID)), hostID(m.gid, int(p.User.GID))
}

// hostID maps an id by a user namespace's table. One that is not mapped owns
// nothing on the host: -1 leaves the owner as it is.
func hostID(table []specs.LinuxIDMapping, id int) int {
	if len(table) == 0 {
		return id
	}
	for _, m := range table {
		if first := int(m.ContainerID); id >= first && id < first+int(m.Size) {
			return int(m.HostID) + id - first
		}
	}
	return -1
}

func rootfsMounts(list []*mount) []container.Mount {
	mounts := make([]container.Mount, len(list))
	for i, m := range list {
		mounts[i] = container.Mount{Type: m.Type, Source: m.Source, Options: m.Options, Target: m.Target}
	}
	return mounts
}

// taskOptions is what the options of a Create request can say.
type taskOptions struct {
	stateRoot             string
	noPivot, noNewKeyring bool
	systemdCgroup         bool
	criu                  string
	stdinOnce             bool
	logMaxBytes           int64
	countForbidden        bool
	stopForbidden         bool
}

// decodeOptions understands straked's own options and those of containerd's
// shim for runc, which containerd sends unless told otherwise.
func (s *Service) decodeOptions(a *wire.Any) (taskOptions, error) {
	o := taskOptions{stateRoot: s.options.StateRoot}
	if a == nil {
		return o, nil
	}
	switch name := a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:]; name {
	case "strake.monitor.v1.CreateOptions":
		var m createOptions
		if err := pb.Unmarshal(a.Value, &m); err != nil {
			return o, err
		}
		o.stdinOnce, o.logMaxBytes = m.StdinOnce, m.LogMaxBytes
		o.countForbidden, o.stopForbidden = m.CountForbidden, m.StopForbidden
		if m.RuntimeStateRoot != "" {
			o.stateRoot = m.RuntimeStateRoot
		}
	case "containerd.runc.v1.Options":
		var m runcOptions
		if err := pb.Unmarshal(a.Value, &m); err != nil {
			return o, err
		}
		o.systemdCgroup = m.SystemdCgroup
		o.noPivot, o.noNewKeyring, o.criu = m.NoPivotRoot, m.NoNewKeyring, m.CriuPath
		if m.Root != "" {
			o.stateRoot = filepath.Join(m.Root, s.options.Namespace)
		}
	case "":
	default:
		return o, fmt.Errorf("%s is not understood", name)
	}
	if !filepath.IsAbs(o.stateRoot) {
		return o, fmt.Errorf("state root %q: its path must be absolute", o.stateRoot)
	}
	return o, nil
}
