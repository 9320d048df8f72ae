// Package cni runs the CNI plugins of the node's configuration (CNI 1.1 and
// before: ADD, DEL, CHECK, GC, STATUS), with libcni.
//
// The configuration is read anew for each use, so a change counts for the next
// pod: the lexicographically first valid file of the directory, as containerd
// and CRI-O choose. What a pod was set up with is recorded before its ADD, so
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
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/strake-containers/strake/internal/keymutex"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/network/netns"
)

// ifName is the pod's primary interface, by the convention of every kubelet.
const ifName = "eth0"

// statusTimeout bounds STATUS, which callers poll.
const statusTimeout = 10 * time.Second

// Config says where configuration, plugins and results live.
type Config struct {
	ConfDir  string        // conflists; /etc/cni/net.d
	BinDirs  []string      // plugin binaries, first match wins
	CacheDir string        // what pods were set up with; ROOT/network/cni
	Timeout  time.Duration // of one verb's plugins, all together; 0: a minute
}

// CNI is a network.Network that runs plugins.
type CNI struct {
	config  Config
	libcni  *libcni.CNIConfig
	records records
	pods    keymutex.Mutex // by pod id
}

var _ network.Network = (*CNI)(nil)

// New makes no system call; what is missing shows in Status.
func New(c Config) *CNI {
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	return &CNI{
		config:  c,
		libcni:  libcni.NewCNIConfigWithCacheDir(c.BinDirs, c.CacheDir, &runner{}),
		records: records{dir: c.CacheDir},
	}
}

// Configured reports whether the configuration directory holds a configuration
// file at all, valid or not: then a built-in network must keep off.
func (c *CNI) Configured() bool {
	files, err := confFiles(c.config.ConfDir)
	return err != nil || len(files) > 0
}

// Holds reports whether the pod was set up here and not torn down.
func (c *CNI) Holds(podID string) bool {
	_, err := c.records.read(podID)
	return err == nil
}

// Name is the configured network's name, "cni" without one.
func (c *CNI) Name() string {
	if n, err := loadNetwork(c.config.ConfDir); err == nil {
		return n.list.Name
	}
	return "cni"
}

// Status is nil if the configuration is valid, its plugins are there and, from
// CNI 1.1 on, say that they are ready.
func (c *CNI) Status(ctx context.Context) error {
	n, err := loadNetwork(c.config.ConfDir)
	if err != nil {
		return err
	}
	for _, p := range n.list.Plugins {
		if _, err := (&runner{}).FindInPath(p.Network.Type, c.config.BinDirs); err != nil {
			return fmt.Errorf("%w: %s: %w", network.ErrNotReady, n, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := c.libcni.GetStatusNetworkList(ctx, n.list); err != nil {
		return fmt.Errorf("%w: %s: STATUS: %w", network.ErrNotReady, n, err)
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
		if r.Result != nil && r.Pod.NetNS == p.NetNS && live(p.NetNS) {
			return r.result()
		}
		if err := c.teardown(ctx, r); err != nil {
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
	n, err := loadNetwork(c.config.ConfDir)
	if err != nil {
		return network.Result{}, err
	}
	r := newRecord(n, p)
	if err := c.records.write(r); err != nil {
		return network.Result{}, err
	}

	// 3. The plugins.
	result, err := c.add(ctx, r, n)
	if err != nil {
		// Its own time: the caller's is perhaps why ADD failed.
		if e := c.del(context.WithoutCancel(ctx), r, n); e != nil {
			err = fmt.Errorf("%w; undo: %w; %w", err, e, network.ErrLeft) // Teardown or GC tries again
		}
		return network.Result{}, err
	}
	return result, nil
}

// add runs ADD and completes the record.
func (c *CNI) add(ctx context.Context, r *record, n *conf) (network.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	raw, err := c.libcni.AddNetworkList(ctx, n.list, runtimeConf(r.Pod))
	if err != nil {
		return network.Result{}, fmt.Errorf("%s: ADD: %w", n, plain(err))
	}
	result, err := r.finish(raw)
	if err != nil {
		return network.Result{}, fmt.Errorf("%s: ADD: %w", n, err)
	}
	return result, c.records.write(r)
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
		n, err := loadNetwork(c.config.ConfDir)
		if err != nil {
			return nil // no record and no configuration: nothing says what to run
		}
		r = newRecord(n, p)
	}
	return c.teardown(ctx, r)
}

func (c *CNI) teardown(ctx context.Context, r *record) error {
	n, err := r.conf()
	if err != nil {
		return err
	}
	if err := c.del(ctx, r, n); err != nil {
		return fmt.Errorf("%s: %w", n, err)
	}
	return nil
}

// del runs DEL and removes the record.
func (c *CNI) del(ctx context.Context, r *record, n *conf) error {
	pod := r.Pod
	if !live(pod.NetNS) {
		pod.NetNS = "" // the specification's way to say that it has gone
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if err := c.libcni.DelNetworkList(ctx, n.list, runtimeConf(pod)); err != nil {
		return fmt.Errorf("DEL: %w", plain(err))
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
	n, err := r.conf()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	err = c.libcni.CheckNetworkList(ctx, n.list, runtimeConf(r.Pod))
	if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
		return fmt.Errorf("%s: CHECK: %w", n, plain(err))
	}
	return nil
}

// GC runs DEL for every recorded pod that is not in live and, from CNI 1.1 on,
// GC with the live ones. The configured network must be this node's alone.
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
	if n, err := loadNetwork(c.config.ConfDir); err == nil {
		args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}} // never null
		for _, id := range live {
			args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: ifName})
		}
		ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
		defer cancel()
		if err := c.libcni.GCNetworkList(ctx, n.list, args); err != nil {
			errs = append(errs, fmt.Errorf("%s: GC: %w", n, err))
		}
	}
	return errors.Join(errs...)
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
