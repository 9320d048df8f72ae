package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/shim/client"
)

// endPod kills what a pod's monitor holds and ends it, then removes its bundle.
func (m *Manager) endPod(ctx context.Context, id, handler string) error {
	if err := m.endMonitor(ctx, id, handler, nil); err != nil {
		return err
	}
	return m.removeBundle(id)
}

// endMonitor kills what a pod's monitor holds and ends it. A nil monitor is looked
// for at its address. Without one, what it has left is ended.
func (m *Manager) endMonitor(ctx context.Context, id, handler string, monitor Monitor) error {
	dir := m.podState(id)
	if monitor != nil {
		known, err := shutDown(ctx, id, monitor) // the connection is its crew's
		if err != nil && !errors.Is(err, client.ErrUnavailable) {
			return err
		}
		if err == nil && !known { // it replaces the one that was making the pod
			err = m.endCrashed(ctx, id, handler)
		}
		if err == nil {
			return nil
		}
		// It was killed; there may be another in its place.
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	monitor, err := m.o.Monitors.Connect(ctx, m.monitorAddress(id))
	known := false
	if err == nil {
		known, err = shutDown(ctx, id, monitor)
		err = errors.Join(err, monitor.Close())
	}
	if errors.Is(err, client.ErrUnavailable) || err == nil && !known {
		err = m.endCrashed(ctx, id, handler)
	}
	return err
}

// shutDown ends a pod on a monitor, and tells whether that knew it.
func shutDown(ctx context.Context, id string, monitor Monitor) (known bool, err error) {
	// The other one ends a monitor that has no pods, too.
	if err := monitor.StopSandbox(ctx, id); err == nil {
		known = true
	} else if !errors.Is(err, client.ErrNotFound) {
		return false, err
	}
	if err := monitor.ShutdownSandbox(ctx, id); err != nil && !errors.Is(err, client.ErrNotFound) {
		return known, err
	}
	return known, nil
}

// removeBundle removes what a pod that has ended has in the directory that dies
// with the boot, and its pins, which a monitor that was killed has left. What says how
// the containers of unwritten ended stays.
func (m *Manager) removeBundle(id string, unwritten ...*container) error {
	if m.pins != "" {
		pins, err := sys.OpenPins(m.pins)
		if err == nil {
			err = errors.Join(pins.Do(func() error { return sys.UnpinGroup("/" + id) }), pins.Close())
		}
		if err != nil {
			return fmt.Errorf("pod %s: let its namespaces go: %w", id, err)
		}
	}
	// A monitor that adopts a pod may have its /dev/shm mounted there.
	if err := sys.Unmount(filepath.Join(m.podState(id), "shm")); err != nil {
		return err
	}
	if len(unwritten) == 0 {
		return os.RemoveAll(m.podState(id))
	}
	err := removeAllBut(m.podState(id), func(name string) bool {
		return slices.ContainsFunc(unwritten, func(c *container) bool { return c.id == name })
	})
	for _, c := range unwritten {
		err = errors.Join(err, removeAllBut(m.containerState(id, c.id), func(name string) bool { return name == client.ExitFile }))
	}
	return err
}

// removeAllBut empties a directory of what is not to be kept; one that is not there
// is empty.
func removeAllBut(dir string, keep func(name string) bool) error {
	var err error
	for _, name := range names(dir) {
		if !keep(name) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return err
}

// endCrashed ends the containers of a monitor that is gone: their processes,
// cgroups and mounts. What the handler's program finds nothing of is no error.
func (m *Manager) endCrashed(ctx context.Context, id, handler string) error {
	if _, err := os.Stat(m.podState(id)); errors.Is(err, fs.ErrNotExist) {
		return nil // a reboot
	}
	var err error
	for _, name := range names(m.podState(id)) {
		if len(name) == len(id) && name != id { // which is that of a foreign shim's first task
			err = errors.Join(err, m.cleanup(ctx, handler, name, m.containerState(id, name)))
		}
	}
	return errors.Join(err, m.cleanup(ctx, handler, id+"-pause", m.podState(id))) // as the monitor calls it
}

// endLost ends what a monitor that is gone has left of a pod's containers, and forgets where it
// kept the network namespace. One that is mounted is left to the network's teardown.
func (m *Manager) endLost(ctx context.Context, p *sandbox) {
	err := m.endCrashed(ctx, p.id, p.record.Runtime)
	if p.record.NetNS != "" {
		err = errors.Join(err, m.o.NetNS.Unlink(p.record.NetNS))
	}
	if err != nil {
		m.o.Log.Error("clean up after monitor", "pod", p.id, "error", err)
	}
}

// cleanup has a handler's program end what a monitor that is gone has left of a
// container.
func (m *Manager) cleanup(ctx context.Context, handler, id, bundleDir string) error {
	s := m.settings()
	runtime, ok := s.Runtimes[handler]
	if !ok {
		runtime = s.Runtimes[s.DefaultRuntime] // the record, or the handler, is gone
	}
	err := m.o.Monitors.Cleanup(ctx, client.StartOptions{
		Binary: runtime.Monitor, Namespace: monitorNamespace, Env: runtime.Env, ID: id, Bundle: bundleDir,
	})
	if err == nil {
		return nil
	}
	if _, statErr := os.Stat(bundleDir); errors.Is(statErr, fs.ErrNotExist) {
		return nil // another call has, and has removed it
	}
	return err
}

// gone is an error that says that what was to be ended has ended.
func gone(err error) bool {
	return errors.Is(err, client.ErrNotFound) || errors.Is(err, client.ErrUnavailable)
}

// reclaim undoes everything that could have been made under a pod's id, of which
// nothing else may be known. Each step is idempotent.
func (m *Manager) reclaim(ctx context.Context, known network.Pod, handler string, containers []string) error {
	id := known.ID
	known.NetNS = m.netnsPath(id)
	if err := m.endPod(ctx, id, handler); err != nil { // what runs in it uses the rest
		return fmt.Errorf("undo pod %s: %w", id, err)
	}
	err := errors.Join(m.o.Network.Teardown(ctx, known), m.o.NetNS.Remove(known.NetNS))
	for _, c := range containers {
		err = errors.Join(err, m.o.Images.Release(c))
	}
	if err != nil {
		return fmt.Errorf("undo pod %s: %w", id, err)
	}
	return nil
}

// How long after a failure an undo is tried again, at first and at most.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

// undoLater goes on trying to undo what could not be undone, most of the time
// because a network plugin did not work: else addresses would be taken until the
// next start.
func (m *Manager) undoLater(pod string, undo func(context.Context) error) {
	m.retries.Go(func() {
		for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-m.life.Done():
				timer.Stop()
				return // the next start begins with it
			}
			ctx, cancel := undoContext(m.life)
			err := undo(ctx)
			cancel()
			if err == nil {
				m.o.Log.Info("undone at last", "pod", pod)
				return
			}
			m.o.Log.Error("undo", "pod", pod, "again in", min(2*wait, lastRetry), "error", err)
		}
	})
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
