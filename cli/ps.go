package cli

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (a *app) psCommand() *cobra.Command {
	var all, quiet bool
	cmd := &cobra.Command{
		Use:               "ps [flags]",
		Short:             "List containers",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that do not run")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only their ids")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		list, err := c.containers(ctx)
		if err != nil {
			return err
		}
		t := a.table()
		if !quiet {
			fmt.Fprintln(t, "CONTAINER ID\tIMAGE\tCREATED\tSTATUS\tPORTS\tNAME")
		}
		now := time.Now()
		for _, x := range list {
			if !all && x.State != cri.ContainerState_CONTAINER_RUNNING {
				continue
			}
			if quiet {
				fmt.Fprintln(t, short(x.Id))
				continue
			}
			is, err := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: x.Id})
			if isNotFound(err) {
				continue // removed since
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", short(x.Id), imageName(x), ago(now, x.CreatedAt),
				statusText(now, is.Status), x.Annotations[annotationPorts], x.name())
		}
		return t.Flush()
	})
	return cmd
}

// table aligns columns; flush it.
func (a *app) table() *tabwriter.Writer { return tabwriter.NewWriter(a.stdout, 0, 0, 3, ' ', 0) }

// imageName is the image as whoever made the container wrote it.
func imageName(x container) string {
	if name := x.GetImage().GetUserSpecifiedImage(); name != "" {
		return name
	}
	if name := x.GetImage().GetImage(); name != x.ImageId {
		return name
	}
	return short(x.ImageId)
}

func statusText(now time.Time, s *cri.ContainerStatus) string {
	switch s.State {
	case cri.ContainerState_CONTAINER_CREATED:
		return "Created"
	case cri.ContainerState_CONTAINER_RUNNING:
		return "Up " + duration(now, s.StartedAt)
	case cri.ContainerState_CONTAINER_EXITED:
		text := fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(now, s.FinishedAt))
		if s.Reason == "OOMKilled" {
			text += ", out of memory"
		}
		return text
	}
	return "Unknown"
}

func ago(now time.Time, nanos int64) string {
	if nanos <= 0 {
		return ""
	}
	return duration(now, nanos) + " ago"
}

// duration is the time since then in its largest unit.
func duration(now time.Time, nanos int64) string {
	d := max(now.Sub(time.Unix(0, nanos)), 0)
	const day = 24 * time.Hour
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"week", 7 * day}, {"day", day}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		switch n := d / unit.size; {
		case n == 1:
			return "1 " + unit.name
		case n > 1:
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "less than a second"
}

// sizeText is a number of bytes as docker writes it, in powers of 1000.
func sizeText(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1000
	}
	return fmt.Sprintf("%.3g %cB", f, units[i])
}
