package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/foreign"
	"github.com/strake-containers/strake/shim/wire"
)

const (
	sandboxService = "containerd.runtime.sandbox.v1.Sandbox"
	// shutdownTimeout is how long a shim may take to end that was told to.
	shutdownTimeout = 10 * time.Second
)

// foreignBundle is the bundle of the first task of a pod with a foreign shim. Its name
// has to be the task's id: shims' delete commands look for it beside their directory.
func foreignBundle(pod string) string { return filepath.Join(pod, filepath.Base(pod)) }

// startForeign starts the pod's shim and, in it, the sandbox: by the sandbox API, or
// as the first task, which the pod's other containers are grouped with by their
// annotations.
func (s *Service) startForeign(ctx context.Context, b *sandbox) (err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. Who it is, so that whoever comes can undo what follows.
	if err := b.handler.save(b.bundle); err != nil {
		return err
	}
	s.reaper.AdoptOrphans() // the shim will be one

	// 2. A bundle: a program that does nothing, since the contract wants one.
	bundle := foreignBundle(b.bundle)
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	undo.Push("remove its bundle", func() error { return os.RemoveAll(bundle) })
	if err := os.WriteFile(filepath.Join(rootfs, "pause"), pauseProgram(), 0o555); err != nil {
		return err
	}
	if err := writeRecord(filepath.Join(bundle, "config.json"), foreignPauseSpec(b)); err != nil {
		return err
	}

	// 3. The shim, which can publish and log.
	if err := s.serveEvents(b.handler.Events); err != nil {
		return err
	}
	if err := s.makeLog(bundle); err != nil {
		return err
	}
	program := b.handler.shim(s.options.Namespace, s.options.Publisher, s.options.Debug, s.reaper.Start)
	options, err := marshalAny(b.handler.any())
	if err != nil {
		return err
	}
	b.handler.Endpoint, err = program.Launch(ctx, b.id, bundle, options)
	if err != nil {
		return err
	}
	undo.Push("remove what its shim has made", func() error {
		_, err := program.Delete(context.WithoutCancel(ctx), b.id, bundle)
		return err
	})
	if err := b.handler.save(b.bundle); err != nil {
		return err
	}
	b.shim = &foreignShim{shim: program, endpoint: b.handler.Endpoint, namespace: s.options.Namespace}
	undo.Push("end its shim", func() error { return b.shim.end(context.WithoutCancel(ctx), b.id) })

	// 4. The sandbox.
	if b.handler.ShimSandboxes {
		err = b.createForeignSandbox(ctx, bundle)
	} else {
		err = b.createFirstTask(ctx, bundle)
	}
	if err != nil {
		return err
	}
	undo.Release()
	s.watchForeignSandbox(b)
	return nil
}

// foreignPauseSpec is the pod's spec with a process and a root, for a shim to whom
// the first task is the pod.
func foreignPauseSpec(b *sandbox) *specs.Spec {
	spec := *b.spec
	spec.Root = &specs.Root{Path: "rootfs", Readonly: true}
	spec.Process = &specs.Process{
		Args: []string{"/pause"}, Cwd: "/", User: specs.User{UID: nobody, GID: nobody}, Env: []string{"PATH=/"},
		NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
	}
	// The pod's /dev/shm is straked's to mount.
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
	}
	linux := *spec.Linux
	linux.Namespaces = append([]specs.LinuxNamespace{{Type: specs.MountNamespace}}, linux.Namespaces...)
	if !hasPrivatePID(&spec) {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	spec.Linux = &linux
	return &spec
}

func (b *sandbox) createFirstTask(ctx context.Context, bundle string) error {
	var answer pidResponse
	if err := b.shim.call(ctx, "Create", &createTaskRequest{ID: b.id, Bundle: bundle, Options: b.handler.any()}, &answer); err != nil {
		return err
	}
	if err := b.shim.call(ctx, "Start", &processRequest{ID: b.id}, &pidResponse{}); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreignPid, b.info = int(answer.Pid), namespacesOf(int(answer.Pid), b.spec)
	return nil
}

func (b *sandbox) createForeignSandbox(ctx context.Context, bundle string) error {
	r := &createSandboxRequest{SandboxID: b.id, BundlePath: bundle, Options: b.handler.any()}
	for _, ns := range b.spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			r.NetnsPath = ns.Path
		}
	}
	if err := b.shim.callService(ctx, sandboxService, "CreateSandbox", r, &wire.Empty{}); err != nil {
		return err
	}
	if err := b.shim.callService(ctx, sandboxService, "StartSandbox", &sandboxRequest{b.id}, &startSandboxResponse{}); err != nil {
		return err
	}
	return b.askForeignSandbox(ctx)
}

// askForeignSandbox asks for the sandbox's process and namespaces. A shim says where
// they are as ours does, or they are its process's.
func (b *sandbox) askForeignSandbox(ctx context.Context) error {
	var status sandboxStatusResponse
	if err := b.shim.callService(ctx, sandboxService, "SandboxStatus", &sandboxStatusRequest{b.id, true}, &status); err != nil {
		return err
	}
	info := map[string]string{}
	if status.Pid > 0 {
		info = namespacesOf(int(status.Pid), b.spec)
	}
	for key, value := range status.Info {
		if strings.HasPrefix(key, "ns.") && key != "ns."+string(shm) {
			info[key] = value
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreignPid, b.info = int(status.Pid), info
	return nil
}

// namespacesOf are a process's namespaces that its pod's containers share.
func namespacesOf(pid int, spec *specs.Spec) map[string]string {
	files := map[specs.LinuxNamespaceType]string{
		specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.PIDNamespace: "pid",
	}
	info := map[string]string{}
	for _, ns := range spec.Linux.Namespaces {
		if name := files[ns.Type]; name != "" {
			info["ns."+string(ns.Type)] = fmt.Sprintf("/proc/%d/ns/%s", pid, name)
		}
	}
	return info
}

// watchForeignSandbox notices the end of the sandbox, which is the pod's.
func (s *Service) watchForeignSandbox(b *sandbox) {
	go func() {
		if b.handler.ShimSandboxes {
			b.waitForeignSandbox(context.Background())
		} else {
			b.shim.wait(b.id, "", foreignBundle(b.bundle))
		}
		if !b.shim.alive(context.Background()) {
			b.foreignTask(b.id, foreign.Endpoint{}, b.spec.Linux).removeCgroup()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ended()
	}()
}

// waitForeignSandbox is foreignShim.wait for a sandbox of the sandbox API.
func (b *sandbox) waitForeignSandbox(ctx context.Context) {
	for {
		err := b.shim.callService(ctx, sandboxService, "WaitSandbox", &sandboxRequest{b.id}, &exitResponse{})
		if err == nil {
			return
		}
		if b.shim.alive(ctx) && isUnavailable(err) {
			continue // the connection broke, and the shim is there
		}
		logf("pod %s: wait for its sandbox's end: %v", b.id, err)
		if _, err := b.shim.shim.Delete(ctx, b.id, foreignBundle(b.bundle)); err != nil {
			logf("pod %s: remove what its shim has left: %v", b.id, err)
		}
		return
	}
}

// ended says that the pod's sandbox is no more; mu is held.
func (b *sandbox) ended() {
	if b.stoppedAt.IsZero() {
		b.stoppedAt = time.Now()
		close(b.done)
	}
}

// stopForeign ends the sandbox, once its containers have ended, and the shim.
func (b *sandbox) stopForeign(ctx context.Context) error {
	var err error
	switch {
	case !b.shim.alive(ctx):
	case b.handler.ShimSandboxes:
		for _, method := range []string{"StopSandbox", "ShutdownSandbox"} {
			if e := b.shim.callService(ctx, sandboxService, method, &sandboxRequest{b.id}, &wire.Empty{}); e != nil && !isUnavailable(e) {
				err = errors.Join(err, fmt.Errorf("%s: %w", method, e))
			}
		}
	default:
		err = endForeignTask(ctx, b.shim, b.id)
	}
	if err != nil {
		return err
	}
	if err := b.shim.end(ctx, b.id); err != nil {
		return err
	}
	// What it has left there may be mounted.
	bundle := foreignBundle(b.bundle)
	return errors.Join(sys.Unmount(filepath.Join(bundle, "rootfs")), os.RemoveAll(bundle))
}

// endForeignTask kills and removes a task. One that is not there is no error.
func endForeignTask(ctx context.Context, f *foreignShim, id string) error {
	c := &foreignContainer{shim: f, id: id}
	err := c.Kill(ctx, syscall.SIGKILL, true)
	if err == nil {
		err = f.call(ctx, "Wait", &processRequest{ID: id}, &exitResponse{})
	}
	var e *wire.Error
	if err != nil && !errors.Is(err, container.ErrNotRunning) && (!errors.As(err, &e) || e.Code != wire.NotFound && e.Code != wire.Unavailable) {
		return err
	}
	return c.Delete(ctx)
}

// end tells the shim of a task, or sandbox, to end and waits until it has.
func (f *foreignShim) end(ctx context.Context, id string) error {
	defer f.close()
	conn, err := f.connection(ctx)
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	if err := f.call(ctx, "Shutdown", &shutdownRequest{ID: id, Now: true}, &wire.Empty{}); err != nil && !isUnavailable(err) {
		logf("container %s: shut its shim down: %v", id, err)
	}
	select {
	case <-conn.Done():
		return nil
	case <-ctx.Done():
	}
	logf("container %s: its shim does not end: it is killed", id)
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), signalTimeout)
	defer cancel()
	return f.kill(ctx, id)
}

// kill kills the shim's process, which it names.
func (f *foreignShim) kill(ctx context.Context, id string) error {
	var who connectResponse
	if err := f.call(ctx, "Connect", &idRequest{id}, &who); err != nil {
		return err
	}
	if who.ShimPid == 0 || int(who.ShimPid) == os.Getpid() {
		return wire.Errorf(wire.DeadlineExceeded, "shim %s does not end, and does not say which process it is", f.shim.Path)
	}
	pidfd, err := sys.OpenPidFD(int(who.ShimPid))
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	return errors.Join(signalFD(pidfd, syscall.SIGKILL), pidfd.Close())
}

// adoptForeignPod takes over a pod's shim, which may have died meanwhile.
func (s *Service) adoptForeignPod(ctx context.Context, b *sandbox) error {
	s.reaper.AdoptOrphans()
	if err := s.serveEvents(b.handler.Events); err != nil {
		return err
	}
	b.shim = &foreignShim{
		endpoint: b.handler.Endpoint, namespace: s.options.Namespace,
		shim: b.handler.shim(s.options.Namespace, s.options.Publisher, s.options.Debug, s.reaper.Start),
	}
	if b.shim.alive(ctx) {
		var err error
		if b.handler.ShimSandboxes {
			err = b.askForeignSandbox(ctx)
		} else {
			var state stateResponse
			if err = b.shim.call(ctx, "State", &processRequest{ID: b.id}, &state); err == nil {
				b.foreignPid, b.info = int(state.Pid), namespacesOf(int(state.Pid), b.spec)
			}
		}
		if err != nil && b.shim.alive(ctx) {
			return err
		}
	}
	s.watchForeignSandbox(b)
	return nil
}

// makeLog makes the file that a shim logs to. The contract has a FIFO there, whose
// reader must not die: a shim that writes to it then may die, too. A file bears that,
// and is read by whoever debugs; who does not has none that could fill /run.
func (s *Service) makeLog(bundle string) error {
	path := filepath.Join(bundle, "log")
	var err error
	if s.options.Debug {
		err = os.WriteFile(path, nil, 0o600)
	} else {
		err = os.Symlink(os.DevNull, path)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// serveEvents listens for the events of foreign shims, which come in containerd's
// way. Of interest are those that no call tells: that memory ran out.
func (s *Service) serveEvents(address string) error {
	if address == "" {
		return wire.Errorf(wire.InvalidArgument, "a shim needs a place to publish its events")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eventsAt == address {
		return nil
	}
	if s.eventsAt != "" {
		return wire.Errorf(wire.InvalidArgument, "events at %s: the monitor has them at %s already", address, s.eventsAt)
	}
	path := address + ".ttrpc"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a dead monitor's
		return err
	}
	l, err := wire.Listen(path)
	if err != nil {
		return err
	}
	server := wire.NewServer()
	server.Handle("containerd.services.events.ttrpc.v1.Events", "Forward", wire.Method(s.forwarded))
	go func(l net.Listener) {
		if err := server.Serve(l); err != nil {
			logf("events of shims: %v", err)
		}
	}(l)
	s.eventsAt = address
	return nil
}

// forwarded takes an event of a foreign shim.
func (s *Service) forwarded(_ context.Context, r *forwardRequest) (*wire.Empty, error) {
	if r.Envelope == nil || r.Envelope.Event == nil || r.Envelope.Topic != "/tasks/oom" {
		return &wire.Empty{}, nil
	}
	var e taskEvent
	if err := pb.Unmarshal(r.Envelope.Event.Value, &e); err != nil {
		return nil, wire.Errorf(wire.InvalidArgument, "event %s: %w", r.Envelope.Topic, err)
	}
	if t := s.created(e.ContainerID); t != nil {
		t.mu.Lock()
		t.oomKilled = true
		t.mu.Unlock()
	}
	return &wire.Empty{}, nil
}

// Publish is the publish command, for shims that do not speak ttrpc: it forwards one
// event, an encoded Any, to the monitor at address.
func Publish(ctx context.Context, address, namespace, topic string, event io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(event, maxConfig))
	if err != nil {
		return err
	}
	var a wire.Any
	if err := pb.Unmarshal(data, &a); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	conn, err := wire.Dial(ctx, address+".ttrpc")
	if err != nil {
		return err
	}
	client := wire.NewClient(conn)
	err = client.Call(ctx, "containerd.services.events.ttrpc.v1.Events", "Forward", &forwardRequest{Envelope: &envelope{
		Timestamp: stamp(time.Now()), Namespace: namespace, Topic: topic, Event: &a,
	}}, &wire.Empty{})
	return errors.Join(err, client.Close())
}

// removeForeign ends and removes a task of a pod whose monitor is gone, and at the
// end its shim, if that lives. The pod's own is called ID-pause.
func removeForeign(ctx context.Context, h handler, program *foreign.Shim, id, bundle string) (*deleteResponse, error) {
	pod, first := strings.CutSuffix(id, "-pause")
	if first {
		id, bundle = pod, foreignBundle(bundle)
	}
	b := &sandbox{id: id, bundle: filepath.Dir(bundle), handler: h, shim: &foreignShim{
		shim: program, endpoint: h.Endpoint, namespace: program.Namespace,
	}}
	switch {
	case h.Endpoint.Address != "" && b.shim.alive(ctx) && first:
		return nil, b.stopForeign(ctx)
	case first:
	default: // a container, which may have a shim of its own
		var r taskRecord
		if err := readRecord(filepath.Join(bundle, h.taskFile()), &r); err == nil && r.Endpoint.Address != "" {
			own := &foreignShim{shim: program, endpoint: r.Endpoint, namespace: program.Namespace}
			if own.alive(ctx) {
				return nil, errors.Join(endForeignTask(ctx, own, id), own.end(ctx, id))
			}
		} else if h.Endpoint.Address != "" && b.shim.alive(ctx) {
			return nil, endForeignTask(ctx, b.shim, id)
		}
	}
	if _, err := os.Stat(filepath.Join(bundle, "config.json")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	out, err := program.Delete(ctx, id, bundle)
	if err != nil {
		// Shims fail for what they never had. Whatever is mounted goes.
		logf("container %s: %v", id, err)
	}
	d := &deleteResponse{}
	err = errors.Join(pb.Unmarshal(out, d), sys.Unmount(filepath.Join(bundle, "rootfs")))
	if first && err == nil {
		err = os.RemoveAll(bundle)
	}
	return d, err
}

// foreignInfo is what SandboxStatus says of a foreign shim's sandbox.
func (b *sandbox) foreignInfo() map[string]string { return maps.Clone(b.info) }
