package cni

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/strake-containers/strake/network"
)

// maxConfSize bounds a configuration file; real ones have a few kilobytes.
const maxConfSize = 1 << 20

// conf is a configured network.
type conf struct {
	file string
	list *libcni.NetworkConfigList
}

// String names the network in errors.
func (n *conf) String() string { return fmt.Sprintf("CNI network %q (%s)", n.list.Name, n.file) }

// confFiles lists dir's configuration files in the order in which they count.
// A missing directory is an empty one.
func confFiles(dir string) ([]string, error) {
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list CNI configuration: %w", err)
	}
	slices.Sort(files)
	return files, nil
}

// loadNetworks reads the first valid file of dir or, where more than one network is
// wanted, as many of the first files as there are up to that: a broken one among them
// is an error, as pods would lack the network of it. Errors are ErrNotReady and say
// what is wrong with which file.
func loadNetworks(dir string, want int) ([]*conf, error) {
	files, err := confFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no CNI configuration (*.conflist, *.conf, *.json) in %q: install a network plugin's", network.ErrNotReady, dir)
	}
	var networks []*conf
	var wrong []error
	for _, file := range files {
		if len(networks) == want {
			break
		}
		list, err := loadFile(file)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", file, err))
			continue
		}
		for _, n := range networks {
			if n.list.Name == list.Name {
				wrong = append(wrong, fmt.Errorf("%s: the name %q is that of the network in %s", file, list.Name, n.file))
			}
		}
		networks = append(networks, &conf{file, list})
	}
	switch {
	case len(networks) == 0:
		return nil, fmt.Errorf("%w: no valid CNI configuration: %w", network.ErrNotReady, errors.Join(wrong...))
	case len(wrong) > 0 && want > 1:
		return nil, fmt.Errorf("%w: CNI configuration of %d networks: %w", network.ErrNotReady, want, errors.Join(wrong...))
	}
	return networks, nil
}

func loadFile(file string) (*libcni.NetworkConfigList, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfSize {
		return nil, fmt.Errorf("not a regular file of at most %d bytes", maxConfSize)
	}
	var list *libcni.NetworkConfigList
	if filepath.Ext(file) == ".conflist" {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = loadSingle(file)
	}
	if err != nil {
		return nil, err
	}
	if e := utils.ValidateNetworkName(list.Name); e != nil {
		return nil, e
	}
	return list, nil
}

// loadSingle reads a file that configures one plugin, or a list all the same:
// some installers write lists to .conf files.
func loadSingle(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	one, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		if list, e := libcni.NetworkConfFromBytes(data); e == nil && len(list.Plugins) > 0 {
			return list, nil
		}
		return nil, err
	}
	return &libcni.NetworkConfigList{
		Name:       one.Network.Name,
		CNIVersion: one.Network.CNIVersion,
		Plugins:    []*libcni.PluginConfig{one},
		Bytes:      data,
	}, nil
}

// checkArgs refuses values that CNI_ARGS (KEY=VALUE;KEY=VALUE) has no quotes
// for: a pod's name could else bring arguments of its own, such as an address.
func checkArgs(p network.Pod) error {
	for _, a := range runtimeConf(p, 0).Args {
		if strings.ContainsAny(a[1], ";=") {
			return fmt.Errorf("pod %s: %s %q: CNI plugins take no ; or = in it", p.ID, a[0], a[1])
		}
	}
	return nil
}

// runtimeConf is what the plugins of the pod's i'th network are told of it: to all,
// the arguments that Kubernetes' plugins look for; to those that declare the
// capability in the configuration, what the pod asks of it. What there can be but one
// of, as an address that it asks for or a host port, is for the first network.
func runtimeConf(p network.Pod, i int) *libcni.RuntimeConf {
	caps := map[string]any{}
	if i == 0 {
		if ports := portMappings(p.PortMappings); len(ports) > 0 {
			caps["portMappings"] = ports
		}
		if p.MAC != "" {
			caps["mac"] = p.MAC
		}
		if len(p.IPs) > 0 {
			caps["ips"] = p.IPs
		}
		if len(p.IPRanges) > 0 {
			caps["ipRanges"] = ipRanges(p)
		}
	}
	if p.Bandwidth != (network.Bandwidth{}) {
		caps["bandwidth"] = bandwidth(p.Bandwidth)
	}
	if d := p.DNS; len(d.Servers)+len(d.Searches)+len(d.Options) > 0 {
		caps["dns"] = d
	}
	if p.CgroupParent != "" {
		caps["cgroupPath"] = p.CgroupParent
	}
	if len(p.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = p.Annotations
	}
	return &libcni.RuntimeConf{
		ContainerID: p.ID,
		NetNS:       p.NetNS,
		IfName:      interfaceOf(i),
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
			{"K8S_POD_UID", p.UID},
		},
		CapabilityArgs: caps,
	}
}

type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(from []network.PortMapping) []portMapping {
	var ports []portMapping
	for _, m := range from {
		if m.HostPort == 0 {
			continue // nothing on the host
		}
		protocol := strings.ToLower(m.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		ports = append(ports, portMapping{m.HostPort, m.ContainerPort, protocol, m.HostIP})
	}
	return ports
}

// bandwidth fills in the bursts: the plugin refuses a rate without one.
func bandwidth(b network.Bandwidth) network.Bandwidth {
	burst := func(rate, burst uint64) uint64 {
		if rate > 0 && burst == 0 {
			return math.MaxUint32
		}
		return burst
	}
	b.IngressBurst = burst(b.IngressRate, b.IngressBurst)
	b.EgressBurst = burst(b.EgressRate, b.EgressBurst)
	return b
}

type ipRange struct {
	Subnet string `json:"subnet"`
}

func ipRanges(p network.Pod) [][]ipRange {
	var sets [][]ipRange
	for _, prefixes := range p.IPRanges {
		var set []ipRange
		for _, prefix := range prefixes {
			set = append(set, ipRange{prefix.String()})
		}
		sets = append(sets, set)
	}
	return sets
}
