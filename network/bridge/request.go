package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/network"
)

const (
	maxPorts = 1024 // host ports of one pod
	maxID    = 128  // of a pod id, which names a file
)

// port is a host port in the form in which the lease and the table have it.
type port struct {
	Protocol  string     `json:"protocol"`      // tcp, udp or sctp
	Host      netip.Addr `json:"host,omitzero"` // zero: every address
	HostPort  uint16     `json:"hostPort"`      //
	Container uint16     `json:"containerPort"` //
}

func (p port) String() string {
	if !p.Host.IsValid() {
		return fmt.Sprintf("%d/%s", p.HostPort, p.Protocol)
	}
	return fmt.Sprintf("%s/%s", net.JoinHostPort(p.Host.String(), fmt.Sprint(p.HostPort)), p.Protocol)
}

// clashes reports whether one packet could be meant for both.
func (p port) clashes(o port) bool {
	return p.Protocol == o.Protocol && p.HostPort == o.HostPort &&
		(!p.Host.IsValid() || !o.Host.IsValid() || p.Host == o.Host)
}

// request is a pod's wishes, checked.
type request struct {
	id, netns string
	ports     []port
	ips       []netip.Addr
	mac       string
	limits    network.Bandwidth
}

func newRequest(p network.Pod) (request, error) {
	r := request{id: p.ID, netns: p.NetNS, ips: p.IPs, mac: p.MAC}
	if !validID(p.ID) {
		return r, fmt.Errorf("pod id %q: want 1 to %d of a-z, A-Z, 0-9, '.', '_' and '-', a letter or digit first", p.ID, maxID)
	}
	if len(p.IPRanges) > 0 {
		return r, errors.New("ipRanges: not supported by the built-in bridge; use a CNI configuration")
	}
	if p.MAC != "" {
		if mac, err := net.ParseMAC(p.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return r, fmt.Errorf("mac %q: not an Ethernet unicast address", p.MAC)
		}
	}
	var err error
	if r.limits, err = p.Limits(); err != nil {
		return r, err
	}
	if len(p.PortMappings) > maxPorts {
		return r, fmt.Errorf("portMappings: %d are more than %d", len(p.PortMappings), maxPorts)
	}
	for i, m := range p.PortMappings {
		if m.HostPort == 0 {
			continue // nothing on the host
		}
		port, err := newPort(m)
		if err != nil {
			return r, fmt.Errorf("portMappings[%d]: %w", i, err)
		}
		for _, other := range r.ports {
			if port.clashes(other) {
				return r, fmt.Errorf("portMappings[%d]: %w", i, &network.PortError{Port: port.String(), Why: "asked for twice"})
			}
		}
		r.ports = append(r.ports, port)
	}
	return r, nil
}

func newPort(m network.PortMapping) (port, error) {
	p := port{Protocol: strings.ToLower(m.Protocol), HostPort: m.HostPort, Container: m.ContainerPort}
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	if _, ok := protocols[p.Protocol]; !ok {
		return p, fmt.Errorf("protocol %q: not tcp, udp or sctp", m.Protocol)
	}
	if m.ContainerPort == 0 {
		return p, errors.New("containerPort: 0 is no port")
	}
	if m.HostIP != "" {
		ip, err := netip.ParseAddr(m.HostIP)
		if err != nil {
			return p, fmt.Errorf("hostIP: %w", err)
		}
		if ip = ip.Unmap().WithZone(""); !ip.IsUnspecified() {
			p.Host = ip
		}
	}
	return p, nil
}

func validID(id string) bool {
	for i, c := range []byte(id) {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return false
		}
	}
	return 0 < len(id) && len(id) <= maxID
}

// probePorts fails if a process of the host listens on one of the ports: its
// clients would be diverted to the pod. It is a courtesy and no reservation.
func probePorts(ports []port) error {
	for _, p := range ports {
		host := ""
		if p.Host.IsValid() {
			host = p.Host.String()
		}
		address := net.JoinHostPort(host, fmt.Sprint(p.HostPort))
		var err error
		switch p.Protocol {
		case "tcp":
			var l net.Listener
			if l, err = net.Listen("tcp", address); err == nil {
				err = l.Close()
			}
		case "udp":
			var c net.PacketConn
			if c, err = net.ListenPacket("udp", address); err == nil {
				err = c.Close()
			}
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return &network.PortError{Port: p.String(), Why: "in use by a process of the host: choose another"}
		}
		// Any other failure (an address that is not the host's yet) does not
		// keep a packet filter from mapping the port.
	}
	return nil
}
