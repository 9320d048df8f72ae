package main

import (
	"context"
	"errors"

	"github.com/strake-containers/strake/oci/features"
	"github.com/strake-containers/strake/oci/host"
)

func bindFeatures(_ *app, _ *flags) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		if len(args) > 0 {
			return errors.New("features: takes no argument")
		}
		h, err := host.Facts()
		if err != nil {
			return err
		}
		return printJSON(features.Of(h))
	}
}
