package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }

func (a *app) pullCommand() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:               "pull [flags] IMAGE...",
		Short:             "Fetch images from their registries",
		Args:              needs(1, "an image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the ids")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		for _, ref := range args {
			var show io.Writer = a.stderr
			if quiet {
				show = io.Discard
			}
			img, err := a.pull(ctx, c, ref, show)
			if err != nil {
				return err
			}
			name := img.Id
			if !quiet && len(img.Digests) > 0 {
				name = img.Digests[0]
			}
			fmt.Fprintln(a.stdout, name)
		}
		return nil
	})
	return cmd
}

// ensureImage pulls ref as the policy (missing, always, never) says.
func (a *app) ensureImage(ctx context.Context, c *client, ref, policy string) error {
	if policy != "always" {
		is, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			return err
		}
		if is.Image != nil {
			return nil
		}
		if policy == "never" {
			return fmt.Errorf("no image %s here, and --pull never", ref)
		}
	}
	_, err := a.pull(ctx, c, ref, a.stderr)
	return err
}

// pull fetches ref and shows how it goes.
func (a *app) pull(ctx context.Context, c *client, ref string, show io.Writer) (*strakev1.Image, error) {
	auth, err := findAuth(ctx, ref, os.Getenv)
	if err != nil {
		return nil, err
	}
	stream, err := c.strake.Pull(ctx, &strakev1.PullRequest{Reference: ref, Auth: auth})
	if err != nil {
		return nil, err
	}
	p := newProgress(show, a.width(show))
	defer p.finish()
	for {
		news, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("pull %s: straked ended without a result", ref)
		}
		if status.Code(err) == codes.Unauthenticated && auth == nil {
			return nil, fmt.Errorf("%w; there are no credentials for it in %s", err, strings.Join(authFiles(os.Getenv), ", "))
		}
		if err != nil {
			return nil, err
		}
		if img := news.GetImage(); img != nil {
			return img, nil
		}
		p.update(news.GetProgress())
	}
}

func (a *app) imagesCommand() *cobra.Command {
	var quiet, digests bool
	cmd := &cobra.Command{
		Use:               "images [flags]",
		Short:             "List images",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only their ids")
	cmd.Flags().BoolVar(&digests, "digests", false, "also the digests")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		list, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil {
			return err
		}
		t := a.table()
		if !quiet {
			header := "REPOSITORY\tTAG\tIMAGE ID\tSIZE"
			if digests {
				header = "REPOSITORY\tTAG\tDIGEST\tIMAGE ID\tSIZE"
			}
			fmt.Fprintln(t, header)
		}
		for _, img := range list.Images {
			if quiet {
				fmt.Fprintln(t, short(img.Id))
				continue
			}
			for _, row := range imageRows(img) {
				if digests {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", row.repository, row.tag, row.digest, short(img.Id), sizeText(img.Size))
				} else {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", row.repository, row.tag, short(img.Id), sizeText(img.Size))
				}
			}
		}
		return t.Flush()
	})
	return cmd
}

type imageRow struct{ repository, tag, digest string }

// imageRows is one row for each tag of an image, or for each of its digests
// that no tag's repository has.
func imageRows(img *cri.Image) []imageRow {
	const missing = "<none>"
	digests := map[string]string{}
	for _, d := range img.RepoDigests {
		if repository, digest, ok := strings.Cut(d, "@"); ok {
			digests[repository] = digest
		}
	}
	var rows []imageRow
	tagged := map[string]bool{}
	for _, ref := range img.RepoTags {
		repository, tag := ref, missing
		// The tag's colon comes after the last slash; one before it is a port's.
		if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
			repository, tag = ref[:i], ref[i+1:]
		}
		digest := missing
		if d, ok := digests[repository]; ok {
			digest = d
		}
		tagged[repository] = true
		rows = append(rows, imageRow{repository, tag, digest})
	}
	for repository, digest := range digests {
		if !tagged[repository] {
			rows = append(rows, imageRow{repository, missing, digest})
		}
	}
	if len(rows) == 0 {
		rows = []imageRow{{missing, missing, missing}}
	}
	slices.SortFunc(rows, func(a, b imageRow) int { return strings.Compare(a.repository+a.tag, b.repository+b.tag) })
	return rows
}

func (a *app) rmiCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rmi [flags] IMAGE...",
		Short:             "Remove images",
		Args:              needs(1, "an image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if a container uses it; its files stay until that is removed")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		all, err := c.containers(ctx)
		if err != nil {
			return err
		}
		// One after the other: two may be the last names of one image.
		results := make([]error, len(args))
		for i, ref := range args {
			results[i] = removeImage(ctx, c, ref, force, all)
		}
		return a.report(args, results)
	})
	return cmd
}

// removeImage refuses what CRI does not mind: an image that is not there, and the
// last name of one that a container uses.
func removeImage(ctx context.Context, c *client, ref string, force bool, all []container) error {
	spec := &cri.ImageSpec{Image: ref}
	is, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: spec})
	if err != nil {
		return err
	}
	if is.Image == nil {
		return fmt.Errorf("no such image: %s: see strake images", ref)
	}
	byID := strings.HasPrefix(strings.TrimPrefix(is.Image.Id, "sha256:"), strings.TrimPrefix(ref, "sha256:"))
	for _, x := range all {
		if x.ImageId == is.Image.Id && !force && (byID || len(is.Image.RepoTags) < 2) {
			return fmt.Errorf("%s is used by the container %s: remove that first (strake rm -f %s), or use -f", ref, x.name(), x.name())
		}
	}
	_, err = c.strake.RemoveImage(ctx, &strakev1.RemoveImageRequest{Reference: ref})
	return err
}

// unixTime is nanoseconds as JSON wants a time; nil for "never".
func unixTime(nanos int64) *time.Time {
	if nanos <= 0 {
		return nil
	}
	t := time.Unix(0, nanos).UTC()
	return &t
}
