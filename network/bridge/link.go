package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
)

const (
	podLink    = "eth0" // in the pod
	vethPrefix = "stk"  // of the bridge's ports
)

// vethName names a pod's port on the bridge: with the beginning of the pod's
// id, as people see it in listings, where it is hexadecimal.
func vethName(podID string) string {
	const n = syscall.IFNAMSIZ - 1 - len(vethPrefix)
	if len(podID) == 64 && strings.Trim(podID, "0123456789abcdef") == "" {
		return vethPrefix + podID[:n]
	}
	sum := sha256.Sum256([]byte(podID))
	return vethPrefix + hex.EncodeToString(sum[:])[:n]
}

// addVeth makes the pair in one request, the pod's end in its namespace, and
// makes the other a port of the bridge.
func addVeth(l *lease, host hostSide, ns *os.File) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = l.Veth, host.mtu, host.index, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         podLink,
		PeerMTU:          uint32(host.mtu),
		PeerHardwareAddr: l.hardwareAddr(),
		PeerNamespace:    netlink.NsFd(ns.Fd()),
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	err = h.LinkAdd(veth)
	if errors.Is(err, syscall.EEXIST) && removeLink(l.Veth) == nil {
		err = h.LinkAdd(veth) // the name was a leftover whose lease is lost
	}
	if err != nil {
		return fmt.Errorf("make veth pair %s, %s: %w", l.Veth, podLink, err)
	}
	if err := withoutIPv6(l.Veth); err != nil {
		return err
	}
	// A pod that calls its own host port gets its packet back on its own port
	// where bridged packets pass the packet filter (br_netfilter).
	if err := h.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", l.Veth, err)
	}
	return nil
}

// withoutIPv6 keeps IPv6 off a port, which only carries frames. Its three routes would be in
// the host's table, which the kernel walks four times for every port that goes: the price of
// a pod's end would grow with the number of pods. The link has no carrier yet, so there is
// nothing that has to be taken from it.
func withoutIPv6(port string) error {
	err := sysctl("ipv6/conf/"+port+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) {
		return nil // there is no IPv6, or this may not be said: the port works either way
	}
	return err
}

// furnishPod gives the pod's end its addresses and routes, in its namespace.
func furnishPod(ns *os.File, l *lease, limit network.Bandwidth) error {
	return inPod(ns, func(h *netlink.Handle, link netlink.Link) error {
		for _, a := range l.Addrs {
			// Nobody else has the address: it need not be probed for a second.
			addr := &netlink.Addr{IPNet: toIPNet(a), Flags: syscall.IFA_F_NODAD}
			if err := h.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("add address %s: %w", a, err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring it up: %w", err)
		}
		for _, a := range l.Addrs {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway(a.Masked()).AsSlice()}
			if err := h.RouteAdd(route); err != nil {
				return fmt.Errorf("add default route via %s: %w", route.Gw, err)
			}
		}
		return limitRate(h, link, limit.EgressRate, limit.EgressBurst)
	})
}

// checkPod compares the pod's end with the lease.
func checkPod(ns *os.File, l *lease) error {
	return inPod(ns, func(h *netlink.Handle, link netlink.Link) error {
		if link.Attrs().Flags&net.FlagUp == 0 {
			return errors.New("it is down")
		}
		addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, want := range l.Addrs {
			has := func(a netlink.Addr) bool {
				p, ok := toPrefix(a.IPNet)
				return ok && p == want
			}
			if !slices.ContainsFunc(addrs, has) {
				return fmt.Errorf("it has lost its address %s", want)
			}
		}
		return nil
	})
}

// inPod runs fn in the namespace, with the pod's link.
func inPod(ns *os.File, fn func(*netlink.Handle, netlink.Link) error) error {
	err := sys.InNetNS(ns, func() error {
		h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		link, err := h.LinkByName(podLink)
		if err != nil {
			return err
		}
		return fn(h, link)
	})
	if err != nil {
		return fmt.Errorf("the pod's %s: %w", podLink, err)
	}
	return nil
}

// checkPort says whether the lease's port is on the bridge.
func checkPort(l *lease, host hostSide) error {
	link, err := netlink.LinkByName(l.Veth)
	if err != nil {
		return fmt.Errorf("port %s: %w", l.Veth, err)
	}
	if link.Attrs().MasterIndex != host.index {
		return fmt.Errorf("port %s is not on the bridge", l.Veth)
	}
	return nil
}

// limitPort limits what the pod receives, at its port.
func limitPort(veth string, limit network.Bandwidth) error {
	if limit.IngressRate == 0 {
		return nil
	}
	link, err := netlink.LinkByName(veth)
	if err != nil {
		return fmt.Errorf("port %s: %w", veth, err)
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	return limitRate(h, link, limit.IngressRate, limit.IngressBurst)
}

// limitRate puts a token bucket before the link: rate in bits per second, burst
// in bits; no rate is no limit, no burst a tenth of a second's worth.
func limitRate(h *netlink.Handle, link netlink.Link, rate, burst uint64) error {
	if rate == 0 {
		return nil
	}
	const maxQueue = 0.025 // seconds that a packet may wait
	bytesPerSecond := float64(rate) / 8
	if burst == 0 {
		burst = rate / 10
	}
	// At least a few packets fit, or nothing would pass.
	buffer := min(max(float64(burst)/8, float64(4*link.Attrs().MTU)), math.MaxUint32)
	ticks := min(buffer/bytesPerSecond*1e6*netlink.TickInUsec(), math.MaxUint32)
	tbf := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: link.Attrs().Index,
			Handle:    netlink.MakeHandle(1, 0),
			Parent:    netlink.HANDLE_ROOT,
		},
		Rate:   uint64(bytesPerSecond),
		Buffer: uint32(ticks),
		Limit:  uint32(min(bytesPerSecond*maxQueue+buffer, math.MaxUint32)),
	}
	if err := h.QdiscAdd(tbf); err != nil {
		return fmt.Errorf("limit %s to %d bit/s: %w", link.Attrs().Name, rate, err)
	}
	return nil
}

// removeLink removes a link by name; a missing one is no error.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// ours lists the bridge's ports that are named as this package names them.
func ours(bridge string) ([]netlink.Link, error) {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		if isNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("look up %s: %w", bridge, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		a := l.Attrs()
		return a.MasterIndex != link.Attrs().Index || l.Type() != "veth" || !strings.HasPrefix(a.Name, vethPrefix)
	}), nil
}
