package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
)

// leaseVersion is the format of the lease files.
const leaseVersion = 1

// lease is what a pod has, or may have: STATE/leases/ID.json. It is not
// fsynced: a power cut ends every pod that a lost or torn lease was for.
type lease struct {
	Version int            `json:"version"`
	Pod     string         `json:"pod"`
	NetNS   string         `json:"netns"`
	Addrs   []netip.Prefix `json:"addrs"` // with the subnet's length
	MAC     string         `json:"mac"`
	Veth    string         `json:"veth"` // the bridge's port
	Ports   []port         `json:"ports,omitempty"`

	closing bool // leases.mu; a table made anew leaves its ports out
}

func (l *lease) addresses() string {
	var all []string
	for _, a := range l.Addrs {
		all = append(all, a.Addr().String())
	}
	return strings.Join(all, ", ")
}

// leases is the directory of leases and its image in memory, which is read at
// the first use.
type leases struct {
	dir string

	mu    sync.Mutex
	lock  *os.File // held from the first use to close
	byPod map[string]*lease
	used  map[netip.Addr]*lease
	last  map[netip.Prefix]netip.Addr // given last in a subnet: an address rests before it is used again
}

func (s *leases) path(podID string) string { return filepath.Join(s.dir, "leases", podID+".json") }

// open is called with mu held.
func (s *leases) open() (err error) {
	if s.lock != nil {
		return nil
	}
	files := filepath.Join(s.dir, "leases")
	if err := os.MkdirAll(files, 0o700); err != nil {
		return fmt.Errorf("bridge leases: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("bridge leases: %w", err)
	}
	defer func() {
		if err != nil {
			_ = lock.Close() // nothing is written to it
			err = fmt.Errorf("bridge leases: %w", err)
		}
	}()
	if taken, err := sys.Lock(lock); err != nil {
		return err
	} else if !taken {
		return fmt.Errorf("%s: another process uses the directory", lock.Name())
	}
	if err := atomicfile.RemoveLeftovers(files); err != nil {
		return err
	}
	entries, err := os.ReadDir(files)
	if err != nil {
		return err
	}
	s.byPod, s.used, s.last = map[string]*lease{}, map[netip.Addr]*lease{}, map[netip.Prefix]netip.Addr{}
	for _, e := range entries {
		path := filepath.Join(files, e.Name())
		l, err := readLease(path)
		if errors.Is(err, errTorn) { // by a power cut, which ended its pod too
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		if err != nil { // its addresses may be in use
			return fmt.Errorf("%w: remove the file if its pod has ended", err)
		}
		s.add(l)
	}
	s.lock = lock
	return nil
}

// errTorn is a file that is no lease, or half of one.
var errTorn = errors.New("not a lease")

func readLease(path string) (*lease, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var l lease
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", errTorn, err)
	}
	if l.Version != leaseVersion || !validID(l.Pod) || l.Pod+".json" != filepath.Base(path) || l.Veth == "" || len(l.Addrs) == 0 {
		return nil, errTorn
	}
	return &l, nil
}

// add is called with mu held.
func (s *leases) add(l *lease) {
	s.byPod[l.Pod] = l
	for _, a := range l.Addrs {
		s.used[a.Addr()] = l
		subnet := a.Masked()
		if last := s.last[subnet]; !last.IsValid() || last.Less(a.Addr()) {
			s.last[subnet] = a.Addr()
		}
	}
}

// find returns the pod's lease, nil without one.
func (s *leases) find(podID string) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.byPod[podID], nil
}

// all returns every lease, those of pods that are being torn down too.
func (s *leases) all() ([]*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(s.byPod)), nil
}

// loaded is all, without a first use.
func (s *leases) loaded() []*lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.byPod))
}

// withPorts returns the leases whose ports a table has to have.
func (s *leases) withPorts() ([]*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, err
	}
	var all []*lease
	for _, l := range s.byPod {
		if !l.closing && len(l.Ports) > 0 {
			all = append(all, l)
		}
	}
	return all, nil
}

// errClosing is a port that is another pod's for some milliseconds more.
type errClosing struct{ *lease }

func (e errClosing) Error() string { return "pod " + e.Pod + " is being torn down" }

// take makes a lease with an address of each subnet and writes it. It returns
// errClosing if a port is just being given back.
func (s *leases) take(r request, subnets []netip.Prefix) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, err
	}
	for _, other := range s.byPod {
		for _, p := range r.ports {
			if !slices.ContainsFunc(other.Ports, p.clashes) {
				continue
			}
			if other.closing {
				return nil, errClosing{other}
			}
			return nil, &network.PortError{Port: p.String(), Why: "in use by pod " + other.Pod + ": choose another"}
		}
	}
	l := &lease{Version: leaseVersion, Pod: r.id, NetNS: r.netns, Ports: r.ports, MAC: r.mac, Veth: vethName(r.id)}
	for _, subnet := range subnets {
		addr, err := s.choose(subnet, r.ips)
		if err != nil {
			return nil, err
		}
		l.Addrs = append(l.Addrs, netip.PrefixFrom(addr, subnet.Bits()))
	}
	for _, ip := range r.ips {
		if !slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Addr() == ip }) {
			return nil, fmt.Errorf("address %s: not one of a pod's in %v, or two of one subnet", ip, subnets)
		}
	}
	if l.MAC == "" {
		l.MAC = macFor(l.Addrs[0].Addr()).String()
	}
	data, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	if err := atomicfile.WriteVolatile(s.path(l.Pod), data, 0o600); err != nil {
		return nil, err
	}
	s.add(l)
	for _, a := range l.Addrs {
		s.last[a.Masked()] = a.Addr()
	}
	return l, nil
}

// choose returns the asked address of the subnet if there is one, or else the
// next free one after the last given.
func (s *leases) choose(subnet netip.Prefix, asked []netip.Addr) (netip.Addr, error) {
	for _, ip := range asked {
		if !usable(subnet, ip) {
			continue
		}
		if l := s.used[ip]; l != nil {
			return netip.Addr{}, fmt.Errorf("address %s is pod %s's", ip, l.Pod)
		}
		return ip, nil
	}
	first := gateway(subnet).Next()
	start := s.last[subnet].Next() // of a zero address: the zero address
	if !usable(subnet, start) {
		start = first
	}
	for addr := start; ; {
		if s.used[addr] == nil {
			return addr, nil
		}
		if addr = addr.Next(); !usable(subnet, addr) {
			addr = first
		}
		if addr == start {
			return netip.Addr{}, fmt.Errorf("subnet %s: all addresses are in use; configure a larger one in network.subnets", subnet)
		}
	}
}

// closing marks a lease whose ports are about to go.
func (s *leases) closing(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.closing = true
}

// give ends a lease; its addresses and ports are free.
func (s *leases) give(l *lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.path(l.Pod)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release %s: %w", l.addresses(), err)
	}
	delete(s.byPod, l.Pod)
	for _, a := range l.Addrs {
		delete(s.used, a.Addr())
	}
	return nil
}

// close lets another process use the directory.
func (s *leases) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock, s.byPod, s.used, s.last = nil, nil, nil, nil
	return err
}

// destroy removes the directory.
func (s *leases) destroy() error {
	return errors.Join(s.close(), os.RemoveAll(s.dir))
}

// gateway is the subnet's first address, which the bridge has.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// usable reports whether a pod may have addr in subnet: not the network's own
// address, the gateway's or IPv4's broadcast address.
func usable(subnet netip.Prefix, addr netip.Addr) bool {
	return subnet.Contains(addr) && gateway(subnet).Less(addr) &&
		(addr.Is6() || subnet.Contains(addr.Next()))
}

// macFor derives a pod's locally administered MAC from its address, so that a
// neighbour's cache stays right when the address is used again.
func macFor(addr netip.Addr) net.HardwareAddr {
	b := addr.As16()
	return net.HardwareAddr{0x02, 0x53, b[12], b[13], b[14], b[15]}
}
