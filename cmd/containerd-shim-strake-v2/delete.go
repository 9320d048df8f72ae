package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/strake-containers/strake/shim/task"
	"github.com/strake-containers/strake/shim/wire"
)

// remove is the delete command: it cleans up after a monitor that has died, and
// tells on stdout how the container ended.
func remove(p parameters) error {
	ctx := context.Background()
	err := task.RemoveCrashed(ctx, p.namespace, p.id, p.bundle, stateRoot(p), p.address == "", os.Stdout)
	return errors.Join(err, removeSocket(ctx, p))
}

// removeSocket removes the dead monitor's socket; one that still serves other
// containers of the pod keeps it.
func removeSocket(ctx context.Context, p parameters) error {
	path, err := socketPath(p)
	if err != nil {
		return err
	}
	if c, err := wire.Dial(ctx, path); err == nil {
		return c.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
