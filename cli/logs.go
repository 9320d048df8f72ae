package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/cli/logfile"
	"github.com/strake-containers/strake/internal/logdriver"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, timestamps bool
	var tail, since string
	cmd := &cobra.Command{
		Use:               "logs [flags] CONTAINER",
		Short:             "Show what a container has written",
		Args:              only("container"),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	f.StringVarP(&tail, "tail", "n", "all", "only the last so many lines")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "put its time before each line")
	f.StringVar(&since, "since", "", "only lines from then on: a time (RFC 3339), or 10m for the last ten minutes")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		o := logfile.Options{Tail: logfile.All, Timestamps: timestamps}
		if tail != "all" {
			n, err := strconv.Atoi(tail)
			if err != nil || n < 0 {
				return fmt.Errorf("--tail %s: write a number, or all", tail)
			}
			o.Tail = n
		}
		var err error
		if o.Since, err = parseSince(since, time.Now()); err != nil {
			return err
		}
		return a.logs(ctx, c, args[0], follow, o)
	})
	return cmd
}

func (a *app) logs(ctx context.Context, c *client, ref string, follow bool, o logfile.Options) error {
	of, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	is, err := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: of.Id})
	if err != nil {
		return err
	}
	path := is.Status.LogPath
	if path == "" {
		return c.noLogFile(ctx, of.Id, of.name())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waited := make(chan error, 1)
	if follow {
		done := make(chan struct{})
		o.Done = done
		go func() {
			_, err := c.wait(ctx, of.Id)
			waited <- err
			close(done)
		}()
	} else {
		waited <- nil
	}
	err = logfile.Copy(path, o, a.stdout, a.stderr)
	if errors.Is(err, fs.ErrNotExist) && is.Status.State == cri.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("%s has not been started: there is no log yet", of.name())
	}
	if err != nil {
		return err
	}
	return <-waited
}

// noLogFile says where a container's output is that is in no file.
func (c *client) noLogFile(ctx context.Context, id, name string) error {
	is, err := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return err
	}
	var info struct{ LogDriver string }
	if err := json.Unmarshal([]byte(is.Info["info"]), &info); err != nil {
		return fmt.Errorf("%s: straked's answer: %w", name, err)
	}
	switch info.LogDriver {
	case logdriver.Journald:
		return fmt.Errorf("%s writes to the journal: read it by journalctl CONTAINER_ID=%s", name, id[:shortID])
	case logdriver.None:
		return fmt.Errorf("%s keeps no log: its log driver is %s", name, logdriver.None)
	}
	return fmt.Errorf("%s has no log: it was made without a log path", name)
}

// parseSince reads --since.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %s: write a time like 2006-01-02T15:04:05Z, or 10m for the last ten minutes", s)
}
