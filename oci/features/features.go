// Package features tells what the runtime and the kernel that it runs on support, as
// features.md of the OCI runtime specification has it: strake-runtime prints it, the
// monitor gives it to containerd. It never asks the kernel itself.
package features

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/plan"
	"github.com/strake-containers/strake/oci/seccomp"
)

// Of is what a host with these facts offers.
func Of(h plan.Host) features.Features {
	yes := true
	flags := seccomp.Flags()
	if !h.AtLeast(5, 19) {
		flags = slices.DeleteFunc(flags, func(f string) bool { return f == string(specs.LinuxSeccompFlagWaitKillableRecv) })
	}
	return features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks: []string{
			"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
		},
		MountOptions: plan.MountOptions(),
		Linux: &features.Linux{
			Namespaces:   plan.NamespaceTypes(),
			Capabilities: plan.CapabilityNames(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(),
				Archs: seccomp.Archs(), KnownFlags: seccomp.Flags(), SupportedFlags: flags,
			},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: plan.MemoryPolicyModes(), Flags: plan.MemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{container.CRIUConfigAnnotation, cgroup.AnnotationPrefix, plan.KeepGroupsAnnotation},

		Annotations: map[string]string{"containers.strake.version": version.Version},
	}
}
