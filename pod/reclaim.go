package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/shim/client"
)

// endMonitor kills what a monitor holds and ends it, then removes its bundle. A
// nil monitor is looked for at its address.
func (m *Manager) endMonitor(ctx context.Context, id string, monitor Monitor) error {
	dir := m.podState(id)
	if monitor == nil {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		var err error
		if monitor, err = m.o.Monitors.Connect(ctx, m.monitorAddress(id)); err != nil && !errors.Is(err, client.ErrUnavailable) {
			return err
		}
	}
	if monitor != nil {
		defer func() { _ = monitor.Close() }() // nothing is under way on it
		for _, end := range []func(context.Context, string) error{monitor.StopSandbox, monitor.ShutdownSandbox} {
			if err := end(ctx, id); err != nil && !gone(err) {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

// gone is an error that says that what was to be ended has ended.
func gone(err error) bool {
	return errors.Is(err, client.ErrNotFound) || errors.Is(err, client.ErrUnavailable)
}

// reclaim undoes everything that could have been made under a pod's id, of which
// nothing else may be known. Each step is idempotent.
func (m *Manager) reclaim(ctx context.Context, known network.Pod, containers []string) error {
	id := known.ID
	known.NetNS = m.netnsPath(id)
	err := m.endMonitor(ctx, id, nil)
	err = errors.Join(err, m.o.Network.Teardown(ctx, known), m.o.NetNS.Remove(known.NetNS))
	for _, c := range containers {
		err = errors.Join(err, m.o.Images.Release(c))
	}
	if err != nil {
		return fmt.Errorf("undo pod %s: %w", id, err)
	}
	return nil
}

// maxHostFile bounds what is copied from the host into a pod.
const maxHostFile = 1 << 20

// readHostFile reads a small file of the host; one that is missing is empty.
func readHostFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []byte{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxHostFile))
}
