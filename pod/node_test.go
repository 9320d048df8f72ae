package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/shim/client"
)

// node is what a Manager works on, in memory: images, a network, namespaces and
// monitors, which outlive a Manager as the real ones do. Every call is a step that
// can be made to fail, or never to return, as for a daemon killed in it.
type node struct {
	selinux SELinux // nil: none

	tb          testing.TB
	root, state string

	mu        sync.Mutex
	calls     []string
	failAt    int    // the call, from 1 on, that fails; 0: none
	failOn    string // the calls of these names fail; "": none
	failErr   error
	hangAt    int // the call from which on none returns
	epoch     int // of Managers; those of a former one hang
	leases    map[string]string
	attached  map[string]bool
	teardowns map[string]int // that did something, by pod
	netns     map[string]bool
	monitors  map[string]*fakeMonitor  // by address
	stuck     map[string]bool          // pods whose monitor never answers
	teardown  chan struct{}            // a Teardown waits for its end; nil: for nothing
	gc        chan struct{}            // and so does a GC
	lateStart bool                     // a Start happens, and does not answer
	slow      map[string]chan struct{} // calls of that name wait for its end
	created   func(*fakeConn)          // called before Create answers; nil: nothing is
}

type fakeMonitor struct {
	node       *node
	id, bundle string
	started    bool
	containers map[string]*fakeContainer
	ended      chan struct{} // its sandbox has, by itself
	dead       chan struct{}
}

type fakeContainer struct {
	id, bundle string
	stdout     string
	checkpoint string // that it is restored from
	startedAt  time.Time
	exit       *client.Exit
	done       chan struct{}
	ignoreTERM bool
	paused     bool
	unseen     bool // its monitor will not know how it ended
	signals    []syscall.Signal
}

var errInjected = errors.New("injected")

func newNode(tb testing.TB) *node {
	tb.Helper()
	dir, err := os.MkdirTemp("", "strake-pod-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { removeAll(tb, dir) })
	n := &node{
		tb: tb, root: filepath.Join(dir, "root"), state: filepath.Join(dir, "state"),
		leases: map[string]string{}, attached: map[string]bool{}, teardowns: map[string]int{},
		netns: map[string]bool{}, monitors: map[string]*fakeMonitor{}, stuck: map[string]bool{},
	}
	if err := os.MkdirAll(filepath.Join(n.root, "layer", "etc"), 0o755); err != nil {
		tb.Fatal(err)
	}
	return n
}

// removeAll removes dir, in which a Manager that counts as killed may still be writing
// a record.
func removeAll(tb testing.TB, dir string) {
	tb.Helper()
	err := os.RemoveAll(dir)
	for range 100 {
		if err == nil {
			return
		}
		<-time.After(50 * time.Millisecond)
		err = os.RemoveAll(dir)
	}
	tb.Error(err)
}

// open returns a Manager of the next epoch.
func (n *node) open() *Manager {
	n.tb.Helper()
	n.mu.Lock()
	n.epoch++
	n.calls, n.failAt, n.hangAt = nil, 0, 0
	view := &view{n, n.epoch}
	n.mu.Unlock()
	m, err := Open(n.tb.Context(), Options{
		Root: n.root, State: n.state, Images: view, Network: fakeNetwork{view}, NetNS: fakeNetNS{view}, Monitors: fakeMonitors{view},
		Settings: Settings{Runtimes: map[string]Runtime{"strake": {Monitor: "monitor"}}, DefaultRuntime: "strake"},
		Log:      slog.New(slog.DiscardHandler), SELinux: n.selinux,
	})
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, w := range m.undos() {
		if n.teardown == nil {
			<-w.done
		}
	}
	if n.gc == nil {
		<-m.collecting.done
	}
	n.tb.Cleanup(func() {
		if view.epoch != n.epoch {
			return // "killed": it never ends
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = m.Close(ctx) // what is stuck stays so
	})
	return m
}

// undos are those of half-made pods that are under way.
func (m *Manager) undos() []*work {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.halfMade))
}

// view is the node as one Manager sees it.
type view struct {
	*node
	epoch int
}

// step counts a call and makes it fail or hang if it is to.
func (v *view) step(ctx context.Context, call, pod string) error {
	v.mu.Lock()
	v.calls = append(v.calls, call)
	at, fail, hang, failOn := len(v.calls), v.failAt, v.hangAt, v.failOn
	dead, stuck, slow := v.epoch != v.node.epoch, v.stuck[pod], v.slow[call]
	v.mu.Unlock()
	if slow != nil {
		<-slow
	}
	switch {
	case dead, hang > 0 && at >= hang:
		select {} // killed: it neither does nor undoes anything
	case stuck:
		<-ctx.Done()
		return ctx.Err()
	case at == fail, slices.Contains(strings.Fields(failOn), call):
		return fmt.Errorf("%s: %w", call, v.failErr)
	}
	return ctx.Err()
}

func (v *view) Get(ref string) (image.Image, error) {
	if err := v.step(context.Background(), "image.Get", ""); err != nil {
		return image.Image{}, err
	}
	if ref == "missing" {
		return image.Image{}, fmt.Errorf("image %q: %w", ref, image.ErrNotFound)
	}
	return image.Image{
		ID: "sha256:1", RepoTags: []string{ref}, RepoDigests: []string{"repo@sha256:2"},
		Config: v1.ImageConfig{Cmd: []string{"/bin/sh"}, StopSignal: "SIGQUIT"},
	}, nil
}

func (v *view) Permit(_, asked, namespace string) error {
	if err := v.step(context.Background(), "image.Permit", ""); err != nil {
		return err
	}
	if strings.HasPrefix(asked, "refused") {
		return fmt.Errorf("image %s in namespace %q: %w", asked, namespace, image.ErrSignature)
	}
	return nil
}

func (v *view) PrepareRoot(r image.Rootfs, dir string) (rootfs.Mount, error) {
	return rootfs.Default().Prepare(r.Layers, dir)
}

func (v *view) Rootfs(id, holder string) (image.Rootfs, error) {
	if err := v.step(context.Background(), "image.Rootfs", ""); err != nil {
		return image.Rootfs{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leases[holder] = id
	return image.Rootfs{ImageID: id, Layers: []string{filepath.Join(v.root, "layer")}}, nil
}

func (v *view) Release(holder string) error {
	if err := v.step(context.Background(), "image.Release", ""); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.leases, holder)
	return nil
}

func (v *view) Holders() []image.Lease {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []image.Lease
	for h, id := range v.leases {
		all = append(all, image.Lease{Holder: h, ImageID: id})
	}
	return all
}

type fakeNetwork struct{ *view }

func (fakeNetwork) Name() string                 { return "fake" }
func (fakeNetwork) NeedsMount() bool             { return true }
func (fakeNetwork) Status(context.Context) error { return nil }
func (v fakeNetwork) Setup(ctx context.Context, p network.Pod) (network.Result, error) {
	if err := v.step(ctx, "network.Setup", ""); err != nil {
		return network.Result{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.netns[p.NetNS] {
		return network.Result{}, fmt.Errorf("no namespace %s", p.NetNS)
	}
	v.attached[p.ID] = true
	return network.Result{IPs: []netip.Addr{netip.MustParseAddr("10.9.8.7")}}, nil
}

func (v fakeNetwork) Teardown(ctx context.Context, p network.Pod) error {
	if err := v.step(ctx, "network.Teardown", ""); err != nil {
		return err
	}
	if v.teardown != nil {
		<-v.teardown
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.teardowns[p.ID]++
	delete(v.attached, p.ID)
	return nil
}
func (fakeNetwork) Check(context.Context, network.Pod) error { return nil }
func (v fakeNetwork) GC(_ context.Context, live []string) error {
	if v.gc != nil {
		<-v.gc
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.attached, func(id string, _ bool) bool { return !slices.Contains(live, id) })
	return nil
}

type fakeNetNS struct{ *view }

func (v fakeNetNS) New(path string) error {
	if err := v.step(context.Background(), "netns.New", ""); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.netns[path] = true
	return os.WriteFile(path, nil, 0o600)
}

func (v fakeNetNS) Keep(_, path string) error { return v.New(path) }

// Without pins nothing is lent.
func (fakeNetNS) Lend(string) (*os.File, error) { return nil, errors.ErrUnsupported }
func (fakeNetNS) Fix(*os.File, string) error    { return errors.ErrUnsupported }
func (fakeNetNS) Borrow(string, string) error   { return errors.ErrUnsupported }
func (fakeNetNS) Link(string, string) error     { return nil }
func (fakeNetNS) Unlink(string) error           { return nil }

func (v fakeNetNS) Remove(path string) error {
	if err := v.step(context.Background(), "netns.Remove", ""); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.netns, path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (fakeNetNS) Do(_ string, fn func() error) error { return fn() }

func (fakeNetNS) Interfaces(paths []string, fn func(i int, dev []byte, err error)) {
	for i := range paths {
		fn(i, nil, nil)
	}
}

type fakeMonitors struct{ *view }

func (v fakeMonitors) Start(ctx context.Context, o client.StartOptions) (Monitor, error) {
	if err := v.step(ctx, "monitor.Start", o.ID); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	m := &fakeMonitor{node: v.node, id: o.ID, bundle: o.Bundle, containers: map[string]*fakeContainer{}, ended: make(chan struct{}), dead: make(chan struct{})}
	v.monitors["unix://"+filepath.Join(o.Bundle, monitorSocket)] = m
	return v.connect(m), nil
}

func (v fakeMonitors) connect(m *fakeMonitor) *fakeConn {
	return &fakeConn{v.view, m, make(chan struct{})}
}

// Replace finds nothing to take over: what a killed monitor had is lost.
func (v fakeMonitors) Replace(ctx context.Context, o client.StartOptions, _ *client.Kept) (Monitor, error) {
	if err := v.step(ctx, "monitor.Replace", o.ID); err != nil {
		return nil, err
	}
	return nil, client.ErrNotFound
}

func (v fakeMonitors) Connect(ctx context.Context, address string) (Monitor, error) {
	if err := v.step(ctx, "monitor.Connect", ""); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.monitors[address]
	if m == nil {
		return nil, client.ErrUnavailable
	}
	return v.connect(m), nil
}

func (v fakeMonitors) Cleanup(ctx context.Context, o client.StartOptions) error {
	return v.step(ctx, "monitor.Cleanup", o.ID)
}

// fakeConn is one Manager's connection to a monitor.
type fakeConn struct {
	*view
	m      *fakeMonitor
	broken chan struct{} // closed when it is
}

func (c *fakeConn) Address() string { return "" }
func (c *fakeConn) Close() error    { return nil }

func (c *fakeConn) call(ctx context.Context, name string) error {
	if err := c.step(ctx, name, c.m.id); err != nil {
		return err
	}
	if closed(c.m.dead) || closed(c.broken) {
		return client.ErrUnavailable
	}
	return nil
}

func (c *fakeConn) CreateSandbox(ctx context.Context, _, bundle string, _ client.Handler) error {
	if err := c.call(ctx, "CreateSandbox"); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(bundle, "config.json"))
	return err
}

func (c *fakeConn) StartSandbox(ctx context.Context, id string) (client.Sandbox, error) {
	if err := c.call(ctx, "StartSandbox"); err != nil {
		return client.Sandbox{}, err
	}
	c.mu.Lock()
	c.m.started = true
	c.mu.Unlock()
	return c.sandbox(), nil
}

func (c *fakeConn) sandbox() client.Sandbox {
	return client.Sandbox{Namespaces: map[string]string{"ipc": "/ipc", "uts": "/uts", "pid": "/pid"}}
}

func (c *fakeConn) Adopt(context.Context, string, string) error { return client.ErrNotFound }

func (c *fakeConn) SandboxStatus(ctx context.Context, _ string) (client.Sandbox, error) {
	if err := c.call(ctx, "SandboxStatus"); err != nil {
		return client.Sandbox{}, err
	}
	return c.sandbox(), nil
}

func (c *fakeConn) WaitSandbox(ctx context.Context, _ string) error {
	select {
	case <-c.m.ended:
		return nil
	case <-c.m.dead:
		return client.ErrUnavailable
	case <-c.broken:
		return client.ErrUnavailable
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeConn) StopSandbox(ctx context.Context, _ string) error {
	if err := c.call(ctx, "StopSandbox"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.m.containers {
		k.end(137, 9)
	}
	return nil
}

func (c *fakeConn) ShutdownSandbox(ctx context.Context, _ string) error {
	if err := c.call(ctx, "ShutdownSandbox"); err != nil {
		return err
	}
	c.node.kill(c.m)
	return nil
}

// kill ends a monitor, and leaves its containers to themselves.
func (n *node) kill(m *fakeMonitor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !closed(m.dead) {
		close(m.dead)
	}
	maps.DeleteFunc(n.monitors, func(_ string, o *fakeMonitor) bool { return o == m })
}

func (c *fakeConn) Create(ctx context.Context, o client.CreateOptions) (int, error) {
	if err := c.call(ctx, "Create"); err != nil {
		return 0, err
	}
	if _, err := os.Stat(filepath.Join(o.Bundle, "config.json")); err != nil {
		return 0, err
	}
	c.mu.Lock()
	c.m.containers[o.ID] = &fakeContainer{id: o.ID, bundle: o.Bundle, stdout: o.Stdout, checkpoint: o.Checkpoint, done: make(chan struct{})}
	then := c.created
	c.mu.Unlock()
	if then != nil {
		then(c)
	}
	return 4242, nil
}

func (c *fakeConn) find(id string) (*fakeContainer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.m.containers[id]; k != nil {
		return k, nil
	}
	return nil, client.ErrNotFound
}

func (c *fakeConn) Start(ctx context.Context, id string) (int, error) {
	if err := c.call(ctx, "Start"); err != nil {
		return 0, err
	}
	k, err := c.find(id)
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	k.startedAt = now()
	late := c.lateStart
	c.mu.Unlock()
	if late {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 4242, nil
}

// end is called with node.mu held.
func (k *fakeContainer) end(status, signal int) {
	if k.exit != nil {
		return
	}
	k.exit = &client.Exit{Status: status, Signal: signal, At: now(), Lost: k.unseen}
	data, _ := json.Marshal(k.exit)
	_ = os.WriteFile(filepath.Join(k.bundle, client.ExitFile), data, 0o600) // the bundle may be gone
	close(k.done)
}

func (c *fakeConn) Wait(ctx context.Context, id, _ string) (client.Exit, error) {
	k, err := c.find(id)
	if err != nil {
		return client.Exit{}, err
	}
	select {
	case <-k.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return *k.exit, nil
	case <-c.m.dead:
		return client.Exit{}, client.ErrUnavailable
	case <-c.broken:
		return client.Exit{}, client.ErrUnavailable
	case <-ctx.Done():
		return client.Exit{}, ctx.Err()
	}
}

func (c *fakeConn) Kill(ctx context.Context, id, _ string, sig syscall.Signal, _ bool) error {
	if err := c.call(ctx, "Kill"); err != nil {
		return err
	}
	k, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.exit != nil {
		return client.ErrNotRunning
	}
	k.signals = append(k.signals, sig)
	if sig == syscall.SIGKILL || !k.ignoreTERM {
		k.end(128+int(sig), int(sig))
	}
	return nil
}

func (c *fakeConn) Delete(ctx context.Context, id, _ string) (client.Exit, error) {
	if err := c.call(ctx, "Delete"); err != nil {
		return client.Exit{}, err
	}
	k, err := c.find(id)
	if err != nil {
		return client.Exit{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.exit == nil {
		return client.Exit{}, client.ErrNotRunning
	}
	delete(c.m.containers, id)
	return *k.exit, nil
}

func (c *fakeConn) ContainerStatus(ctx context.Context, id string) (client.Status, error) {
	if err := c.call(ctx, "ContainerStatus"); err != nil {
		return client.Status{}, err
	}
	k, err := c.find(id)
	if err != nil {
		return client.Status{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := client.Status{ID: id, StartedAt: k.startedAt}
	if k.paused {
		s.State = client.StatePaused
	}
	if k.exit != nil {
		s.ExitedAt = k.exit.At
	}
	return s, nil
}

func (c *fakeConn) Exec(ctx context.Context, _ string, _ client.ExecOptions) error {
	return c.call(ctx, "Exec")
}

func (c *fakeConn) StartExec(ctx context.Context, _, _ string) (int, error) {
	return 1, c.call(ctx, "StartExec")
}

func (c *fakeConn) ExecSync(ctx context.Context, _ string, p *specs.Process, _ time.Duration, _ int) (client.ExecResult, error) {
	return client.ExecResult{Stdout: []byte(strings.Join(p.Args, " "))}, c.call(ctx, "ExecSync")
}

func (c *fakeConn) ResizePty(ctx context.Context, _, _ string, _, _ uint32) error {
	return c.call(ctx, "ResizePty")
}
func (c *fakeConn) CloseStdin(ctx context.Context, _, _ string) error {
	return c.call(ctx, "CloseStdin")
}
func (c *fakeConn) Checkpoint(ctx context.Context, _, images, work string) error {
	if err := c.call(ctx, "Checkpoint"); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(images, "pages-1.img"), []byte("memory"), 0o600),
		os.WriteFile(filepath.Join(work, "dump.log"), []byte("log"), 0o600))
}

func (c *fakeConn) Pause(ctx context.Context, id string) error {
	return c.freeze(ctx, "Pause", id, true)
}
func (c *fakeConn) Resume(ctx context.Context, id string) error {
	return c.freeze(ctx, "Resume", id, false)
}

func (c *fakeConn) freeze(ctx context.Context, call, id string, pause bool) error {
	if err := c.call(ctx, call); err != nil {
		return err
	}
	k, err := c.find(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k.paused = pause
	return nil
}

func (c *fakeConn) Update(ctx context.Context, _ string, _ *specs.LinuxResources) error {
	return c.call(ctx, "Update")
}
func (c *fakeConn) ReopenLog(ctx context.Context, _ string) error { return c.call(ctx, "ReopenLog") }
func (c *fakeConn) UpdateCgroup(ctx context.Context, _ string, _ *specs.LinuxResources) error {
	return c.call(ctx, "UpdateCgroup")
}
func (c *fakeConn) Stats(ctx context.Context, ids []string, _ string, _ bool) (client.Stats, error) {
	s := client.Stats{Containers: map[string]*client.CgroupStats{}}
	for _, id := range ids {
		s.Containers[id] = &client.CgroupStats{PidsCurrent: 1}
	}
	return s, c.call(ctx, "Stats")
}

func (c *fakeConn) PodsStats(ctx context.Context, queries []client.StatsQuery) ([]client.PodStats, error) {
	all := make([]client.PodStats, len(queries))
	for i, q := range queries {
		all[i].Stats, all[i].Err = c.Stats(ctx, q.IDs, q.PodCgroup, false)
	}
	return all, c.call(ctx, "PodsStats")
}

// container finds a container on whatever monitor has it.
func (n *node) container(id string) *fakeContainer {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.monitors {
		if k := m.containers[id]; k != nil {
			return k
		}
	}
	n.tb.Fatalf("no monitor has container %s", id)
	return nil
}

// slows has calls of that name wait until goOn is called: a client that gives up does so
// before.
func (n *node) slows(call string) (goOn func()) {
	wait := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = map[string]chan struct{}{call: wait}
	return func() {
		n.mu.Lock()
		n.slow = nil
		n.mu.Unlock()
		close(wait)
	}
}

// fails makes all calls of these names, with spaces between, fail; "" is none.
func (n *node) fails(call string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failOn, n.failErr = call, errInjected
}

// endSandbox ends a pod's sandbox.
func (n *node) endSandbox(pod string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.monitors {
		if m.id == pod {
			close(m.ended)
		}
	}
}

// exit ends a container's process.
func (n *node) exit(id string, status int) {
	k := n.container(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	k.end(status, 0)
}

// checkEmpty fails the test if anything at all is left.
func (n *node) checkEmpty() {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	left := map[string]any{
		"lease": n.leases, "attached": n.attached, "netns": n.netns, "monitor": n.monitors,
	}
	for what, m := range left {
		if s := fmt.Sprint(m); s != "map[]" {
			n.tb.Errorf("left behind: %s: %s", what, s)
		}
	}
	for _, dir := range []string{
		filepath.Join(n.root, "pods"), filepath.Join(n.state, "pods"), filepath.Join(n.state, "netns"),
	} {
		for _, name := range names(dir) {
			n.tb.Errorf("left behind: %s/%s", dir, name)
		}
	}
}
