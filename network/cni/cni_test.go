package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/network"
	"github.com/strake-containers/strake/network/netns"
)

const crashEnv = "STRAKE_TEST_CNI_CRASH" // directory of crashingProcess's node

// node is a CNI with directories of its own; the process's network namespace is
// its host.
type node struct {
	testing.TB
	*CNI
	dir  string
	pods int
}

// podCount makes ids that no other test has used: what the iptables plugins
// made for a lost namespace is there until the tests' own network goes.
var podCount int

func configIn(dir string) Config {
	return Config{
		ConfDir:  filepath.Join(dir, "net.d"),
		BinDirs:  []string{filepath.Join(dir, "bin"), "/opt/cni/bin", "/usr/lib/cni"},
		CacheDir: filepath.Join(dir, "cache"),
	}
}

func newNode(t testing.TB) *node {
	t.Helper()
	testutil.RequireRoot(t, "makes network namespaces and runs plugins")
	testutil.CheckLeaks(t)
	n := &node{TB: t, dir: t.TempDir()}
	n.CNI = New(configIn(n.dir))
	for _, dir := range []string{"net.d", "bin"} {
		n.ok(os.Mkdir(filepath.Join(n.dir, dir), 0o700))
	}
	self, err := os.Executable()
	n.ok(err)
	n.ok(os.Symlink(self, filepath.Join(n.dir, "bin", failpoint)))
	return n
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// conf writes a configuration file with plugins, as Go values.
func (n *node) conf(name, version string, plugins ...map[string]any) {
	n.Helper()
	data, err := json.Marshal(map[string]any{"cniVersion": version, "name": "test-net", "plugins": plugins})
	n.ok(err)
	n.file(name, string(data))
}

func (n *node) file(name, content string) {
	n.Helper()
	n.ok(os.WriteFile(filepath.Join(n.dir, "net.d", name), []byte(content), 0o600))
}

// failpoint is the plugin's configuration; what is verb, action, verb, action.
func (n *node) failpoint(what ...string) map[string]any {
	do := map[string]string{}
	for i := 0; i < len(what); i += 2 {
		do[what[i]] = what[i+1]
	}
	return map[string]any{"type": failpoint, "log": filepath.Join(n.dir, "log"), "do": do}
}

// calls returns and forgets the log of the plugin.
func (n *node) calls() (calls []call) {
	n.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "log"))
	if err != nil {
		return nil
	}
	n.ok(os.Remove(filepath.Join(n.dir, "log")))
	for line := range bytes.Lines(data) {
		var c call
		n.ok(json.Unmarshal(line, &c))
		calls = append(calls, c)
	}
	return calls
}

// verbs is calls as one string.
func (n *node) verbs() string {
	n.Helper()
	var verbs []string
	for _, c := range n.calls() {
		verbs = append(verbs, c.Verb)
	}
	return strings.Join(verbs, " ")
}

func (n *node) pod(ports ...network.PortMapping) network.Pod {
	n.Helper()
	n.pods++
	podCount++
	p := network.Pod{
		ID: fmt.Sprintf("pod-%d", podCount), Name: "web", Namespace: "shop", UID: "u-1",
		NetNS: filepath.Join(n.dir, "netns", fmt.Sprint(n.pods)), PortMappings: ports,
	}
	n.ok(netns.New(p.NetNS))
	n.Cleanup(func() { n.ok(netns.Remove(p.NetNS)) })
	return p
}

// again is a new process's CNI.
func (n *node) again() { n.CNI = New(n.config) }

// empty checks that no record and no cached result is left.
func (n *node) empty() {
	n.Helper()
	for _, dir := range []string{"pods", "results", "locks"} {
		entries, _ := os.ReadDir(filepath.Join(n.config.CacheDir, dir))
		for _, e := range entries {
			n.Errorf("left: %s/%s", dir, e.Name())
		}
	}
}

// realPlugins is Debian's bridge + host-local + portmap; its addresses are
// recorded in the returned directory.
func (n *node) realPlugins(more ...map[string]any) (leases string) {
	n.Helper()
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		if _, err := (&runner{}).FindInPath(name, n.config.BinDirs); err != nil {
			n.Skip("needs Debian's containernetworking-plugins: ", err)
		}
	}
	leases = filepath.Join(n.dir, "leases")
	n.conf("10-test.conflist", "1.0.0", append([]map[string]any{
		{
			"type": "bridge", "bridge": "cni-test0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": leases,
				"ranges": [][]map[string]string{{{"subnet": "10.77.0.0/27"}}},
				"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
			},
		},
		{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
	}, more...)...)
	n.Cleanup(func() {
		if l, err := netlink.LinkByName("cni-test0"); err == nil {
			n.ok(netlink.LinkDel(l))
		}
	})
	return leases
}

// leased lists the addresses that host-local has given.
func (n *node) leased(dir string) (ips []string) {
	n.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "test-net"))
	n.ok(err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "10.") {
			ips = append(ips, e.Name())
		}
	}
	return ips
}

func TestRealPlugins(t *testing.T) {
	n := newNode(t)
	leases := n.realPlugins()
	n.ok(n.Status(t.Context()))
	if n.CNI.Name() != "test-net" {
		t.Errorf("name %q", n.CNI.Name())
	}
	p := n.pod(network.PortMapping{HostPort: 23080, ContainerPort: 80})
	r, err := n.Setup(t.Context(), p)
	n.ok(err)
	if len(r.IPs) != 1 || r.IPs[0].String() != "10.77.0.2" || r.MAC == "" || len(r.Raw) == 0 {
		t.Errorf("result %+v", r)
	}
	n.ok(netns.Do(p.NetNS, func() error {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		return nil
	}))
	for _, addr := range []string{r.IPs[0].String() + ":80", "10.77.0.1:23080"} {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		n.ok(err)
		n.ok(c.Close())
	}

	n.again() // the same answer without a plugin
	n.ok(os.Remove(filepath.Join(n.dir, "net.d", "10-test.conflist")))
	same, err := n.Setup(t.Context(), p)
	if err != nil || same.IPs[0] != r.IPs[0] || same.MAC != r.MAC || same.Interfaces[0].Name != r.Interfaces[0].Name {
		t.Errorf("set up again: %+v, %v", same, err)
	}
	// The CHECK of Debian 12's portmap looks for IPv6 rules that it did not make.
	n.ok(n.Teardown(t.Context(), p))
	n.realPlugins()
	p.PortMappings = nil
	_, err = n.Setup(t.Context(), p)
	n.ok(err)
	n.ok(n.Check(t.Context(), p))
	n.ok(netns.Do(p.NetNS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	if err := n.Check(t.Context(), p); err == nil || !strings.Contains(err.Error(), "plugin bridge") {
		t.Errorf("Check without eth0: %v", err)
	}

	for range 2 {
		n.ok(n.Teardown(t.Context(), p))
	}
	n.empty()
	if ips := n.leased(leases); len(ips) != 0 {
		t.Errorf("addresses left: %v", ips)
	}
	if c, err := net.DialTimeout("tcp", "10.77.0.1:23080", time.Second); err == nil {
		c.Close()
		t.Error("the host port is still open")
	}
}

// TestReboot: the namespace has gone, or the caches too, or the record is torn.
func TestReboot(t *testing.T) {
	for _, lost := range []string{"netns", "results", "pods", "torn", "torn result"} {
		t.Run(lost, func(t *testing.T) {
			n := newNode(t)
			leases := n.realPlugins(n.failpoint())
			p := n.pod()
			_, err := n.Setup(t.Context(), p)
			n.ok(err)
			n.calls()

			n.again()
			n.ok(netns.Remove(p.NetNS))
			torn := func(dir, name string) {
				n.ok(os.WriteFile(filepath.Join(n.config.CacheDir, dir, name), []byte(`{"kin`), 0o600))
			}
			switch lost {
			case "results", "pods":
				n.ok(os.RemoveAll(filepath.Join(n.config.CacheDir, lost)))
			case "torn":
				torn("pods", p.ID+".json")
			case "torn result":
				torn("results", "test-net-"+p.ID+"-eth0")
			}
			n.ok(n.Teardown(t.Context(), p))
			n.empty()
			if ips := n.leased(leases); len(ips) != 0 {
				t.Errorf("addresses left: %v", ips)
			}
			calls := n.calls()
			if len(calls) != 1 || calls[0].Verb != "DEL" || calls[0].ID != p.ID || calls[0].NetNS != "" {
				t.Errorf("calls %+v, want one DEL without a namespace", calls)
			}
		})
	}
}

func TestHalfFailedAdd(t *testing.T) {
	n := newNode(t)
	leases := n.realPlugins(n.failpoint("ADD", "fail"))
	p := n.pod()
	_, err := n.Setup(t.Context(), p)
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "undo") {
		t.Errorf("DEL failed too: %v", err)
	}
	for _, want := range []string{"test-net", "10-test.conflist", "failpoint", "ADD", "no luck today", "try tomorrow"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error without %q: %v", want, err)
		}
	}
	var said *types.Error
	if !errors.As(err, &said) || said.Code != 100 {
		t.Errorf("the plugin's error is lost: %v", err)
	}
	if got := n.verbs(); got != "ADD DEL" {
		t.Errorf("calls %q", got)
	}
	n.empty()
	if ips := n.leased(leases); len(ips) != 0 {
		t.Errorf("addresses left: %v", ips)
	}

	// DEL fails as well: Teardown tries again, when it works.
	n.conf("10-test.conflist", "1.0.0", n.failpoint("ADD", "fail", "DEL", "exit"))
	if _, err = n.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), "undo") || !strings.Contains(err.Error(), "segmentation fault") {
		t.Errorf("ADD and DEL failed: %v", err)
	}
	if !n.Holds(p.ID) {
		t.Error("the record is lost")
	}
	if err := n.Teardown(t.Context(), p); err == nil {
		t.Error("Teardown: no error")
	}
	n.calls()
}

func TestFailures(t *testing.T) {
	for do, want := range map[string]string{
		"exit":       "segmentation fault",
		"bad json":   "unexpected end of JSON",
		"no address": "no address",
		"bad index":  "no interface 7",
		"flood":      "more than",
	} {
		t.Run(do, func(t *testing.T) {
			n := newNode(t)
			n.conf("10-test.conflist", "1.0.0", n.failpoint("ADD", do))
			p := n.pod()
			_, err := n.Setup(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "10-test.conflist") {
				t.Errorf("error %v, want %q", err, want)
			}
			if got := n.verbs(); got != "ADD DEL" {
				t.Errorf("calls %q", got)
			}
			n.empty()
		})
	}
}

func TestHang(t *testing.T) {
	n := newNode(t)
	n.config.Timeout = 5 * time.Second // enough for the DEL of a busy machine
	n.conf("10-test.conflist", "1.0.0", n.failpoint("ADD", "hang"))
	p := n.pod()
	_, err := n.Setup(t.Context(), p)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "plugin failpoint was killed") {
		t.Errorf("after the timeout: %v", err)
	}
	if got := n.verbs(); got != "ADD DEL" {
		t.Errorf("calls %q", got)
	}

	n.config.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // when the plugin runs
		for {
			if data, _ := os.ReadFile(filepath.Join(n.dir, "log")); bytes.HasSuffix(data, []byte("\n")) {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := n.Setup(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller has gone: %v", err)
	}
	calls := n.calls()
	if len(calls) != 2 || calls[0].Verb != "ADD" || calls[1].Verb != "DEL" {
		t.Fatalf("calls %+v: DEL is for the caller's end too", calls)
	}
	n.empty()
	// The plugin's child was killed with it; init reaps it in its own time.
	for deadline := time.Now().Add(time.Minute); syscall.Kill(-calls[0].Pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the plugin's child lives")
		}
	}
}

func TestConfiguration(t *testing.T) {
	n := newNode(t)
	not := func(want string) {
		t.Helper()
		if err := n.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), want) {
			t.Errorf("status %v, want %q", err, want)
		}
	}
	is := func(want string) {
		t.Helper()
		if err := n.Status(t.Context()); err != nil || n.CNI.Name() != want {
			t.Errorf("network %q, %v; want %q", n.CNI.Name(), err, want)
		}
	}
	not("no CNI configuration")
	if n.Configured() || n.CNI.Name() != "cni" {
		t.Errorf("configured %v, name %q", n.Configured(), n.CNI.Name())
	}
	if _, err := n.Setup(t.Context(), n.pod()); !errors.Is(err, network.ErrNotReady) {
		t.Errorf("Setup: %v", err)
	}
	n.ok(n.Teardown(t.Context(), network.Pod{ID: "unknown"}))

	n.file("05-broken.conflist", "{")
	n.file("06-empty.conflist", `{"cniVersion":"1.0.0","name":"empty","plugins":[]}`)
	n.file("07-name.conf", `{"cniVersion":"1.0.0","name":"../up","type":"failpoint"}`)
	n.file("08.txt", "not a configuration")
	not("05-broken.conflist")
	if !n.Configured() {
		t.Error("a wrong configuration is one")
	}
	n.file("50-one.conf", `{"cniVersion":"0.3.1","name":"one","type":"failpoint"}`)
	is("one")
	n.file("40-list.conf", `{"cniVersion":"1.0.0","name":"list-in-conf","plugins":[{"type":"failpoint"}]}`)
	is("list-in-conf")
	n.file("30-list.json", `{"cniVersion":"1.0.0","name":"json","type":"failpoint"}`)
	is("json")
	n.conf("20-list.conflist", "1.0.0", map[string]any{"type": "missing-plugin"})
	not("missing-plugin")
	n.ok(os.Remove(filepath.Join(n.dir, "net.d", "20-list.conflist")))
	is("json")
	// Plugins of a network in files of their own (CNI 1.1).
	n.ok(os.Mkdir(filepath.Join(n.dir, "net.d", "many"), 0o700))
	n.file("many/a.conf", `{"type":"failpoint","log":"`+filepath.Join(n.dir, "log")+`"}`)
	n.file("10-many.conflist", `{"cniVersion":"1.0.0","name":"many"}`)
	is("many")
	p := n.pod()
	_, err := n.Setup(t.Context(), p)
	n.ok(err)
	// The pod keeps its network when the configuration changes.
	n.ok(os.RemoveAll(filepath.Join(n.dir, "net.d")))
	n.ok(n.Teardown(t.Context(), p))
	if got := n.verbs(); got != "ADD DEL" {
		t.Errorf("calls %q", got)
	}
}

func TestArguments(t *testing.T) {
	n := newNode(t)
	plugin := n.failpoint()
	plugin["capabilities"] = map[string]bool{
		"portMappings": true, "bandwidth": true, "dns": true, "mac": true, "ips": true, "ipRanges": true,
		"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true,
	}
	n.conf("10-test.conflist", "1.0.0", plugin, n.failpoint())
	p := n.pod(network.PortMapping{HostPort: 1, ContainerPort: 2, Protocol: "UDP", HostIP: "192.0.2.1"}, network.PortMapping{ContainerPort: 3})
	p.Bandwidth.IngressRate = 1000
	p.DNS.Servers = []string{"192.0.2.53"}
	p.MAC, p.IPs = "02:00:00:00:00:02", []netip.Addr{netip.MustParseAddr("10.1.2.3")}
	p.IPRanges = [][]netip.Prefix{{netip.MustParsePrefix("10.1.2.0/24")}}
	p.CgroupParent, p.Annotations = "/pod", map[string]string{"a": "b"}
	r, err := n.Setup(t.Context(), p)
	n.ok(err)
	if fmt.Sprint(r.IPs) != "[10.1.2.3 fd00::3]" || r.MAC != "02:00:00:00:00:01" || len(r.DNS.Servers) != 1 {
		t.Errorf("result %+v", r)
	}
	calls := n.calls()
	if len(calls) != 2 || calls[0].IfName != "eth0" || calls[0].NetNS != p.NetNS || calls[0].Prev || !calls[1].Prev {
		t.Fatalf("calls %+v", calls)
	}
	if want := "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=" + p.ID + ";K8S_POD_UID=u-1"; calls[0].Args != want {
		t.Errorf("arguments %s", calls[0].Args)
	}
	const want = `{"runtimeConfig":{` +
		`"bandwidth":{"ingressBurst":4294967295,"ingressRate":1000},"cgroupPath":"/pod","dns":{"servers":["192.0.2.53"]},` +
		`"io.kubernetes.cri.pod-annotations":{"a":"b"},"ipRanges":[[{"subnet":"10.1.2.0/24"}]],"ips":["10.1.2.3"],` +
		`"mac":"02:00:00:00:00:02","portMappings":[{"containerPort":2,"hostIP":"192.0.2.1","hostPort":1,"protocol":"udp"}]}}`
	for i, want := range []string{want, `{}`} { // what it declares, and nothing else
		var got struct {
			RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
		}
		n.ok(json.Unmarshal(calls[i].Stdin, &got))
		if data, _ := json.Marshal(got); string(data) != want {
			t.Errorf("plugin %d is told %s", i, data)
		}
	}
	n.ok(n.Teardown(t.Context(), p))
	if calls := n.calls(); len(calls) != 2 || !calls[0].Prev || !calls[1].Prev {
		t.Errorf("DEL without the result: %+v", calls)
	}
}

func TestStatusAndGC(t *testing.T) {
	n := newNode(t)
	n.conf("10-test.conflist", "1.1.0", n.failpoint())
	n.ok(n.Status(t.Context()))
	keep, drop := n.pod(), n.pod()
	for _, p := range []network.Pod{keep, drop} {
		_, err := n.Setup(t.Context(), p)
		n.ok(err)
	}
	if got := n.verbs(); got != "STATUS ADD ADD" {
		t.Errorf("calls %q", got)
	}
	n.ok(n.GC(t.Context(), []string{keep.ID}))
	calls := n.calls()
	if len(calls) != 2 || calls[0].Verb != "DEL" || calls[0].ID != drop.ID || calls[1].Verb != "GC" ||
		!strings.Contains(string(calls[1].Stdin), `"cni.dev/valid-attachments":[{"containerID":"`+keep.ID+`","ifname":"eth0"}]`) {
		t.Errorf("calls %+v", calls)
	}
	if n.Holds(drop.ID) || !n.Holds(keep.ID) {
		t.Error("the wrong pod was dropped")
	}
	n.conf("10-test.conflist", "1.1.0", n.failpoint("STATUS", "fail", "GC", "fail"))
	if err := n.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("status %v", err)
	}
	if err := n.GC(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("GC %v", err)
	}
	n.empty()
}

// network writes the configuration of a network of that name with the failpoint.
func (n *node) network(name string, what ...string) {
	n.Helper()
	data, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{n.failpoint(what...)}})
	n.ok(err)
	n.file(name+".conflist", string(data))
}

// order is the calls, each as VERB NETWORK/INTERFACE.
func (n *node) order() string {
	n.Helper()
	var list []string
	for _, c := range n.calls() {
		var conf struct{ Name string }
		n.ok(json.Unmarshal(c.Stdin, &conf))
		list = append(list, c.Verb+" "+conf.Name+"/"+c.IfName)
	}
	return strings.Join(list, ", ")
}

func TestSeveralNetworks(t *testing.T) {
	n := newNode(t)
	n.config.Networks = 3
	n.again()
	n.network("1-cluster")
	n.network("2-storage", "ADD", "no address") // that is its business
	n.network("3-backup")
	n.network("4-spare")
	n.ok(n.Status(t.Context()))
	if got := n.order(); got != "STATUS 1-cluster/, STATUS 2-storage/, STATUS 3-backup/" || n.CNI.Name() != "1-cluster,2-storage,3-backup" {
		t.Errorf("%s: %s", n.CNI.Name(), got)
	}

	// One after the other; the addresses are the first one's, and so are host ports.
	p := n.pod(network.PortMapping{HostPort: 8080, ContainerPort: 80})
	p.MAC = "02:00:00:00:00:07"
	r, err := n.Setup(t.Context(), p)
	n.ok(err)
	if got := n.order(); got != "ADD 1-cluster/eth0, ADD 2-storage/eth1, ADD 3-backup/eth2" {
		t.Error(got)
	}
	if fmt.Sprint(r.IPs) != "[10.1.2.3 fd00::3]" || len(r.Interfaces) != 4 {
		t.Errorf("%+v", r)
	}
	for i := range 2 {
		if caps := runtimeConf(p, i).CapabilityArgs; (caps["portMappings"] != nil) != (i == 0) || (caps["mac"] != nil) != (i == 0) {
			t.Errorf("network %d: %v", i, caps)
		}
	}

	// Another daemon, whose configuration has another network before: what the pod has
	// stays its own.
	n.again()
	n.network("0-first")
	if again, err := n.Setup(t.Context(), p); err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
		t.Errorf("again %+v, %v", again, err)
	}
	n.ok(n.Check(t.Context(), p))
	n.ok(n.GC(t.Context(), []string{p.ID}))
	calls := n.calls()
	if len(calls) != 6 || !strings.Contains(string(calls[3].Stdin), `"cni.dev/valid-attachments":[]`) ||
		!strings.Contains(string(calls[4].Stdin), `"ifname":"eth0"`) || !strings.Contains(string(calls[5].Stdin), `"ifname":"eth1"`) {
		t.Errorf("CHECK and GC: %+v", calls)
	}
	n.ok(n.Teardown(t.Context(), p))
	if got := n.order(); got != "DEL 3-backup/eth2, DEL 2-storage/eth1, DEL 1-cluster/eth0" {
		t.Error(got)
	}
	n.empty()
}

func TestSeveralNetworksFail(t *testing.T) {
	n := newNode(t)
	n.config.Networks = 10
	n.again()
	n.network("1-a")
	n.network("2-b", "ADD", "fail")
	n.network("3-c")
	p := n.pod()
	if _, err := n.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), `"2-b"`) || errors.Is(err, network.ErrLeft) {
		t.Errorf("%v", err)
	}
	if got := n.order(); got != "ADD 1-a/eth0, ADD 2-b/eth1, DEL 2-b/eth1, DEL 1-a/eth0" {
		t.Error(got)
	}
	n.empty()

	// One DEL that fails keeps no other from being done, and none is done twice.
	n.network("2-b", "DEL", "fail")
	if _, err := n.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n.calls()
	if err := n.Teardown(t.Context(), p); err == nil || !strings.Contains(err.Error(), `"2-b"`) {
		t.Errorf("%v", err)
	}
	if got := n.order(); got != "DEL 3-c/eth2, DEL 2-b/eth1, DEL 1-a/eth0" {
		t.Error(got)
	}
	n.again()
	if err := n.Teardown(t.Context(), p); err == nil {
		t.Error("no error")
	}
	if got := n.order(); got != "DEL 2-b/eth1" {
		t.Error(got)
	}
	// A pod that is half gone is not there; it is set up anew, once DEL works.
	record := filepath.Join(n.config.CacheDir, "pods", p.ID+".json")
	data, err := os.ReadFile(record)
	n.ok(err)
	n.ok(os.WriteFile(record, bytes.ReplaceAll(data, []byte(`"DEL":"fail"`), []byte(`"DEL":""`)), 0o600))
	n.network("2-b")
	if _, err := n.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := n.order(); got != "DEL 2-b/eth1, ADD 1-a/eth0, ADD 2-b/eth1, ADD 3-c/eth2" {
		t.Error(got)
	}
	n.ok(n.Teardown(t.Context(), p))
	n.empty()

	// A broken file is an error: pods would lack its network. So are two of one name.
	n.file("4-d.conflist", "{")
	if err := n.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), "4-d.conflist") {
		t.Errorf("%v", err)
	}
	n.ok(os.Rename(filepath.Join(n.dir, "net.d", "3-c.conflist"), filepath.Join(n.dir, "net.d", "4-d.conflist")))
	n.ok(n.Status(t.Context()))
	n.network("3-c")
	if err := n.Status(t.Context()); err == nil || !strings.Contains(err.Error(), `the name "3-c" is that of the network in`) {
		t.Errorf("%v", err)
	}
	n.calls()
}

// crashingProcess begins an ADD that never ends.
func crashingProcess(dir string) {
	p := network.Pod{ID: "crash", NetNS: filepath.Join(dir, "netns", "1")}
	_, err := New(configIn(dir)).Setup(context.Background(), p)
	fmt.Fprintln(os.Stderr, "ADD ended:", err)
	os.Exit(1)
}

func TestCrash(t *testing.T) {
	n := newNode(t)
	leases := n.realPlugins(n.failpoint("ADD", "hang"))
	n.pod()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashEnv+"="+n.dir)
	cmd.Stderr = os.Stderr
	n.ok(cmd.Start())
	var calls []call
	for ; len(calls) == 0; calls = n.calls() {
		time.Sleep(10 * time.Millisecond)
	}
	n.ok(cmd.Process.Kill())
	_ = cmd.Wait() // killed
	if ips := n.leased(leases); len(ips) != 1 {
		t.Errorf("leased %v", ips)
	}
	// The plugin outlives the daemon; here it goes.
	n.ok(syscall.Kill(-calls[0].Pid, syscall.SIGKILL))

	n.again()
	n.ok(n.GC(t.Context(), nil))
	if ips := n.leased(leases); len(ips) != 0 {
		t.Errorf("addresses left: %v", ips)
	}
	n.empty()
}

// TestOrphan: a plugin that outlives its daemon has ended before DEL is run.
func TestOrphan(t *testing.T) {
	n := newNode(t)
	n.conf("10-test.conflist", "1.0.0", n.failpoint("ADD", "gate"))
	gate := filepath.Join(n.dir, "log.gate")
	n.ok(syscall.Mkfifo(gate, 0o600))
	n.pod()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashEnv+"="+n.dir)
	cmd.Stderr = os.Stderr
	n.ok(cmd.Start())
	logged := func(want string) bool {
		data, _ := os.ReadFile(filepath.Join(n.dir, "log")) // not yet there
		return strings.Contains(string(data), want)
	}
	for !logged("ADD") {
		time.Sleep(10 * time.Millisecond)
	}
	n.ok(cmd.Process.Kill())
	_ = cmd.Wait() // killed

	n.again()
	torn := make(chan error, 1)
	go func() { torn <- n.GC(t.Context(), nil) }()
	for i := 0; i < 20 && !logged("DEL"); i++ { // time enough to be wrong
		time.Sleep(10 * time.Millisecond)
	}
	n.ok(os.WriteFile(gate, nil, 0)) // blocks until the plugin opens it
	n.ok(<-torn)
	if verbs := n.verbs(); verbs != "ADD end of ADD DEL" {
		t.Errorf("verbs %q", verbs)
	}
	n.empty()
}

// TestArgsAreNoneOfThePods: CNI_ARGS joins names without quoting them.
func TestArgsAreNoneOfThePods(t *testing.T) {
	n := newNode(t)
	n.realPlugins()
	p := n.pod()
	p.Name = "web;IP=10.0.0.1"
	if _, err := n.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), p.Name) {
		t.Errorf("a name with an argument in it: error %v", err)
	}
	n.empty()
}

func TestNoLeak(t *testing.T) {
	n := newNode(t)
	leases := n.realPlugins()
	var wg sync.WaitGroup
	for range 4 {
		p := n.pod()
		wg.Go(func() {
			for range 25 { // 100 in all, in a subnet of 29
				_, err := n.Setup(t.Context(), p)
				if err == nil {
					err = n.Teardown(t.Context(), p)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n.empty()
	if ips := n.leased(leases); len(ips) != 0 {
		t.Errorf("addresses left: %v", ips)
	}
}

// A daemon that was killed before a plugin ran has left a lock and half a record.
// What a live pod has, and what somebody has locked, stays.
func TestGCRemovesLeftovers(t *testing.T) {
	n := newNode(t)
	cache := configIn(n.dir).CacheDir
	for _, name := range []string{"locks/live", "locks/held", "locks/gone", "pods/.strake-tmp-gone.json-1-0"} {
		n.ok(os.MkdirAll(filepath.Dir(filepath.Join(cache, name)), 0o700))
		n.ok(os.WriteFile(filepath.Join(cache, name), nil, 0o600))
	}
	held, err := os.Open(filepath.Join(cache, "locks", "held"))
	n.ok(err)
	defer func() { _ = held.Close() }()
	if taken, err := sys.TryLock(held); err != nil || !taken {
		t.Fatal(taken, err)
	}
	n.ok(n.GC(t.Context(), []string{"live"}))
	left, err := filepath.Glob(filepath.Join(cache, "*", "*"))
	n.ok(err)
	more, err := filepath.Glob(filepath.Join(cache, "*", ".strake-tmp-*"))
	n.ok(err)
	if got, want := append(left, more...), []string{cache + "/locks/held", cache + "/locks/live"}; !slices.Equal(got, want) {
		t.Errorf("left: %v", got)
	}
}
