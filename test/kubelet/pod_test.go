package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// nodeName is the kubelet's; it ends the names of static pods.
const nodeName = "strake-test"

// pod is a pod of a test: of the API server, or a static one.
type pod struct {
	k    *kubelet
	t    *testing.T
	name string // in the manifest and of its file
	dir  string // a directory of the host, for the pod
}

// newPod is a pod without a manifest yet. Its directory is the kubelet's.
func (k *kubelet) newPod(t *testing.T, name string) *pod {
	t.Helper()
	p := &pod{k: k, t: t, name: name, dir: filepath.Join(k.dir, "host", name)}
	if err := os.MkdirAll(p.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return p
}

// apply writes or changes the manifest, a template whose data are the pod's name and
// directory, the image, the node and values.
func (p *pod) apply(manifest string, values map[string]any) {
	p.t.Helper()
	data := map[string]any{"Name": p.name, "Image": p.k.n.Image, "Node": nodeName, "Dir": p.dir}
	for k, v := range values {
		data[k] = v
	}
	var b bytes.Buffer
	if err := template.Must(template.New(p.name).Option("missingkey=error").Parse(manifest)).Execute(&b, data); err != nil {
		p.t.Fatal(err)
	}
	if p.k.api != nil {
		for manifest := range strings.SplitSeq(b.String(), "\n---\n") {
			if err := p.k.api.Apply(manifest); err != nil {
				p.t.Fatal(err)
			}
		}
		return
	}
	// The kubelet takes half a file for one that has gone.
	p.k.write("new.yaml", b.String())
	if err := os.Rename(filepath.Join(p.k.dir, "new.yaml"), p.manifest()); err != nil {
		p.t.Fatal(err)
	}
}

// remove deletes the pod, or removes its manifest, if it is still there.
func (p *pod) remove() {
	p.t.Helper()
	if p.k.api != nil {
		if err := p.k.api.Delete("pods", "default", p.name, -1); err != nil {
			p.t.Fatal(err)
		}
		return
	}
	if err := os.Remove(p.manifest()); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
}

// podStatus is the part of a v1.Pod that the tests look at.
type podStatus struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase, Reason, Message, PodIP, HostIP                                string
		Conditions                                                           []condition
		InitContainerStatuses, ContainerStatuses, EphemeralContainerStatuses []containerStatus
	}
}

func (s *podStatus) condition(kind string) condition { return find(s.Status.Conditions, kind) }

type containerStatus struct {
	Name, ContainerID string
	Started           *bool
	Ready             bool
	RestartCount      int
	Resources         struct{ Limits map[string]string }
	State, LastState  struct {
		Waiting    struct{ Reason, Message string }
		Running    *struct{ StartedAt time.Time }
		Terminated *struct {
			ExitCode              int
			Reason, Message       string
			StartedAt, FinishedAt time.Time
		}
	}
}

// backedOff says whether the kubelet waits before it starts the container again, or
// has waited: on a busy machine the first is over before anybody sees it.
func (c containerStatus) backedOff() bool {
	started := time.Time{}
	switch {
	case c.State.Waiting.Reason == "CrashLoopBackOff":
		return true
	case c.State.Running != nil:
		started = c.State.Running.StartedAt
	case c.State.Terminated != nil:
		started = c.State.Terminated.StartedAt
	}
	last := c.LastState.Terminated
	return last != nil && started.Sub(last.FinishedAt) >= time.Second // of 2; these are whole seconds
}

// container returns the status of a container of any kind, an empty one
// without it.
func (s *podStatus) container(name string) containerStatus {
	for _, list := range [][]containerStatus{s.Status.ContainerStatuses, s.Status.InitContainerStatuses, s.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == name {
				return c
			}
		}
	}
	return containerStatus{}
}

// ready says whether every container is.
func (s *podStatus) ready() bool {
	for _, c := range s.Status.ContainerStatuses {
		if !c.Ready {
			return false
		}
	}
	return len(s.Status.ContainerStatuses) > 0
}

// running says whether the container runs and has its id.
func (c containerStatus) running() bool { return c.State.Running != nil && c.ContainerID != "" }

// id is the container's in CRI.
func (c containerStatus) id() string { return strings.TrimPrefix(c.ContainerID, "strake://") }

// lastExit is how its run before ended; its code is -1 without one.
func (c containerStatus) lastExit() (code int, reason, message string) {
	if c.LastState.Terminated == nil {
		return -1, "", ""
	}
	return c.LastState.Terminated.ExitCode, c.LastState.Terminated.Reason, c.LastState.Terminated.Message
}

func (s *podStatus) ip(t *testing.T) netip.Addr {
	t.Helper()
	ip, err := netip.ParseAddr(s.Status.PodIP)
	if err != nil {
		t.Error(err)
	}
	return ip
}

// pods are all that the API server has, as the kubelet told it, or without one all
// that the kubelet has.
func (k *kubelet) pods() []podStatus {
	if k.api == nil {
		return k.own()
	}
	var pods []podStatus
	for _, raw := range k.api.All("pods") {
		var s podStatus
		if err := json.Unmarshal(raw, &s); err != nil {
			k.t.Error(err)
		}
		pods = append(pods, s)
	}
	return pods
}

// own are all that the kubelet has, none while it does not answer.
func (k *kubelet) own() []podStatus {
	var list struct{ Items []podStatus }
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/pods", k.readOnly))
	if err != nil {
		return nil // it does not listen yet
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil
	}
	return list.Items
}

// status is the pod's, empty when the kubelet has none.
func (p *pod) status() *podStatus {
	for _, s := range p.k.pods() {
		if s.Metadata.Name == p.fullName() {
			return &s
		}
	}
	return &podStatus{}
}

func (p *pod) manifest() string { return filepath.Join(p.k.dir, "manifests", p.name+".yaml") }

func (p *pod) fullName() string {
	if p.k.api != nil {
		return p.name
	}
	return p.name + "-" + nodeName
}

// await waits for the pod to be as done says.
func (p *pod) await(what string, done func(*podStatus) bool) *podStatus {
	p.t.Helper()
	s := p.status()
	p.k.until(p.t, what, func() bool { s = p.status(); return done(s) }, func() any {
		out, _ := json.MarshalIndent(s.Status, "", " ") // strings and numbers
		return string(out)
	})
	return s
}

// awaitReady waits until all containers are ready.
func (p *pod) awaitReady() *podStatus {
	p.t.Helper()
	return p.await(p.name+" is ready", (*podStatus).ready)
}

// awaitFile waits until a file of the pod's directory has the content.
func (p *pod) awaitFile(name, want string) {
	p.t.Helper()
	var got []byte
	p.k.until(p.t, name+" has what is expected", func() bool {
		got, _ = os.ReadFile(filepath.Join(p.dir, name)) // it may not be there yet
		return string(got) == want
	}, func() any { return fmt.Sprintf("%q, want %q", got, want) })
}

// exec runs a shell's command in a container as kubectl exec does, and returns
// its status and both its outputs.
func (p *pod) exec(container, script string) (status int, output string) {
	p.t.Helper()
	u := p.streamURL("exec", container, url.Values{"command": {"sh", "-c", script}, "output": {"1"}, "error": {"1"}})
	e, err := remotecommand.NewSPDYExecutor(clientConfig, http.MethodPost, u)
	if err != nil {
		p.t.Fatal(err)
	}
	var out bytes.Buffer
	both := &lockedWriter{w: &out}
	ctx, cancel := context.WithTimeout(p.t.Context(), *patience)
	defer cancel()
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: both, Stderr: both})
	var exit utilexec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus(), out.String()
	}
	if err != nil {
		p.t.Errorf("exec in %s of %s: %v", container, p.name, err)
		return -1, out.String()
	}
	return 0, out.String()
}

// says fails the test unless the script succeeds in the container and prints want.
func (p *pod) says(container, script, want string) {
	p.t.Helper()
	if status, got := p.exec(container, script); status != 0 || strings.TrimSpace(got) != want {
		p.t.Errorf("%s: %s: status %d, %q, want %q", container, script, status, got, want)
	}
}

// fails fails the test unless the script does, and prints words.
func (p *pod) fails(container, script, words string) {
	p.t.Helper()
	if status, got := p.exec(container, script); status == 0 || !strings.Contains(got, words) {
		p.t.Errorf("%s: %s: status %d, %q, want a failure with %q", container, script, status, got, words)
	}
}

// log is what the kubelet's log handler answers.
func (p *pod) log(container, query string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.k.https("/containerLogs/default/"+p.fullName()+"/"+container+"?"+query).String(), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := httpsClient.Do(request)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	return p.body(response)
}

// clientConfig and httpsClient are for the kubelet's certificate, which is its own.
var (
	clientConfig = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	httpsClient  = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
)

// https is an address of the kubelet's server for streams and logs.
func (k *kubelet) https(pathAndQuery string) *url.URL {
	u, err := url.Parse(fmt.Sprintf("https://127.0.0.1:%d%s", k.port, pathAndQuery))
	if err != nil {
		k.t.Fatal(err)
	}
	return u
}

func (p *pod) streamURL(verb, container string, query url.Values) *url.URL {
	p.t.Helper()
	return p.k.https("/" + verb + "/default/" + p.fullName() + "/" + container + "?" + query.Encode())
}

// get returns the body of a web page.
func (p *pod) get(url string) string {
	p.t.Helper()
	response, err := http.Get(url)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	return p.body(response)
}

func (p *pod) body(response *http.Response) string {
	p.t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		p.t.Errorf("%s: %s: %s, %v", response.Request.URL, response.Status, body, err)
	}
	return string(body)
}

// podSummary is the part of a pod's stats that the tests look at.
type podSummary struct {
	PodRef     struct{ Name string }
	Memory     memoryStats
	Containers []containerSummary
}

type containerSummary struct {
	Name   string
	CPU    struct{ UsageCoreNanoSeconds uint64 }
	Memory memoryStats
	RootFS struct{ UsedBytes uint64 }
}

func (s podSummary) container(name string) containerSummary {
	for _, c := range s.Containers {
		if c.Name == name {
			return c
		}
	}
	return containerSummary{}
}

type memoryStats struct{ WorkingSetBytes uint64 }

// summary is the kubelet's of the pod, empty without one.
func (k *kubelet) summary(p *pod) podSummary {
	p.t.Helper()
	var summary struct{ Pods []podSummary }
	if json.Unmarshal([]byte(p.get(fmt.Sprintf("http://127.0.0.1:%d/stats/summary", k.readOnly))), &summary) != nil {
		return podSummary{}
	}
	for _, s := range summary.Pods {
		if s.PodRef.Name == p.fullName() {
			return s
		}
	}
	return podSummary{}
}

// awaitStats waits until the kubelet's summary has the container's CPU time and memory.
func (p *pod) awaitStats(container string) {
	p.t.Helper()
	var s podSummary
	p.k.until(p.t, "the stats summary has "+container, func() bool {
		s = p.k.summary(p)
		c := s.container(container)
		return c.CPU.UsageCoreNanoSeconds > 0 && c.Memory.WorkingSetBytes > 0
	}, func() any { return s })
}

// lockedWriter lets two streams be written to one.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
