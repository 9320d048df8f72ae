package network

import (
	"context"
	"errors"
)

// Default is the node's network: the configured one as soon as there is a
// configuration, the built-in one until then. A pod stays with the network that
// set it up.
type Default struct {
	Configured interface {
		Holder
		Configured() bool // there is a configuration, even if it is wrong
	}
	BuiltIn Holder
}

// Holder is a Network that knows which pods are its own.
type Holder interface {
	Network
	Holds(podID string) bool // it was set up here and not torn down
}

var _ Network = Default{}

// current is the network of new pods.
func (d Default) current() Network {
	if d.Configured.Configured() {
		return d.Configured
	}
	return d.BuiltIn
}

// of is the network of a pod that may be set up already.
func (d Default) of(podID string) Network {
	switch {
	case d.BuiltIn.Holds(podID):
		return d.BuiltIn
	case d.Configured.Holds(podID):
		return d.Configured
	}
	return d.current()
}

// Name is that of the network of new pods.
func (d Default) Name() string { return d.current().Name() }

// Status is that of the network of new pods.
func (d Default) Status(ctx context.Context) error { return d.current().Status(ctx) }

// Setup uses the network of new pods, unless the pod has one already.
func (d Default) Setup(ctx context.Context, p Pod) (Result, error) {
	return d.of(p.ID).Setup(ctx, p)
}

// Teardown uses the pod's network, or the configured one if neither knows the
// pod: its plugins may hold something that no record says.
func (d Default) Teardown(ctx context.Context, p Pod) error { return d.of(p.ID).Teardown(ctx, p) }

// Check uses the pod's network.
func (d Default) Check(ctx context.Context, p Pod) error { return d.of(p.ID).Check(ctx, p) }

// GC is that of both.
func (d Default) GC(ctx context.Context, live []string) error {
	return errors.Join(d.BuiltIn.GC(ctx, live), d.Configured.GC(ctx, live))
}
