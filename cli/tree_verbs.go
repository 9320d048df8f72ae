package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func (a *app) exportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [flags] CONTAINER",
		Short: "Write the files of a container as a tar",
		Long: "Write the root file system of a container, running or not, as a tar: a file, or standard\n" +
			"output. What is mounted in it is not part of it. strake import makes an image of it.",
		Args:              only("container"),
		ValidArgsFunction: a.completeContainers,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file (default standard output)")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		if output == "" && isTerminal(a.stdout) {
			return errors.New("an archive is not for a terminal: use --output FILE, or redirect")
		}
		of, err := c.container(ctx, args[0])
		if err != nil {
			return err
		}
		stream, err := c.strake.ExportContainer(ctx, &strakev1.ExportContainerRequest{ContainerId: of.Id})
		if err != nil {
			return err
		}
		in := &receiver{receive: func() ([]byte, error) {
			r, err := stream.Recv()
			return r.GetData(), err
		}}
		if output == "" {
			_, err := io.Copy(a.stdout, in)
			return err
		}
		return writeWhole(output, in)
	})
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Show what a container has changed in its file system",
		Long: "Show what a container has changed in its root file system: A added, C changed, D deleted. A\n" +
			"directory has changed if something in it has.",
		Args:              only("container"),
		ValidArgsFunction: a.completeContainers,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			of, err := c.container(ctx, args[0])
			if err != nil {
				return err
			}
			r, err := c.strake.DiffContainer(ctx, &strakev1.DiffContainerRequest{ContainerId: of.Id})
			if err != nil {
				return err
			}
			for _, change := range r.Changes {
				fmt.Fprintf(a.stdout, "%s %s\n", change.Kind, change.Path)
			}
			return nil
		}),
	}
}

func (a *app) mountCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mount [IMAGE...]",
		Short: "Show the files of images in directories of this host, read-only",
		Long: "Mount images, read-only, and print the directories; without IMAGE list what is mounted. Mounts\n" +
			"last until strake umount, or the end of the boot.",
		ValidArgsFunction: a.completeImages,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			if len(args) == 0 {
				return a.listMounts(ctx, c)
			}
			for _, ref := range args {
				r, err := c.strake.MountImage(ctx, &strakev1.MountImageRequest{Reference: ref})
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, r.Path)
			}
			return nil
		}),
	}
}

func (a *app) listMounts(ctx context.Context, c *client) error {
	r, err := c.strake.ListImageMounts(ctx, &strakev1.ListImageMountsRequest{})
	if err != nil {
		return err
	}
	t := a.table()
	for _, m := range r.Mounts {
		names := strings.Join(m.Names, " ")
		if names == "" {
			names = short(m.Id)
		}
		fmt.Fprintf(t, "%s\t%s\n", names, m.Path)
	}
	return t.Flush()
}

func (a *app) umountCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "umount [flags] [IMAGE...]",
		Aliases:           []string{"unmount"},
		Short:             "Take the mounts of images away",
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those of all images")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		if all != (len(args) == 0) {
			return errors.New("umount needs an image, or --all")
		}
		if all {
			r, err := c.strake.ListImageMounts(ctx, &strakev1.ListImageMountsRequest{})
			if err != nil {
				return err
			}
			for _, m := range r.Mounts {
				args = append(args, m.Id)
			}
		}
		for _, ref := range args {
			if _, err := c.strake.UnmountImage(ctx, &strakev1.UnmountImageRequest{Reference: ref}); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, ref)
		}
		return nil
	})
	return cmd
}
