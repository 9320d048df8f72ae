package cli

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/version"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Show the versions of strake and of straked",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			fmt.Fprintf(a.stdout, "strake    %s (%s, %s/%s)\n", version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return a.connect(func(ctx context.Context, c *client, _ []string) error {
				v, err := c.pods.Version(ctx, &cri.VersionRequest{})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "straked   %s (CRI %s)\n", v.RuntimeVersion, v.RuntimeApiVersion)
				return err
			})(cmd, args)
		},
	}
}

func (a *app) infoCommand() *cobra.Command {
	cmd := a.statusCommand()
	cmd.Use, cmd.Short = "info [flags]", "Show straked, its settings and what it holds"
	return cmd
}

func (a *app) systemCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "system",
		Short: "straked itself",
	}
	cmd.AddCommand(a.statusCommand(), a.checkCommand())
	return cmd
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "status [flags]",
		Short:             "Show straked, its settings, what it holds and what it is doing",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		s, err := c.strake.System(ctx, &strakev1.SystemRequest{})
		if err != nil {
			return err
		}
		if asJSON {
			text, err := jsonText(s)
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		}
		return a.status(s)
	})
	return cmd
}

func (a *app) status(s *strakev1.SystemResponse) error {
	t := a.table()
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("straked", "%s, process %d, up %s", s.Version, s.Pid, duration(time.Now(), s.StartedAt))
	row("socket", "%s", s.Address)
	row("root", "%s", s.Root)
	row("state", "%s", s.State)
	row("config", "%s", orNone(s.Config))
	row("kernel", "%s, cgroups %s", s.Kernel, s.CgroupMode)
	row("storage", "%s", s.Storage)
	network := s.GetNetwork().GetName()
	if !s.GetNetwork().GetReady() {
		network += ", not ready: " + s.GetNetwork().GetProblem()
	}
	row("network", "%s", network)
	for _, r := range s.Runtimes {
		mark := ""
		if r.Name == s.DefaultRuntime {
			mark = " (default)"
		}
		row("runtime", "%s%s: %s %s", r.Name, mark, r.Type, r.Path)
	}
	row("pods", "%d", s.Pods)
	row("containers", "%d, %d running", s.Containers, s.ContainersRunning)
	row("images", "%d, %s", s.Images, sizeText(s.ImageBytes))
	for _, stage := range s.Stages {
		row("under way", "%s", stage)
	}
	for _, u := range s.Unreadable {
		row("set aside", "%s", strings.ReplaceAll(u, "\n", "; "))
	}
	return t.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
