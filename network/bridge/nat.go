package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
)

// protocols that a host port can have, with their numbers.
var protocols = map[string]byte{"tcp": syscall.IPPROTO_TCP, "udp": syscall.IPPROTO_UDP, "sctp": syscall.IPPROTO_SCTP}

// The kernel's numbers that no library names.
const (
	nfprotoIPv4  = 2
	nfprotoIPv6  = 10
	ctStatusDNAT = 1 << 5 // IPS_DST_NAT
	reg32        = 8      // NFT_REG32_00, the first of the 4-byte registers; register 1 is the first four of them
)

// table is the bridge's nftables table, which nobody else writes:
//
//	table inet strake {
//	  map ports4 { type inet_proto . inet_service : ipv4_addr . inet_service }
//	  map addrs4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	  map ports6, addrs6 likewise
//	  chain guard { type filter hook prerouting priority raw
//	    iifname "strake0" ip daddr 127.0.0.0/8 drop }
//	  chain incoming { type nat hook prerouting priority dstnat
//	    fib daddr type local jump hostports }
//	  chain local { type nat hook output priority dstnat
//	    fib daddr type local jump hostports }
//	  chain hostports {
//	    dnat ip to ip daddr . meta l4proto . th dport map @addrs4
//	    dnat ip to meta l4proto . th dport map @ports4
//	    likewise for ip6 }
//	  chain outgoing { type nat hook postrouting priority srcnat
//	    ip saddr 10.190.0.0/16 oifname != "strake0" masquerade
//	    ip saddr 10.190.0.0/16 oifname "strake0" ct status dnat masquerade
//	    ip saddr 127.0.0.0/8 oifname "strake0" masquerade }
//	}
//
// The second masquerade is for pods that call a host port: the answer has to
// come back through the host. The third is for 127.0.0.1:hostport.
type table struct {
	bridge string
	table  *nftables.Table
	fam    []family
}

// family is what differs between IPv4 and IPv6.
type family struct {
	v4           bool
	nfproto      byte
	size         uint32 // of an address, bytes
	saddr, daddr uint32 // offsets in the network header
	ports, addrs *nftables.Set
}

func newTable(bridge string) *table {
	name := strings.TrimSuffix(bridge, "0")
	t := &table{bridge: bridge, table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	for i, f := range []family{
		{v4: true, nfproto: nfprotoIPv4, size: 4, saddr: 12, daddr: 16},
		{v4: false, nfproto: nfprotoIPv6, size: 16, saddr: 8, daddr: 24},
	} {
		addr := nftables.TypeIPAddr
		suffix := "4"
		if !f.v4 {
			addr, suffix = nftables.TypeIP6Addr, "6"
		}
		target := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		f.ports = &nftables.Set{
			Table: t.table, Name: "ports" + suffix, ID: uint32(2*i + 1), IsMap: true, DataType: target,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		}
		f.addrs = &nftables.Set{
			Table: t.table, Name: "addrs" + suffix, ID: uint32(2*i + 2), IsMap: true, DataType: target,
			KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService),
		}
		t.fam = append(t.fam, f)
	}
	return t
}

// tablesAvailable says whether the kernel has nf_tables and lets us use it.
func tablesAvailable() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTablesOfFamily(nftables.TableFamilyINet)
	}
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (t *table) exists() bool {
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = conn.ListTableOfFamily(t.table.Name, t.table.Family)
	return err == nil
}

// transaction sends what fill queues as one transaction.
func (t *table) transaction(what string, fill func(*nftables.Conn) error) error {
	conn, err := nftables.New()
	if err == nil {
		err = fill(conn)
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("nftables table inet %s: %s: %w", t.table.Name, what, err)
	}
	return nil
}

// rebuild replaces the whole table; no packet sees it half made.
func (t *table) rebuild(subnets []netip.Prefix, leases []*lease) error {
	return t.transaction("make", func(c *nftables.Conn) error {
		c.AddTable(t.table) // so that the removal never fails
		c.DelTable(t.table)
		c.AddTable(t.table)
		for _, f := range t.fam {
			for _, set := range []*nftables.Set{f.ports, f.addrs} {
				if err := c.AddSet(set, nil); err != nil {
					return err
				}
			}
		}
		t.addRules(c, subnets)
		for _, l := range leases {
			if err := t.queue(l, c.SetAddElements); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *table) addRules(c *nftables.Conn, subnets []netip.Prefix) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
	}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	v4 := t.fam[0]
	loopback := netip.MustParsePrefix("127.0.0.0/8")

	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(guard, link(expr.MetaKeyIIFNAME, expr.CmpOpEq, t.bridge), v4.address(v4.daddr, loopback), verdict(expr.VerdictDrop, ""))

	hostports := c.AddChain(&nftables.Chain{Table: t.table, Name: "hostports"})
	for _, chain := range []*nftables.Chain{
		base("incoming", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		base("local", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		rule(chain, toLocalAddress(), verdict(expr.VerdictJump, hostports.Name))
	}
	for _, f := range t.fam {
		rule(hostports, f.is(), f.dnat(f.addrs, true))
		rule(hostports, f.is(), f.dnat(f.ports, false))
	}

	outgoing := base("outgoing", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, s := range subnets {
		f := t.family(s.Addr())
		rule(outgoing, f.address(f.saddr, s), link(expr.MetaKeyOIFNAME, expr.CmpOpNeq, t.bridge), masquerade())
		rule(outgoing, f.address(f.saddr, s), link(expr.MetaKeyOIFNAME, expr.CmpOpEq, t.bridge), wasDNAT(), masquerade())
	}
	rule(outgoing, v4.address(v4.saddr, loopback), link(expr.MetaKeyOIFNAME, expr.CmpOpEq, t.bridge), masquerade())
}

func (t *table) family(a netip.Addr) family {
	if a.Is4() {
		return t.fam[0]
	}
	return t.fam[1]
}

// add maps the lease's host ports.
func (t *table) add(l *lease) error {
	return t.transaction("open host ports", func(c *nftables.Conn) error {
		return t.queue(l, c.SetAddElements)
	})
}

// delete unmaps the lease's host ports, whether they are mapped or not: an
// element that has just been added can always be deleted.
func (t *table) delete(l *lease) error {
	return t.transaction("close host ports", func(c *nftables.Conn) error {
		return errors.Join(t.queue(l, c.SetAddElements), t.queue(l, c.SetDeleteElements))
	})
}

// queue hands the lease's elements to do, set by set.
func (t *table) queue(l *lease, do func(*nftables.Set, []nftables.SetElement) error) error {
	for _, a := range l.Addrs {
		f := t.family(a.Addr())
		var anywhere, somewhere []nftables.SetElement
		for _, p := range l.Ports {
			key := []byte{protocols[p.Protocol], 0, 0, 0, byte(p.HostPort >> 8), byte(p.HostPort), 0, 0}
			value := append(a.Addr().AsSlice(), byte(p.Container>>8), byte(p.Container), 0, 0)
			switch {
			case !p.Host.IsValid():
				anywhere = append(anywhere, nftables.SetElement{Key: key, Val: value})
			case p.Host.Is4() == f.v4:
				somewhere = append(somewhere, nftables.SetElement{Key: append(p.Host.AsSlice(), key...), Val: value})
			}
		}
		if len(anywhere) > 0 {
			if err := do(f.ports, anywhere); err != nil {
				return err
			}
		}
		if len(somewhere) > 0 {
			if err := do(f.addrs, somewhere); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes the table, if it is there.
func (t *table) remove() error {
	return t.transaction("remove", func(c *nftables.Conn) error {
		c.AddTable(t.table)
		c.DelTable(t.table)
		return nil
	})
}

// openPorts maps the lease's host ports.
func (b *Bridge) openPorts(l *lease) error {
	if len(l.Ports) == 0 {
		return nil
	}
	for _, p := range l.Ports {
		if p.Host.IsValid() && !slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Addr().Is4() == p.Host.Is4() }) {
			return fmt.Errorf("host port %s: the pod has no address of that family", p)
		}
	}
	b.host.Lock()
	defer b.host.Unlock()
	if err := b.host.table.add(l); err != nil {
		return err
	}
	return forgetFlows(l)
}

// closePorts unmaps the host ports of a closing lease. The host's lock is not
// held for the kernel's long wait: a table made anew from here on does not have
// the ports of closing leases, and one that is being made is waited for.
func (b *Bridge) closePorts(l *lease) error {
	if len(l.Ports) == 0 {
		return nil
	}
	b.host.Lock()
	b.host.Unlock() //nolint:staticcheck // nothing is guarded, it is the wait
	t := newTable(b.config.Bridge)
	if !t.exists() {
		return nil
	}
	if err := t.delete(l); err != nil {
		return err
	}
	return forgetFlows(l)
}

// forgetFlows removes the tracked flows to the lease's UDP host ports. A client
// that keeps sending would keep its old mapping for ever otherwise.
func forgetFlows(l *lease) error {
	for _, p := range l.Ports {
		if p.Protocol != "udp" {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		if err := errors.Join(
			filter.AddProtocol(syscall.IPPROTO_UDP),
			filter.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)); err != nil {
			return fmt.Errorf("tracked flows to %s: %w", p, err)
		}
		for _, a := range l.Addrs {
			fam := netlink.InetFamily(syscall.AF_INET)
			if a.Addr().Is6() {
				fam = syscall.AF_INET6
			}
			if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, fam, filter); err != nil {
				return fmt.Errorf("tracked flows to %s: %w", p, err)
			}
		}
	}
	return nil
}

// openForward lets the bridge's packets through the FORWARD chains of
// iptables-nft, where Docker and firewalls set the policy to drop: accepting
// them in a table of ours would not help.
func openForward(bridge string) error {
	return eachForward(bridge, func(c *nftables.Conn, chain *nftables.Chain, rules, ours []*nftables.Rule) {
		drops := chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop
		if len(ours) > 0 || !drops && len(rules) == 0 {
			return
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: chain.Table, Chain: chain, UserData: forwardMark(bridge),
				Exprs: slices.Concat(link(key, expr.CmpOpEq, bridge), []expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept, "")),
			})
		}
	})
}

// closeForward takes openForward's rules back.
func closeForward(bridge string) error {
	return eachForward(bridge, func(c *nftables.Conn, _ *nftables.Chain, _, ours []*nftables.Rule) {
		for _, r := range ours {
			_ = c.DelRule(r) // fails only for a rule without a handle
		}
	})
}

func eachForward(bridge string, change func(c *nftables.Conn, chain *nftables.Chain, rules, ours []*nftables.Rule)) error {
	mark := string(forwardMark(bridge))
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		chain, err := conn.ListChain(&nftables.Table{Name: "filter", Family: fam}, "FORWARD")
		if err != nil {
			continue // there is no such chain
		}
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("nftables: list filter FORWARD: %w", err)
		}
		ours := slices.DeleteFunc(slices.Clone(rules), func(r *nftables.Rule) bool { return string(r.UserData) != mark })
		change(conn, chain, rules, ours)
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("nftables: filter FORWARD: %w", err)
		}
	}
	return nil
}

// forwardMark is the comment by which our rules in a foreign chain are known.
func forwardMark(bridge string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, "strake: "+bridge)
}

// The parts of rules. Each starts from scratch: no part relies on a register
// that another has loaded.

func (f family) is() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.nfproto}},
	}
}

// address matches a source or destination address within the prefix.
func (f family) address(offset uint32, prefix netip.Prefix) []expr.Any {
	mask := toIPNet(prefix).Mask
	return append(f.is(),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Masked().Addr().AsSlice()},
	)
}

// dnat looks the packet up, with its destination address if the map has that in
// its key, and rewrites the destination to what the map says.
func (f family) dnat(set *nftables.Set, withAddress bool) []expr.Any {
	var load []expr.Any
	next := uint32(reg32)
	if withAddress {
		load = append(load, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.size})
		next += f.size / 4
	}
	return append(load,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: 1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: 1, RegProtoMin: reg32 + f.size/4, Specified: true},
	)
}

func link(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, syscall.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func toLocalAddress() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(syscall.RTN_LOCAL)},
	}
}

func wasDNAT() []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, ctStatusDNAT)
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
