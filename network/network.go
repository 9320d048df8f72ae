// Package network says what a pod's network is: the one interface that pod
// uses and that the implementations (cni, bridge) satisfy.
//
// A pod's network lives in a network namespace that is found by a path (package netns). The caller makes the namespace before Setup and removes it
// after Teardown; an implementation only furnishes it. Pods on the host's
// network, or with loopback alone, never come here.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
)

// ErrLeft is the class of Setup errors after which something may be left that only
// another Teardown takes away.
var ErrLeft = errors.New("it may have left something behind")

// ErrNotReady is the class of Status errors, and of Setup errors where nothing
// was tried: no pod can get a network now, the node is NetworkReady=false.
var ErrNotReady = errors.New("network not ready")

// ErrPortInUse is the class of a Setup that asks for a host port which another
// pod or process has.
var ErrPortInUse = errors.New("host port in use")

// PortError is an error of class ErrPortInUse.
type PortError struct {
	Port string // "8080/tcp"
	Why  string // such as "in use by pod ID"
}

func (e *PortError) Error() string { return "host port " + e.Port + " is " + e.Why }

// Is reports whether target is the class.
func (e *PortError) Is(target error) bool { return target == ErrPortInUse }

// Network gives pods their network. Implementations are safe for concurrent
// use; calls for one pod are serialised by the implementation, calls for
// different pods do not wait for each other's plugins.
type Network interface {
	// Name is the configured network's name, as Status and `strake info` show
	// it, or the implementation's where nothing is configured.
	Name() string

	// NeedsMount says whether the namespace of a pod that comes now is to be a mount on its
	// path: programs of others that are given it may look at it from elsewhere, and later.
	// Where it need not be, it may be a link to where somebody keeps it.
	NeedsMount() bool

	// Status is nil if a pod could be set up now. Otherwise it is an
	// ErrNotReady that says what is missing and where it was looked for.
	Status(ctx context.Context) error

	// Setup furnishes the namespace at p.NetNS. If it fails, everything that it
	// did is undone. For a pod that is set up already, it returns the finished
	// result again.
	Setup(ctx context.Context, p Pod) (Result, error)

	// Teardown undoes Setup. It is idempotent: a pod that is unknown, half set
	// up or gone with its namespace (a reboot, a lost mount) is no error, and
	// whatever it still holds (addresses, rules, plugin state) is released.
	Teardown(ctx context.Context, p Pod) error

	// Check says whether the pod's network is still what Setup made.
	Check(ctx context.Context, p Pod) error

	// GC releases what is held for pods that are not in live (pod ids): what a
	// crash or a lost pod record left.
	GC(ctx context.Context, live []string) error
}

// Pod is what a network may need to know of a pod. ID and NetNS are required
// for Setup; Teardown needs ID and takes the rest where it is known.
type Pod struct {
	ID           string            `json:"id"`
	Name         string            `json:"name,omitempty"`
	Namespace    string            `json:"namespace,omitempty"`
	UID          string            `json:"uid,omitempty"`
	NetNS        string            `json:"netns,omitempty"` // path of the namespace
	Labels       map[string]string `json:"labels,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	CgroupParent string            `json:"cgroupParent,omitempty"`
	PortMappings []PortMapping     `json:"portMappings,omitempty"`
	DNS          DNS               `json:"dns,omitzero"`
	Bandwidth    Bandwidth         `json:"bandwidth,omitzero"` // see Limits

	// What the caller wants the network to choose; empty leaves it the choice.
	MAC      string           `json:"mac,omitempty"`
	IPs      []netip.Addr     `json:"ips,omitempty"`
	IPRanges [][]netip.Prefix `json:"ipRanges,omitempty"` // one address from each set
}

// PortMapping makes a pod's port reachable on the host. A mapping without a
// host port maps nothing and is ignored.
type PortMapping struct {
	HostIP        string `json:"hostIP,omitempty"` // "" or unspecified: every address of the host
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"` // tcp (also ""), udp or sctp, in any case
}

// DNS is what a plugin that manages name resolution is told.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// Bandwidth limits a pod's traffic; rates in bits per second, bursts in bits,
// seen from the pod. Zero is no limit.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// Result is what Setup made.
type Result struct {
	IPs        []netip.Addr    `json:"ips,omitempty"` // the primary address first
	Interfaces []Interface     `json:"interfaces,omitempty"`
	MAC        string          `json:"mac,omitempty"` // of the pod's primary interface
	DNS        DNS             `json:"dns,omitzero"`  // what the network wants the pod to use, if anything
	Raw        json.RawMessage `json:"raw,omitempty"` // the CNI result, or ours in its form
}

// Interface is one link that belongs to the pod's network.
type Interface struct {
	Name    string         `json:"name"`
	MAC     string         `json:"mac,omitempty"`
	Sandbox string         `json:"sandbox,omitempty"` // netns path; "" for a link on the host
	IPs     []netip.Prefix `json:"ips,omitempty"`
}
