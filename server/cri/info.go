package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/pod"
)

// maxSpec bounds the config.json of a bundle.
const maxSpec = 16 << 20

// verbose packs v as CRI's info map: JSON under one key, as crictl expects.
func verbose(v any) (map[string]string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("verbose info: %w", err)
	}
	return map[string]string{"info": string(data)}, nil
}

// podInfo is what `crictl inspectp` shows beyond the status.
func (s *runtimeService) podInfo(p pod.PodStatus) (map[string]string, error) {
	spec, err := s.spec("pods", p.ID)
	if err != nil {
		return nil, err
	}
	return verbose(struct {
		SandboxID      string          `json:"sandboxID"`
		RuntimeHandler string          `json:"runtimeHandler"`
		NetNS          string          `json:"netns,omitempty"`
		Stage          string          `json:"stage,omitempty"`
		Config         pod.PodConfig   `json:"config"`
		RuntimeSpec    json.RawMessage `json:"runtimeSpec,omitempty"`
	}{p.ID, p.RuntimeHandler, p.NetNS, p.Stage, p.Config, spec})
}

// containerInfo is what `crictl inspect` shows beyond the status. Its names are
// those that scripts already read from other runtimes: pid, sandboxID, runtimeSpec.
func (s *runtimeService) containerInfo(c pod.ContainerStatus) (map[string]string, error) {
	spec, err := s.spec("pods", c.PodID, c.ID)
	if err != nil {
		return nil, err
	}
	return verbose(struct {
		SandboxID   string              `json:"sandboxID"`
		Pid         int                 `json:"pid"`
		Stage       string              `json:"stage,omitempty"`
		LogDriver   string              `json:"logDriver,omitempty"`
		Config      pod.ContainerConfig `json:"config"`
		RuntimeSpec json.RawMessage     `json:"runtimeSpec,omitempty"`
	}{c.PodID, c.Pid, c.Stage, c.LogDriver, c.Config, spec})
}

// imageInfo is what `crictl inspecti` shows: the image's configuration in the
// image-spec's own form, which critest and the kubelet's users read.
func imageInfo(i image.Image) (map[string]string, error) {
	type rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	type imageSpec struct {
		Created      any    `json:"created,omitempty"`
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Config       any    `json:"config"`
		RootFS       rootFS `json:"rootfs"`
	}
	spec := imageSpec{Architecture: i.Arch, OS: i.OS, Config: i.Config, RootFS: rootFS{"layers", i.DiffIDs}}
	if !i.Created.IsZero() {
		spec.Created = i.Created
	}
	return verbose(struct {
		Manifest  string            `json:"manifest"`
		Labels    map[string]string `json:"labels,omitempty"`
		ImageSpec imageSpec         `json:"imageSpec"`
	}{i.Manifest.String(), i.Labels, spec})
}

// spec reads a bundle's config.json; nil if the bundle is gone, as when the
// container has ended and the host was rebooted since.
func (s *runtimeService) spec(elem ...string) (json.RawMessage, error) {
	path := filepath.Join(append(append([]string{s.State}, elem...), "config.json")...)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("verbose info: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, fmt.Errorf("verbose info: %w", err)
	}
	if len(data) > maxSpec {
		return nil, fmt.Errorf("verbose info: %s is larger than %d bytes", path, maxSpec)
	}
	return data, nil
}
