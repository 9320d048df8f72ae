package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	cmd.AddCommand(a.statusCommand(), a.checkCommand(), a.eventsCommand(), a.dumpCommand(), a.reloadCommand())
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

func (a *app) dumpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Show what straked is doing at this moment: verbs, monitors, locks, goroutines",
		Long: `Show, as text, the verbs under way with their step and since when, the monitors and their
pods, the locks that goroutines wait for, and all goroutines. It answers also when verbs hang.`,
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		stream, err := c.strake.Dump(ctx, &strakev1.DumpRequest{})
		if err != nil {
			return err
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := a.stdout.Write(r.Data); err != nil {
				return err
			}
		}
	})
	return cmd
}

func (a *app) reloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have straked read its configuration again, and show what has changed",
		Long: `Have straked read its configuration again, as SIGHUP does, and show which keys have changed.
Keys that only a restart changes are named and refused, and the command fails. A
configuration that is wrong changes nothing: every wrong key is named with its file and line.`,
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		r, err := c.strake.Reload(ctx, &strakev1.ReloadRequest{})
		if err != nil {
			return err
		}
		for _, file := range r.Files {
			fmt.Fprintf(a.stdout, "read %s\n", file)
		}
		for _, key := range r.Changed {
			fmt.Fprintf(a.stdout, "changed %s\n", key)
		}
		if len(r.Refused) > 0 {
			return fmt.Errorf("refused until a restart of straked, which pods do not notice, or, of a runtime, while there are pods of it: %s", strings.Join(r.Refused, ", "))
		}
		return nil
	})
	return cmd
}

// event is one line of `strake system events --json`.
type event struct {
	Time      time.Time         `json:"time"`
	Kind      string            `json:"kind"` // pod or container
	Event     string            `json:"event"`
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"` // of the container
	Pod       string            `json:"pod"`            // NAMESPACE/NAME
	PodID     string            `json:"podId"`
	ExitCode  *int32            `json:"exitCode,omitempty"` // with stopped
	Reason    string            `json:"reason,omitempty"`
	PodLabels map[string]string `json:"podLabels,omitempty"`
}

// newEvent makes an event of CRI's. The sandbox's own have its id as the container's.
func newEvent(r *cri.ContainerEventResponse) event {
	p := r.GetPodSandboxStatus()
	e := event{
		Time: time.Unix(0, r.CreatedAt).UTC(), Kind: "container", ID: r.ContainerId, PodID: p.GetId(), PodLabels: p.GetLabels(),
		Event: strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(r.ContainerEventType.String(), "CONTAINER_"), "_EVENT")),
		Pod:   p.GetMetadata().GetNamespace() + "/" + p.GetMetadata().GetName(),
	}
	if r.ContainerId == p.GetId() {
		e.Kind = "pod"
	}
	for _, c := range r.ContainersStatuses {
		if c.Id != r.ContainerId {
			continue
		}
		e.Name = c.GetMetadata().GetName()
		if r.ContainerEventType == cri.ContainerEventType_CONTAINER_STOPPED_EVENT {
			e.ExitCode, e.Reason = &c.ExitCode, c.Reason
		}
	}
	return e
}

func (e event) String() string {
	text := fmt.Sprintf("%s %s %s %.12s %s", e.Time.Format(time.RFC3339Nano), e.Kind, e.Event, e.ID, e.Pod)
	if e.Name != "" {
		text += "/" + e.Name
	}
	if e.ExitCode != nil {
		text += fmt.Sprintf(" exit=%d reason=%s", *e.ExitCode, e.Reason)
	}
	return text
}

func (a *app) eventsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Follow what happens to pods and containers, a line for each event",
		Long: `Follow what happens to pods and containers from now on, a line for each event, until you
end it: created, started, stopped, deleted. Who falls far behind is told so by an error.`,
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "each event as a JSON object on a line of its own")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		from := time.Now()
		stream, err := c.pods.GetContainerEvents(ctx, &cri.GetEventsRequest{})
		if err != nil {
			return err
		}
		for {
			r, err := stream.Recv()
			if err != nil {
				return err
			}
			e := newEvent(r)
			if e.Time.Before(from) {
				continue // told again, because straked was restarted since
			}
			text := []byte(e.String())
			if asJSON {
				if text, err = json.Marshal(e); err != nil {
					return err
				}
			}
			if _, err := a.stdout.Write(append(text, '\n')); err != nil {
				return err
			}
		}
	})
	return cmd
}
