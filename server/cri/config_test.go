package cri

import (
	"reflect"
	"slices"
	"testing"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/bundle"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func ptr[T any](v T) *T { return &v }

// TestNoFieldIsIgnored sets each field of the requests, one at a time: it must
// change what pod is asked for, or be refused by its name, or be listed here
// with the reason why neither is needed.
func TestNoFieldIsIgnored(t *testing.T) {
	podBase := func() *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{}}
	}
	containerBase := func() *runtimeapi.ContainerConfig {
		return &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{}, Image: &runtimeapi.ImageSpec{}}
	}
	for _, c := range []struct {
		name      string
		base      func() proto.Message
		translate func(proto.Message) (any, error)
		ignored   map[string]string // field: reason
	}{
		{
			name:      "pod",
			base:      func() proto.Message { return podBase() },
			translate: func(m proto.Message) (any, error) { return podConfig(m.(*runtimeapi.PodSandboxConfig)) },
		},
		{
			name:      "container",
			base:      func() proto.Message { return containerBase() },
			translate: func(m proto.Message) (any, error) { return containerConfig(m.(*runtimeapi.ContainerConfig)) },
			ignored: map[string]string{
				"image.annotations": "hints for choosing from an index, at pull time",
				"image.image_ref":   "of image volumes, not of a container's image",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain, err := c.translate(c.base())
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			eachField(c.base().ProtoReflect().Descriptor(), nil, func(path []protoreflect.FieldDescriptor) {
				name := dotted(path)
				seen[name] = true
				m := c.base()
				set(m.ProtoReflect(), path)
				got, err := c.translate(m)
				changed := err != nil || !reflect.DeepEqual(got, plain)
				if _, ignored := c.ignored[name]; changed == ignored {
					t.Errorf("%s: changed %v, listed as ignored %v", name, changed, ignored)
				}
			})
			for name := range c.ignored {
				if !seen[name] {
					t.Errorf("ignored list: there is no field %s", name)
				}
			}
		})
	}
}

// eachField calls fn with the path of every field that holds a value.
func eachField(d protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor, fn func([]protoreflect.FieldDescriptor)) {
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		path := append(slices.Clone(above), f)
		if f.Message() != nil && !f.IsMap() && f.Message().Name() != "Int64Value" {
			eachField(f.Message(), path, fn)
			continue
		}
		fn(path)
	}
}

func dotted(path []protoreflect.FieldDescriptor) string {
	name := ""
	for i, f := range path {
		if i > 0 {
			name += "."
		}
		name += string(f.Name())
	}
	return name
}

// set gives the field at path a value that is not its zero one.
func set(m protoreflect.Message, path []protoreflect.FieldDescriptor) {
	f := path[0]
	switch {
	case f.IsMap():
		m.Mutable(f).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
	case f.IsList() && f.Message() != nil:
		set(m.Mutable(f).List().AppendMutable().Message(), path[1:])
	case f.IsList():
		m.Mutable(f).List().Append(scalar(f))
	case len(path) > 1:
		set(m.Mutable(f).Message(), path[1:])
	case f.Message() != nil: // Int64Value: its presence is the value
		m.Mutable(f)
	default:
		m.Set(f, scalar(f))
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("runtime/default") // also the two deprecated profiles
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("b"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	default:
		return protoreflect.ValueOfUint64(1)
	}
}

func TestPodConfig(t *testing.T) {
	got, err := podConfig(&runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web", Uid: "u1", Namespace: "prod", Attempt: 2},
		Hostname:     "web",
		LogDirectory: "/var/log/pods/web",
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"prod.svc"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "127.0.0.1"}, {ContainerPort: 80}},
		Labels:       map[string]string{"app": "web"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod1",
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
					UsernsOptions: &runtimeapi.UserNamespace{Uids: []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}}},
				RunAsUser: &runtimeapi.Int64Value{Value: 0},
				Seccomp:   &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
			Sysctls: map[string]string{"kernel.shm_rmid_forced": "1"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := pod.PodConfig{
		Name: "web", UID: "u1", Namespace: "prod", Attempt: 2,
		Hostname: "web", LogDirectory: "/var/log/pods/web",
		DNS:          &bundle.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"prod.svc"}, Options: []string{"ndots:5"}},
		PortMappings: []bundle.PortMapping{{Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"}, {Protocol: "tcp", ContainerPort: 80}},
		Labels:       map[string]string{"app": "web"},
		CgroupParent: "/kubepods/pod1",
		Namespaces: bundle.Namespaces{Network: bundle.NamespaceNode, PID: bundle.NamespaceContainer,
			User: &bundle.UserNamespace{UIDs: []bundle.IDMapping{{HostID: 65536, Length: 65536}}}},
		Security: bundle.PodSecurity{RunAsUser: ptr(int64(0)), Seccomp: &bundle.Profile{Type: bundle.ProfileRuntimeDefault}},
		Sysctls:  map[string]string{"kernel.shm_rmid_forced": "1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestContainerConfig(t *testing.T) {
	got, err := containerConfig(&runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "nginx", Attempt: 1},
		Image:    &runtimeapi.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "nginx:1"},
		Command:  []string{"nginx"}, Args: []string{"-g", "daemon off;"}, WorkingDir: "/srv",
		Envs: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}},
		Mounts: []*runtimeapi.Mount{
			{ContainerPath: "/data", HostPath: "/srv/data", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/shared", HostPath: "/mnt", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
			{ContainerPath: "/img", Image: &runtimeapi.ImageSpec{Image: "busybox"}, ImageSubPath: "bin"},
		},
		Devices:    []*runtimeapi.Device{{ContainerPath: "/dev/a", HostPath: "/dev/b", Permissions: "rw"}},
		CDIDevices: []*runtimeapi.CDIDevice{{Name: "v.com/d=1"}},
		LogPath:    "nginx/0.log",
		StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Capabilities:       &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}},
				NamespaceOptions:   &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "c0"},
				SupplementalGroups: []int64{7}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict,
				MaskedPaths: []string{"/proc/kcore"},
				Seccomp:     &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p.json"},
				// The new field wins over the deprecated one.
				SeccompProfilePath: "unconfined",     //nolint:staticcheck // deprecated, yet sent by clients that are in use
				ApparmorProfile:    "localhost/mine", //nolint:staticcheck // deprecated, yet sent by clients that are in use
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := pod.ContainerConfig{
		Name: "nginx", Attempt: 1, Image: "sha256:abc", UserImage: "nginx:1",
		Command: []string{"nginx"}, Args: []string{"-g", "daemon off;"}, WorkingDir: "/srv",
		Env: []bundle.KeyValue{{Key: "A", Value: "1"}},
		Mounts: []bundle.Mount{
			{ContainerPath: "/data", HostPath: "/srv/data", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/shared", HostPath: "/mnt", Propagation: bundle.PropagationBidirectional},
			{ContainerPath: "/img", Image: "busybox", ImageSubPath: "bin"},
		},
		Devices:    []bundle.Device{{ContainerPath: "/dev/a", HostPath: "/dev/b", Permissions: "rw"}},
		CDIDevices: []string{"v.com/d=1"},
		LogPath:    "nginx/0.log",
		StopSignal: "SIGRTMINPLUS3",
		Resources:  &pod.Resources{MemoryLimit: 1 << 20, HugepageLimits: []bundle.HugepageLimit{{PageSize: "2MB", Limit: 4}}},
		Namespaces: bundle.Namespaces{PID: bundle.NamespaceTarget, TargetID: "c0"},
		Security: bundle.Security{
			Capabilities:       bundle.Capabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}},
			SupplementalGroups: []int64{7}, SupplementalGroupsPolicy: bundle.GroupsStrict,
			MaskedPaths: []string{"/proc/kcore"},
			Seccomp:     &bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: "/p.json"},
			AppArmor:    &bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: "mine"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRefused(t *testing.T) {
	meta := &runtimeapi.PodSandboxMetadata{}
	security := func(sc *runtimeapi.LinuxSandboxSecurityContext) *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{Metadata: meta, Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: sc}}
	}
	for want, c := range map[string]*runtimeapi.PodSandboxConfig{
		"config: is missing":            nil,
		"config.metadata: is missing":   {},
		"config.windows: not supported": {Metadata: meta, Windows: &runtimeapi.WindowsPodSandboxConfig{}},
		"linux.security_context.namespace_options.ipc: mode 9 is unknown": security(&runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Ipc: 9}}),
		"linux.security_context.seccomp.profile_type: 9 is unknown": security(&runtimeapi.LinuxSandboxSecurityContext{
			Seccomp: &runtimeapi.SecurityProfile{ProfileType: 9}}),
		`linux.security_context.seccomp: "maybe" is no profile`: security(&runtimeapi.LinuxSandboxSecurityContext{SeccompProfilePath: "maybe"}), //nolint:staticcheck // deprecated, yet sent by clients that are in use
	} {
		_, err := podConfig(c)
		if got := status.Convert(err).Message(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestLogDriver(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want        *bundle.LogConfig
		fails       bool
	}{
		{nil, nil, false},
		{map[string]string{strakev1.LogDriver: "none"}, &bundle.LogConfig{Driver: "none"}, false},
		{map[string]string{strakev1.LogOptions: `{"max-size":"1m"}`}, &bundle.LogConfig{Options: map[string]string{"max-size": "1m"}}, false},
		{map[string]string{strakev1.LogOptions: `{"max-size":1}`}, nil, true},
	} {
		got, err := containerConfig(&runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{}, Image: &runtimeapi.ImageSpec{}, Annotations: c.annotations,
		})
		if !reflect.DeepEqual(got.Log, c.want) || (err != nil) != c.fails {
			t.Errorf("%v: %+v, %v", c.annotations, got.Log, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{"": false, "0a1b": true, "../x": false, "a b": false, string(make([]byte, 300)): false} {
		if err := checkID("id", id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}
