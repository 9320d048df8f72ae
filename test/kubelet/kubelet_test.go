// Package kubelet lets a real kubelet, in standalone mode, drive straked. Its
// tests need a built kubelet (STRAKE_KUBELET): run `make test-kubelet`.
package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// webPod has an init container, a server with an HTTP and an exec probe, limits
// and volumes, a container that fails and one that becomes unhealthy.
const webPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 2
  volumes:
  - {name: data, emptyDir: {}}
  - {name: host, hostPath: {path: %[2]s, type: Directory}}
  initContainers:
  - name: init
    image: %[1]s
    command: [sh, -c, "echo made by init > /data/index.html"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: server
    image: %[1]s
    command: [httpd, -f, -v, -p, "8080", -h, /data]
    env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    ports: [{containerPort: 8080, hostPort: %[3]d}]
    resources:
      requests: {cpu: 50m, memory: 16Mi}
      limits: {cpu: 200m, memory: 32Mi}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [sh, -c, "grep init /data/index.html && test -n \"$POD_IP\""]}, periodSeconds: 1, timeoutSeconds: 5}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: host, mountPath: /host, readOnly: true}
  - name: failing
    image: %[1]s
    command: [sh, -c, "echo it goes wrong; echo why >&2; printf because > /dev/termination-log; exit 3"]
  - name: unhealthy
    image: %[1]s
    command: [sh, -c, "touch /tmp/well; sleep 4; rm /tmp/well; sleep 1000"]
    livenessProbe: {exec: {command: [cat, /tmp/well]}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 2}
`

func TestStaticPod(t *testing.T) {
	n := node.Start(t, node.Options{})
	k := start(t, n)
	hostDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(hostDir, "greeting"), []byte("hello from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	hostPort := freePort(t)
	k.manifest("web.yaml", fmt.Sprintf(webPod, n.Image, hostDir, hostPort))

	// 1. It runs, is ready by its HTTP probe and stays so by its exec probe.
	pod := k.await("the server is ready", time.Minute, func(p *staticPod) bool { return p.container("server").Ready })
	if pod.Status.PodIP == "" || !n.Subnet.Contains(pod.ip(t)) {
		t.Errorf("pod address %q, want one in %s", pod.Status.PodIP, n.Subnet)
	}
	if init := pod.Status.InitContainerStatuses; len(init) != 1 || init[0].State.Terminated.Reason != "Completed" {
		t.Errorf("init container: %+v", init)
	}
	for _, address := range []string{pod.Status.PodIP + ":8080", fmt.Sprintf("127.0.0.1:%d", hostPort)} {
		if page := get(t, "http://"+address+"/index.html"); page != "made by init\n" {
			t.Errorf("http://%s: %q", address, page)
		}
	}
	if _, said := k.run("server", "cat", "/host/greeting"); said != "hello from the host" {
		t.Errorf("the host's volume has %q", said)
	}
	k.run("server", "touch", "/host/new") // fails, with a status that depends on the kubelet
	if _, err := os.Stat(filepath.Join(hostDir, "new")); err == nil {
		t.Error("the read-only volume was written")
	}

	// 2. Its limits are in the kernel.
	id := strings.TrimPrefix(pod.container("server").ContainerID, "strake://")
	cgroup := k.cgroup("burstable", "pod"+pod.Metadata.UID, id)
	if got := k.limits(cgroup); got != "memory 33554432, cpu 20000/100000" {
		t.Errorf("limits of %s: %s", cgroup, got)
	}

	// 3. What fails is started again, and what it said is kept.
	pod = k.await("the failing container was restarted twice", 2*time.Minute, func(p *staticPod) bool { return p.container("failing").RestartCount >= 2 })
	last := pod.container("failing").LastState.Terminated
	if last.ExitCode != 3 || last.Reason != "Error" || last.Message != "because" {
		t.Errorf("last end of the failing container: %+v", last)
	}
	// Two streams, so in either order.
	if log := k.log("failing"); log != "it goes wrong\nwhy\n" && log != "why\nit goes wrong\n" {
		t.Errorf("its log: %q", log)
	}
	pod = k.await("the unhealthy container was restarted", time.Minute, func(p *staticPod) bool { return p.container("unhealthy").RestartCount >= 1 })
	if last := pod.container("unhealthy").LastState.Terminated; last.ExitCode != 137 {
		t.Errorf("last end of the unhealthy container: %+v", last)
	}
	if s := pod.container("server"); s.RestartCount != 0 || !s.Ready {
		t.Errorf("the server was disturbed: %+v", s)
	}
	k.awaitStats("server", time.Minute)

	// 4. straked is killed and comes back: the kubelet goes on with the same containers.
	n.Kill()
	n.StartDaemon()
	k.await("the server is ready after the daemon's death", time.Minute, func(p *staticPod) bool { return p.container("server").Ready })
	if s := k.pod().container("server"); s.RestartCount != 0 || !strings.HasSuffix(s.ContainerID, id) {
		t.Errorf("the server did not survive the daemon: %+v", s)
	}

	// 5. The manifest goes, and so does everything.
	k.manifest("web.yaml", "")
	k.awaitNone(3 * time.Minute)
	pods, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("pods left: %v, %v", pods.GetItems(), err)
	}
	for _, left := range append(n.Leftovers(), k.leftovers()...) {
		t.Errorf("left behind: %s", left)
	}
}
