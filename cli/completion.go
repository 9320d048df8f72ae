package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// completionTimeout is how long somebody who pressed Tab waits for nothing.
const completionTimeout = 2 * time.Second

// complete asks the daemon for names; without a daemon there are none.
func (a *app) complete(cmd *cobra.Command, ask func(ctx context.Context, c *client) ([]string, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	c, err := dial(ctx, a.address)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer func() { _ = c.Close() }() // nothing is under way
	names, err := ask(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeContainers(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client) ([]string, error) {
		return containerNames(ctx, c, func(container) bool { return true })
	})
}

// completeRunning completes one running container, and then files for exec's
// command.
func (a *app) completeRunning(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if cmd.Name() == "exec" && len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.complete(cmd, func(ctx context.Context, c *client) ([]string, error) {
		return containerNames(ctx, c, func(x container) bool { return x.State == cri.ContainerState_CONTAINER_RUNNING })
	})
}

func containerNames(ctx context.Context, c *client, want func(container) bool) ([]string, error) {
	all, err := c.containers(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, x := range all {
		if want(x) {
			names = append(names, x.name())
		}
	}
	return names, nil
}

// completeImages completes an image, and then files for run's command.
func (a *app) completeImages(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if cmd.Name() == "run" && len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.complete(cmd, func(ctx context.Context, c *client) ([]string, error) {
		list, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil {
			return nil, err
		}
		var names []string
		for _, img := range list.Images {
			names = append(names, img.RepoTags...)
		}
		return names, nil
	})
}

func (a *app) completePods(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client) ([]string, error) {
		list, err := c.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return nil, err
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, podName(p))
		}
		return names, nil
	})
}
