// Package bridge is the network of a node without CNI configuration: a bridge,
// address leases, NAT and host ports, with no plugin and no other program.
package bridge

import (
	"context"
	"net/netip"

	"github.com/strake-containers/strake/network"
)

// Config of the bridge. The zero values are the defaults.
type Config struct {
	StateDir string       // leases; ROOT/network/bridge
	Bridge   string       // the link's name and the nft table's; "strake0"
	Subnet   netip.Prefix // of the pods, IPv4; invalid: the first of the defaults that no route overlaps
	MTU      int          // 0: that of the default route's link
}

// Bridge is a network.Network.
type Bridge struct{}

var _ network.Network = (*Bridge)(nil)

// New makes no system call; the first Setup makes the bridge.
func New(c Config) *Bridge { return &Bridge{} }

func (b *Bridge) Name() string                     { return "bridge" }
func (b *Bridge) Status(ctx context.Context) error { return nil }
func (b *Bridge) Setup(ctx context.Context, p network.Pod) (network.Result, error) {
	return network.Result{}, nil
}
func (b *Bridge) Teardown(ctx context.Context, p network.Pod) error { return nil }
func (b *Bridge) Check(ctx context.Context, p network.Pod) error    { return nil }
func (b *Bridge) GC(ctx context.Context, live []string) error       { return nil }

// Destroy removes the bridge, the nft table and the leases. Pods that still
// use it lose their network.
func (b *Bridge) Destroy(ctx context.Context) error { return nil }
