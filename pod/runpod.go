package pod

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/shim/client"
)

// monitorNamespace is the shim protocol's namespace, in containerd's sense.
const monitorNamespace = "strake"

// RunPod makes a pod ready for containers and returns its id. The same request
// again gets the same pod.
func (m *Manager) RunPod(ctx context.Context, c PodConfig, runtimeHandler string) (string, error) {
	if err := bundle.ValidatePod(&c); err != nil {
		return "", fmt.Errorf("run pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	settings := m.settings()
	handler := cmp.Or(runtimeHandler, settings.DefaultRuntime)
	if err := checkAnnotations(c.Annotations, handler, settings.Runtimes[handler]); err != nil {
		return "", fmt.Errorf("run pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	if err := m.checkSELinux("linux.security_context", c.Security.SELinux); err != nil {
		return "", fmt.Errorf("run pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	if c.UserNS() != nil && !m.host.UserNS {
		return "", fmt.Errorf("run pod %s/%s: linux.security_context.namespace_options.userns_options: not supported: a user namespace of the pod's own needs Linux 6.8: %w",
			c.Namespace, c.Name, bundle.ErrUnsupported)
	}
	if err := m.awaitUndo(ctx, keyOf(&c)); err != nil {
		return "", fmt.Errorf("run pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	p, w, err := m.beginPod(ctx, c, runtimeHandler)
	if err != nil {
		return "", fmt.Errorf("run pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	if !sameConfig(&p.record.Config, &c) { // never changes after its birth
		return "", fmt.Errorf("run pod %s/%s: attempt %d is pod %s: raise metadata.attempt, or stop that pod first: %w",
			c.Namespace, c.Name, c.Attempt, p.id, ErrExists)
	}
	if err := w.wait(ctx); err != nil {
		return "", err
	}
	m.claimPod(p)
	return p.id, nil
}

// awaitUndo waits until what an earlier life has left of a pod of that identity is
// undone, or could not be: it may still have the pod's host ports. Only a start makes
// such a thing.
func (m *Manager) awaitUndo(ctx context.Context, key podKey) error {
	m.mu.Lock()
	w := m.undoing[key]
	m.mu.Unlock()
	if w == nil {
		return nil
	}
	return settle(ctx, []*work{w})
}

// beginPod returns the pod of that identity that is ready or being made, or
// begins to make it.
func (m *Manager) beginPod(caller context.Context, c PodConfig, runtimeHandler string) (*sandbox, *work, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.names[keyOf(&c)]; p != nil {
		return p, p.making, nil
	}
	if runtimeHandler == "" {
		runtimeHandler = m.settings().DefaultRuntime
	}
	if _, ok := m.settings().Runtimes[runtimeHandler]; !ok {
		return nil, nil, errorf(ErrNotFound, "runtime_handler: no handler %q is configured", runtimeHandler)
	}
	p := newSandbox(podRecord{ID: newID(), Config: c, Runtime: runtimeHandler, CreatedAt: now(), Phase: phaseCreating})
	if c.Namespaces.Network == bundle.NamespacePod {
		p.record.NetNS = m.netnsPath(p.id)
	}
	m.names[p.key] = p
	p.making = m.tracker.start(span.Continue(m.life, caller), "run pod", p.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.runPod(ctx, w, p)
	}, func(w *work, err error) {
		if err != nil {
			m.forgetPodName(p)
			p.mu.Lock()
			left, known := p.left, p.record.network()
			p.mu.Unlock()
			if left {
				m.undoLater(p.id, func(ctx context.Context) error { return m.o.Network.Teardown(ctx, known) })
			}
		} else if w.abandoned() {
			m.abandonPod(p)
		}
	})
	select {
	case <-p.making.done: // refused: shutting down
		delete(m.names, p.key)
	default:
	}
	return p, p.making, nil
}

// runPod is the path of RunPodSandbox.
func (m *Manager) runPod(ctx context.Context, w *work, p *sandbox) (err error) {
	var undo cleanup.Stack
	var place cleanup.Stack // what its sandbox uses, and is found by: last
	defer place.Run(&err)
	defer undo.Run(&err)
	span.Describe(ctx, append(p.attributes(), span.Handler.String(p.record.Runtime))...)

	// 1. The record, so that a crash from here on is undone by id.
	w.enter("record")
	place.Push("remove record", func() error { return m.store.RemovePod(p.id) })
	if err := m.store.AddPod(p.id); err != nil {
		return err
	}
	place.Push("release labels", func() error { m.unlabelPod(p); return nil })
	if err := m.labelPod(p); err != nil {
		return err
	}
	if err := m.updatePod(p, false, func(r *podRecord) { r.Attached = r.wantsNetwork() }); err != nil {
		return err
	}

	// 2. The network namespace, with nothing in it yet: lent until the monitor keeps it, or
	// mounted. That of a pod with a user namespace comes with the sandbox, since it belongs
	// to that.
	w.enter("network namespace")
	user := p.record.Config.UserNS()
	lends := m.lendsNetNS(p)
	var lent *os.File
	if p.record.NetNS != "" {
		place.Push("remove network namespace", func() error { return m.o.NetNS.Remove(p.record.NetNS) })
		switch {
		case user != nil:
		case lends:
			if lent, err = m.o.NetNS.Lend(p.record.NetNS); err != nil {
				return err
			}
			defer func() { _ = lent.Close() }() // kept, mounted or of no use
		default:
			if err := m.o.NetNS.New(p.record.NetNS); err != nil {
				return err
			}
		}
	}

	// 3. The network and the sandbox, at once: neither needs the other.
	w.enter("network and sandbox")
	undo.Push("stop sandbox", func() error {
		err := m.endSandbox(ctx, p)
		if err != nil { // it may be there
			place.Release()
			m.undoLater(p.id, func(ctx context.Context) error { return m.discardUnmade(ctx, p) })
		}
		return err
	})
	var kept bool
	if user != nil {
		if kept, err = m.startSandbox(ctx, p, lends); err != nil {
			return err
		}
	}
	undo.Push("tear down network", func() error { return m.detach(ctx, p) })
	network := make(chan error, 1)
	go func() { network <- m.attach(ctx, p) }()
	var sandboxErr error
	if user == nil {
		kept, sandboxErr = m.startSandbox(ctx, p, lends)
	}
	if err := errors.Join(<-network, sandboxErr); err != nil {
		return err
	}
	if lent != nil && !kept { // by a monitor that an earlier straked has started
		if err := m.o.NetNS.Fix(lent, p.record.NetNS); err != nil {
			return err
		}
	}

	// 4. The files that all its containers see.
	w.enter("files")
	if err := m.writePodFiles(p); err != nil {
		return err
	}
	files := m.store.PodDir(p.id)
	if err := m.relabelPodFiles(p, filepath.Join(files, "hosts"), filepath.Join(files, "hostname"), filepath.Join(files, "resolv.conf")); err != nil {
		return err
	}

	// 5. It is ready, and known, to plugins too: to one that registers now either by
	// this event or by the list of what is known.
	w.enter("publish")
	release := m.plugins().Hold()
	defer release()
	undo.Push("tell plugins", func() error {
		m.told("remove pod "+p.what, m.tellPod(context.WithoutCancel(ctx), p, (*nri.Plugins).RemovePod))
		return nil
	})
	if err := m.tellPod(ctx, p, (*nri.Plugins).RunPod); err != nil {
		return fmt.Errorf("nri: %w", err)
	}
	if err := m.updatePod(p, false, func(r *podRecord) { r.Phase = phaseReady }); err != nil {
		return err
	}
	undo.Release()
	place.Release()
	m.mu.Lock()
	m.pods[p.id] = p
	m.mu.Unlock()
	m.publish(p, Event{Type: EventCreated, ContainerID: p.id})
	m.publish(p, Event{Type: EventStarted, ContainerID: p.id})
	if monitor, err := p.live(); err == nil {
		go m.watchSandbox(p, monitor)
	}
	return nil
}

// discardUnmade undoes a pod that could not be finished, and whose sandbox could not be
// ended then.
func (m *Manager) discardUnmade(ctx context.Context, p *sandbox) error {
	err := m.endSandbox(ctx, p)
	if err == nil {
		err = m.detach(ctx, p)
	}
	if err == nil && p.record.NetNS != "" {
		err = m.o.NetNS.Remove(p.record.NetNS)
	}
	if err == nil {
		err = m.store.RemovePod(p.id)
	}
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.id, err)
	}
	m.unlabelPod(p)
	return nil
}

// attach connects the pod's namespace to the network.
func (m *Manager) attach(ctx context.Context, p *sandbox) (err error) {
	if !p.record.wantsNetwork() {
		return nil
	}
	ctx, attaching := span.Start(ctx, "attach to network")
	defer func() { attaching.End(err) }()
	err = settle(ctx, []*work{m.collecting})
	var result network.Result
	if err == nil {
		result, err = m.o.Network.Setup(ctx, p.record.network())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.record.Attached = errors.Is(err, network.ErrLeft) // else Setup has undone itself
		return err
	}
	p.record.IPs = result.IPs
	return nil
}

// detach undoes attach, once: when it has succeeded it is never asked again,
// not even after a restart.
func (m *Manager) detach(ctx context.Context, p *sandbox) error {
	p.mu.Lock()
	attached, pod := p.record.Attached, p.record.network()
	p.mu.Unlock()
	if !attached {
		return nil
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	ctx, detaching := span.Start(ctx, "detach from network")
	err := m.o.Network.Teardown(ctx, pod)
	detaching.End(err)
	p.mu.Lock()
	p.left = err != nil
	p.mu.Unlock()
	if err != nil {
		return err
	}
	m.updateEnding(p, func(r *podRecord) { r.Attached = false })
	return nil
}

// lendsNetNS says whether the pod's network namespace is kept by its monitor, with its other
// namespaces, and not by a mount of its own (ADR 39).
func (m *Manager) lendsNetNS(p *sandbox) bool {
	return m.pins != "" && m.native(p) && !(p.record.wantsNetwork() && m.o.Network.NeedsMount())
}

// startSandbox starts the pod's monitor, which makes and holds its namespaces, and tells
// whether the network's is among them. lent: it had better be.
func (m *Manager) startSandbox(ctx context.Context, p *sandbox, lent bool) (keepsNetNS bool, err error) {
	ctx, starting := span.Start(ctx, "start sandbox")
	defer func() { starting.End(err) }()
	spec, err := bundle.Pod(bundle.PodInput{ID: p.id, Config: &p.record.Config, NetNS: p.record.NetNS, Labels: p.record.Labels})
	if err != nil {
		return false, err
	}
	if !m.native(p) {
		bundle.ForOthers(spec, true)
	}
	dir := m.podState(p.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return false, err
	}
	if err := writeSpec(dir, spec); err != nil {
		return false, err
	}
	c, monitor, err := m.place(ctx, p)
	if errors.Is(err, client.ErrNotStarted) {
		return false, errors.Join(err, os.RemoveAll(dir)) // there is no program either that could undo it
	}
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	p.monitor, p.crew = monitor, c
	p.mu.Unlock()
	handler := m.handler(c)
	if err := monitor.CreateSandbox(ctx, p.id, dir, handler); err != nil {
		return false, err
	}
	started, err := monitor.StartSandbox(ctx, p.id)
	if err != nil {
		return false, err
	}
	user := p.record.Config.UserNS()
	if user != nil && started.Namespaces["user"] == "" {
		return false, fmt.Errorf("linux.security_context.namespace_options.userns_options: not supported by runtime handler %q: %w", p.record.Runtime, bundle.ErrUnsupported)
	}
	if user != nil && p.record.NetNS != "" {
		take := m.o.NetNS.Keep
		if lent {
			take = m.o.NetNS.Borrow
		}
		if err := take(started.Namespaces["network"], p.record.NetNS); err != nil {
			return false, err
		}
	}
	keepsNetNS = started.Namespaces["network"] != ""
	if err := m.joinSandbox(p, started); err != nil {
		return false, err
	}
	if shm := filepath.Join(dir, "shm"); p.shared.Shm == shm {
		if err := makeShm(shm, spec, !handler.Native(), user); err != nil {
			return false, err
		}
		return keepsNetNS, m.relabelPodFiles(p, shm)
	}
	return keepsNetNS, nil
}

// handler is who makes the containers of a crew's pods.
func (m *Manager) handler(c *crew) client.Handler {
	h := m.settings().Runtimes[c.handler].Handler
	if h.Program != "" {
		h.Root = m.programState(c.handler)
	}
	if h.Shim != "" {
		h.Events = m.eventsPath(c.id)
	}
	return h
}

// makeShm makes the directory that is the pod's /dev/shm. One that somebody else's
// runtime mounts is a file system on the host: its size is limited by nothing else.
func makeShm(dir string, spec *specs.Spec, mount bool, user *bundle.UserNamespace) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, s := range spec.Mounts {
		if mount && s.Destination == "/dev/shm" {
			return sys.MountFS("tmpfs", "shm", dir, s.Options)
		}
	}
	// Not through Mkdir's mode, which umask narrows.
	return errors.Join(os.Chmod(dir, 0o777|os.ModeSticky), chownRoot(user, dir))
}

// joinSandbox notes what containers need to know of a sandbox that runs, and where its
// monitor, which may be another than before, keeps the network namespace.
func (m *Manager) joinSandbox(p *sandbox, s client.Sandbox) error {
	if ns := s.Namespaces["network"]; ns != "" && p.record.NetNS != "" {
		if err := m.o.NetNS.Link(ns, p.record.NetNS); err != nil {
			return err
		}
	}
	files := m.store.PodDir(p.id)
	shared := bundle.Sandbox{
		Namespaces: s.Namespaces, Hosts: filepath.Join(files, "hosts"), ResolvConf: filepath.Join(files, "resolv.conf"),
	}
	if shared.Namespaces == nil {
		shared.Namespaces = map[string]string{}
	}
	if p.record.NetNS != "" {
		shared.Namespaces["network"] = p.record.NetNS
		shared.Hostname = filepath.Join(files, "hostname")
	}
	switch shm := shared.Namespaces["shm"]; {
	case p.record.Config.Namespaces.IPC == bundle.NamespaceNode:
		shared.Shm = "/dev/shm"
	case shm != "" && m.native(p):
		shared.Shm = shm
	default: // Linux before 6.15, or another's runtime: a directory in memory, as /run is
		shared.Shm = filepath.Join(m.podState(p.id), "shm")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = shared
	return nil
}

// native: the pod's containers are the monitor's own.
func (m *Manager) native(p *sandbox) bool {
	h := m.settings().Runtimes[p.record.Runtime].Handler
	return h.Native()
}

// endSandbox kills what is in the sandbox and ends its monitor; what is not
// there is no error. How the containers of unwritten ended is left where the monitor
// has written it.
func (m *Manager) endSandbox(ctx context.Context, p *sandbox, unwritten ...*container) error {
	p.mu.Lock()
	monitor, c := p.monitor, p.crew
	p.monitor = nil
	p.mu.Unlock()
	ctx, cancel := undoContext(ctx)
	defer cancel()
	if err := m.endMonitor(ctx, p.id, p.record.Runtime, monitor); err != nil {
		return err
	}
	if err := m.removeBundle(p.id, unwritten...); err != nil || c == nil {
		return err
	}
	p.mu.Lock()
	p.crew = nil
	p.mu.Unlock()
	return m.leave(ctx, p, c)
}

// writePodFiles writes hosts, hostname and resolv.conf. They live with the
// record, not in the state directory: containers may write to them, and must not
// fill /run.
func (m *Manager) writePodFiles(p *sandbox) error {
	c := &p.record.Config
	hostname := bundle.Hostname(c)
	resolv := []byte(bundle.ResolvConf(c.DNS))
	var hosts []byte
	var err error
	if len(resolv) == 0 {
		if resolv, err = readHostFile("/etc/resolv.conf"); err != nil {
			return err
		}
	}
	if p.record.NetNS == "" {
		if hosts, err = readHostFile("/etc/hosts"); err != nil {
			return err
		}
	} else {
		p.mu.Lock()
		hosts = []byte(bundle.Hosts(hostname, addresses(p.record.IPs)))
		p.mu.Unlock()
	}
	for name, data := range map[string][]byte{"hosts": hosts, "hostname": []byte(hostname + "\n"), "resolv.conf": resolv} {
		// Mounted into containers: whoever they run as reads them.
		path := filepath.Join(m.store.PodDir(p.id), name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
		if user := c.UserNS(); user != nil {
			if err := chownRoot(user, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func addresses(ips []netip.Addr) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

// writeSpec writes a bundle's config.json, which dies with the boot.
func writeSpec(dir string, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(filepath.Join(dir, specFile), data, 0o600)
}

// forgetPodName lets the name be used again.
func (m *Manager) forgetPodName(p *sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[p.key] == p {
		delete(m.names, p.key)
	}
}
