package container

import (
	"context"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
)

// Container is one container below a state root.
type Container struct {
	id, dir string
}

// ID is the container's id.
func (c *Container) ID() string { return c.id }

// Create makes the container; its init waits before execve until Start.
func Create(ctx context.Context, o CreateOptions) (*Container, *Process, error) { panic("API draft") }

// Load finds a container by its id. ErrNotExist if there is none.
func Load(stateRoot, id string) (*Container, error) { panic("API draft") }

// List returns the states of all containers below stateRoot.
func List(stateRoot string) ([]State, error) { panic("API draft") }

// Start lets init execute its program and returns once that has happened.
func (c *Container) Start(ctx context.Context) error { panic("API draft") }

// Exec starts another process in the container.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (*Process, error) { panic("API draft") }

// Kill signals init or, with all, every process of the cgroup.
func (c *Container) Kill(sig syscall.Signal, all bool) error { panic("API draft") }

// Delete removes a stopped container or, with force, any.
func (c *Container) Delete(ctx context.Context, force bool) error { panic("API draft") }

// State is the container's present state.
func (c *Container) State() (State, error) { panic("API draft") }

// Pids lists the container's processes.
func (c *Container) Pids() ([]int, error) { panic("API draft") }

// Stats reads the cgroup's counters.
func (c *Container) Stats() (*cgroup.Stats, error) { panic("API draft") }

// Update changes limits.
func (c *Container) Update(r *specs.LinuxResources) error { panic("API draft") }

// Pause freezes the container.
func (c *Container) Pause(ctx context.Context) error { panic("API draft") }

// Resume thaws it.
func (c *Container) Resume() error { panic("API draft") }

// Cgroup is the container's cgroup.
func (c *Container) Cgroup() (*cgroup.Cgroup, error) { panic("API draft") }

// PinNamespaces makes the namespaces that spec asks for and keeps them by fd.
func PinNamespaces(spec *specs.Spec) (Namespaces, error) { panic("API draft") }
