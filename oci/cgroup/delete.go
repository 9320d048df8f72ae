package cgroup

import (
	"context"
	"fmt"
	"path"
	"slices"
	"syscall"
	"time"
)

// Delete removes the cgroup with its descendants in every hierarchy, and the
// parents that Create made (Saved.Top), if nobody else uses them. One that is gone is fine. With
// processes left it fails with ErrBusy, after giving those that were just killed
// a moment to go.
func (c *Cgroup) Delete() error {
	if c.none() {
		return nil
	}
	if c.unit != nil {
		if err := c.stopUnit(); err != nil {
			return fmt.Errorf("cgroup %s: delete: %w", c.path, err)
		}
	}
	if err := c.removeTrees(); err != nil {
		return fmt.Errorf("cgroup %s: delete: %w", c.path, err)
	}
	for p := path.Dir(c.path); c.top != "" && len(p) >= len(c.top) && p != "/"; p = path.Dir(p) {
		for _, h := range c.all {
			if err := removeEmpty(h.mount + p); err != nil {
				return fmt.Errorf("cgroup %s: delete: %w", c.path, err)
			}
		}
	}
	return nil
}

// emptyTimeout bounds how long Delete waits for processes that are dying.
const emptyTimeout = 2 * time.Second

// removeTrees removes the cgroup's directory and all below it, everywhere.
func (c *Cgroup) removeTrees() error {
	busy := false
	for _, h := range slices.Backward(c.all) { // v2 first: it is the one that can be waited for
		err := removeTree(c.dir(h))
		if isErrno(err, syscall.EBUSY) && !busy {
			busy = true // once for all hierarchies: a process leaves them together
			ctx, cancel := context.WithTimeout(context.Background(), emptyTimeout)
			err = c.waitEmpty(ctx)
			cancel()
			if err == nil {
				err = removeTree(c.dir(h))
			}
		}
		if err != nil {
			if pids, e := c.Pids(true); e == nil && len(pids) > 0 {
				return fmt.Errorf("%w: processes %v: kill them first", ErrBusy, pids[:min(len(pids), 10)])
			}
			return err
		}
	}
	return nil
}

// removeTree removes a directory and all below it. The plain rmdir of what is nearly always
// a leaf comes first.
func removeTree(dir string) error {
	err := rmdir(dir)
	if !isErrno(err, syscall.EBUSY) {
		return err
	}
	if err := walk(dir, nil, removeAt); err != nil {
		return err
	}
	return rmdir(dir)
}

// removeMade is Create's undo: what it made goes, children first.
func (c *Cgroup) removeMade() error {
	for _, dir := range slices.Backward(c.made) {
		if err := removeEmpty(dir); err != nil {
			return err
		}
	}
	c.made, c.top = nil, ""
	return nil
}

// removeEmpty removes a directory unless somebody uses it.
func removeEmpty(dir string) error {
	if err := rmdir(dir); err != nil && !isErrno(err, syscall.EBUSY, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}
