package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/network/netns"
	"github.com/strake-containers/strake/shim/client"
)

// Images is what pods need of an image.Store.
type Images interface {
	Get(ref string) (image.Image, error)
	Permit(imageID, asked, namespace string) error
	Rootfs(imageID, holder string) (image.Rootfs, error)
	PrepareRoot(r image.Rootfs, dir string) (rootfs.Mount, error)
	Release(holder string) error
	Holders() []image.Lease
}

// Network furnishes network namespaces.
type Network = network.Network

// NetNS makes network namespaces on paths; see package netns.
type NetNS interface {
	New(path string) error
	Keep(from, path string) error
	Lend(path string) (held *os.File, err error)
	Fix(held *os.File, path string) error
	Borrow(from, path string) error
	Link(from, path string) error
	Unlink(path string) error
	Remove(path string) error
	Do(path string, fn func() error) error
	Interfaces(paths []string, fn func(i int, dev []byte, err error)) // of each once, in any order
}

// HostNetNS is the real NetNS.
type HostNetNS struct{ counters netns.Counters }

// New makes a network namespace with its loopback up and mounts it on path.
func (*HostNetNS) New(path string) error { return netns.New(path) }

// Keep mounts the network namespace at from, with its loopback up, on path.
func (*HostNetNS) Keep(from, path string) error { return netns.Keep(from, path) }

// Lend makes a network namespace with its loopback up that is there while held is open, and
// links path to it.
func (*HostNetNS) Lend(path string) (*os.File, error) { return netns.Lend(path) }

// Fix mounts a lent network namespace on its path, for nobody else keeps it.
func (*HostNetNS) Fix(held *os.File, path string) error { return netns.Fix(held, path) }

// Borrow links path to the network namespace at from, with its loopback up.
func (*HostNetNS) Borrow(from, path string) error { return netns.Borrow(from, path) }

// Link has a path that is a link point to from.
func (*HostNetNS) Link(from, path string) error { return netns.Link(from, path) }

// Unlink removes path if it is a link.
func (n *HostNetNS) Unlink(path string) error { return n.forget(path, netns.Unlink) }

// Remove unmounts and removes path; it is idempotent.
func (n *HostNetNS) Remove(path string) error { return n.forget(path, netns.Remove) }

func (n *HostNetNS) forget(path string, remove func(path string) error) error {
	err := remove(path)
	if err == nil {
		n.counters.Forget(path) // now nobody opens it again
	}
	return err
}

// Do runs fn on a thread in the namespace at path.
func (*HostNetNS) Do(path string, fn func() error) error { return netns.Do(path, fn) }

// Interfaces reads the interfaces' counters (proc_pid_net(5)) in each of the namespaces.
func (n *HostNetNS) Interfaces(paths []string, fn func(i int, dev []byte, err error)) {
	n.counters.Read(paths, fn)
}

// Monitors starts monitors and connects to those that are there.
type Monitors interface {
	Start(ctx context.Context, o client.StartOptions) (Monitor, error)
	Connect(ctx context.Context, address string) (Monitor, error)
	// Replace starts a monitor in the place of one that has been killed, and gives
	// it what was kept for it. It is to Adopt the pods.
	Replace(ctx context.Context, o client.StartOptions, kept *client.Kept) (Monitor, error)
	// Cleanup ends what a monitor that is gone has left of the container with that
	// ID and Bundle.
	Cleanup(ctx context.Context, o client.StartOptions) error
}

// Monitor is one connection to a pod's monitor; see package client for its
// errors. *client.Monitor is the real one.
type Monitor interface {
	Address() string
	Close() error

	CreateSandbox(ctx context.Context, id, bundle string, h client.Handler) error
	StartSandbox(ctx context.Context, id string) (client.Sandbox, error)
	Adopt(ctx context.Context, id, bundle string) error
	SandboxStatus(ctx context.Context, id string) (client.Sandbox, error)
	WaitSandbox(ctx context.Context, id string) error
	StopSandbox(ctx context.Context, id string) error
	ShutdownSandbox(ctx context.Context, id string) error

	Create(ctx context.Context, o client.CreateOptions) (pid int, err error)
	Start(ctx context.Context, id string) (pid int, err error)
	Wait(ctx context.Context, id, execID string) (client.Exit, error)
	Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error
	Delete(ctx context.Context, id, execID string) (client.Exit, error)
	ContainerStatus(ctx context.Context, id string) (client.Status, error)

	Exec(ctx context.Context, id string, o client.ExecOptions) error
	StartExec(ctx context.Context, id, execID string) (pid int, err error)
	ExecSync(ctx context.Context, id string, p *specs.Process, timeout time.Duration, maxOutput int) (client.ExecResult, error)
	ResizePty(ctx context.Context, id, execID string, width, height uint32) error
	CloseStdin(ctx context.Context, id, execID string) error

	Checkpoint(ctx context.Context, id, images, work string) error
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	ReopenLog(ctx context.Context, id string) error
	Stats(ctx context.Context, ids []string, podCgroup string, processes bool) (client.Stats, error)
	PodsStats(ctx context.Context, queries []client.StatsQuery) ([]client.PodStats, error)
	UpdateCgroup(ctx context.Context, cgroup string, r *specs.LinuxResources) error
}

// ShimMonitors are the real Monitors.
type ShimMonitors struct{}

// Start starts a monitor that outlives this process.
func (ShimMonitors) Start(ctx context.Context, o client.StartOptions) (Monitor, error) {
	m, err := client.Start(ctx, o)
	if err != nil {
		return nil, err // a nil *client.Monitor would be no nil Monitor
	}
	return m, nil
}

// Connect connects to the monitor at address.
func (ShimMonitors) Connect(ctx context.Context, address string) (Monitor, error) {
	m, err := client.Connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Replace starts a monitor that is to adopt what another has left.
func (ShimMonitors) Replace(ctx context.Context, o client.StartOptions, kept *client.Kept) (Monitor, error) {
	m, err := client.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	if _, err = m.SandboxStatus(ctx, o.ID); errors.Is(err, client.ErrNotFound) { // it serves
		err = kept.Connect(ctx, o.Bundle)
	}
	if err != nil {
		// It has nothing, and ends.
		return nil, errors.Join(err, m.ShutdownSandbox(context.WithoutCancel(ctx), o.ID), m.Close())
	}
	return m, nil
}

// Cleanup runs the monitor program's delete command (runtime v2).
func (ShimMonitors) Cleanup(ctx context.Context, o client.StartOptions) error {
	cmd := exec.CommandContext(ctx, o.Binary, "-namespace", o.Namespace, "-id", o.ID, "-bundle", o.Bundle, "delete")
	cmd.Dir = o.Bundle
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, o.Env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.WaitDelay = sys.AfterExit // for what has inherited that
	if err := sys.Ended(cmd.Run()); err != nil {
		return fmt.Errorf("%s delete: %w: %s", o.Binary, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}
