// Package kubelet lets a real kubelet drive straked, on its own or as a node of an
// API server (test/kubelet/apiserver). Its tests need a built kubelet
// (STRAKE_KUBELET): run `make test-kubelet`.
//
// A kubelet without an API server has only the pods of its manifest directory,
// which it calls static, and needs nothing else. What it refuses to those needs the
// server: volumes from the API (configMap, secret, serviceAccountToken; its feature
// gate PreventStaticPodAPIReferences) and projected ones; runtime classes, and with
// them recursive read-only mounts, which it looks up by a class's handler; ephemeral
// containers; and eviction, since a static pod is critical.
package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
  - {name: host, hostPath: {path: {{.Dir}}, type: Directory}}
  initContainers:
  - name: init
    image: {{.Image}}
    command: [sh, -c, "echo made by init > /data/index.html"]
    volumeMounts: [{name: data, mountPath: /data}]
  containers:
  - name: server
    image: {{.Image}}
    command: [httpd, -f, -v, -p, "8080", -h, /data]
    env:
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    ports: [{containerPort: 8080, hostPort: {{.HostPort}}}]
    resources:
      requests: {cpu: 50m, memory: 16Mi}
      limits: {cpu: 200m, memory: 32Mi}
    readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1, timeoutSeconds: 30}
    livenessProbe: {exec: {command: [sh, -c, "grep init /data/index.html && test -n \"$POD_IP\""]}, periodSeconds: 1, timeoutSeconds: 30}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: host, mountPath: /host, readOnly: true}
  - name: failing
    image: {{.Image}}
    command: [sh, -c, "echo it goes wrong; echo why >&2; printf because > /dev/termination-log; exit 3"]
  - name: unhealthy
    image: {{.Image}}
    command: [sh, -c, "touch /tmp/well; sleep 4; rm /tmp/well; sleep 1000"]
    livenessProbe: {exec: {command: [cat, /tmp/well]}, initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
`

func TestStaticPod(t *testing.T) {
	n := startNode(t)
	k := start(t, n, nil, noEviction+patient)
	p := k.newPod(t, "web")
	if err := os.WriteFile(filepath.Join(p.dir, "greeting"), []byte("hello from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	hostPort := freePort(t)
	p.apply(webPod, map[string]any{"HostPort": hostPort})

	// 1. It runs, is ready by its HTTP probe and stays so by its exec probe.
	s := p.await("the server is ready", func(s *podStatus) bool { return s.container("server").Ready })
	if s.Status.PodIP == "" || !n.Subnet.Contains(s.ip(t)) {
		t.Errorf("pod address %q, want one in %s", s.Status.PodIP, n.Subnet)
	}
	if end := s.container("init").State.Terminated; end == nil || end.Reason != "Completed" {
		t.Errorf("init container: %+v", end)
	}
	for _, address := range []string{s.Status.PodIP + ":8080", fmt.Sprintf("127.0.0.1:%d", hostPort)} {
		if page := p.get("http://" + address + "/index.html"); page != "made by init\n" {
			t.Errorf("http://%s: %q", address, page)
		}
	}
	p.says("server", "cat /host/greeting", "hello from the host")
	p.fails("server", "touch /host/new", "Read-only file system")

	// 2. Its limits are in the kernel.
	id := s.container("server").id()
	if got := k.cgroups.limits(id); got != "memory 33554432, cpu 20000/100000" {
		t.Errorf("limits of %s: %s", id, got)
	}

	// 3. What fails is started again, and what it said is kept.
	s = p.await("the failing container was restarted twice", func(s *podStatus) bool { return s.container("failing").RestartCount >= 2 })
	if code, reason, message := s.container("failing").lastExit(); code != 3 || reason != "Error" || message != "because" {
		t.Errorf("last end of the failing container: %d, %s, %s", code, reason, message)
	}
	// Two streams, so in either order; and once more where it failed again meanwhile, since
	// the kubelet keeps the log of one run only.
	log := ""
	p.k.until(t, "the log of its last run was kept", func() bool {
		log = p.log("failing", "previous=true")
		return log == "it goes wrong\nwhy\n" || log == "why\nit goes wrong\n"
	}, func() any { return log })
	s = p.await("the unhealthy container was restarted", func(s *podStatus) bool { return s.container("unhealthy").RestartCount >= 1 })
	if code, _, _ := s.container("unhealthy").lastExit(); code != 137 {
		t.Errorf("last end of the unhealthy container: %d", code)
	}
	if c := s.container("server"); c.RestartCount != 0 || !c.Ready {
		t.Errorf("the server was disturbed: %+v", c)
	}
	p.awaitStats("server")

	// 4. straked is killed and comes back: the kubelet goes on with the same containers.
	n.Kill()
	n.StartDaemon()
	s = p.await("the server is ready after the daemon's death", func(s *podStatus) bool { return s.container("server").Ready })
	if c := s.container("server"); c.RestartCount != 0 || c.id() != id {
		t.Errorf("the server did not survive the daemon: %+v", c)
	}

	// 5. The manifest goes, and so does everything.
	p.remove()
	k.awaitNone()
}

// startNode starts a straked, if there is a kubelet for it.
func startNode(t *testing.T) *node.Node {
	t.Helper()
	if os.Getenv("STRAKE_KUBELET") == "" {
		t.Skip("needs a kubelet: make test-kubelet")
	}
	return node.Start(t, node.Options{CgroupDriver: *cgroupDriver})
}
