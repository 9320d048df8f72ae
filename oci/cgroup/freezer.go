package cgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Freeze stops every process of the cgroup and its descendants and waits until
// they have stopped. If that fails or ctx ends first, they run again.
func (c *Cgroup) Freeze(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cgroup %s: freeze: %w", c.path, errors.Join(err, c.setFrozen(false)))
		}
	}()
	if err := c.setFrozen(true); err != nil {
		return err
	}
	h := c.processes()
	if h.v2 {
		return waitEvents(ctx, c.dir(h), func(e events) bool { return e.frozen })
	}
	return c.waitFrozenV1(ctx)
}

// waitFrozenV1 asks until a v1 freezer says FROZEN. It tells nobody when it gets
// there: a task freezes on its next way out of the kernel, and the state is
// worked out when somebody reads it. So the state is read again, at growing
// intervals, and the command repeated, which reaches tasks forked meanwhile.
func (c *Cgroup) waitFrozenV1(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		frozen, err := c.Frozen()
		if err != nil || frozen {
			return err
		}
		if err := c.setFrozen(true); err != nil {
			return err
		}
		timer.Reset(wait)
	}
}

// Thaw lets the processes of a frozen cgroup run again.
func (c *Cgroup) Thaw() error {
	if err := c.setFrozen(false); err != nil {
		return fmt.Errorf("cgroup %s: thaw: %w", c.path, err)
	}
	return nil
}

func (c *Cgroup) setFrozen(frozen bool) error {
	if err := c.check(); err != nil {
		return err
	}
	h := c.processes()
	switch {
	case h.v2 && frozen:
		return writeFile(c.dir(h)+"/cgroup.freeze", "1")
	case h.v2:
		return writeFile(c.dir(h)+"/cgroup.freeze", "0")
	case !slices.Contains(h.controllers, "freezer"):
		return fmt.Errorf("no freezer controller: %w", ErrUnsupported)
	case frozen:
		return writeFile(c.dir(h)+"/freezer.state", "FROZEN")
	}
	return writeFile(c.dir(h)+"/freezer.state", "THAWED")
}

// Frozen reports whether every process of the cgroup is stopped by Freeze, of
// this cgroup or of one above it.
func (c *Cgroup) Frozen() (bool, error) {
	if err := c.check(); err != nil {
		return false, err
	}
	h := c.processes()
	if h.v2 {
		e, err := readEvents(c.dir(h))
		if err != nil {
			return false, fmt.Errorf("cgroup %s: %w", c.path, err)
		}
		return e.frozen, nil
	}
	state, err := readFile(c.dir(h) + "/freezer.state")
	if err != nil {
		return false, fmt.Errorf("cgroup %s: %w", c.path, err)
	}
	return strings.TrimSpace(state) == "FROZEN", nil
}
