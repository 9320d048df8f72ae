package kubelet

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// apiManifests are of pods that only an API server's kubelet has.
var apiManifests = []manifest{
	{"node", nothingPod, nil, checkNode},
	{"status", statusPod, prepareStatus, checkStatus},
	{"configs", configsPod, nil, checkConfigs},
	{"class", classPod, prepareClass, checkClass},
	{"noclass", noClassPod, nil, checkNoClass},
	{"debugged", debuggedPod, nil, checkDebugged},
	{"resized", resizedPod, nil, checkResized},
	{"disk", diskPod, nil, checkDisk},
	{"patience", patiencePod, nil, checkPatience},
	{"metrics", nothingPod, nil, checkMetrics},
	{"restart", nothingPod, nil, checkKubeletRestart},
}

// sources has the kubelet take from the runtime all that it can: statistics, and
// what happens to containers in place of a look at all of them each second. With the
// third gate pods have stop signals.
const sources = `
featureGates: {PodAndContainerStatsFromCRI: true, EventedPLEG: true, ContainerStopSignals: true}
`

func TestAPIManifests(t *testing.T) {
	if os.Getenv("STRAKE_KUBELET") == "" {
		t.Skip("needs a kubelet: make test-kubelet")
	}
	n := node.Start(t, node.Options{CgroupDriver: *cgroupDriver, Config: "[runtimes.other]\ntype = \"strake\"\n"})
	start(t, n, startAPI(t), noEviction+sources).runAll(apiManifests)
}

const nothingPod = `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: {{.Image}}}]
`

// checkNode looks at what straked says of itself, as the node has it. Whether there
// are user namespaces depends on the kernel.
func checkNode(p *pod) {
	p.awaitReady()
	runtime, err := p.k.n.Runtime.Status(p.t.Context(), &cri.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	want := map[string]bool{}
	for _, h := range runtime.RuntimeHandlers {
		want[h.Name] = h.Features.UserNamespaces
	}
	version := regexp.MustCompile(`^strake://v?[0-9]+\.[0-9]+\.[0-9]+`)
	p.k.awaitNode(p.t, "the node is ready and knows its runtime", func(n *nodeStatus) bool {
		got := map[string]bool{}
		for _, h := range n.Status.RuntimeHandlers {
			if h.Features.RecursiveReadOnlyMounts {
				got[h.Name] = h.Features.UserNamespaces
			}
		}
		_, other := got["other"]
		return n.condition("Ready").Status == "True" && version.MatchString(n.Status.NodeInfo.ContainerRuntimeVersion) &&
			other && maps.Equal(got, want) && n.Status.Features.SupplementalGroupsPolicy &&
			slices.ContainsFunc(n.Status.Images, func(i struct{ Names []string }) bool { return slices.Contains(i.Names, p.k.n.Image) })
	})
}

// statusPod's status has all that a runtime is asked for.
const statusPod = `
apiVersion: v1
kind: Pod
metadata: {name: status}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 20
  os: {name: linux}
  securityContext: {runAsUser: 1234, runAsGroup: 1235, supplementalGroups: [7, 8], supplementalGroupsPolicy: Strict}
  volumes: [{name: dir, hostPath: {path: {{.Dir}}, type: Directory}}]
  initContainers:
  - {name: init, image: {{.Image}}, command: ["true"], resources: {limits: {cpu: 100m, memory: 32Mi}}}
  containers:
  - name: main
    image: {{.Image}}
    command: [sh, -c, "trap 'echo USR1 > /dir/got; exit 7' USR1; echo $HOST_IP > /dir/env; while true; do sleep 1; done"]
    env: [{name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
    lifecycle: {stopSignal: SIGUSR1}
    resources: {limits: {cpu: 100m, memory: 32Mi}}
    volumeMounts: [{name: dir, mountPath: /dir}]
`

// prepareStatus lets the pod's user write.
func prepareStatus(p *pod) map[string]any {
	p.t.Helper()
	if err := os.Chmod(p.dir, 0o777); err != nil {
		p.t.Fatal(err)
	}
	return nil
}

func checkStatus(p *pod) {
	p.awaitReady()
	var got struct {
		Metadata struct{ Generation int }
		Status   struct {
			Phase, HostIP, PodIP, StartTime, QOSClass string
			ObservedGeneration                        int
			PodIPs, HostIPs                           []struct{ IP string }
			ContainerStatuses, InitContainerStatuses  []struct {
				Image, ImageID, ContainerID, StopSignal string
				Resources, AllocatedResources           struct{ Limits, Requests map[string]string }
				User                                    struct {
					Linux struct {
						UID, GID           int
						SupplementalGroups []int
					}
				}
				State struct {
					Running    *struct{ StartedAt string }
					Terminated *struct {
						Reason, StartedAt, FinishedAt, ContainerID string
						ExitCode                                   *int
					}
				}
			}
		}
	}
	if _, err := p.k.api.Get("pods", "default", p.name, &got); err != nil {
		p.t.Fatal(err)
	}
	s := got.Status
	if s.Phase != "Running" || s.HostIP != nodeIP || len(s.HostIPs) != 1 || len(s.PodIPs) != 1 || s.PodIPs[0].IP != s.PodIP || s.StartTime == "" || s.QOSClass != "Guaranteed" {
		p.t.Errorf("%+v", s)
	}
	main, init := s.ContainerStatuses[0], s.InitContainerStatuses[0]
	repository, _, _ := strings.Cut(strings.TrimSuffix(p.k.n.Image, ":1"), "@")
	if main.Image != p.k.n.Image || !regexp.MustCompile("^"+regexp.QuoteMeta(repository)+"@sha256:[0-9a-f]{64}$").MatchString(main.ImageID) ||
		!regexp.MustCompile("^strake://[0-9a-f]+$").MatchString(main.ContainerID) || main.State.Running == nil || main.StopSignal != "SIGUSR1" {
		p.t.Errorf("main: %+v", main)
	}
	if u := main.User.Linux; u.UID != 1234 || u.GID != 1235 || !slices.Equal(u.SupplementalGroups, []int{7, 8, 1235}) && !slices.Equal(u.SupplementalGroups, []int{1235, 7, 8}) {
		p.t.Errorf("its user: %+v", u)
	}
	if got := fmt.Sprint(main.Resources.Limits); got != "map[cpu:100m memory:32Mi]" {
		p.t.Errorf("its limits: %s", got)
	}
	if end := init.State.Terminated; end == nil || end.Reason != "Completed" || end.StartedAt == "" || end.FinishedAt < end.StartedAt ||
		end.ExitCode == nil || *end.ExitCode != 0 || end.ContainerID != init.ContainerID {
		p.t.Errorf("init: %+v", init)
	}
	p.awaitFile("env", nodeIP+"\n")

	// Its stop signal is its own, and its last status has its exit code.
	p.remove()
	p.awaitGone()
	p.awaitFile("got", "USR1\n")
	p.had("it ended with 7", func(s *podStatus) bool {
		end := s.container("main").State.Terminated
		return end != nil && end.ExitCode == 7
	})
}

// configsPod has what an API server has, as files and as its environment.
const configsPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, text: "one line\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
type: Opaque
data: {password: aHVudGVyMg==}
---
apiVersion: v1
kind: Pod
metadata: {name: configs, labels: {a: b}}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0400}}
  - name: all
    projected:
      defaultMode: 0444
      sources:
      - {serviceAccountToken: {path: token, audience: somebody}}
      - {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
      - {secret: {name: hidden, items: [{key: password, path: deep/password}]}}
  containers:
  - name: main
    image: {{.Image}}
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
    envFrom: [{configMapRef: {name: settings}, prefix: CONFIG_}]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /text, subPath: text}
    - {name: hidden, mountPath: /hidden, readOnly: true}
    - {name: all, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
`

func checkConfigs(p *pod) {
	p.awaitReady()
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	for _, c := range []struct{ script, want string }{
		{"echo $PASSWORD $CONFIG_colour", "hunter2 blue"},
		{"cat /settings/colour /settings/text /text", "blueone line\none line"},
		{"cat /hidden/password && stat -L -c %a /hidden/password && stat -f -c %T /hidden", "hunter2400\ntmpfs"},
		{"cut -d ' ' -f 1-3 " + account + "/token", "token of default"},
		{"cat " + account + "/ca.crt " + account + "/labels " + account + "/deep/password", `a certificatea="b"hunter2`},
	} {
		p.says("main", c.script, c.want)
	}
	p.fails("main", "echo x > /hidden/password", "Read-only")

	// A change comes to the container that runs, but not to the file that is mounted alone.
	if err := p.k.api.Patch("configmaps", "default", "settings", `{"data": {"colour": "red", "text": null, "text2": "new"}}`); err != nil {
		p.t.Fatal(err)
	}
	p.says("main", "until test $(cat /settings/colour) = red; do sleep 1; done; cat /settings/text2 /text; ls /settings", "newone line\ncolour\ntext2")
}

// classPod is of a runtime class, whose handler the recursive read-only mount is
// looked up with, and whose overhead is the pod's.
const classPod = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: slow}
handler: other
overhead: {podFixed: {cpu: 50m, memory: 16Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: class}
spec:
  nodeName: {{.Node}}
  runtimeClassName: slow
  overhead: {cpu: 50m, memory: 16Mi}
  terminationGracePeriodSeconds: 1
  volumes: [{name: dir, hostPath: {path: {{.Dir}}, type: Directory}}]
  containers:
  - name: main
    image: {{.Image}}
    resources: {limits: {cpu: 100m, memory: 32Mi}}
    volumeMounts:
    - {name: dir, mountPath: /dir}
    - {name: dir, mountPath: /ro, readOnly: true}
    - {name: dir, mountPath: /rro, readOnly: true, recursiveReadOnly: Enabled}
    - {name: dir, mountPath: /maybe, readOnly: true, recursiveReadOnly: IfPossible}
`

func prepareClass(p *pod) map[string]any {
	p.t.Helper()
	below := filepath.Join(p.dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := syscall.Mount("below", below, "tmpfs", 0, ""); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.unmount(below) })
	return nil
}

func checkClass(p *pod) {
	s := p.awaitReady()
	p.says("main", "touch /dir/below/x /ro/below/y && ls /rro/below", "x\ny")
	p.fails("main", "touch /rro/below/z", "Read-only")
	p.fails("main", "touch /maybe/below/z", "Read-only")
	var got struct {
		Status struct {
			ContainerStatuses []struct {
				VolumeMounts []struct{ MountPath, RecursiveReadOnly string }
			}
		}
	}
	if _, err := p.k.api.Get("pods", "default", p.name, &got); err != nil {
		p.t.Fatal(err)
	}
	for _, m := range got.Status.ContainerStatuses[0].VolumeMounts {
		want := map[string]string{"/ro": "Disabled", "/rro": "Enabled", "/maybe": "Enabled"}[m.MountPath]
		if m.RecursiveReadOnly != want {
			p.t.Errorf("%s is recursively read-only: %q, want %q", m.MountPath, m.RecursiveReadOnly, want)
		}
	}
	for id, want := range map[string]string{s.Metadata.UID: "memory 50331648, cpu 15000/100000", s.container("main").id(): "memory 33554432, cpu 10000/100000"} {
		if got := p.k.cgroups.limits(id); got != want {
			p.t.Errorf("limits of %s: %s, want %s", id, got, want)
		}
	}
	if got := p.sandbox(s).RuntimeHandler; got != "other" {
		p.t.Errorf("its handler is %q", got)
	}
}

const noClassPod = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: missing}
handler: nowhere
---
apiVersion: v1
kind: Pod
metadata: {name: noclass}
spec:
  nodeName: {{.Node}}
  runtimeClassName: missing
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: {{.Image}}}]
`

func checkNoClass(p *pod) { p.awaitEvent("FailedCreatePodSandBox", `"nowhere"`) }

// debuggedPod gets an ephemeral container, which sees the processes of another.
const debuggedPod = `
apiVersion: v1
kind: Pod
metadata: {name: debugged}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: {{.Image}}, command: [sh, -c, "echo mine > /tmp/file; exec sleep 100001"]}
  - {name: other, image: {{.Image}}, command: [sleep, "100002"]}
`

func checkDebugged(p *pod) {
	p.awaitReady()
	if err := p.k.api.Patch("pods", "default", p.name, `{"spec": {"ephemeralContainers": [
		{"name": "debugger", "image": "`+p.k.n.Image+`", "targetContainerName": "main", "stdin": true, "tty": true,
		 "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
		 "command": ["sh", "-c", "until test -e /done; do sleep 1; done; exit 3"]}]}}`); err != nil {
		p.t.Fatal(err)
	}
	p.await("the debugger runs", func(s *podStatus) bool { return s.container("debugger").running() })
	p.says("debugger", `tr '\0' ' ' < /proc/1/cmdline; cat /proc/1/root/tmp/file`, "sleep 100001 mine")
	p.says("debugger", "cat /proc/[0-9]*/cmdline | grep -c 10000[2]; true", "0")
	p.says("main", "ls /done 2>/dev/null; true", "")
	p.says("debugger", "touch /done", "")
	s := p.await("the debugger has ended", func(s *podStatus) bool { return s.container("debugger").State.Terminated != nil })
	if end := s.container("debugger").State.Terminated; end.ExitCode != 3 || !s.ready() {
		p.t.Errorf("%+v", s)
	}
}

// resizedPod is resized as kubectl patch --subresource=resize does.
const resizedPod = `
apiVersion: v1
kind: Pod
metadata: {name: resized}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {{.Image}}
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
`

func checkResized(p *pod) {
	id := p.awaitReady().container("main").id()
	for _, c := range []struct{ cpu, memory, kernel string }{
		{"200m", "64Mi", "memory 67108864, cpu 20000/100000"},
		{"150m", "48Mi", "memory 50331648, cpu 15000/100000"},
	} {
		limits := fmt.Sprintf(`{"cpu": %q, "memory": %q}`, c.cpu, c.memory)
		// Lists are replaced, so the container's name and image are in it.
		if err := p.k.api.Patch("pods", "default", p.name, `{"spec": {"containers": [{"name": "main", "image": "`+p.k.n.Image+`",
			"resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": `+limits+`}}]}}`); err != nil {
			p.t.Fatal(err)
		}
		p.await("the status has "+limits, func(s *podStatus) bool {
			got := s.container("main").Resources.Limits
			return got["cpu"] == c.cpu && got["memory"] == c.memory
		})
		if got := p.k.cgroups.limits(id); got != c.kernel {
			p.t.Errorf("limits: %s, want %s", got, c.kernel)
		}
	}
	if c := p.status().container("main"); c.RestartCount != 0 || c.id() != id {
		p.t.Errorf("it was restarted: %+v", c)
	}
}

// diskPod writes more into its container's own layer than it may: how much that
// is, only the runtime knows.
const diskPod = `
apiVersion: v1
kind: Pod
metadata: {name: disk}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: frugal
    image: {{.Image}}
    command: [sh, -c, "dd if=/dev/zero of=/file bs=1M count=4; exec sleep 100000"]
    resources: {limits: {ephemeral-storage: 16Mi}}
  - name: greedy
    image: {{.Image}}
    command: [sh, -c, "until test -e /go; do sleep 1; done; dd if=/dev/zero of=/file bs=1M count=20; exec sleep 100000"]
    resources: {limits: {ephemeral-storage: 16Mi}}
`

func checkDisk(p *pod) {
	p.awaitReady()
	var s podSummary
	p.k.until(p.t, "the stats have what was written", func() bool {
		s = p.k.summary(p)
		return s.container("frugal").RootFS.UsedBytes >= 4*mib && s.container("frugal").RootFS.UsedBytes < 5*mib && s.container("greedy").RootFS.UsedBytes < mib
	}, func() any { return s })
	p.says("greedy", "touch /go", "")
	failed := p.await("the pod has failed", func(s *podStatus) bool { return s.Status.Phase == "Failed" })
	if s := failed.Status; s.Reason != "Evicted" || !strings.Contains(s.Message, "Container greedy exceeded its local ephemeral storage limit") {
		p.t.Errorf("%s: %s", s.Reason, s.Message)
	}
}

// patiencePod ends only when it is killed.
const patiencePod = `
apiVersion: v1
kind: Pod
metadata: {name: patience}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1000
  volumes: [{name: dir, hostPath: {path: {{.Dir}}, type: Directory}}]
  containers:
  - name: main
    image: {{.Image}}
    command: [sh, -c, "trap 'echo asked >> /dir/asked' TERM; while true; do sleep 1; done"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo stopping >> /dir/asked"]}}}
    volumeMounts: [{name: dir, mountPath: /dir}]
`

func checkPatience(p *pod) {
	p.awaitReady()
	p.remove()
	p.awaitFile("asked", "stopping\nasked\n")
	if s := p.status(); !s.container("main").running() {
		p.t.Errorf("it does not run any more: %+v", s)
	}
	p.says("main", "echo it can still be asked", "it can still be asked")
	// The user loses patience. The kubelet asks for a shorter stop only once the one
	// under way has returned; or, as here, when it was restarted meanwhile.
	if err := p.k.api.Delete("pods", "default", p.name, 1); err != nil {
		p.t.Fatal(err)
	}
	p.k.stop()
	p.k.run()
	p.awaitGone()
	p.had("it was killed", func(s *podStatus) bool {
		end := s.container("main").State.Terminated
		return end != nil && end.ExitCode == 137
	})
}

// checkMetrics looks at what the kubelet has from ListPodSandboxMetrics, and whether
// it gets events.
func checkMetrics(p *pod) {
	p.awaitReady()
	container := regexp.MustCompile(`^(\w+)\{(.*)\} (\S+)`)
	for _, name := range []string{"container_memory_working_set_bytes", "container_cpu_usage_seconds_total", "container_last_seen", "container_fs_usage_bytes"} {
		var page string
		p.k.until(p.t, "the metrics have the container's "+name, func() bool {
			page = p.k.metrics(p, "/metrics/cadvisor")
			return slices.ContainsFunc(lines(page), func(l string) bool {
				m := container.FindStringSubmatch(l)
				if m == nil || m[1] != name || !strings.Contains(m[2], `container="main"`) || !strings.Contains(m[2], `pod="`+p.name+`"`) {
					return false
				}
				value, err := strconv.ParseFloat(m[3], 64)
				return err == nil && (value > 0 || name == "container_cpu_usage_seconds_total" || name == "container_fs_usage_bytes")
			})
		}, func() any { return page })
	}
	if page := p.k.metrics(p, "/metrics"); !slices.Contains(lines(page), "kubelet_evented_pleg_connection_success_count 1") {
		p.t.Errorf("the kubelet did not connect to the events once: %s", strings.Join(slices.DeleteFunc(lines(page), func(l string) bool {
			return !strings.Contains(l, "pleg")
		}), "\n"))
	}
}

// metrics are a page of the kubelet's.
func (k *kubelet) metrics(p *pod, path string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, k.https(path).String(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := httpsClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.body(response)
}

func lines(text string) (out []string) {
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		out = append(out, s.Text())
	}
	return out
}

// checkKubeletRestart restarts the kubelet, which is to go on with what runs.
func checkKubeletRestart(p *pod) {
	before := map[string]string{}
	p.awaitReady()
	for _, s := range p.k.pods() {
		for _, c := range s.Status.ContainerStatuses {
			if c.running() {
				before[s.Metadata.Name+"/"+c.Name] = c.id()
			}
		}
	}
	p.k.stop()
	p.k.run()
	p.k.until(p.t, "the kubelet has its pods again", func() bool {
		return slices.ContainsFunc(p.k.own(), func(s podStatus) bool { return s.Metadata.Name == p.name })
	}, func() any { return p.k.own() })
	p.says("main", "echo the kubelet is back", "the kubelet is back")
	for _, s := range p.k.pods() {
		for _, c := range s.Status.ContainerStatuses {
			if want, ok := before[s.Metadata.Name+"/"+c.Name]; ok && (c.id() != want || c.RestartCount != 0) {
				p.t.Errorf("container %s of %s was %s, is %+v", c.Name, s.Metadata.Name, want, c)
			}
		}
	}
}

// awaitGone waits until the API server has no such pod any more, because the kubelet
// said so.
func (p *pod) awaitGone() {
	p.t.Helper()
	var s *podStatus
	p.k.until(p.t, p.name+" has gone", func() bool { s = p.status(); return s.Metadata.Name == "" }, func() any { return s })
}

// had fails the test unless the pod has ever been so.
func (p *pod) had(what string, was func(*podStatus) bool) {
	p.t.Helper()
	var last podStatus
	if !p.k.api.Was("pods", "default", p.name, func(raw []byte) bool {
		last = podStatus{}
		return json.Unmarshal(raw, &last) == nil && was(&last)
	}) {
		p.t.Errorf("not so: %s; last: %+v", what, last)
	}
}

// awaitEvent waits for an event of the pod with the reason and words.
func (p *pod) awaitEvent(reason, words string) {
	p.t.Helper()
	var seen []string
	p.k.until(p.t, "event "+reason+" with "+words, func() bool {
		seen = nil
		for _, raw := range p.k.api.All("events") {
			var e struct {
				Reason, Message string
				InvolvedObject  struct{ Name string }
			}
			if err := json.Unmarshal(raw, &e); err != nil {
				p.t.Fatal(err)
			}
			if e.InvolvedObject.Name != p.name {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Message, words) {
				return true
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return false
	}, func() any { return strings.Join(seen, "\n") })
}

// sandbox is the pod's in straked.
func (p *pod) sandbox(s *podStatus) *cri.PodSandbox {
	p.t.Helper()
	r, err := p.k.n.Runtime.ListPodSandbox(p.t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": s.Metadata.UID},
	}})
	if err != nil || len(r.Items) != 1 {
		p.t.Fatalf("sandboxes of %s: %v, %v", p.name, r, err)
	}
	return r.Items[0]
}
