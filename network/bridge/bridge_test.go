package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/network/netns"
)

const crashEnv = "STRAKE_TEST_BRIDGE_CRASH" // state and netns directory of crashingProcess

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		crashingProcess(dir)
	}
	os.Exit(testutil.InOwnNetwork(m))
}

// world is the test's host (the process's own network namespace, with a default
// route), a machine outside it and the bridge under test.
type world struct {
	testing.TB
	*Bridge
	dir     string
	outside string
	pods    int
}

const (
	hostIP, outsideIP = "192.0.2.1", "192.0.2.2"
	uplinkMTUSet      = 1400
)

func newWorld(t testing.TB, c Config) *world {
	t.Helper()
	testutil.RequireRoot(t, "makes network namespaces and links")
	testutil.CheckLeaks(t)
	w := &world{TB: t, dir: t.TempDir()}
	c.StateDir = filepath.Join(w.dir, "state")
	w.Bridge = New(c)
	t.Cleanup(func() {
		w.ok(w.Destroy(context.Background()))
		if names := w.links(); len(names) != 0 {
			t.Errorf("links left: %v", names)
		}
		if rules := w.ruleset(); rules != "" {
			t.Errorf("nftables rules left:\n%s", rules)
		}
	})
	w.outside = w.namespace("outside")
	w.ok(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "uplink", MTU: uplinkMTUSet, TxQLen: -1, Flags: net.FlagUp},
		PeerName:  "eth0", PeerMTU: uplinkMTUSet, PeerNamespace: nsFd(t, w.outside),
	}))
	t.Cleanup(func() { w.ok(removeLink("uplink")) })
	address(t, "uplink", hostIP+"/24")
	w.ok(netns.Do(w.outside, func() error { address(t, "eth0", outsideIP+"/24"); return nil }))
	w.ok(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(outsideIP)}))
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// links lists the links of the host, but for those of the test itself.
func (w *world) links() []string {
	w.Helper()
	all, err := netlink.LinkList()
	w.ok(err)
	var names []string
	for _, l := range all {
		switch l.Attrs().Name {
		case "lo", "uplink", "ifb0", "ifb1", "tunl0", "sit0":
		default:
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

func (w *world) ruleset() string {
	w.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		w.Skip("no nft to look with")
	}
	w.ok(err)
	return string(out)
}

func (w *world) namespace(name string) string {
	w.Helper()
	path := filepath.Join(w.dir, "netns", name)
	w.ok(netns.New(path))
	w.Cleanup(func() { w.ok(netns.Remove(path)) })
	return path
}

// pod makes a namespace and a pod in it, without a network.
func (w *world) pod(ports ...network.PortMapping) network.Pod {
	w.Helper()
	w.pods++
	id := fmt.Sprintf("%012x%052x", w.pods, 0)
	return network.Pod{ID: id, NetNS: w.namespace(id), PortMappings: ports}
}

// up makes a pod with a network.
func (w *world) up(ports ...network.PortMapping) (network.Pod, string) {
	w.Helper()
	p := w.pod(ports...)
	r, err := w.Setup(w.Context(), p)
	w.ok(err)
	return p, r.IPs[0].String()
}

func (w *world) down(p network.Pod) {
	w.Helper()
	w.ok(w.Teardown(w.Context(), p))
	w.settle()
}

// serve answers each client on a port in a namespace ("" is the host's) with
// the address it sees the client at.
func (w *world) serve(ns, protocol, addr string) {
	w.Helper()
	in(w, ns, func() error {
		if protocol == "udp" {
			c, err := net.ListenPacket("udp", addr)
			if err != nil {
				return err
			}
			w.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(hostOf(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		w.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, hostOf(c.RemoteAddr()))
				c.Close()
			}
		}()
		return nil
	})
}

// call returns what a server said, "" if it cannot be reached in time.
func (w *world) call(ns, protocol, addr string, timeout time.Duration) (said string) {
	w.Helper()
	in(w, ns, func() error {
		c, err := net.DialTimeout(protocol, addr, timeout)
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(timeout))
		_, _ = c.Write([]byte("?"))
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		said = string(buf[:n])
		return nil
	})
	return said
}

func (w *world) expect(ns, protocol, addr, want string) {
	w.Helper()
	timeout := 20 * time.Second
	if want == "" {
		timeout = time.Second
	}
	if got := w.call(ns, protocol, addr, timeout); got != want {
		w.Errorf("%s %s from %q: seen as %q, want %q", protocol, addr, filepath.Base(ns), got, want)
	}
}

func in(w *world, ns string, fn func() error) {
	w.Helper()
	if ns == "" {
		w.ok(fn())
		return
	}
	w.ok(netns.Do(ns, fn))
}

func hostOf(a net.Addr) string { return netip.MustParseAddrPort(a.String()).Addr().Unmap().String() }

func nsFd(t testing.TB, path string) netlink.NsFd {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return netlink.NsFd(f.Fd())
}

func address(t testing.TB, link, cidr string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	a.Flags = syscall.IFA_F_NODAD
	if err := errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l)); err != nil {
		t.Fatal(err)
	}
}

func TestPods(t *testing.T) {
	w := newWorld(t, Config{})
	w.ok(w.Status(t.Context()))
	a, b := w.pod(), w.pod()
	ra, err := w.Setup(t.Context(), a)
	w.ok(err)
	rb, err := w.Setup(t.Context(), b)
	w.ok(err)
	ipA, ipB := ra.IPs[0].String(), rb.IPs[0].String()
	if ipA != "10.190.0.2" || ipB != "10.190.0.3" {
		t.Errorf("addresses %s and %s", ipA, ipB)
	}
	in(w, a.NetNS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if mac := l.Attrs().HardwareAddr.String(); l.Attrs().MTU != uplinkMTUSet || mac != ra.MAC {
			t.Errorf("eth0 has mtu %d, MAC %s; want %d, %s", l.Attrs().MTU, mac, uplinkMTUSet, ra.MAC)
		}
		return nil
	})

	// A port has no routes in the host's IPv6 table, which is walked for each that goes.
	for _, pod := range []network.Pod{a, b} {
		path := "/proc/sys/net/ipv6/conf/" + vethName(pod.ID) + "/disable_ipv6"
		if off, err := os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) && string(off) != "1\n" {
			t.Errorf("%s: %q, %v", path, off, err)
		}
	}

	w.serve(a.NetNS, "tcp", ":80")
	w.serve("", "tcp", ":8080")
	w.serve(w.outside, "tcp", ":80")
	w.expect(b.NetNS, "tcp", ipA+":80", ipB)
	w.expect("", "tcp", ipA+":80", "10.190.0.1")
	w.expect(b.NetNS, "tcp", "10.190.0.1:8080", ipB)
	w.expect(a.NetNS, "tcp", outsideIP+":80", hostIP) // masqueraded

	// Again: the same answer, nothing new.
	again, err := w.Setup(t.Context(), a)
	if err != nil || again.IPs[0] != ra.IPs[0] {
		t.Errorf("set up again: %v, %v", again.IPs, err)
	}
	w.ok(w.Check(t.Context(), a))
	in(w, a.NetNS, func() error { return removeLink("eth0") })
	if err := w.Check(t.Context(), a); err == nil {
		t.Error("Check of a pod without eth0: no error")
	}
	// A broken one is made anew.
	_, err = w.Setup(t.Context(), a)
	w.ok(err)
	w.ok(w.Check(t.Context(), a))

	for range 2 {
		w.down(a)
	}
	w.down(b)
	if got := w.links(); len(got) != 1 || got[0] != "strake0" {
		t.Errorf("links %v, want the bridge alone", got)
	}
	if w.Holds(a.ID) {
		t.Error("the lease is kept")
	}
	if err := w.Check(t.Context(), a); err == nil {
		t.Error("Check of a pod without a network: no error")
	}
}

func TestHostPorts(t *testing.T) {
	w := newWorld(t, Config{})
	p, ip := w.up(
		network.PortMapping{HostPort: 8080, ContainerPort: 80},
		network.PortMapping{HostPort: 5353, ContainerPort: 53, Protocol: "UDP"},
		network.PortMapping{HostPort: 9000, ContainerPort: 80, HostIP: "127.0.0.1", Protocol: "TCP"},
		network.PortMapping{HostPort: 9001, ContainerPort: 80, HostIP: hostIP},
		network.PortMapping{HostPort: 9002, ContainerPort: 9002, HostIP: "0.0.0.0", Protocol: "sctp"},
		network.PortMapping{ContainerPort: 80}, // maps nothing
	)
	other, otherIP := w.up()
	w.serve(p.NetNS, "tcp", ":80")
	w.serve(p.NetNS, "udp", ":53")

	const gw = "10.190.0.1"
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)
	w.expect(w.outside, "udp", hostIP+":5353", outsideIP)
	w.expect("", "tcp", hostIP+":8080", hostIP)
	w.expect("", "tcp", "127.0.0.1:8080", gw)
	w.expect("", "udp", "127.0.0.1:5353", gw)
	w.expect(p.NetNS, "tcp", hostIP+":8080", gw) // its own
	w.expect(other.NetNS, "tcp", hostIP+":8080", gw)
	w.expect(other.NetNS, "tcp", ip+":80", otherIP)

	w.expect("", "tcp", "127.0.0.1:9000", gw)
	w.expect("", "tcp", hostIP+":9000", "")
	w.expect(w.outside, "tcp", hostIP+":9001", outsideIP)
	w.expect("", "tcp", "127.0.0.1:9001", "")
	if !strings.Contains(w.ruleset(), "sctp . 9002 : 10.190.0.2 . 9002") {
		t.Errorf("sctp is not mapped:\n%s", w.ruleset())
	}

	w.down(p)
	w.expect(w.outside, "tcp", hostIP+":8080", "")
	w.expect(w.outside, "udp", hostIP+":5353", "")
	if rules := w.ruleset(); strings.Contains(rules, "elements") {
		t.Errorf("map elements left:\n%s", rules)
	}
	// The port is free again and the same UDP client reaches the new pod.
	p, _ = w.up(network.PortMapping{HostPort: 5353, ContainerPort: 53, Protocol: "udp"})
	w.serve(p.NetNS, "udp", ":53")
	w.expect(w.outside, "udp", hostIP+":5353", outsideIP)
}

func TestPortInUse(t *testing.T) {
	w := newWorld(t, Config{})
	first, _ := w.up(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	l, err := net.Listen("tcp", ":8081")
	w.ok(err)
	defer l.Close()

	for name, m := range map[string]network.PortMapping{
		"pod":     {HostPort: 8080, ContainerPort: 1, HostIP: "127.0.0.1"},
		"process": {HostPort: 8081, ContainerPort: 1},
	} {
		p := w.pod(m)
		if _, err := w.Setup(t.Context(), p); !errors.Is(err, network.ErrPortInUse) {
			t.Errorf("%s has it: %v", name, err)
		}
		if w.Holds(p.ID) {
			t.Errorf("%s has it: the lease is kept", name)
		}
	}
	p := w.pod(network.PortMapping{HostPort: 8080, ContainerPort: 1, Protocol: "udp"})
	_, err = w.Setup(t.Context(), p)
	w.ok(err)
	for range 5 { // a port can be used again at once
		w.ok(w.Teardown(t.Context(), first))
		first, _ = w.up(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t, Config{})
	port := func(m network.PortMapping) network.Pod { return network.Pod{PortMappings: []network.PortMapping{m}} }
	for want, p := range map[string]network.Pod{
		"pod id":                  {ID: "../etc"},
		"mac":                     {MAC: "01:00:00:00:00:01"},
		"egress-bandwidth":        {Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "fast"}},
		"ipRanges":                {IPRanges: [][]netip.Prefix{{netip.MustParsePrefix("10.0.0.0/8")}}},
		"protocol \"icmp\"":       port(network.PortMapping{HostPort: 1, ContainerPort: 1, Protocol: "icmp"}),
		"containerPort":           port(network.PortMapping{HostPort: 1}),
		"hostIP":                  port(network.PortMapping{HostPort: 1, ContainerPort: 1, HostIP: "localhost"}),
		"of that family":          port(network.PortMapping{HostPort: 1, ContainerPort: 1, HostIP: "2001:db8::1"}),
		"address 10.1.2.3":        {IPs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}},
		"not a network namespace": {NetNS: filepath.Join(w.dir, "state")},
	} {
		blank := w.pod()
		if p.ID == "" {
			p.ID = blank.ID
		}
		if p.NetNS == "" {
			p.NetNS = blank.NetNS
		} else {
			w.ok(os.MkdirAll(p.NetNS, 0o700))
		}
		if _, err := w.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got: %v", want, err)
		}
	}
	if all, err := w.leases.all(); err != nil || len(all) != 0 {
		t.Errorf("leases left: %d, %v", len(all), err)
	}
	asked := w.pod()
	asked.IPs, asked.MAC = []netip.Addr{netip.MustParseAddr("10.190.7.7")}, "02:00:00:00:00:07"
	r, err := w.Setup(t.Context(), asked)
	if err != nil || r.IPs[0] != asked.IPs[0] || r.MAC != asked.MAC {
		t.Errorf("asked for %v, %s; got %v, %s, %v", asked.IPs, asked.MAC, r.IPs, r.MAC, err)
	}
}

// TestRestart: another process finds the leases, and mends what was removed.
func TestRestart(t *testing.T) {
	w := newWorld(t, Config{})
	p, ip := w.up(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	w.serve(p.NetNS, "tcp", ":80")

	second := New(w.config)
	if _, err := second.Setup(t.Context(), w.pod()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("two users of one directory: %v", err)
	}
	w.ok(w.Close())
	w.Bridge = New(w.config)
	r, err := w.Setup(t.Context(), p)
	if err != nil || r.IPs[0].String() != ip {
		t.Errorf("after a restart: %v, %v", r.IPs, err)
	}
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)

	// A firewall's reload flushes everything; the next pod brings it back.
	c, err := nftables.New()
	w.ok(err)
	c.FlushRuleset()
	w.ok(c.Flush())
	w.expect(w.outside, "tcp", hostIP+":8080", "")
	w.up()
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)

	w.ok(removeLink("strake0"))
	if err := w.Check(t.Context(), p); err != nil {
		t.Errorf("after the bridge was removed: %v", err) // Check makes it anew
	}
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)

	// An address in the table must not outlive a pod that ends without it.
	w.ok(w.Close())
	w.Bridge = New(w.config)
	c.FlushRuleset()
	w.ok(c.Flush())
	w.down(p)
}

// TestTwoDaemons has a second daemon, with a root of its own, meet the first
// one's bridge: it touches nothing while there are pods, and has it afterwards.
func TestTwoDaemons(t *testing.T) {
	w := newWorld(t, Config{})
	p, addr := w.up()
	second := New(Config{StateDir: filepath.Join(w.dir, "second")})
	defer func() { w.ok(second.Close()) }()

	w.ok(second.GC(t.Context(), nil))
	w.ok(w.Check(t.Context(), p))
	if err := second.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), w.config.StateDir) {
		t.Errorf("status %v; want not ready, and whose bridge it is", err)
	}
	q := w.pod()
	if _, err := second.Setup(t.Context(), q); err == nil || !strings.Contains(err.Error(), w.config.StateDir) {
		t.Errorf("set up: %v; want an error that says whose bridge it is", err)
	}
	w.ok(w.Check(t.Context(), p))

	w.down(p)
	r, err := second.Setup(t.Context(), q)
	w.ok(err)
	if got := r.IPs[0].String(); got != addr {
		t.Errorf("address %s, want %s, which is free again", got, addr)
	}
	if _, err := w.Setup(t.Context(), w.pod()); err == nil || !strings.Contains(err.Error(), second.config.StateDir) {
		t.Errorf("set up by the first one: %v; want an error that says whose bridge it is now", err)
	}
	w.ok(second.Teardown(t.Context(), q))
}

func TestLostNamespace(t *testing.T) {
	w := newWorld(t, Config{})
	p, _ := w.up(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	w.ok(netns.Remove(p.NetNS))
	if err := w.Check(t.Context(), p); err == nil {
		t.Error("Check without a namespace: no error")
	}
	w.down(p)
	if got := w.links(); len(got) != 1 {
		t.Errorf("links %v, want the bridge alone", got)
	}
}

func TestNoLeak(t *testing.T) {
	w := newWorld(t, Config{Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/27")}})
	pods := make([]network.Pod, 4)
	for i := range pods {
		pods[i] = w.pod(network.PortMapping{HostPort: uint16(8000 + i), ContainerPort: 80})
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			for range 75 { // 300 in all, in a subnet of 29
				_, err := w.Setup(t.Context(), p)
				if err == nil {
					err = w.Teardown(t.Context(), p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.settle()
	if all, _ := w.leases.all(); len(all) != 0 {
		t.Errorf("%d leases left", len(all))
	}
	if got := w.links(); len(got) != 1 {
		t.Errorf("links left: %v", got)
	}
	if rules := w.ruleset(); strings.Contains(rules, "elements") {
		t.Errorf("map elements left:\n%s", rules)
	}
}

func TestSubnetFull(t *testing.T) {
	w := newWorld(t, Config{Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/30")}})
	p, ip := w.up()
	if ip != "10.99.0.2" {
		t.Errorf("address %s", ip)
	}
	full := w.pod()
	if _, err := w.Setup(t.Context(), full); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("full subnet: %v", err)
	}
	w.down(p)
	_, err := w.Setup(t.Context(), full)
	w.ok(err)
}

func TestSubnetChoice(t *testing.T) {
	w := newWorld(t, Config{})
	address(t, "uplink", "10.190.4.1/24")
	address(t, "uplink", "10.191.255.1/32")
	_, ip := w.up()
	if ip != "172.29.0.2" {
		t.Errorf("address %s in a subnet that a route overlaps", ip)
	}
	// It stays, whatever routes come and go.
	w.ok(w.Close())
	w.Bridge = New(w.config)
	if _, ip = w.up(); ip != "172.29.0.3" {
		t.Errorf("address %s after a restart", ip)
	}
}

// TestSubnetChange: pods of the old subnet keep their network.
func TestSubnetChange(t *testing.T) {
	w := newWorld(t, Config{})
	a, ipA := w.up()
	w.ok(w.Close())
	w.config.Subnets = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}
	w.Bridge = New(w.config)
	b, ipB := w.up()
	if ipB != "10.99.0.2" {
		t.Errorf("address %s", ipB)
	}
	w.serve(a.NetNS, "tcp", ":80")
	w.serve(w.outside, "tcp", ":80")
	w.expect(b.NetNS, "tcp", ipA+":80", ipB)
	w.expect(a.NetNS, "tcp", outsideIP+":80", hostIP)
	w.expect(b.NetNS, "tcp", outsideIP+":80", hostIP)
}

func TestDualStack(t *testing.T) {
	w := newWorld(t, Config{Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")}})
	address(t, "uplink", "2001:db8::1/64")
	in(w, w.outside, func() error { address(t, "eth0", "2001:db8::2/64"); return nil })
	p := w.pod(network.PortMapping{HostPort: 8080, ContainerPort: 80},
		network.PortMapping{HostPort: 8081, ContainerPort: 80, HostIP: "2001:db8::1"})
	r, err := w.Setup(t.Context(), p)
	w.ok(err)
	if len(r.IPs) != 2 || r.IPs[1].String() != "fd99::2" {
		t.Fatalf("addresses %v", r.IPs)
	}
	other, _ := w.up()
	w.serve(p.NetNS, "tcp", ":80")
	w.serve(w.outside, "tcp", ":80")
	w.expect(other.NetNS, "tcp", "[fd99::2]:80", "fd99::3")
	w.expect(p.NetNS, "tcp", "[2001:db8::2]:80", "2001:db8::1")
	w.expect(w.outside, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
	w.expect(w.outside, "tcp", "[2001:db8::1]:8081", "2001:db8::2")
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)
	w.expect(other.NetNS, "tcp", "[2001:db8::1]:8080", "fd99::1")
}

// TestForwardPolicy: Docker sets the policy of FORWARD to drop.
func TestForwardPolicy(t *testing.T) {
	w := newWorld(t, Config{})
	w.up() // before
	c, err := nftables.New()
	w.ok(err)
	drop := nftables.ChainPolicyDrop
	filter := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{
		Table: filter, Name: "FORWARD", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	w.ok(c.Flush())
	defer func() {
		c.DelTable(filter)
		w.ok(c.Flush())
	}()
	p, _ := w.up(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	w.serve(p.NetNS, "tcp", ":80")
	w.serve(w.outside, "tcp", ":80")
	w.expect(p.NetNS, "tcp", outsideIP+":80", hostIP)
	w.expect(w.outside, "tcp", hostIP+":8080", outsideIP)

	w.ok(w.Close()) // once, however often it is opened
	w.Bridge = New(w.config)
	w.up()
	if rules, err := c.GetRules(filter, chain); err != nil || len(rules) != 2 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
	w.ok(w.Destroy(t.Context()))
	if rules, err := c.GetRules(filter, chain); err != nil || len(rules) != 0 {
		t.Errorf("%d rules left, %v", len(rules), err)
	}
}

// TestGuard: a pod that routes 127.0.0.1 to the host reaches nothing there.
func TestGuard(t *testing.T) {
	w := newWorld(t, Config{})
	p, ip := w.up()
	w.serve("", "tcp", "127.0.0.1:8080")
	in(w, p.NetNS, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(
			sysctl("ipv4/conf/eth0/route_localnet", "1"),
			netlink.AddrDel(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}),
			netlink.RouteAdd(&netlink.Route{
				Dst: &net.IPNet{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)},
				Gw:  net.ParseIP("10.190.0.1"), Src: net.ParseIP(ip),
			}))
	})
	w.expect(p.NetNS, "tcp", "127.0.0.1:8080", "")
}

func TestBandwidth(t *testing.T) {
	w := newWorld(t, Config{})
	p := w.pod()
	p.Bandwidth = network.Bandwidth{IngressRate: 8e6, EgressRate: 16e6, EgressBurst: 8e6}
	_, err := w.Setup(t.Context(), p)
	w.ok(err)
	rate := func(name string) uint64 {
		l, err := netlink.LinkByName(name)
		w.ok(err)
		list, err := netlink.QdiscList(l)
		w.ok(err)
		for _, q := range list {
			if tbf, ok := q.(*netlink.Tbf); ok {
				return tbf.Rate
			}
		}
		return 0
	}
	if got := rate(vethName(p.ID)); got != 1e6 {
		t.Errorf("to the pod: %d bytes/s", got)
	}
	in(w, p.NetNS, func() error {
		if got := rate("eth0"); got != 2e6 {
			t.Errorf("from the pod: %d bytes/s", got)
		}
		return nil
	})
}

// crashingProcess sets up and tears down pods until it is killed.
func crashingProcess(dir string) {
	b := New(Config{StateDir: filepath.Join(dir, "state")})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			id := fmt.Sprintf("crash-%d", i)
			p := network.Pod{
				ID: id, NetNS: filepath.Join(dir, "netns", id),
				PortMappings: []network.PortMapping{{HostPort: uint16(8000 + i), ContainerPort: 80}},
			}
			for {
				if _, err := b.Setup(context.Background(), p); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				if err := b.Teardown(context.Background(), p); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

func TestCrash(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 4 {
		w.namespace(fmt.Sprintf("crash-%d", i))
	}
	for round := range 12 {
		w.ok(w.Close())
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), crashEnv+"="+w.dir)
		cmd.Stderr = os.Stderr
		w.ok(cmd.Start())
		time.Sleep(time.Duration(20+7*round) * time.Millisecond)
		w.ok(cmd.Process.Kill())
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("the process was to be killed: %v", err)
		}

		w.Bridge = New(w.config)
		w.ok(w.GC(t.Context(), nil))
		if all, err := w.leases.all(); err != nil || len(all) != 0 {
			t.Errorf("round %d: %d leases left, %v", round, len(all), err)
		}
		for _, name := range w.links() {
			if name != "strake0" {
				t.Errorf("round %d: link %s left", round, name)
			}
		}
		if rules := w.ruleset(); strings.Contains(rules, "elements") {
			t.Errorf("round %d: map elements left:\n%s", round, rules)
		}
	}
	// One that the disk does not give may be that of a pod that runs.
	unread := w.leases.path("unread")
	w.ok(os.Mkdir(unread, 0o700))
	w.ok(w.Close())
	if _, err := w.Setup(t.Context(), w.pod()); err == nil || !strings.Contains(err.Error(), unread) {
		t.Errorf("beside a lease that cannot be read: %v", err)
	}
	w.ok(os.Remove(unread))
	// A torn lease is as none.
	w.ok(os.WriteFile(w.leases.path("torn"), []byte("{"), 0o600))
	w.ok(w.Close())
	_, ip := w.up()
	if ip != "10.190.0.2" {
		t.Errorf("address %s", ip)
	}
}

func BenchmarkSetupTeardown(b *testing.B) {
	for _, ports := range []int{0, 1} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			w := newWorld(b, Config{})
			var m []network.PortMapping
			for i := range ports {
				m = append(m, network.PortMapping{HostPort: uint16(8000 + i), ContainerPort: 80})
			}
			p := w.pod(m...)
			var up, down time.Duration
			for b.Loop() {
				start := time.Now()
				_, err := w.Setup(b.Context(), p)
				w.ok(err)
				middle := time.Now()
				w.ok(w.Teardown(b.Context(), p))
				down += time.Since(middle)
				up += middle.Sub(start)
				w.settle() // or the next Setup would wait for it
			}
			b.ReportMetric(up.Seconds()*1e3/float64(b.N), "ms/setup")
			b.ReportMetric(down.Seconds()*1e3/float64(b.N), "ms/teardown")
		})
	}
}
