package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/network"
)

// The formats of the record files; others are not read. The second is written of a
// pod with several networks only: who knows the first alone must not take the first
// network for all.
const (
	recordVersion        = 1
	recordVersionSeveral = 2
)

// record is what a pod was set up with: CACHE/pods/ID.json. Beside it libcni
// keeps the results that it hands to DEL and CHECK, in CACHE/results.
type record struct {
	Version int         `json:"version"`
	Pod     network.Pod `json:"pod"`
	attachment
	Also []attachment `json:"also,omitempty"` // to the second network, and so on
}

// attachment is a pod's part in one network: the network's configuration, with every
// plugin's, as it was at Setup, and the result.
type attachment struct {
	File         string            `json:"file"`
	Name         string            `json:"name"`
	CNIVersion   string            `json:"cniVersion"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	DisableGC    bool              `json:"disableGC,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`

	Result  *types100.Result `json:"result,omitempty"`  // nil: ADD has not ended
	Deleted bool             `json:"deleted,omitempty"` // DEL has, and the record waits for another network's
}

func newRecord(networks []*conf, p network.Pod) *record {
	r := &record{Version: recordVersion, Pod: p, attachment: newAttachment(networks[0])}
	for _, n := range networks[1:] {
		r.Version, r.Also = recordVersionSeveral, append(r.Also, newAttachment(n))
	}
	return r
}

func newAttachment(n *conf) attachment {
	a := attachment{
		File:         n.file,
		Name:         n.list.Name,
		CNIVersion:   n.list.CNIVersion,
		DisableCheck: n.list.DisableCheck,
		DisableGC:    n.list.DisableGC,
	}
	for _, plugin := range n.list.Plugins {
		a.Plugins = append(a.Plugins, plugin.Bytes)
	}
	return a
}

// attachments are all of the record's, in order: that of the i'th is interfaceOf(i).
func (r *record) attachments() []*attachment {
	all := []*attachment{&r.attachment}
	for i := range r.Also {
		all = append(all, &r.Also[i])
	}
	return all
}

// whole reports whether the pod is in all of its networks.
func (r *record) whole() bool {
	return !slices.ContainsFunc(r.attachments(), func(a *attachment) bool { return a.Result == nil || a.Deleted })
}

// conf is the network that the attachment is to.
func (a *attachment) conf(podID string) (*conf, error) {
	list := &libcni.NetworkConfigList{
		Name:         a.Name,
		CNIVersion:   a.CNIVersion,
		DisableCheck: a.DisableCheck,
		DisableGC:    a.DisableGC,
	}
	for i, data := range a.Plugins {
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return nil, fmt.Errorf("pod %s: recorded CNI network %q: plugins[%d]: %w", podID, a.Name, i, err)
		}
		list.Plugins = append(list.Plugins, plugin)
	}
	return &conf{a.File, list}, nil
}

// finish takes the plugins' result of the pod's i'th network. A first one without an
// address for the pod is an error: the pod could not be reached.
func (a *attachment) finish(raw types.Result, i int) error {
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	_, ips, err := translate(result)
	if err == nil && i == 0 && len(ips) == 0 {
		err = errors.New("result: no address for the pod")
	}
	if err == nil {
		a.Result = result
	}
	return err
}

// result translates the recorded results. Addresses and DNS are the first network's.
func (r *record) result() (network.Result, error) {
	raw, err := json.Marshal(r.Result)
	if err != nil {
		return network.Result{}, fmt.Errorf("result: %w", err)
	}
	out := network.Result{Raw: raw, DNS: network.DNS{
		Servers:  r.Result.DNS.Nameservers,
		Searches: r.Result.DNS.Search,
		Options:  r.Result.DNS.Options,
	}}
	for i, a := range r.attachments() {
		interfaces, ips, err := translate(a.Result)
		if err != nil {
			return network.Result{}, err
		}
		out.Interfaces = append(out.Interfaces, interfaces...)
		if i > 0 {
			continue
		}
		out.IPs = ips
		for _, in := range interfaces {
			if in.Name == interfaceOf(0) && in.Sandbox != "" {
				out.MAC = in.MAC
			}
		}
	}
	return out, nil
}

// translate is a result's interfaces with all their addresses, and those addresses
// that are the pod's.
func translate(result *types100.Result) (interfaces []network.Interface, ips []netip.Addr, err error) {
	for _, i := range result.Interfaces {
		if i == nil {
			return nil, nil, errors.New("result: interfaces: null")
		}
		interfaces = append(interfaces, network.Interface{Name: i.Name, MAC: i.Mac, Sandbox: i.Sandbox})
	}
	for n, ip := range result.IPs {
		if ip == nil {
			return nil, nil, fmt.Errorf("result: ips[%d]: null", n)
		}
		prefix, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return nil, nil, fmt.Errorf("result: ips[%d]: %w", n, err)
		}
		if ip.Interface != nil {
			if *ip.Interface < 0 || *ip.Interface >= len(interfaces) {
				return nil, nil, fmt.Errorf("result: ips[%d]: no interface %d", n, *ip.Interface)
			}
			i := &interfaces[*ip.Interface]
			i.IPs = append(i.IPs, prefix)
			if i.Sandbox == "" {
				continue // an address of the host's
			}
		}
		ips = append(ips, prefix.Addr())
	}
	return interfaces, ips, nil
}

// records is the directory of records. It holds no state of its own.
type records struct{ dir string }

func (s records) path(podID string) (string, error) {
	// The plugins' own rule; it also keeps the name inside the directory.
	if e := utils.ValidateContainerID(podID); e != nil {
		return "", fmt.Errorf("pod id %q: %w", podID, e)
	}
	return filepath.Join(s.dir, "pods", podID+".json"), nil
}

func (s records) write(r *record) error {
	path, err := s.path(r.Pod.ID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("CNI record of pod %s: %w", r.Pod.ID, err)
	}
	return atomicfile.WriteVolatile(path, data, 0o600)
}

// read returns an error for a missing and for a torn record alike.
func (s records) read(podID string) (*record, error) {
	path, err := s.path(podID)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != recordVersion && r.Version != recordVersionSeveral || r.Pod.ID != podID || len(r.Plugins) == 0 {
		return nil, fmt.Errorf("%s: not a record of version %d or %d", path, recordVersion, recordVersionSeveral)
	}
	return &r, nil
}

func (s records) remove(podID string) error {
	path, err := s.path(podID)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns the ids of the recorded pods.
func (s records) list() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "pods"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
