package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/wire"
)

// classify gives an error of the runtime the code that callers go by.
func classify(err error) error {
	var code wire.Code
	switch {
	case err == nil:
		return nil
	case errors.Is(err, container.ErrNotExist):
		code = wire.NotFound
	case errors.Is(err, container.ErrExists):
		code = wire.AlreadyExists
	case errors.Is(err, container.ErrNotRunning), errors.Is(err, container.ErrNotCreated), errors.Is(err, container.ErrRunning):
		code = wire.FailedPrecondition
	case errors.Is(err, container.ErrInvalidID):
		code = wire.InvalidArgument
	default:
		return err
	}
	return wire.Errorf(code, "%w", err)
}

// isGone: a kernel object's absence means that the container has ended.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

// logf writes to the monitor's log, which is its stderr. It is for what no
// caller can be told.
func logf(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, "containerd-shim-strake-v2: "+format+"\n", args...)
}
