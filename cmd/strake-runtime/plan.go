package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/oci/container"
)

func bindPlan(a *app, f *flags) func(context.Context, []string) error {
	format, id := "text", "plan"
	f.text(&format, "format,f", "text|json", "how to print it")
	f.text(&id, "id", "ID", "id of the container that it would be")
	return func(_ context.Context, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("plan: one bundle is wanted, not %d arguments", len(args))
		}
		bundle, err := filepath.Abs(strings.Join(args, "")) // without one, the current directory
		if err != nil {
			return err
		}
		p, err := container.Plan(container.CreateOptions{
			ID: id, Bundle: bundle, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			SystemdCgroup: a.systemd, Rootless: a.rootless,
		})
		if err != nil {
			return err
		}
		switch format {
		case "json":
			return printJSON(p)
		case "text":
			_, err := fmt.Print(p)
			return err
		}
		return fmt.Errorf("--format: %q is not text or json", format)
	}
}
