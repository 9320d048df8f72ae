package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/early"
)

func bindStart(a *app, f *flags) func(context.Context, []string) error {
	var timeout time.Duration
	bindTimeout(f, &timeout, "kill the container and say which step it was if its program does not run")
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		ctx, cancel := within(ctx, timeout)
		defer cancel()
		var ready notifier
		if early.Gate != 0 {
			err = c.GoOn(ctx, os.NewFile(uintptr(early.Gate), "gate"))
		} else if err = ready.listen(c); err == nil {
			err = c.Start(ctx)
		}
		if err == nil {
			err = ready.pass(ctx, 0)
		} else {
			err = errors.Join(err, ready.close())
		}
		if late := new(timeoutError); errors.As(err, &late) {
			// What its caller has given up must not begin after all.
			if kill := c.Kill(syscall.SIGKILL, true); !errors.Is(kill, container.ErrNotExist) {
				err = errors.Join(err, kill)
			}
		}
		return err
	}
}
