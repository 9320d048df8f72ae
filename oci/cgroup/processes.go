package cgroup

import (
	"context"
	"syscall"
)

func (c *Cgroup) Freeze(ctx context.Context) error { return ErrUnsupported }
func (c *Cgroup) Thaw() error                      { return ErrUnsupported }
func (c *Cgroup) Frozen() (bool, error)            { return false, ErrUnsupported }

// Kill sends a signal to every process of the cgroup and its descendants.
func (c *Cgroup) Kill(sig syscall.Signal) error      { return ErrUnsupported }
func (c *Cgroup) Pids(recursive bool) ([]int, error) { return nil, ErrUnsupported }

// WaitEmpty waits until no process is left in the cgroup and its descendants.
func (c *Cgroup) WaitEmpty(ctx context.Context) error { return ErrUnsupported }
