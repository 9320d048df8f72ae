package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func (a *app) referrersCommand() *cobra.Command {
	var artifactType string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "referrers [flags] IMAGE",
		Short: "List what refers to an image in its registry",
		Long: "List what refers to an image in its registry: signatures, attestations, bills of materials. The\n" +
			"image need not be here. Of an image for several platforms it is the index that is asked about;\n" +
			"NAME@DIGEST asks about one of its manifests.",
		Args:              only("image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().StringVar(&artifactType, "artifact-type", "", "only those of this type, such as application/spdx+json")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with annotations")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		auth, err := findAuth(ctx, args[0], os.Getenv)
		if err != nil {
			return err
		}
		r, err := c.strake.ListReferrers(ctx, &strakev1.ListReferrersRequest{Reference: args[0], ArtifactType: artifactType, Auth: auth})
		if err != nil {
			return err
		}
		if asJSON {
			e := json.NewEncoder(a.stdout)
			e.SetIndent("", "  ")
			return e.Encode(referrersOf(r))
		}
		t := a.table()
		fmt.Fprintln(t, "DIGEST\tARTIFACT TYPE\tSIZE")
		for _, m := range r.Referrers {
			fmt.Fprintf(t, "%s\t%s\t%s\n", m.Digest, m.ArtifactType, sizeText(uint64(max(m.Size, 0))))
		}
		return t.Flush()
	})
	return cmd
}

// referrersReport is what referrers --json prints.
type referrersReport struct {
	Digest    string     `json:"digest"`
	Referrers []referrer `json:"referrers"`
}

// referrer is a descriptor, as in an OCI index.
type referrer struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func referrersOf(r *strakev1.ListReferrersResponse) referrersReport {
	report := referrersReport{Digest: r.Digest, Referrers: []referrer{}}
	for _, m := range r.Referrers {
		report.Referrers = append(report.Referrers, referrer{m.MediaType, m.Digest, m.Size, m.ArtifactType, m.Annotations})
	}
	return report
}
