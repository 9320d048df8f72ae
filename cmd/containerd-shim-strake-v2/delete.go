package main

import (
	"context"
	"os"

	"github.com/strake-containers/strake/shim/task"
)

// remove is the delete command: it cleans up after a monitor that has died, and
// tells on stdout how the container ended.
func remove(p parameters) error {
	return task.RemoveCrashed(context.Background(), p.id, p.bundle, stateRoot(p), os.Stdout)
}
