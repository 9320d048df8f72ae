// Package bridge is the network of a node without CNI configuration: a bridge,
// address leases, NAT and host ports, with no plugin and no other program.
//
// Every pod has a veth pair, eth0 in its namespace and a port of the bridge
// outside, an address of each subnet and a default route to the bridge, which
// holds each subnet's first address. What leaves by another link of the host is
// masqueraded. Host ports are entries of nftables maps that DNAT looks up, so a
// pod's start and end change map entries and never a rule.
//
// The lease file is written first and removed last, and says all that a pod may
// have (link name, addresses, host ports): killed at any moment, Teardown or GC
// finds everything from it. Only one process at a time uses a state directory
// (its lock file); it keeps the leases in memory. The table is made anew from
// the leases by each process at its first use, and whenever somebody flushed
// it; the bridge is made anew where it is missing.
//
// Not here: an IPv6 [::1] host port (the kernel routes no ::1 to a link; use
// 127.0.0.1), and opening the tables of iptables-legacy, which nftables cannot
// see. Sysctls that are switched on (forwarding) stay on: others may have come
// to rely on them.
//
// Lock order: Bridge.pods (one pod), then Bridge.host, then leases.mu.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/keymutex"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
)

// Config of the bridge. The zero values are the defaults.
type Config struct {
	StateDir string         // leases; ROOT/network/bridge
	Bridge   string         // the link's name, and the nftables table's without a last "0"; "strake0"
	Subnets  []netip.Prefix // of the pods, one of each family at most; none: an IPv4 one that no route overlaps
	MTU      int            // 0: that of the default route's link
}

// Bridge is a network.Network.
type Bridge struct {
	config Config
	leases leases
	pods   keymutex.Mutex // by pod id

	host struct { // what this process has made of the host
		sync.Mutex
		subnets []netip.Prefix // nil: nothing yet
		mtu     int
		table   *table
	}
}

var _ network.Network = (*Bridge)(nil)

// New makes no system call; the first Setup makes the bridge.
func New(c Config) *Bridge {
	if c.Bridge == "" {
		c.Bridge = "strake0"
	}
	return &Bridge{config: c, leases: leases{dir: c.StateDir}}
}

// Close ends the use of the state directory, after the removals under way. The
// pods keep their network.
func (b *Bridge) Close() error {
	b.settle()
	return b.leases.close()
}

// Name is the bridge's.
func (b *Bridge) Name() string { return b.config.Bridge }

// NeedsMount is false: only this process looks at the namespace, and not any more in the end.
func (b *Bridge) NeedsMount() bool { return false }

// Status is nil if the kernel and the configuration allow pods a network. It
// changes nothing.
func (b *Bridge) Status(context.Context) error {
	if err := b.config.validate(); err != nil {
		return fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	if err := tablesAvailable(); err != nil {
		return fmt.Errorf("%w: bridge %s: %w", network.ErrNotReady, b.config.Bridge, err)
	}
	if link, err := netlink.LinkByName(b.config.Bridge); err == nil {
		if err := b.foreign(link); err != nil {
			return fmt.Errorf("%w: bridge %s: %w", network.ErrNotReady, b.config.Bridge, err)
		}
	}
	return nil
}

// Holds reports whether the pod was set up here and not torn down.
func (b *Bridge) Holds(podID string) bool {
	l, err := b.leases.find(podID)
	return err == nil && l != nil
}

// Setup gives the pod its addresses, link, routes and host ports.
func (b *Bridge) Setup(ctx context.Context, p network.Pod) (_ network.Result, err error) {
	defer b.pods.Lock(p.ID)()
	defer func() {
		if err != nil {
			err = fmt.Errorf("bridge %s: %w", b.config.Bridge, err)
		}
	}()
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. What is asked for, before anything is done.
	want, err := newRequest(p)
	if err != nil {
		return network.Result{}, err
	}
	ns, err := sys.OpenNetNS(p.NetNS)
	if err != nil {
		return network.Result{}, err
	}
	defer func() { _ = ns.Close() }() // opened for reading only

	// 2. The host's side, made once.
	host, err := b.prepare()
	if err != nil {
		return network.Result{}, err
	}

	// 3. What an earlier Setup of this pod has left: finished, it is the
	// answer; half done, it is taken back.
	if l, err := b.leases.find(p.ID); err != nil {
		return network.Result{}, err
	} else if l != nil {
		if l.NetNS == p.NetNS && checkPod(ns, l) == nil && checkPort(l, host) == nil {
			return l.result(b.config.Bridge), nil
		}
		if err := b.release(l); err != nil {
			return network.Result{}, err
		}
	}

	// 4. The lease: from here on, Teardown knows what there may be.
	l, err := b.take(want, host.subnets)
	if err != nil {
		return network.Result{}, err
	}
	undo.Push("release "+l.addresses(), func() error { return b.release(l) })
	if err := probePorts(l.Ports); err != nil {
		return network.Result{}, err
	}

	// 5. The link, the pod's side, the limits, the host ports.
	if err := addVeth(l, host, ns); err != nil {
		return network.Result{}, err
	}
	if err := furnishPod(ns, l, want.limits); err != nil {
		return network.Result{}, err
	}
	if err := limitPort(l.Veth, want.limits); err != nil {
		return network.Result{}, err
	}
	if err := b.openPorts(l); err != nil {
		return network.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return network.Result{}, err
	}
	undo.Release()
	return l.result(b.config.Bridge), nil
}

// take takes a lease, after the end of pods whose ports it gets.
func (b *Bridge) take(r request, subnets []netip.Prefix) (*lease, error) {
	for {
		l, err := b.leases.take(r, subnets)
		var before errClosing
		if !errors.As(err, &before) {
			return l, err
		}
		// Its removal holds this lock and never waits for another pod's. If
		// it failed, its error is the answer.
		unlock := b.pods.Lock(before.Pod)
		var now *lease
		if now, err = b.leases.find(before.Pod); now == before.lease {
			err = b.release(now)
		}
		unlock()
		if err != nil {
			return nil, fmt.Errorf("%w: undo pod %s, which has it: %w", network.ErrPortInUse, before.Pod, err)
		}
	}
}

// Teardown removes the pod's link, host ports and lease. It returns once that
// is under way: the kernel takes some 20 ms for a link and as much for map
// entries, nearly all of it waiting. Whoever asks for the pod or its host ports
// next waits for it. Should the removal fail, the lease stays for GC.
func (b *Bridge) Teardown(_ context.Context, p network.Pod) error {
	unlock := b.pods.Lock(p.ID)
	l, err := b.leases.find(p.ID)
	if err != nil || l == nil {
		unlock()
		return err
	}
	b.leases.closing(l)
	go func() {
		defer unlock()
		_ = b.release(l) // the lease stays, as documented
	}()
	return nil
}

// release takes back whatever there is of a lease, and the lease at last.
func (b *Bridge) release(l *lease) error {
	b.leases.closing(l)
	if err := b.closePorts(l); err != nil {
		return err
	}
	if err := removeLink(l.Veth); err != nil {
		return err
	}
	return b.leases.give(l)
}

// settle waits for the removals under way.
func (b *Bridge) settle() {
	for _, l := range b.leases.loaded() {
		b.pods.Lock(l.Pod)()
	}
}

// Check says whether the pod's link, addresses and bridge port are there.
func (b *Bridge) Check(_ context.Context, p network.Pod) error {
	defer b.pods.Lock(p.ID)()
	l, err := b.leases.find(p.ID)
	if err == nil && l == nil {
		err = errors.New("no network was set up")
	}
	if err == nil {
		err = b.check(l)
	}
	if err != nil {
		return fmt.Errorf("pod %s: bridge %s: %w", p.ID, b.config.Bridge, err)
	}
	return nil
}

func (b *Bridge) check(l *lease) error {
	ns, err := sys.OpenNetNS(l.NetNS)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // opened for reading only
	host, err := b.prepare()
	if err != nil {
		return err
	}
	return errors.Join(checkPod(ns, l), checkPort(l, host))
}

// GC releases the leases of pods that are not in live and removes the bridge's
// ports that no lease knows, unless the bridge is another daemon's.
func (b *Bridge) GC(ctx context.Context, live []string) error {
	keep := make(map[string]bool, len(live))
	for _, id := range live {
		keep[id] = true
	}
	// The ports are listed first: a Setup takes its lease before it makes its
	// port, so a listed port without a lease then is nobody's.
	ports, err := b.ports()
	if err != nil {
		return err
	}
	all, err := b.leases.all()
	if err != nil {
		return err
	}
	var errs []error
	leased := map[string]bool{}
	for _, l := range all {
		leased[l.Veth] = true
		if !keep[l.Pod] {
			errs = append(errs, b.Teardown(ctx, network.Pod{ID: l.Pod}))
		}
	}
	for _, port := range ports {
		if !leased[port.Attrs().Name] {
			errs = append(errs, removeLink(port.Attrs().Name))
		}
	}
	b.settle()
	return errors.Join(errs...)
}

// Destroy removes the bridge, the nftables table and the leases, whoever made
// them. Pods that still use the bridge lose their network.
func (b *Bridge) Destroy(ctx context.Context) error {
	errs := []error{b.GC(ctx, nil)}
	b.host.Lock()
	defer b.host.Unlock()
	b.host.subnets, b.host.table = nil, nil
	errs = append(errs,
		removeLink(b.config.Bridge),
		newTable(b.config.Bridge).remove(),
		closeForward(b.config.Bridge),
		b.leases.destroy())
	return errors.Join(errs...)
}

func (l *lease) result(bridge string) network.Result {
	r := network.Result{
		MAC: l.MAC,
		Interfaces: []network.Interface{
			{Name: bridge},
			{Name: l.Veth},
			{Name: podLink, MAC: l.MAC, Sandbox: l.NetNS, IPs: l.Addrs},
		},
	}
	for _, a := range l.Addrs {
		r.IPs = append(r.IPs, a.Addr())
	}
	return r
}

// hardwareAddr parses the lease's MAC, which take has made or checked.
func (l *lease) hardwareAddr() net.HardwareAddr {
	mac, err := net.ParseMAC(l.MAC)
	if err != nil {
		return nil // the kernel chooses
	}
	return mac
}
