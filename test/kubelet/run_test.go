package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/kubelet/apiserver"
	"github.com/strake-containers/strake/test/node"
)

// patience is how long the tests wait for what must come, on a busy machine too.
var patience = flag.Duration("patience", 4*time.Minute, "how long to wait for what must come")

// kubelet is a running kubelet; it ends with the test.
type kubelet struct {
	t        *testing.T // the one that started it; pods have their own
	n        *node.Node
	api      *apiserver.Server // nil: it is on its own
	dir      string
	port     int // HTTPS: logs, exec
	readOnly int // HTTP: pods, stats
	cgroups  cgroupRoot
	logFile  string
	process  *os.Process
	exited   chan struct{}
}

// config is the kubelet's. It must not touch the host's packet filter or want a
// lower OOM score than root may set. What it does now and then (look at logs, wait
// between restarts) it does often here.
const config = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: %[1]s/manifests
podLogsDir: %[1]s/logs
volumePluginDir: %[1]s/plugins
resolvConf: %[1]s/resolv.conf
containerRuntimeEndpoint: unix://%[2]s
imageServiceEndpoint: unix://%[2]s
cgroupDriver: %[6]s
cgroupRoot: %[5]s
failCgroupV1: false
address: 127.0.0.1
port: %[3]d
readOnlyPort: %[4]d
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
makeIPTablesUtilChains: false
oomScoreAdj: 0
failSwapOn: false
imageGCHighThresholdPercent: 100
fileCheckFrequency: 1s
syncFrequency: 2s
containerLogMaxSize: 4Ki
containerLogMaxFiles: 10
containerLogMonitorInterval: 3s
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
podPidsLimit: 100
nodeStatusUpdateFrequency: 1s
contentType: application/json
`

// noEviction has the kubelet never evict pods because this machine's disk is full.
const noEviction = `
enforceNodeAllocatable: []
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
`

// patient has the kubelet wait for straked on an emulated machine: what it gives up and
// does again counts as a restart.
const patient = "runtimeRequestTimeout: 15m\n"

// nodeIP is the node's where there is an API server: it may be none of 127/8, and
// this machine may have no other. It is documentation's (RFC 5737).
const nodeIP = "198.51.100.7"

// sysctls are what a kubelet sets for the whole host; the test puts them back.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// start starts a kubelet with what more of a configuration it is to have. With an
// API server it is a node there, and has the pods that are assigned to it.
func start(t *testing.T, n *node.Node, api *apiserver.Server, more string) *kubelet {
	t.Helper()
	dir, err := os.MkdirTemp("", "strake-kubelet-")
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{
		t: t, n: n, api: api, dir: dir, port: freePort(t), readOnly: freePort(t),
		logFile: filepath.Join(dir, "log"),
	}
	for _, sub := range []string{"manifests", "logs", "plugins", "root", "root/seccomp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k.write("resolv.conf", "nameserver 192.0.2.53\n")
	cgroups, configured := newCgroupRoot(t, filepath.Base(dir))
	k.cgroups = cgroups
	k.write("config.yaml", fmt.Sprintf(config, dir, n.Address, k.port, k.readOnly, configured, *cgroupDriver)+more)
	restoreSysctls(t)
	if api != nil {
		k.write("kubeconfig", api.Kubeconfig())
		addNodeIP(t)
	}
	k.run()
	t.Cleanup(func() {
		k.stop()
		k.end()
	})
	return k
}

// run starts its process.
func (k *kubelet) run() {
	k.t.Helper()
	log, err := os.OpenFile(k.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	args := []string{"--config", filepath.Join(k.dir, "config.yaml"), "--root-dir", k.root(),
		"--cert-dir", k.root(), "--hostname-override", nodeName, "--v", "2"}
	if k.api != nil {
		args = append(args, "--kubeconfig", filepath.Join(k.dir, "kubeconfig"), "--node-ip", nodeIP)
	}
	cmd, exited := exec.Command(os.Getenv("STRAKE_KUBELET"), args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its exit is what counts
		close(exited)
	}()
	k.process, k.exited = cmd.Process, exited
}

// stop ends its process, which leaves the pods alone.
func (k *kubelet) stop() {
	_ = k.process.Signal(syscall.SIGTERM) // it may have exited
	<-k.exited
}

func addNodeIP(t *testing.T) {
	t.Helper()
	ip := func(verb string) {
		t.Helper()
		if out, err := exec.Command("ip", "address", verb, nodeIP+"/32", "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("ip address %s: %v: %s", verb, err, out)
		}
	}
	ip("add")
	t.Cleanup(func() { ip("del") })
}

func (k *kubelet) write(name, content string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(content), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kubelet) root() string { return filepath.Join(k.dir, "root") }

// end removes the kubelet's directory and cgroups, after its exit.
func (k *kubelet) end() {
	if k.t.Failed() {
		if log, err := os.ReadFile(k.logFile); err == nil {
			k.t.Logf("the end of the kubelet's log:\n%s", log[max(0, len(log)-20000):])
		}
		if k.api != nil {
			for _, raw := range k.api.All("events") {
				var e struct{ Reason, Message string }
				_ = json.Unmarshal(raw, &e) // what is there may still help
				k.t.Logf("event %s: %s", e.Reason, e.Message)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own is done
		defer cancel()
		k.n.RemoveAll(ctx)
	}
	k.cgroups.remove(k.t)
	if k.t.Failed() { // it may have been ended before it undid a pod's volumes
		for _, at := range slices.Backward(k.mounts()) {
			if err := syscall.Unmount(at, 0); err != nil {
				k.t.Errorf("unmount %s: %v", at, err)
			}
		}
	}
	// The kubelet mounts its root on itself and leaves it.
	if err := syscall.Unmount(k.root(), 0); err != nil && !errors.Is(err, syscall.EINVAL) {
		k.t.Errorf("unmount %s: %v", k.root(), err)
		return // never delete through a mount
	}
	if err := os.RemoveAll(k.dir); err != nil {
		k.t.Error(err)
	}
}

// leftovers lists the cgroups of pods and the mounts that the kubelet made for them.
func (k *kubelet) leftovers() []string {
	left := slices.DeleteFunc(k.cgroups.dirs(), func(dir string) bool { return !isPod(dir) })
	for _, at := range k.mounts() {
		left = append(left, "mount "+at)
	}
	return left
}

// mounts lists the mount points below the kubelet's root, in the order they were made.
func (k *kubelet) mounts() []string {
	var points []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // procfs is there
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, k.root()+"/") {
			points = append(points, at)
		}
	}
	return points
}

// until waits for done, or fails the test with state's words.
func (k *kubelet) until(t *testing.T, what string, done func() bool, state func() any) {
	t.Helper()
	for deadline := time.Now().Add(*patience); !done(); {
		select {
		case <-k.exited:
			t.Fatal("the kubelet has exited")
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s\n%+v", *patience, what, state())
		}
	}
	t.Log(what)
}

// awaitNone waits until neither kubelet nor straked has a pod. The kubelet
// collects the sandboxes of removed pods once a minute.
func (k *kubelet) awaitNone() {
	k.t.Helper()
	var left []*cri.PodSandbox
	k.until(k.t, "no pod is left", func() bool {
		r, err := k.n.Runtime.ListPodSandbox(k.t.Context(), &cri.ListPodSandboxRequest{})
		left = r.GetItems()
		return err == nil && len(left) == 0 && len(k.pods()) == 0
	}, func() any { return left })
	for _, left := range append(k.n.Leftovers(), k.leftovers()...) {
		k.t.Errorf("left behind: %s", left)
	}
}

func restoreSysctls(t *testing.T) {
	for _, key := range sysctls {
		path := "/proc/sys/" + key
		old, err := os.ReadFile(path)
		if err != nil {
			continue // this kernel has none
		}
		t.Cleanup(func() {
			if now, _ := os.ReadFile(path); string(now) == string(old) {
				return
			}
			if err := os.WriteFile(path, old, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
