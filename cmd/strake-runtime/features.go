package main

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/host"
	"github.com/strake-containers/strake/oci/plan"
	"github.com/strake-containers/strake/oci/seccomp"
)

func bindFeatures(_ *app, _ *flags) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		if len(args) > 0 {
			return errors.New("features: takes no argument")
		}
		h, err := host.Facts()
		if err != nil {
			return err
		}
		return printJSON(featuresOf(h))
	}
}

func featuresOf(h plan.Host) features.Features {
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
