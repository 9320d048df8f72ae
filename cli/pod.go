package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (a *app) podCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pod",
		Short: "Pods, also those of a kubelet",
	}
	cmd.AddCommand(a.podListCommand(), a.podStopCommand(), a.podRemoveCommand())
	return cmd
}

func (a *app) podListCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Short:             "List pods",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only their ids")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		list, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		t := a.table()
		if !quiet {
			fmt.Fprintln(t, "POD ID\tCREATED\tSTATE\tIP\tNAME")
		}
		now := time.Now()
		for _, p := range list.Items {
			if quiet {
				fmt.Fprintln(t, short(p.Id))
				continue
			}
			is, err := c.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.Id})
			if isNotFound(err) {
				continue // removed since
			}
			if err != nil {
				return err
			}
			state := strings.ToLower(strings.TrimPrefix(p.State.String(), "SANDBOX_"))
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", short(p.Id), ago(now, p.CreatedAt), state, is.Status.GetNetwork().GetIp(), podName(p))
		}
		return t.Flush()
	})
	return cmd
}

func (a *app) podStopCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "stop POD...",
		Short:             "End all containers of pods and take their networks down",
		Args:              needs(1, "a pod"),
		ValidArgsFunction: a.completePods,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			return a.eachPod(ctx, c, args, func(p *cri.PodSandbox) error {
				_, err := c.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id})
				return err
			})
		}),
	}
}

func (a *app) podRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] POD...",
		Short:             "Remove pods with all their containers",
		Args:              needs(1, "a pod"),
		ValidArgsFunction: a.completePods,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "stop them first")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		return a.eachPod(ctx, c, args, func(p *cri.PodSandbox) error {
			if p.State == cri.PodSandboxState_SANDBOX_READY && !force {
				return fmt.Errorf("%s is up: stop it first (strake pod stop %s), or use -f", podName(p), podName(p))
			}
			return c.removePod(ctx, p.Id)
		})
	})
	return cmd
}

// podName is what a person calls a pod: NAME, or NAMESPACE/NAME if it is not
// one of `strake run`.
func podName(p *cri.PodSandbox) string {
	if _, ours := p.Labels[labelCLI]; ours {
		return p.GetMetadata().GetName()
	}
	return p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName()
}

// eachPod is each for pods, one after the other.
func (a *app) eachPod(ctx context.Context, c *client, refs []string, do func(*cri.PodSandbox) error) error {
	list, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	results := make([]error, len(refs))
	for i, ref := range refs {
		p, err := findPod(list.Items, ref)
		if err == nil {
			err = do(p)
		}
		results[i] = err
	}
	return a.report(refs, results)
}

// findPod finds by name, which wins, or by an id or the beginning of one.
func findPod(all []*cri.PodSandbox, ref string) (*cri.PodSandbox, error) {
	for _, p := range all {
		if podName(p) == ref {
			return p, nil
		}
	}
	return byID("pod", all, ref, func(p *cri.PodSandbox) string { return p.Id }, "see strake pod ls")
}
