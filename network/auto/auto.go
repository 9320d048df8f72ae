// Package auto chooses each pod's network as it is set up: the CNI plugins where
// the node has a configuration for them, the built-in bridge where it has none.
//
// A configuration that is there but broken is CNI's to report: falling back
// would connect pods to a network that nobody asked for. A pod leaves the
// network it came to, whatever the configuration is by then. It holds no state:
// the implementations know their pods.
package auto

import (
	"context"
	"errors"

	"github.com/strake-containers/strake/network"
)

// Holder is a network that knows which pods it has set up.
type Holder interface {
	network.Network
	Holds(podID string) bool
}

// Plugins is a Holder that may be without a configuration.
type Plugins interface {
	Holder
	Configured() bool
}

// Auto is a network.Network made of two.
type Auto struct {
	cni    Plugins
	bridge Holder
}

var _ network.Network = (*Auto)(nil)

// New makes no system call.
func New(cni Plugins, bridge Holder) *Auto { return &Auto{cni, bridge} }

// current is the network of a pod that comes now.
func (a *Auto) current() network.Network {
	if a.cni.Configured() {
		return a.cni
	}
	return a.bridge
}

// of is the network of a pod: the one that holds it, or the current one.
func (a *Auto) of(podID string) network.Network {
	for _, n := range []Holder{a.bridge, a.cni} {
		if n.Holds(podID) {
			return n
		}
	}
	return a.current()
}

// Name is that of the current network.
func (a *Auto) Name() string { return a.current().Name() }

// NeedsMount is that of the current network. A configuration that comes before Setup gets a
// link all the same: its plugins can open that as long as the pod's monitor lives.
func (a *Auto) NeedsMount() bool { return a.current().NeedsMount() }

// Status is that of the current network.
func (a *Auto) Status(ctx context.Context) error { return a.current().Status(ctx) }

// Setup gives the pod the current network, or again the one it has.
func (a *Auto) Setup(ctx context.Context, p network.Pod) (network.Result, error) {
	return a.of(p.ID).Setup(ctx, p)
}

// Teardown takes the pod from the network it is in. If neither knows it, the
// current one is asked to look: a plugin may hold what its record has lost.
func (a *Auto) Teardown(ctx context.Context, p network.Pod) error {
	return a.of(p.ID).Teardown(ctx, p)
}

// Check asks the network that the pod is in.
func (a *Auto) Check(ctx context.Context, p network.Pod) error { return a.of(p.ID).Check(ctx, p) }

// GC is for both.
func (a *Auto) GC(ctx context.Context, live []string) error {
	return errors.Join(a.bridge.GC(ctx, live), a.cni.GC(ctx, live))
}
