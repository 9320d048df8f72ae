package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
)

const (
	defaultMTU = 1500
	minMTU     = 1280 // the smallest that IPv6 allows
	maxMTU     = 65535
)

// defaultSubnets are the candidates where none is configured, in order. They
// are the ranges that other container tools pick least: Docker's are from
// 172.17.0.0/16 on, Podman's 10.88.0.0/15, CRI-O's 10.85.0.0/16, flannel's
// 10.244.0.0/16. Podman takes its own without looking who has it.
var defaultSubnets = []netip.Prefix{
	netip.MustParsePrefix("10.190.0.0/16"),
	netip.MustParsePrefix("10.191.0.0/16"),
	netip.MustParsePrefix("172.29.0.0/16"),
	netip.MustParsePrefix("172.30.0.0/16"),
	netip.MustParsePrefix("192.168.240.0/20"),
	netip.MustParsePrefix("100.96.0.0/16"),
}

func (c Config) validate() error {
	if len(c.Bridge) > syscall.IFNAMSIZ-1 {
		return fmt.Errorf("bridge name %q: longer than %d bytes", c.Bridge, syscall.IFNAMSIZ-1)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		return fmt.Errorf("mtu %d: not within %d to %d", c.MTU, minMTU, maxMTU)
	}
	seen := map[bool]bool{}
	for _, s := range c.Subnets {
		if !s.IsValid() || !usable(s.Masked(), gateway(s).Next()) {
			return fmt.Errorf("subnet %s: no room for a gateway and a pod", s)
		}
		if seen[s.Addr().Is4()] {
			return fmt.Errorf("subnets %v: two of one family", c.Subnets)
		}
		seen[s.Addr().Is4()] = true
	}
	return nil
}

// hostSide is what a pod's setup needs to know of the host.
type hostSide struct {
	index   int // of the bridge
	mtu     int
	subnets []netip.Prefix
}

// prepare makes the bridge, the sysctls and the table, or finds them made.
func (b *Bridge) prepare() (hostSide, error) {
	b.host.Lock()
	defer b.host.Unlock()
	name := b.config.Bridge

	link, err := netlink.LinkByName(name)
	if err == nil && b.host.subnets != nil && link.Attrs().Flags&net.FlagUp != 0 &&
		link.Attrs().Alias == b.config.owner() && b.host.table.exists() {
		// Docker, started since, may have closed FORWARD.
		return hostSide{link.Attrs().Index, b.host.mtu, b.host.subnets}, openForward(name)
	}
	if err != nil && !isNotFound(err) {
		return hostSide{}, fmt.Errorf("look up the link: %w", err)
	}
	if err == nil {
		if err := b.foreign(link); err != nil {
			return hostSide{}, err
		}
	}

	// 1. The plan: which subnets, those of older leases too.
	if err := b.config.validate(); err != nil {
		return hostSide{}, err
	}
	leases, err := b.leases.all()
	if err != nil {
		return hostSide{}, err
	}
	subnets, err := b.subnets(link, leases)
	if err != nil {
		return hostSide{}, err
	}
	served := slices.Clone(subnets)
	for _, l := range leases {
		for _, a := range l.Addrs {
			if !slices.Contains(served, a.Masked()) {
				served = append(served, a.Masked())
			}
		}
	}
	mtu := b.config.MTU
	if mtu == 0 {
		mtu = uplinkMTU()
	}

	// 2. The link, with the ports that a removed one has lost.
	if link, err = ensureBridge(name, mtu, served); err != nil {
		return hostSide{}, err
	}
	if err := b.own(link); err != nil {
		return hostSide{}, err
	}
	for _, l := range leases {
		if port, err := netlink.LinkByName(l.Veth); err == nil && port.Attrs().MasterIndex != link.Attrs().Index {
			if err := netlink.LinkSetMaster(port, link); err != nil {
				return hostSide{}, fmt.Errorf("attach %s: %w", l.Veth, err)
			}
		}
	}

	// 3. Forwarding and the packet filter.
	if err := forwarding(name, served); err != nil {
		return hostSide{}, err
	}
	if leases, err = b.leases.withPorts(); err != nil {
		return hostSide{}, err
	}
	t := newTable(name)
	if err := t.rebuild(served, leases); err != nil {
		return hostSide{}, err
	}
	if err := openForward(name); err != nil {
		return hostSide{}, err
	}
	b.host.subnets, b.host.mtu, b.host.table = subnets, mtu, t
	return hostSide{link.Attrs().Index, mtu, subnets}, nil
}

// subnets are the configured ones, or else those that the bridge has, the
// leases' or the first default that is free.
func (b *Bridge) subnets(link netlink.Link, leases []*lease) ([]netip.Prefix, error) {
	if len(b.config.Subnets) > 0 {
		var subnets []netip.Prefix
		for _, s := range b.config.Subnets {
			subnets = append(subnets, s.Masked())
		}
		return subnets, nil
	}
	if link != nil {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			if p, ok := toPrefix(a.IPNet); ok && gateway(p) == p.Addr() {
				return []netip.Prefix{p.Masked()}, nil
			}
		}
	}
	candidates := defaultSubnets
	for _, l := range leases {
		candidates = append([]netip.Prefix{l.Addrs[0].Masked()}, candidates...)
	}
	taken, err := takenSubnets()
	if err != nil {
		return nil, err
	}
	free := func(s netip.Prefix) bool { return !slices.ContainsFunc(taken, s.Overlaps) }
	if i := slices.IndexFunc(candidates, free); i >= 0 {
		return candidates[i : i+1 : i+1], nil
	}
	return nil, fmt.Errorf("every default subnet %v overlaps a route: configure network.subnets", defaultSubnets)
}

// takenSubnets are the host's routes and addresses.
func takenSubnets() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if dst, ok := toPrefix(r.Dst); ok && dst.Bits() > 0 {
			taken = append(taken, dst)
		}
	}
	for _, a := range addrs {
		if p, ok := toPrefix(a.IPNet); ok {
			taken = append(taken, p)
		}
	}
	return taken, nil
}

func ensureBridge(name string, mtu int, subnets []netip.Prefix) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = name, mtu, net.FlagUp
	// Its own address: otherwise it takes a port's, and changes with the ports.
	attrs.HardwareAddr = macFor(gateway(subnets[0]))
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, fmt.Errorf("make the bridge: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("look up the link: %w", err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("the link of that name is a %s: remove it or configure network.bridge", link.Type())
	}
	for _, s := range subnets {
		addr := &netlink.Addr{IPNet: toIPNet(netip.PrefixFrom(gateway(s), s.Bits())), Flags: syscall.IFA_F_NODAD}
		if err := netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, syscall.EEXIST) {
			return nil, fmt.Errorf("add address %s: %w", addr.IPNet, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bring it up: %w", err)
	}
	return link, nil
}

// forwarding switches on what packets to and from pods need.
func forwarding(bridge string, subnets []netip.Prefix) error {
	for _, s := range subnets {
		if s.Addr().Is4() {
			// Replies to 127.0.0.1:hostport come from a pod; the table drops
			// what pods themselves send to 127.0.0.0/8.
			if err := sysctl("ipv4/conf/"+bridge+"/route_localnet", "1"); err != nil {
				return err
			}
			if err := sysctl("ipv4/ip_forward", "1"); err != nil {
				return err
			}
			continue
		}
		// A forwarding host ignores router advertisements, and would lose its
		// own default route, unless told otherwise.
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			key := "ipv6/conf/" + l.Attrs().Name + "/accept_ra"
			if v, err := os.ReadFile("/proc/sys/net/" + key); err == nil && string(v) == "1\n" {
				if err := sysctl(key, "2"); err != nil {
					return err
				}
			}
		}
		if err := sysctl("ipv6/conf/all/forwarding", "1"); err != nil {
			return err
		}
	}
	return nil
}

// sysctl sets a key of this thread's network namespace, if it has another value.
func sysctl(key, value string) error {
	path := "/proc/sys/net/" + key
	if old, err := os.ReadFile(path); err == nil && string(old) == value+"\n" {
		return nil // it may be read-only then
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("sysctl net/%s=%s: %w", key, value, err)
	}
	return nil
}

// uplinkMTU is the MTU of the default route's link: a larger one would make
// pods send what cannot leave the host.
func uplinkMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return defaultMTU
	}
	mtu := 0
	for _, r := range routes {
		if dst, ok := toPrefix(r.Dst); ok && dst.Bits() > 0 || r.LinkIndex == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && (mtu == 0 || link.Attrs().MTU < mtu) {
			mtu = link.Attrs().MTU
		}
	}
	if mtu < minMTU {
		return defaultMTU
	}
	return min(mtu, maxMTU)
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if size == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), true
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func isNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, syscall.ENODEV)
}
