package cgroup

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Create makes the directories and writes all limits, before any process is in.
func (c *Cgroup) Create(r *specs.LinuxResources) error { return ErrUnsupported }

// Set changes the limits that r gives and leaves the others.
func (c *Cgroup) Set(r *specs.LinuxResources) error { return ErrUnsupported }

// Delete removes the cgroup with its descendants.
func (c *Cgroup) Delete() error { return ErrUnsupported }
