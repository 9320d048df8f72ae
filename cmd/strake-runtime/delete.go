package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/strake-containers/strake/oci/container"
)

func bindDelete(a *app, f *flags) func(context.Context, []string) error {
	var force, regex bool
	f.flag(&force, "force,f", "kill it first if it runs; one that does not exist is fine")
	f.flag(&regex, "regex,r", "the id is an extended regular expression: every container that it fits")
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		err = a.each(id, regex, func(c *container.Container) error { return a.remove(ctx, c, force) })
		if force && errors.Is(err, container.ErrNotExist) {
			return nil
		}
		return err
	}
}

// remove deletes a container.
func (a *app) remove(ctx context.Context, c *container.Container, force bool) error {
	err := c.Delete(ctx, force)
	if errors.Is(err, container.ErrPoststop) {
		a.log.warn(err.Error())
		return nil
	}
	return err
}
