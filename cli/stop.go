package cli

import (
	"context"
	"fmt"
	"math"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// defaultGrace is how long a container may take to end by itself, in seconds.
const defaultGrace = 10

func (a *app) stopCommand() *cobra.Command {
	var grace int64
	cmd := &cobra.Command{
		Use:               "stop [flags] CONTAINER...",
		Short:             "End containers: the stop signal, and after a while SIGKILL",
		Args:              needs(1, "a container"),
		ValidArgsFunction: a.completeRunning,
	}
	cmd.Flags().Int64VarP(&grace, "time", "t", defaultGrace, "seconds until SIGKILL")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		if grace < 0 || grace > math.MaxInt32 {
			return fmt.Errorf("-t %d: write a number of seconds", grace)
		}
		return a.each(ctx, c, args, func(ctx context.Context, in container) error {
			_, err := c.pods.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: in.Id, Timeout: grace})
			return err
		})
	})
	return cmd
}

func (a *app) killCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "kill [flags] CONTAINER...",
		Short:             "Send containers a signal",
		Args:              needs(1, "a container"),
		ValidArgsFunction: a.completeRunning,
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "the signal: TERM, SIGTERM or 15")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		sig, err := parseSignal(name)
		if err != nil {
			return err
		}
		return a.each(ctx, c, args, func(ctx context.Context, in container) error {
			if err := in.running(); err != nil {
				return err
			}
			_, err := c.strake.KillContainer(ctx, &strakev1.KillContainerRequest{ContainerId: in.Id, Signal: fmt.Sprint(int(sig))})
			return err
		})
	})
	return cmd
}

func (a *app) waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER...",
		Short:             "Wait until containers have ended, and print their exit codes",
		Args:              needs(1, "a container"),
		ValidArgsFunction: a.completeRunning,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			for _, ref := range args {
				in, err := c.container(ctx, ref)
				if err != nil {
					return err
				}
				exit, err := c.wait(ctx, in.Id)
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, exit.ExitCode)
			}
			return nil
		}),
	}
}

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] CONTAINER...",
		Short:             "Remove containers that have ended",
		Args:              needs(1, "a container"),
		ValidArgsFunction: a.completeContainers,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end them first, with SIGKILL")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		return a.each(ctx, c, args, func(ctx context.Context, in container) error {
			if in.State == cri.ContainerState_CONTAINER_RUNNING {
				if !force {
					return fmt.Errorf("%s is running: stop it first (strake stop %s), or use -f", in.name(), in.name())
				}
				if _, err := c.pods.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: in.Id}); err != nil {
					return err
				}
			}
			if in.ofCLI() {
				return c.removePod(ctx, in.PodSandboxId)
			}
			_, err := c.pods.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: in.Id})
			return err
		})
	})
	return cmd
}

// parallel is how many containers one command works on at a time.
const parallel = 16

// each runs do on every container, all of them whatever happens to one, and then
// prints what it was given for those that succeeded, in order.
func (a *app) each(ctx context.Context, c *client, refs []string, do func(context.Context, container) error) error {
	all, err := c.containers(ctx)
	if err != nil {
		return err
	}
	results := make([]error, len(refs))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, ref := range refs {
		g.Go(func() error {
			in, err := findContainer(all, ref)
			if err == nil {
				err = do(ctx, in)
			}
			results[i] = err
			return nil
		})
	}
	_ = g.Wait() // they return nil: what failed is in results
	return a.report(refs, results)
}

// report prints what succeeded to stdout and what failed to stderr.
func (a *app) report(names []string, results []error) error {
	failed := false
	for i, err := range results {
		if err != nil {
			fmt.Fprintf(a.stderr, "strake: %s\n", message(err))
			failed = true
			continue
		}
		fmt.Fprintln(a.stdout, names[i])
	}
	if failed {
		return &exitError{code: exitFailed}
	}
	return nil
}
