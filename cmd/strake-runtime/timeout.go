package main

import (
	"context"
	"fmt"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// timeoutError is a --timeout that is over.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %v", e.after) }

// bindTimeout declares --timeout. Without it, a command takes the time it takes.
func bindTimeout(f *flags, to *time.Duration, help string) {
	f.add("timeout", "DURATION", help+" within this time (1s, 500ms)", func(s string) (err error) {
		*to, err = time.ParseDuration(s)
		if err == nil && *to <= 0 {
			err = fmt.Errorf("is not above 0")
		}
		return err
	})
}

// within returns a context that ends after d, unless d is 0, with a timeoutError
// as the cause.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return context.WithCancel(ctx)
	}
	sys.Concurrent()
	return context.WithTimeoutCause(ctx, d, &timeoutError{d})
}
