package bundle

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what was compiled with testdata/NAME.json.
func golden(t *testing.T, name string, got any) {
	t.Helper()
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, '\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s differs; look at what `go test -update` changes\n%s", path, data)
	}
}

func testPod() *PodConfig {
	return &PodConfig{
		Name: "web-0", Namespace: "default", UID: "1-2-3", LogDirectory: "/var/log/pods/web-0",
		CgroupParent: "/kubepods/burstable/pod1-2-3", Namespaces: Namespaces{PID: NamespaceContainer},
	}
}

func testUserNS() *UserNamespace {
	return &UserNamespace{
		UIDs: []IDMapping{{HostID: 100000, Length: 65536}}, GIDs: []IDMapping{{HostID: 200000, Length: 65536}},
	}
}

func testHost() *Host {
	return &Host{
		Hugetlb: true, SwapLimit: true, Layered: true,
		AppArmorLoaded: func(string) bool { return true },
		Seccomp: func(p Profile, bounding []string) (*specs.LinuxSeccomp, error) {
			return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, ListenerMetadata: string(p.Type) + " " + bounding[0]}, nil
		},
	}
}

func testInput() ContainerInput {
	return ContainerInput{
		ID: "c1", PodID: "p1", Pod: testPod(), Host: testHost(),
		Config: &ContainerConfig{Name: "main", Image: "nginx:latest"},
		Image: &v1.ImageConfig{
			User: "www", Env: []string{"PATH=/opt/bin:/bin", "LANG=C", "broken"}, Entrypoint: []string{"/entry"}, Cmd: []string{"-f"},
			WorkingDir: "/srv", StopSignal: "SIGQUIT",
		},
		Accounts: Accounts{
			Passwd: []byte("root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/bin/false\n"),
			Group:  []byte("root:x:0:\nwww:x:34:\nlogs:x:40:www,other\n"),
		},
		Sandbox: Sandbox{
			Namespaces: map[string]string{"network": "/run/netns/p1", "ipc": "/proc/7/fd/8", "uts": "/proc/7/fd/9", "pid": "/proc/7/fd/10"},
			Shm:        "/proc/7/fd/12", Hosts: "/p/hosts", Hostname: "/p/hostname", ResolvConf: "/p/resolv.conf",
		},
	}
}

func TestGoldenPods(t *testing.T) {
	for name, change := range map[string]func(*PodConfig){
		"pod-default":      func(*PodConfig) {},
		"pod-userns":       func(c *PodConfig) { c.Namespaces.User = testUserNS() },
		"pod-host-network": func(c *PodConfig) { c.Namespaces.Network = NamespaceNode },
		"pod-shared-pid": func(c *PodConfig) {
			c.Namespaces.PID = NamespacePod
			c.Hostname = "name"
			c.Sysctls = map[string]string{"net.core.somaxconn": "1024", "kernel.shmmax": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testPod()
			change(c)
			spec, err := Pod(PodInput{ID: "p1", Config: c, NetNS: "/run/netns/p1"})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, spec)
		})
	}
}

func TestGoldenContainers(t *testing.T) {
	for name, change := range map[string]func(*ContainerInput){
		"container-default": func(*ContainerInput) {},
		"container-full":    full,
		"container-privileged": func(in *ContainerInput) {
			in.Pod.Security.Privileged, in.Config.Security.Privileged = true, true
			in.Config.Security.MaskedPaths = []string{"/proc/kcore"}
			in.Config.Security.Seccomp = &Profile{Type: ProfileRuntimeDefault}
			in.Devices = []DeviceNode{{Path: "/dev/sda", Block: true, Major: 8, Mode: 0o660, Permissions: "rwm"}}
		},
		"container-host": func(in *ContainerInput) {
			in.Pod.Namespaces = Namespaces{Network: NamespaceNode, PID: NamespaceNode, IPC: NamespaceNode}
			in.Config.Namespaces = in.Pod.Namespaces
			in.Host.CgroupV2 = true
			in.Sandbox = Sandbox{Shm: "/dev/shm", Hosts: "/p/hosts", ResolvConf: "/p/resolv.conf"}
		},
		"container-userns": func(in *ContainerInput) {
			in.Pod.Namespaces.User, in.Config.Namespaces.User = testUserNS(), testUserNS()
			in.Sandbox.Namespaces["user"] = "/proc/7/fd/11"
			in.ImageMounts = map[int][]string{1: {"/layers/2", "/layers/1"}, 2: {"/layers/3"}}
			ids := testUserNS()
			in.Config.Mounts = []Mount{
				{ContainerPath: "/data", HostPath: "/h/1", UIDMappings: ids.UIDs, GIDMappings: ids.GIDs},
				{ContainerPath: "/imgs", Image: "data:2", Readonly: true},
				{ContainerPath: "/img", Image: "data:1", Readonly: true},
			}
		},
		"container-userns-host-network": func(in *ContainerInput) {
			in.Pod.Namespaces.User, in.Pod.Namespaces.Network = testUserNS(), NamespaceNode
			in.Sandbox.Namespaces = map[string]string{"user": "/proc/7/fd/11", "ipc": "/proc/7/fd/8"}
		},
		"container-shared-pid": func(in *ContainerInput) {
			in.Pod.Namespaces.PID = NamespacePod
			in.Config.TTY = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			change(&in)
			out, err := Container(in)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, out)
		})
	}
}

// full asks for everything at once.
func full(in *ContainerInput) {
	user, group := int64(1000), int64(2000)
	in.Host.CgroupV2, in.Host.AppArmor = true, true
	in.Labels = Labels{Process: "system_u:system_r:spc_t:s0:c1,c2", Mount: "system_u:object_r:container_file_t:s0:c1,c2"}
	in.TargetPID = "/proc/99/ns/pid"
	in.MaxPids = 4096
	in.Devices = []DeviceNode{
		{Path: "/dev/x", Major: 10, Minor: 1, Mode: 0o600, Permissions: "r"},
		{Path: "/dev/x", Major: 10, Minor: 2, Mode: 0o600, UID: 5, GID: 6, Permissions: "rw"},
	}
	in.ImageMounts = map[int][]string{6: {"/layers/1"}, 8: {"/layers/2", "/layers/1"}}
	in.Config = &ContainerConfig{
		Name: "main", Image: "nginx", Command: []string{"/run"}, Args: []string{"a b", ""}, WorkingDir: "work/../dir",
		Env: []KeyValue{{Key: "LANG", Value: "de"}, {Key: "NEW", Value: "a=b\nc"}, {Key: "EMPTY"}},
		Mounts: []Mount{
			{ContainerPath: "/data/deep/er", HostPath: "/h/2", Propagation: PropagationHostToContainer},
			{ContainerPath: "/data", HostPath: "/h/1", Readonly: true},
			{ContainerPath: "/etc/hosts", HostPath: "/h/hosts"},
			{ContainerPath: "/dev/shm", HostPath: "/h/shm"},
			{ContainerPath: "/rro/", HostPath: "/h/rro", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/bidi", HostPath: "/h/bidi", Propagation: PropagationBidirectional},
			{ContainerPath: "/img", Image: "data:1", Readonly: true},
			{ContainerPath: "/scratch", Tmpfs: 1 << 20},
			{ContainerPath: "/imgs", Image: "data:2", Readonly: true},
			{ContainerPath: "/mapped", HostPath: "/h/m", UIDMappings: []IDMapping{{5, 6, 7}}, GIDMappings: []IDMapping{{5, 6, 7}}},
		},
		TTY: true, StopSignal: "SIGRTMINPLUS3",
		Namespaces: Namespaces{PID: NamespaceTarget, TargetID: "other"},
		Resources: &Resources{
			CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, CpusetCPUs: "0-1", CpusetMems: "0",
			MemoryLimit: 1 << 28, OOMScoreAdj: 998, HugepageLimits: []HugepageLimit{{"2MB", 1 << 21}},
			Unified: map[string]string{"memory.high": "1000000"}, PidsLimit: 77,
		},
		Security: Security{
			Capabilities: Capabilities{Add: []string{"net_admin", "CAP_BPF"}, Drop: []string{"MKNOD", "NET_RAW"}, AddAmbient: []string{"NET_BIND_SERVICE"}},
			SELinux:      &SELinux{Type: "spc_t", Level: "s0:c1,c2"}, RunAsUser: &user, RunAsGroup: &group,
			ReadonlyRootfs: true, SupplementalGroups: []int64{7, 2000, 7}, NoNewPrivs: true,
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Seccomp:  &Profile{Type: ProfileLocalhost, LocalhostRef: "/p.json"},
			AppArmor: &Profile{Type: ProfileLocalhost, LocalhostRef: "localhost/mine"},
		},
	}
}
