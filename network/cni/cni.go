// Package cni runs the CNI plugins of the node's configuration.
package cni

import (
	"context"
	"time"

	"github.com/strake-containers/strake/network"
)

// Config says where configuration, plugins and results live.
type Config struct {
	ConfDir  string        // conflists; /etc/cni/net.d
	BinDirs  []string      // plugin binaries, first match wins
	CacheDir string        // results; ROOT/network/cni
	Timeout  time.Duration // of one verb's plugins, all together; 0: a minute
}

// CNI is a network.Network that runs plugins.
type CNI struct{}

var _ network.Network = (*CNI)(nil)

// New makes no system call; a missing directory shows in Status.
func New(c Config) *CNI { return &CNI{} }

// Configured reports whether the configuration directory holds a configuration
// file at all, valid or not: if it does, the built-in bridge must keep off.
func (c *CNI) Configured() bool { return false }

func (c *CNI) Name() string                     { return "cni" }
func (c *CNI) Status(ctx context.Context) error { return nil }
func (c *CNI) Setup(ctx context.Context, p network.Pod) (network.Result, error) {
	return network.Result{}, nil
}
func (c *CNI) Teardown(ctx context.Context, p network.Pod) error { return nil }
func (c *CNI) Check(ctx context.Context, p network.Pod) error    { return nil }
func (c *CNI) GC(ctx context.Context, live []string) error       { return nil }
