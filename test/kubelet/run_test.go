package kubelet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// kubelet is a running kubelet; it ends with the test.
type kubelet struct {
	t        *testing.T
	n        *node.Node
	dir      string
	port     int // HTTPS: logs, exec
	readOnly int // HTTP: pods, stats
	cgroups  string
	logFile  string
	exited   chan struct{}
}

// config is the kubelet's. Without an API server it has no pods but the
// manifests'; it must not touch the host's packet filter, evict pods because
// this machine's disk is full, or want a lower OOM score than root may set.
const config = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: %[1]s/manifests
podLogsDir: %[1]s/logs
volumePluginDir: %[1]s/plugins
resolvConf: %[1]s/resolv.conf
containerRuntimeEndpoint: unix://%[2]s
imageServiceEndpoint: unix://%[2]s
cgroupDriver: cgroupfs
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
enforceNodeAllocatable: []
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
fileCheckFrequency: 1s
syncFrequency: 2s
`

// sysctls are what a kubelet sets for the whole host; the test puts them back.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func start(t *testing.T, n *node.Node) *kubelet {
	t.Helper()
	program := os.Getenv("STRAKE_KUBELET")
	if program == "" {
		t.Skip("needs a kubelet: make test-kubelet")
	}
	dir, err := os.MkdirTemp("", "strake-kubelet-")
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{
		t: t, n: n, dir: dir, port: freePort(t), readOnly: freePort(t),
		cgroups: "/" + filepath.Base(dir), logFile: filepath.Join(dir, "log"), exited: make(chan struct{}),
	}
	for _, sub := range []string{"manifests", "logs", "plugins", "root"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k.write("resolv.conf", "nameserver 192.0.2.53\n")
	k.write("config.yaml", fmt.Sprintf(config, dir, n.Address, k.port, k.readOnly, k.cgroups))
	for _, root := range hierarchies() {
		if err := os.Mkdir(root+k.cgroups, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	restoreSysctls(t)

	log, err := os.Create(k.logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "--config", filepath.Join(dir, "config.yaml"), "--root-dir", k.root(),
		"--cert-dir", k.root(), "--hostname-override", "strake-test", "--v", "2")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its exit is what counts
		close(k.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have exited
		<-k.exited
		k.end()
	})
	return k
}

func (k *kubelet) write(name, content string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.dir, name), []byte(content), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kubelet) root() string { return filepath.Join(k.dir, "root") }

// manifest adds, changes or (without content) removes a static pod.
func (k *kubelet) manifest(name, content string) {
	k.t.Helper()
	if content == "" {
		if err := os.Remove(filepath.Join(k.dir, "manifests", name)); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	k.write(filepath.Join("manifests", name), content)
}

// end removes the kubelet's directory and cgroups, after its exit.
func (k *kubelet) end() {
	if k.t.Failed() {
		if log, err := os.ReadFile(k.logFile); err == nil {
			k.t.Logf("the end of the kubelet's log:\n%s", log[max(0, len(log)-20000):])
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own is done
		defer cancel()
		k.n.RemoveAll(ctx)
	}
	for _, c := range k.cgroupDirs() {
		if err := os.Remove(c); err != nil {
			k.t.Error(err)
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

// podName is the manifest's name and the node's.
const podName = "web-strake-test"

// staticPod is the part of a v1.Pod that the test looks at.
type staticPod struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase, PodIP                             string
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name, ContainerID string
	Ready             bool
	RestartCount      int
	State, LastState  struct {
		Waiting    struct{ Reason, Message string }
		Terminated struct {
			ExitCode        int
			Reason, Message string
		}
	}
}

func (p *staticPod) container(name string) containerStatus {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return containerStatus{}
}

func (p *staticPod) ip(t *testing.T) netip.Addr {
	t.Helper()
	ip, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil {
		t.Error(err)
	}
	return ip
}

// pod is the kubelet's only pod, empty without one.
func (k *kubelet) pod() *staticPod {
	var list struct{ Items []staticPod }
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/pods", k.readOnly))
	if err != nil {
		return &staticPod{} // it does not listen yet
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil || len(list.Items) == 0 {
		return &staticPod{}
	}
	return &list.Items[0]
}

// until waits for done, or fails the test with state's words.
func (k *kubelet) until(what string, timeout time.Duration, done func() bool, state func() any) {
	k.t.Helper()
	for deadline := time.Now().Add(timeout); !done(); {
		select {
		case <-k.exited:
			k.t.Fatal("the kubelet has exited")
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("not within %s: %s\n%+v", timeout, what, state())
		}
	}
	k.t.Log(what)
}

// await waits for the pod to be as done says.
func (k *kubelet) await(what string, timeout time.Duration, done func(*staticPod) bool) *staticPod {
	k.t.Helper()
	p := k.pod()
	k.until(what, timeout, func() bool { p = k.pod(); return done(p) }, func() any { return p.Status })
	return p
}

// awaitNone waits until neither kubelet nor straked has a pod. The kubelet
// collects the sandboxes of removed pods once a minute.
func (k *kubelet) awaitNone(timeout time.Duration) {
	k.t.Helper()
	var left []*cri.PodSandbox
	k.until("no pod is left", timeout, func() bool {
		r, err := k.n.Runtime.ListPodSandbox(k.t.Context(), &cri.ListPodSandboxRequest{})
		left = r.GetItems()
		return err == nil && len(left) == 0 && k.pod().Metadata.Name == ""
	}, func() any { return left })
}

// awaitStats waits until the kubelet's summary has the container's CPU time and memory.
func (k *kubelet) awaitStats(name string, timeout time.Duration) {
	k.t.Helper()
	var summary struct {
		Pods []struct {
			PodRef     struct{ Name string }
			Containers []struct {
				Name   string
				CPU    struct{ UsageCoreNanoSeconds uint64 }
				Memory struct{ WorkingSetBytes uint64 }
			}
		}
	}
	var body string
	k.until("the stats summary has "+name, timeout, func() bool {
		body = get(k.t, fmt.Sprintf("http://127.0.0.1:%d/stats/summary", k.readOnly))
		if json.Unmarshal([]byte(body), &summary) != nil {
			return false
		}
		for _, p := range summary.Pods {
			for _, c := range p.Containers {
				if p.PodRef.Name == podName && c.Name == name && c.CPU.UsageCoreNanoSeconds > 0 && c.Memory.WorkingSetBytes > 0 {
					return true
				}
			}
		}
		return false
	}, func() any { return body })
}

// log is what the container's current or last run has written, by the kubelet.
func (k *kubelet) log(name string) string {
	k.t.Helper()
	status, body := k.https(http.MethodGet, "/containerLogs/default/"+podName+"/"+name, nil)
	if status != http.StatusOK {
		k.t.Errorf("logs of %s: %d %s", name, status, body)
	}
	return body
}

// run runs a command by the kubelet's run handler (CRI's ExecSync), which
// splits it at spaces.
func (k *kubelet) run(name string, command ...string) (status int, output string) {
	k.t.Helper()
	return k.https(http.MethodPost, "/run/default/"+podName+"/"+name, url.Values{"cmd": {strings.Join(command, " ")}})
}

func (k *kubelet) https(method, path string, query url.Values) (status int, body string) {
	k.t.Helper()
	u := url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", k.port), Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(k.t.Context(), method, u.String(), nil)
	if err != nil {
		k.t.Fatal(err)
	}
	// Its certificate is its own.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	return read(k.t, client.Do)(request)
}

func get(t *testing.T, url string) string {
	t.Helper()
	status, body := read(t, http.Get)(url)
	if status != http.StatusOK {
		t.Errorf("%s: %d %s", url, status, body)
	}
	return body
}

// read makes a function that does a request one that returns the whole answer.
func read[R any](t *testing.T, do func(R) (*http.Response, error)) func(R) (status int, body string) {
	return func(r R) (int, string) {
		t.Helper()
		response, err := do(r)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
		}
		return response.StatusCode, string(body)
	}
}

// cgroup is a path below the kubelet's root, the same in every hierarchy.
func (k *kubelet) cgroup(parts ...string) string {
	return filepath.Join(append([]string{k.cgroups, "kubepods"}, parts...)...)
}

// limits reads a cgroup's limits from the kernel.
func (k *kubelet) limits(cgroup string) string {
	k.t.Helper()
	file := func(path string) string {
		data, err := os.ReadFile("/sys/fs/cgroup/" + path)
		if err != nil {
			k.t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
	if unified() {
		return fmt.Sprintf("memory %s, cpu %s", file(cgroup+"/memory.max"), strings.ReplaceAll(file(cgroup+"/cpu.max"), " ", "/"))
	}
	return fmt.Sprintf("memory %s, cpu %s/%s", file("memory"+cgroup+"/memory.limit_in_bytes"),
		file("cpu"+cgroup+"/cpu.cfs_quota_us"), file("cpu"+cgroup+"/cpu.cfs_period_us"))
}

// leftovers lists the cgroups and mounts of pods.
func (k *kubelet) leftovers() []string {
	left := slices.DeleteFunc(k.cgroupDirs(), func(dir string) bool { return !strings.Contains(dir, "/pod") })
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // procfs is there
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, k.dir) && at != k.root() {
			left = append(left, "mount "+at)
		}
	}
	return left
}

// cgroupDirs lists the kubelet's cgroups in every hierarchy, the deepest first.
func (k *kubelet) cgroupDirs() []string {
	var dirs []string
	for _, root := range hierarchies() {
		_ = filepath.WalkDir(root+k.cgroups, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil // what has gone is what we want
		})
	}
	return dirs
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// hierarchies are the mount points of the cgroup file systems.
func hierarchies() []string {
	if unified() {
		return []string{"/sys/fs/cgroup"}
	}
	var roots []string
	entries, _ := os.ReadDir("/sys/fs/cgroup") // it is there
	for _, e := range entries {
		if e.IsDir() { // the rest are links to combined ones
			roots = append(roots, filepath.Join("/sys/fs/cgroup", e.Name()))
		}
	}
	return roots
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
