package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/strake-containers/strake/oci/container"
)

func bindDelete(a *app, f *flags) func(context.Context, []string) error {
	var force bool
	f.flag(&force, "force,f", "kill it first if it runs; one that does not exist is fine")
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("delete: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err == nil {
			err = c.Delete(ctx, force)
		}
		if force && errors.Is(err, container.ErrNotExist) {
			return nil
		}
		return err
	}
}
