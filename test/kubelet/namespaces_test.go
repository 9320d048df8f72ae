package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namesPod says by which names it and others are known.
const namesPod = `
apiVersion: v1
kind: Pod
metadata: {name: names}
spec:
  terminationGracePeriodSeconds: 1
  hostname: me
  hostAliases: [{ip: 192.0.2.7, hostnames: [seven, seventh]}]
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.8], searches: [example.org], options: [{name: ndots, value: "3"}, {name: edns0}]}
  securityContext:
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}, {name: kernel.shm_rmid_forced, value: "1"}]
  containers:
  - {name: main, image: {{.Image}}}
`

func checkNames(p *pod) {
	s := p.awaitReady()
	for _, c := range []struct{ script, want string }{
		{"hostname", "me"},
		{"cat /etc/hostname", "me"},
		{"grep seven /etc/hosts", "192.0.2.7\tseven\tseventh"},
		{"grep 'me$' /etc/hosts", s.Status.PodIP + "\tme"},
		{"grep -v options /etc/resolv.conf", "search example.org\nnameserver 192.0.2.8"},
		{"tr ' ' '\n' < /etc/resolv.conf | grep -E 'ndots|edns0' | sort", "edns0\nndots:3"},
		{"cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "80\n1"},
	} {
		p.says("main", c.script, c.want)
	}
}

// hostPod is in the host's network, PID and IPC namespaces.
const hostPod = `
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers:
  - {name: main, image: {{.Image}}}
`

func checkHost(p *pod) {
	s := p.awaitReady()
	for _, namespace := range []string{"net", "pid", "ipc"} {
		own, err := os.Readlink("/proc/self/ns/" + namespace)
		if err != nil {
			p.t.Error(err)
		}
		p.says("main", "readlink /proc/self/ns/"+namespace, own)
	}
	p.says("main", fmt.Sprintf("cat /proc/%d/comm", os.Getpid()), comm(p))
	if s.Status.PodIP != s.Status.HostIP {
		p.t.Errorf("pod address %s, host address %s", s.Status.PodIP, s.Status.HostIP)
	}
	if status, own := p.exec("main", "readlink /proc/self/ns/mnt"); status != 0 || strings.TrimSpace(own) == mountNamespace(p) {
		p.t.Errorf("mount namespace %s (status %d)", own, status)
	}
}

func comm(p *pod) string {
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		p.t.Error(err)
	}
	return strings.TrimSpace(string(name))
}

func mountNamespace(p *pod) string {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		p.t.Error(err)
	}
	return own
}

// sharedPod's containers see each other's processes.
const sharedPod = `
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  containers:
  - {name: one, image: {{.Image}}, command: [sh, -c, "echo $$$$ > /dev/shm/one; exec sleep 1000001"]}
  - {name: two, image: {{.Image}}}
`

func checkShared(p *pod) {
	p.awaitReady()
	p.says("two", `tr '\0' ' ' < /proc/$(cat /dev/shm/one)/cmdline`, "sleep 1000001")
	p.says("two", "test $(cat /dev/shm/one) != 1 && kill -9 $(cat /dev/shm/one)", "")
	s := p.await("the container that the other killed was restarted", func(s *podStatus) bool {
		return s.container("one").RestartCount == 1 && s.container("one").running()
	})
	if code, _, _ := s.container("one").lastExit(); code != 137 {
		p.t.Errorf("it ended with %d", code)
	}
	if got := s.container("two"); got.RestartCount != 0 {
		p.t.Errorf("the other: %+v", got)
	}
}

// usernsPod is in a user namespace of its own.
const usernsPod = `
apiVersion: v1
kind: Pod
metadata: {name: userns}
spec:
  terminationGracePeriodSeconds: 1
  hostUsers: false
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: dir, hostPath: {path: {{.Dir}}, type: Directory}}
  containers:
  - name: main
    image: {{.Image}}
    command: [sh, -c, "exec sleep 1000000"]
    volumeMounts: [{name: empty, mountPath: /empty}, {name: dir, mountPath: /dir}]
  - name: nobody
    image: {{.Image}}
    securityContext: {runAsUser: 65534, procMount: Unmasked}
    volumeMounts: [{name: dir, mountPath: /dir}]
`

// lackingUserns asks straked, as the kubelet does, which refuses the pod otherwise.
func lackingUserns(p *pod) string {
	status, err := p.k.n.Runtime.Status(p.t.Context(), &cri.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, h := range status.RuntimeHandlers {
		if h.Name == "" && h.Features.GetUserNamespaces() {
			return ""
		}
	}
	return "straked has no user namespaces for pods here: they need Linux 6.8"
}

func checkUserns(p *pod) {
	if err := os.Chmod(p.dir, 0o777); err != nil {
		p.t.Fatal(err)
	}
	p.awaitReady()
	status, ids := p.exec("main", "cat /proc/self/uid_map")
	var inside, outside, length int
	if n, _ := fmt.Sscan(ids, &inside, &outside, &length); status != 0 || n != 3 || inside != 0 || outside == 0 || length != 65536 {
		p.t.Errorf("the map of its ids: %q", ids)
	}
	// Ids of files are those inside: volumes are mounted with the map.
	p.says("main", "touch /dir/root /empty/root && stat -c %u /dir/root /empty/root", "0\n0")
	p.says("nobody", "id -u && touch /dir/nobody && stat -c %u /dir/nobody", "65534\n65534")
	for file, want := range map[string]uint32{"root": 0, "nobody": 65534} {
		info, err := os.Stat(filepath.Join(p.dir, file))
		if err != nil {
			p.t.Error(err)
			continue
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			p.t.Errorf("on the host the file is %d's, want %d's", got, want)
		}
	}
	p.fails("main", "mount -o remount,rw /proc/sys", "") // its root is not the host's
	p.says("nobody", "grep -c ' /proc/' /proc/mounts || true", "0")
}
