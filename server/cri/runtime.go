package cri

import (
	"context"
	"regexp"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/version"
)

const (
	runtimeName = "strake"
	// kubeletAPIVersion is what the kubelet has always asked for and compared.
	kubeletAPIVersion = "0.1.0"
	criVersion        = "v1"
)

func (s *runtimeService) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    semantic(version.Version),
		RuntimeApiVersion: criVersion,
	}, nil
}

var semver = regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+([-+]|$)`)

// semantic makes a version of a build that no tag names one that CRI takes: it has to
// be semver-compatible, or the node's is Unknown.
func semantic(version string) string {
	if semver.MatchString(version) {
		return version
	}
	return "0.0.0+" + version
}

// Status tells whether pods can run here. A network that is not ready makes the
// node not ready, and its message says what to do.
func (s *runtimeService) Status(_ context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := s.Pods.NetworkStatus(); err != nil {
		network.Status = false
		network.Reason = "NetworkNotReady"
		network.Message = err.Error()
	}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true},
			network,
		}},
		RuntimeHandlers: s.handlers(),
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if !r.GetVerbose() {
		return resp, nil
	}
	info, err := verbose(struct {
		Config  any    `json:"config"`
		Network string `json:"network"`
		State   any    `json:"state"`
	}{s.Config(), s.NetworkName(), s.Pods.Info()})
	if err != nil {
		return nil, asStatus(err)
	}
	resp.Info = info
	return resp, nil
}

// handlers lists the runtime handlers, the default one also under "", which is
// how a pod without a RuntimeClass asks for it.
func (s *runtimeService) handlers() []*runtimeapi.RuntimeHandler {
	var out []*runtimeapi.RuntimeHandler
	add := func(name string, h Handler) {
		out = append(out, &runtimeapi.RuntimeHandler{Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: h.RecursiveReadOnlyMount,
			UserNamespaces:          h.UserNamespaces,
		}})
	}
	all, byDefault := s.Handlers()
	for _, h := range all {
		if h.Name == byDefault {
			add("", h)
		}
		add(h.Name, h)
	}
	return out
}

// UpdateRuntimeConfig takes note of the node's pod CIDR. Neither a network
// plugin nor the bridge is configured that way here; refusing it would keep the
// kubelet from starting pods.
func (s *runtimeService) UpdateRuntimeConfig(_ context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	if cidr := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr(); cidr != "" {
		s.Log.Info("pod CIDR announced; the network's own configuration decides", "cidr", cidr)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

func (s *runtimeService) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if s.SystemdCgroup {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}
