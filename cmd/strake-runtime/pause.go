package main

import (
	"context"
	"fmt"

	"github.com/strake-containers/strake/oci/container"
)

func bindPause(a *app, _ *flags) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("pause: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		return c.Pause(ctx)
	}
}

func bindResume(a *app, _ *flags) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("resume: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		return c.Resume()
	}
}
