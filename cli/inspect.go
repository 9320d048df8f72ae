package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// containerView is a container as inspect shows it.
type containerView struct {
	Type        string            `json:"type"` // "container"
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Pod         string            `json:"pod"` // id
	Image       string            `json:"image"`
	ImageID     string            `json:"imageId"`
	State       string            `json:"state"` // created, running, exited or unknown
	ExitCode    int32             `json:"exitCode"`
	Reason      string            `json:"reason,omitempty"`
	Message     string            `json:"message,omitempty"`
	Created     *time.Time        `json:"created"`
	Started     *time.Time        `json:"started"`
	Finished    *time.Time        `json:"finished"`
	IPs         []string          `json:"ips"`
	Ports       string            `json:"ports,omitempty"`
	Mounts      []mountView       `json:"mounts"`
	Memory      int64             `json:"memory,omitempty"`    // bytes
	CPUQuota    int64             `json:"cpuQuota,omitempty"`  // µs in each period
	CPUPeriod   int64             `json:"cpuPeriod,omitempty"` // µs
	LogPath     string            `json:"logPath,omitempty"`
	Runtime     string            `json:"runtime,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Info        json.RawMessage   `json:"info,omitempty"` // what straked adds
}

type mountView struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly"`
}

// imageView is an image as inspect shows it.
type imageView struct {
	Type     string          `json:"type"` // "image"
	ID       string          `json:"id"`
	Tags     []string        `json:"tags"`
	Digests  []string        `json:"digests"`
	Manifest string          `json:"manifest"`
	Size     int64           `json:"size"` // bytes
	Created  *time.Time      `json:"created"`
	OS       string          `json:"os"`
	Arch     string          `json:"architecture"`
	DiffIDs  []string        `json:"diffIds"`
	Config   json.RawMessage `json:"config"` // the OCI image configuration
}

func (a *app) inspectCommand() *cobra.Command {
	var format, kind string
	cmd := &cobra.Command{
		Use:   "inspect [flags] NAME...",
		Short: "Show containers or images in full, as JSON",
		Example: `  strake inspect web
  strake inspect -f '{{.state}} {{.exitCode}}' web`,
		Args: needs(1, "a container or an image"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, to string) ([]cobra.Completion, cobra.ShellCompDirective) {
			containers, directive := a.completeContainers(cmd, args, to)
			images, _ := a.completeImages(cmd, args, to)
			return append(containers, images...), directive
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print with this Go template instead, on the fields of the JSON")
	cmd.Flags().StringVar(&kind, "type", "", "container or image (default: a container, else an image)")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		var t *template.Template
		if format != "" {
			var err error
			if t, err = template.New("--format").Option("missingkey=error").Parse(format); err != nil {
				return err
			}
		}
		var views []any
		for _, ref := range args {
			v, err := inspect(ctx, c, kind, ref)
			if err != nil {
				return err
			}
			views = append(views, v)
		}
		return a.show(views, t)
	})
	return cmd
}

// show prints the views as a JSON array, or each with the template.
func (a *app) show(views []any, t *template.Template) error {
	text, err := jsonText(views)
	if err != nil {
		return err
	}
	if t == nil {
		_, err = a.stdout.Write(text)
		return err
	}
	// The template sees what the JSON shows, under the same names.
	var fields []any
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	for _, f := range fields {
		if err := t.Execute(a.stdout, f); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	return nil
}

// jsonText is JSON for people: indented, and < and > as they are.
func jsonText(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

func inspect(ctx context.Context, c *client, kind, ref string) (any, error) {
	var noContainer error
	switch kind {
	case "", "container":
		x, err := c.container(ctx, ref)
		if err == nil {
			return inspectContainer(ctx, c, x)
		}
		if noContainer = err; kind == "container" {
			return nil, err
		}
	case "image":
	default:
		return nil, fmt.Errorf("--type %s: choose container or image", kind)
	}
	img, err := c.strake.InspectImage(ctx, &strakev1.InspectImageRequest{Reference: ref})
	switch {
	case err == nil:
		return inspectImage(img), nil
	case kind == "image":
		return nil, err
	case isNotFound(err):
		return nil, fmt.Errorf("no such container or image: %s: see strake ps -a and strake images", ref)
	}
	return nil, noContainer
}

func inspectContainer(ctx context.Context, c *client, x container) (any, error) {
	res, err := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: x.Id, Verbose: true})
	if err != nil {
		return nil, err
	}
	s := res.Status
	v := containerView{
		Type: "container", ID: s.Id, Name: x.name(), Pod: x.PodSandboxId,
		Image: imageName(x), ImageID: s.ImageId,
		State:    strings.ToLower(strings.TrimPrefix(s.State.String(), "CONTAINER_")),
		ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Created: unixTime(s.CreatedAt), Started: unixTime(s.StartedAt), Finished: unixTime(s.FinishedAt),
		Ports: s.Annotations[annotationPorts], LogPath: s.LogPath,
		Labels: s.Labels, Annotations: s.Annotations,
		IPs: []string{}, Mounts: []mountView{},
	}
	if r := s.GetResources().GetLinux(); r != nil {
		v.Memory, v.CPUQuota, v.CPUPeriod = r.MemoryLimitInBytes, r.CpuQuota, r.CpuPeriod
	}
	for _, m := range s.Mounts {
		v.Mounts = append(v.Mounts, mountView{Source: m.HostPath, Target: m.ContainerPath, ReadOnly: m.Readonly})
	}
	if info := res.Info["info"]; json.Valid([]byte(info)) {
		v.Info = json.RawMessage(info)
	}
	pod, err := c.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: x.PodSandboxId})
	if err != nil {
		return nil, err
	}
	v.Runtime = pod.Status.RuntimeHandler
	if n := pod.Status.Network; n != nil && n.Ip != "" {
		v.IPs = append(v.IPs, n.Ip)
		for _, more := range n.AdditionalIps {
			v.IPs = append(v.IPs, more.Ip)
		}
	}
	return v, nil
}

func inspectImage(r *strakev1.InspectImageResponse) any {
	return imageView{
		Type: "image", ID: r.Image.GetId(), Tags: r.Image.GetTags(), Digests: r.Image.GetDigests(),
		Manifest: r.ManifestDigest, Size: r.Image.GetSize(), Created: unixTime(r.CreatedAt),
		OS: r.Os, Arch: r.Architecture, DiffIDs: r.DiffIds, Config: json.RawMessage(r.Config),
	}
}
