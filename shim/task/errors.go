package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/shim/wire"
)

// explain makes an answer of an error of the runtime: with the code that callers
// go by, and without the verb and the id that it begins with, since the caller
// has named both.
func (t *task) explain(err error) error {
	text := err.Error()
	if before, rest, ok := strings.Cut(text, "container "+t.id+": "); ok && !strings.Contains(before, ": ") {
		text = rest
	}
	code := wire.Unknown
	switch {
	case errors.Is(err, container.ErrNotRunning):
		return t.notRunning()
	case errors.Is(err, container.ErrNotExist):
		code = wire.NotFound
	case errors.Is(err, container.ErrExists):
		code = wire.AlreadyExists
	case errors.Is(err, container.ErrNotCreated), errors.Is(err, container.ErrRunning):
		code = wire.FailedPrecondition
	case errors.Is(err, container.ErrInvalidID):
		code = wire.InvalidArgument
	case errors.Is(err, context.DeadlineExceeded):
		code = wire.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = wire.Canceled
	}
	return &wire.Error{Code: code, Message: text, Cause: err}
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
