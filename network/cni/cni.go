// Package cni runs the CNI plugins of the node's configuration (CNI 1.1 and
// before: ADD, DEL, CHECK, GC, STATUS), with libcni.
//
// The configuration is read anew for each use, so a change counts for the next
// pod: the lexicographically first valid file of the directory, as containerd
// and CRI-O choose. With Config.Networks it is that many of the first files, all of
// which have to be valid: a pod has an interface in each, eth0, eth1 and so on. Its
// addresses, and what host ports lead to, are those of the first. They are added one
// after the other and deleted in the other direction, also where one of them failed.
//
// What a pod was set up with is recorded before its ADD, so
// that DEL runs the same plugins after a restart, a reboot, a change of the
// configuration or a half-failed ADD. The records are not fsynced: they matter
// after a power cut only to release what the plugins themselves recorded, and a
// lost one is made up for by the configuration of the day.
//
// A plugin runs in a process group of its own and is killed with it when its
// time is up. No lock but the pod's own is held while one runs. One that outlives
// the daemon, because that was killed, is waited for before another one runs for the
// same pod (orphan.go).
package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/strake-containers/strake/internal/keymutex"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/network/netns"
)

// interfaceOf is the pod's interface in its i'th network: eth0 is the primary one, by
// the convention of every kubelet.
func interfaceOf(i int) string { return fmt.Sprintf("eth%d", i) }

// statusTimeout bounds STATUS, which callers poll.
const statusTimeout = 10 * time.Second

// Config says where configuration, plugins and results live.
type Config struct {
	ConfDir  string        // conflists; /etc/cni/net.d
	BinDirs  []string      // plugin binaries, first match wins
	CacheDir string        // what pods were set up with; ROOT/network/cni
	Timeout  time.Duration // of one verb's plugins, all together; 0: a minute
	Networks int           // how many of ConfDir's a pod is connected to; 0: one
}

// settings are what Change changes; files and plugins are looked for whenever they are
// used.
type settings struct {
	confDir  string
	binDirs  []string
	networks int
	libcni   *libcni.CNIConfig
}

// CNI is a network.Network that runs plugins.
type CNI struct {
	config  Config // but for what Change changes
	now     atomic.Pointer[settings]
	records records
	pods    keymutex.Mutex // by pod id
}

var _ network.Network = (*CNI)(nil)

// New makes no system call; what is missing shows in Status.
func New(c Config) *CNI {
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	n := &CNI{config: c, records: records{dir: c.CacheDir}}
	n.Change(c.ConfDir, c.BinDirs, c.Networks)
	return n
}

// Change makes another Config.ConfDir, BinDirs and Networks count, for what begins
// afterwards. A pod leaves the networks that it came to.
func (c *CNI) Change(confDir string, binDirs []string, networks int) {
	c.now.Store(&settings{confDir, binDirs, max(networks, 1), libcni.NewCNIConfigWithCacheDir(binDirs, c.config.CacheDir, &runner{})})
}

// Configured reports whether the configuration directory holds a configuration
// file at all, valid or not: then a built-in network must keep off.
func (c *CNI) Configured() bool {
	files, err := confFiles(c.now.Load().confDir)
	return err != nil || len(files) > 0
}

// Holds reports whether the pod was set up here and not torn down.
func (c *CNI) Holds(podID string) bool {
	_, err := c.records.read(podID)
	return err == nil
}

// networks are those that a pod is connected to now.
func (c *CNI) networks() ([]*conf, error) {
	now := c.now.Load()
	return loadNetworks(now.confDir, now.networks)
}

// Name is the name of the configured network, or of all of them with a comma
// between; "cni" without one.
func (c *CNI) Name() string {
	networks, err := c.networks()
	if err != nil {
		return "cni"
	}
	var names []string
	for _, n := range networks {
		names = append(names, n.list.Name)
	}
	return strings.Join(names, ",")
}

// NeedsMount is true: a plugin may have a daemon that looks at the path later, from a mount namespace
// of its own.
func (c *CNI) NeedsMount() bool { return true }

// Status is nil if the configuration is valid, its plugins are there and, from
// CNI 1.1 on, say that they are ready.
func (c *CNI) Status(ctx context.Context) error {
	networks, err := c.networks()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	now := c.now.Load()
	for _, n := range networks {
		for _, p := range n.list.Plugins {
			if _, err := (&runner{}).FindInPath(p.Network.Type, now.binDirs); err != nil {
				return fmt.Errorf("%w: %s: %w", network.ErrNotReady, n, err)
			}
		}
		if err := now.libcni.GetStatusNetworkList(ctx, n.list); err != nil {
			return fmt.Errorf("%w: %s: STATUS: %w", network.ErrNotReady, n, err)
		}
	}
	return nil
}

// Setup runs ADD. If it fails, DEL is run with the same configuration, even if
// ctx is done.
func (c *CNI) Setup(ctx context.Context, p network.Pod) (network.Result, error) {
	defer c.pods.Lock(p.ID)()
	ctx, release, err := c.alone(ctx, p.ID)
	if err != nil {
		return network.Result{}, err
	}
	defer release()

	// 1. What an earlier Setup of this pod has left: a finished result is the
	// answer, half a one is taken back.
	if r, err := c.records.read(p.ID); err == nil {
		if r.whole() && r.Pod.NetNS == p.NetNS && live(p.NetNS) {
			return r.result()
		}
		if err := c.del(ctx, r); err != nil {
			return network.Result{}, err
		}
	}

	// 2. The record, before any plugin can have done anything. It has the
	// limits as they were understood.
	if err := checkArgs(p); err != nil {
		return network.Result{}, err
	}
	if p.Bandwidth, err = p.Limits(); err != nil {
		return network.Result{}, err
	}
	networks, err := c.networks()
	if err != nil {
		return network.Result{}, err
	}
	r := newRecord(networks, p)
	if err := c.records.write(r); err != nil {
		return network.Result{}, err
	}

	// 3. The plugins.
	result, err := c.add(ctx, r, networks)
	if err != nil {
		// Its own time: the caller's is perhaps why ADD failed.
		if e := c.del(context.WithoutCancel(ctx), r); e != nil {
			err = fmt.Errorf("%w; undo: %w; %w", err, e, network.ErrLeft) // Teardown or GC tries again
		}
		return network.Result{}, err
	}
	return result, nil
}

// add runs ADD in each network, in order, and completes the record. The networks that
// it does not come to, because one before them failed, are out of the record.
func (c *CNI) add(ctx context.Context, r *record, networks []*conf) (network.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	for i, a := range r.attachments() {
		raw, err := c.now.Load().libcni.AddNetworkList(ctx, networks[i].list, runtimeConf(r.Pod, i))
		if err == nil {
			err = a.finish(raw, i)
		}
		if err != nil {
			r.Also = r.Also[:i]
			return network.Result{}, fmt.Errorf("%s: ADD: %w", networks[i], plain(err))
		}
		if err := c.records.write(r); err != nil {
			return network.Result{}, err
		}
	}
	return r.result()
}

// Teardown runs DEL with what the pod was set up with; without a record, with
// the configuration of now, for a plugin may still hold something. After a
// success, the caller has no need to call again, and each call costs the
// plugins' time.
func (c *CNI) Teardown(ctx context.Context, p network.Pod) error {
	defer c.pods.Lock(p.ID)()
	ctx, release, err := c.alone(ctx, p.ID)
	if err != nil {
		return err
	}
	defer release()
	r, err := c.records.read(p.ID)
	if err != nil {
		networks, err := c.networks()
		if err != nil {
			return nil // no record and no configuration: nothing says what to run
		}
		r = newRecord(networks, p)
	}
	return c.del(ctx, r)
}

// del runs DEL in each network of the record that it was not run in, the last first,
// and removes the record; one that fails keeps no other from it.
func (c *CNI) del(ctx context.Context, r *record) error {
	pod := r.Pod
	if !live(pod.NetNS) {
		pod.NetNS = "" // the specification's way to say that it has gone
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	var errs []error
	for i, a := range slices.Backward(r.attachments()) {
		if a.Deleted {
			continue
		}
		n, err := a.conf(r.Pod.ID)
		if err == nil {
			if err = c.now.Load().libcni.DelNetworkList(ctx, n.list, runtimeConf(pod, i)); err != nil {
				err = fmt.Errorf("%s: DEL: %w", n, plain(err))
			}
		}
		a.Deleted = err == nil
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		if len(errs) > 1 { // one DEL is not run again for another's sake
			err = errors.Join(err, c.records.write(r))
		}
		return err
	}
	return c.records.remove(pod.ID)
}

// Check runs CHECK; a configuration before CNI 0.4 has none and is never wrong.
func (c *CNI) Check(ctx context.Context, p network.Pod) error {
	defer c.pods.Lock(p.ID)()
	r, err := c.records.read(p.ID)
	if err != nil {
		return fmt.Errorf("pod %s: no CNI network was set up: %w", p.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	for i, a := range r.attachments() {
		n, err := a.conf(r.Pod.ID)
		if err != nil {
			return err
		}
		err = c.now.Load().libcni.CheckNetworkList(ctx, n.list, runtimeConf(r.Pod, i))
		if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
			return fmt.Errorf("%s: CHECK: %w", n, plain(err))
		}
	}
	return nil
}

// GC runs DEL for every recorded pod that is not in live and, from CNI 1.1 on,
// GC with the live ones. The configured networks must be this node's alone.
func (c *CNI) GC(ctx context.Context, live []string) error {
	ctx, release, err := c.alone(ctx, gcLock)
	if err != nil {
		return err
	}
	defer release()
	ids, err := c.records.list()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if !slices.Contains(live, id) {
			if err := c.Teardown(ctx, network.Pod{ID: id}); err != nil {
				errs = append(errs, fmt.Errorf("pod %s: %w", id, err))
			}
		}
	}
	errs = append(errs, c.removeLeftovers(live))
	networks, err := c.networks()
	if err != nil {
		return errors.Join(errs...) // nobody to ask
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	for i, n := range networks {
		args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}} // never null
		for _, id := range live {
			args.ValidAttachments = append(args.ValidAttachments, c.attachmentsOf(id, n.list.Name, i)...)
		}
		if err := c.now.Load().libcni.GCNetworkList(ctx, n.list, args); err != nil {
			errs = append(errs, fmt.Errorf("%s: GC: %w", n, err))
		}
	}
	return errors.Join(errs...)
}

// attachmentsOf are those of a pod to the network name, which is the i'th now: when
// the pod came it may have been another one. Without a record they are what they
// would be now.
func (c *CNI) attachmentsOf(podID, name string, i int) []types.GCAttachment {
	r, err := c.records.read(podID)
	if err != nil {
		return []types.GCAttachment{{ContainerID: podID, IfName: interfaceOf(i)}}
	}
	var list []types.GCAttachment
	for i, a := range r.attachments() {
		if a.Name == name && !a.Deleted {
			list = append(list, types.GCAttachment{ContainerID: podID, IfName: interfaceOf(i)})
		}
	}
	return list
}

// live reports whether path is a namespace that a plugin can enter. One that
// cannot be looked at counts as live, so that the plugin says what is wrong.
func live(path string) bool {
	if path == "" {
		return false
	}
	exists, err := netns.Exists(path)
	return exists || err != nil
}
