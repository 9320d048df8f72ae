package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/network"
)

// recordVersion is the format of the record files; another one is not read.
const recordVersion = 1

// record is what a pod was set up with: CACHE/pods/ID.json. Beside it libcni
// keeps the result that it hands to DEL and CHECK, in CACHE/results.
type record struct {
	Version int         `json:"version"`
	Pod     network.Pod `json:"pod"`

	// The network's configuration, with every plugin's, as it was at Setup.
	File         string            `json:"file"`
	Name         string            `json:"name"`
	CNIVersion   string            `json:"cniVersion"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	DisableGC    bool              `json:"disableGC,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`

	Result *types100.Result `json:"result,omitempty"` // nil: ADD has not ended
}

func newRecord(n *conf, p network.Pod) *record {
	r := &record{
		Version:      recordVersion,
		Pod:          p,
		File:         n.file,
		Name:         n.list.Name,
		CNIVersion:   n.list.CNIVersion,
		DisableCheck: n.list.DisableCheck,
		DisableGC:    n.list.DisableGC,
	}
	for _, plugin := range n.list.Plugins {
		r.Plugins = append(r.Plugins, plugin.Bytes)
	}
	return r
}

// conf is the network that the record holds.
func (r *record) conf() (*conf, error) {
	list := &libcni.NetworkConfigList{
		Name:         r.Name,
		CNIVersion:   r.CNIVersion,
		DisableCheck: r.DisableCheck,
		DisableGC:    r.DisableGC,
	}
	for i, data := range r.Plugins {
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return nil, fmt.Errorf("pod %s: recorded CNI network %q: plugins[%d]: %w", r.Pod.ID, r.Name, i, err)
		}
		list.Plugins = append(list.Plugins, plugin)
	}
	return &conf{r.File, list}, nil
}

// finish puts the plugins' result into the record.
func (r *record) finish(raw types.Result) (network.Result, error) {
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		return network.Result{}, fmt.Errorf("result: %w", err)
	}
	r.Result = result
	return r.result()
}

// result translates the recorded result. One without an address for the pod is
// an error: the pod could not be reached.
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
	for _, i := range r.Result.Interfaces {
		if i == nil {
			return network.Result{}, errors.New("result: interfaces: null")
		}
		out.Interfaces = append(out.Interfaces, network.Interface{Name: i.Name, MAC: i.Mac, Sandbox: i.Sandbox})
		if i.Name == ifName && i.Sandbox != "" {
			out.MAC = i.Mac
		}
	}
	for n, ip := range r.Result.IPs {
		if ip == nil {
			return network.Result{}, fmt.Errorf("result: ips[%d]: null", n)
		}
		prefix, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return network.Result{}, fmt.Errorf("result: ips[%d]: %w", n, err)
		}
		if ip.Interface != nil {
			if *ip.Interface < 0 || *ip.Interface >= len(out.Interfaces) {
				return network.Result{}, fmt.Errorf("result: ips[%d]: no interface %d", n, *ip.Interface)
			}
			i := &out.Interfaces[*ip.Interface]
			i.IPs = append(i.IPs, prefix)
			if i.Sandbox == "" {
				continue // an address of the host's
			}
		}
		out.IPs = append(out.IPs, prefix.Addr())
	}
	if len(out.IPs) == 0 {
		return network.Result{}, errors.New("result: no address for the pod")
	}
	return out, nil
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
	if r.Version != recordVersion || r.Pod.ID != podID || len(r.Plugins) == 0 {
		return nil, fmt.Errorf("%s: not a record of version %d", path, recordVersion)
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
