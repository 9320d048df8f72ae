package pod

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/pod/bundle"
)

// ids are far from what else this machine may map.
const mappedFrom, mappedIDs = 1_700_000_000, 65536

func userNS() *bundle.UserNamespace {
	table := []bundle.IDMapping{{HostID: mappedFrom, Length: mappedIDs}}
	return &bundle.UserNamespace{UIDs: table, GIDs: table}
}

// A pod with a user namespace: root in it is nobody on the host, everything of the
// image and of its volumes is root's in it, and all its namespaces are its own.
func TestRealUserNamespace(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	if !m.host.UserNS {
		t.Skip("needs Linux 6.8")
	}
	for _, name := range []string{"own-network", "host-network"} {
		hostNetwork := name == "host-network"
		config := n.pod(name)
		config.Namespaces.PID = bundle.NamespacePod
		config.Namespaces.User = userNS()
		config.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
		if hostNetwork {
			config.Namespaces.Network = bundle.NamespaceNode
		}
		pod := n.run(m, config)
		id := n.start(m, pod, n.mappedContainer("main"))
		n.checkUserNS(m, id)
		if got := n.sh(m, id, "cat /proc/sys/kernel/shm_rmid_forced; mount -t proc proc /mnt && echo mounted"); got != "1\nmounted\n" {
			t.Errorf("%s: inside: %q", name, got)
		}
		if !hostNetwork {
			got := n.sh(m, id, "cat /proc/sys/net/ipv4/ping_group_range; echo 1 > /proc/sys/net/ipv4/ip_forward && hostname x && hostname")
			if got != "0\t65535\nx\n" {
				t.Errorf("its network or UTS namespace is not its own: %q", got)
			}
		}

		// Another daemon, and another monitor, have it as it was.
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		m = n.open()
		n.checkUserNS(m, id)
		n.killMonitor()
		n.alive(m, id)
		n.checkUserNS(m, n.start(m, pod, n.mappedContainer("second")))
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
}

func itoa(pid int) string { return strconv.Itoa(pid) }

// mappedContainer has a volume with the pod's ids and two image volumes.
func (n *realNode) mappedContainer(name string) ContainerConfig {
	n.t.Helper()
	volume := filepath.Join(n.root, "volume")
	for _, d := range []string{volume, n.layer() + "-1/a", n.layer() + "-2/b"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	c := ContainerConfig{Name: name, Command: []string{"/bin/sh", "-c", "echo started; " + sleeper}, Mounts: []bundle.Mount{
		{ContainerPath: "/volume", HostPath: volume, UIDMappings: userNS().UIDs, GIDMappings: userNS().GIDs},
		{ContainerPath: "/image", Image: "data", Readonly: true},
		{ContainerPath: "/part", Image: "data", ImageSubPath: "b", Readonly: true},
	}}
	c.Namespaces.PID = bundle.NamespacePod
	c.Namespaces.User = userNS()
	c.Security.Capabilities.Add = []string{"SYS_ADMIN", "NET_ADMIN"}
	return c
}

// checkUserNS looks at a container from both sides.
func (n *realNode) checkUserNS(m *Manager, id string) {
	n.t.Helper()
	want := "0 0 /bin 0\n0 0 /bin/sh 0\n0 0 /etc/hosts 0\n0 0 /dev/shm 0\n0 0 /image/a 0\n0 0 /part 0\n0 0 /volume/file 0\n0 0 /new 0\n"
	got := n.sh(m, id, `touch /volume/file /new /dev/shm/file && echo x >> /etc/hosts
		for f in /bin /bin/sh /etc/hosts /dev/shm /image/a /part /volume/file /new; do echo $(stat -c '%u %g' $f) $f 0; done`)
	if got != want {
		n.t.Errorf("inside: %q, want %q", got, want)
	}
	c := mustContainer(n.t, m, id)
	if data, err := os.ReadFile("/proc/" + itoa(c.Pid) + "/uid_map"); err != nil || strings.Join(strings.Fields(string(data)), " ") != "0 1700000000 65536" {
		n.t.Errorf("uid_map: %q, %v", data, err)
	}
	for path, uid := range map[string]uint32{
		filepath.Join(n.root, "volume/file"):                          0,
		filepath.Join(m.store.ContainerDir(c.PodID, id), "upper/new"): mappedFrom,
		"/proc/" + itoa(c.Pid):                                        mappedFrom,
	} {
		info, err := os.Stat(path)
		if err != nil {
			n.t.Error(err)
			continue
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != uid {
			n.t.Errorf("%s is user %d's on the host, want %d", path, st.Uid, uid)
		}
	}
}

func TestUserNamespacesRefused(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	m.host.UserNS = false
	config := n.pod("refused")
	config.Namespaces.User = userNS()
	if _, err := m.RunPod(t.Context(), config, ""); !errors.Is(err, bundle.ErrUnsupported) || !strings.Contains(err.Error(), "userns_options") {
		t.Error(err)
	}
	n.run(m, n.pod("plain"))
}
