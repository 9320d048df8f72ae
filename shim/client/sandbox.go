package client

import (
	"context"
	"errors"
	"maps"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"

	"github.com/strake-containers/strake/shim/api"
)

// Sandbox is a started sandbox. Pid is the pause process's, or the monitor's
// where there is none. Namespaces maps "ipc", "uts", … to paths to join, which
// last as long as the monitor.
type Sandbox struct {
	Pid        int
	State      string // "SANDBOX_READY" or "SANDBOX_NOTREADY"
	Namespaces map[string]string
}

// CreateSandbox makes the monitor read bundle/config.json, the OCI spec of the
// pod's namespaces, whose containers h makes.
func (m *Monitor) CreateSandbox(ctx context.Context, id, bundle string, h Handler) error {
	options, err := h.options()
	if err != nil {
		return call("create sandbox", id, "", err)
	}
	_, err = m.sandbox.CreateSandbox(ctx, &sandboxapi.CreateSandboxRequest{SandboxID: id, BundlePath: bundle, Options: options})
	return call("create sandbox", id, "", err)
}

// StartSandbox makes the pod's namespaces.
func (m *Monitor) StartSandbox(ctx context.Context, id string) (Sandbox, error) {
	if _, err := m.sandbox.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: id}); err != nil {
		return Sandbox{}, call("start sandbox", id, "", err)
	}
	return m.SandboxStatus(ctx, id)
}

// SandboxStatus asks for the sandbox's state and namespaces.
func (m *Monitor) SandboxStatus(ctx context.Context, id string) (Sandbox, error) {
	r, err := m.sandbox.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: id, Verbose: true})
	if err != nil {
		return Sandbox{}, call("sandbox status", id, "", err)
	}
	s := Sandbox{Pid: int(r.Pid), State: r.State, Namespaces: map[string]string{}}
	for k, v := range maps.All(r.Info) {
		if name, ok := cutNamespace(k); ok {
			s.Namespaces[name] = v
		}
	}
	return s, nil
}

func cutNamespace(key string) (string, bool) {
	const prefix = "ns."
	if len(key) > len(prefix) && key[:len(prefix)] == prefix {
		return key[len(prefix):], true
	}
	return "", false
}

// Adopt makes the monitor take over a pod whose own has been killed. It is
// ErrNotFound if there is nothing to take over: the pod was being started or
// stopped.
func (m *Monitor) Adopt(ctx context.Context, id, bundle string) error {
	_, err := m.monitor.Adopt(ctx, &api.AdoptRequest{SandboxId: id, BundlePath: bundle})
	return call("adopt sandbox", id, "", err)
}

// WaitSandbox returns when the sandbox has been stopped, or with ErrUnavailable
// when the monitor has gone.
func (m *Monitor) WaitSandbox(ctx context.Context, id string) error {
	_, err := m.sandbox.WaitSandbox(ctx, &sandboxapi.WaitSandboxRequest{SandboxID: id})
	return call("wait for sandbox", id, "", err)
}

// StopSandbox kills everything in the sandbox and lets its namespaces go. It is
// not an error to stop a stopped one.
func (m *Monitor) StopSandbox(ctx context.Context, id string) error {
	_, err := m.sandbox.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: id})
	return call("stop sandbox", id, "", err)
}

// ShutdownSandbox ends the monitor process once its answer is out. The Monitor
// is of no use afterwards, but is still to be closed.
func (m *Monitor) ShutdownSandbox(ctx context.Context, id string) error {
	_, err := m.sandbox.ShutdownSandbox(ctx, &sandboxapi.ShutdownSandboxRequest{SandboxID: id})
	if err != nil && errors.Is(classOf(err), ErrUnavailable) {
		return nil // it was quicker than its answer, or gone before
	}
	return call("shut down sandbox", id, "", err)
}
