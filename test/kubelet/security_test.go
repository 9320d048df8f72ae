package kubelet

import (
	"os"
	"path/filepath"
	"strings"
)

// securityPod has a container for each field of a security context.
const securityPod = `
apiVersion: v1
kind: Pod
metadata: {name: security}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 3000, supplementalGroups: [4000]}
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: user
    image: {{.Image}}
    securityContext: {runAsUser: 1000, runAsGroup: 2000}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: readonly
    image: {{.Image}}
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: capabilities
    image: {{.Image}}
    securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
  - name: nonewprivs
    image: {{.Image}}
    securityContext: {allowPrivilegeEscalation: false}
  - name: default
    image: {{.Image}}
    securityContext: {seccompProfile: {type: RuntimeDefault}}
  - name: localhost
    image: {{.Image}}
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: nomkdir.json}}
  - name: unconfined
    image: {{.Image}}
    securityContext: {seccompProfile: {type: Unconfined}}
  - name: privileged
    image: {{.Image}}
    securityContext: {privileged: true}
{{- if .AppArmor}}
  - name: apparmor
    image: {{.Image}}
    securityContext: {appArmorProfile: {type: RuntimeDefault}}
  - name: noapparmor
    image: {{.Image}}
    securityContext: {appArmorProfile: {type: Unconfined}}
{{- end}}
  - name: notroot
    image: {{.Image}}
    securityContext: {runAsNonRoot: true}
`

const noMkdir = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`

func prepareSecurity(p *pod) map[string]any {
	p.k.write("root/seccomp/nomkdir.json", noMkdir)
	return map[string]any{"AppArmor": appArmor()}
}

// appArmor says whether the kernel has it, which is when a kubelet takes profiles.
func appArmor() bool {
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled") // a kernel without it has no such file
	return strings.HasPrefix(string(enabled), "Y")
}

func checkSecurity(p *pod) {
	s := p.await("all but the one refused run", func(s *podStatus) bool {
		for _, c := range s.Status.ContainerStatuses {
			if !c.Ready && c.Name != "notroot" {
				return false
			}
		}
		return s.container("notroot").State.Waiting.Reason == "CreateContainerConfigError"
	})
	if message := s.container("notroot").State.Waiting.Message; !strings.Contains(message, "runAsNonRoot") {
		p.t.Errorf("the image's user is root: %s", message)
	}
	checks := []struct{ container, script, want string }{
		{"user", "id -u; id -g; id -G", "1000\n2000\n2000 3000 4000"},
		{"user", "echo mine > /data/x && stat -c '%u %g' /data/x && stat -c '%g %A' /data", "1000 3000\n3000 drwxrwsrwx"},
		{"readonly", "echo too >> /data/x && cat /data/x", "mine\ntoo"},
		{"capabilities", "grep CapEff /proc/self/status", "CapEff:\t0000000000000400"},
		{"nonewprivs", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"},
		{"default", "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status", "NoNewPrivs:\t0\nSeccomp:\t2"},
		{"localhost", "grep ^Seccomp: /proc/self/status", "Seccomp:\t2"},
		{"unconfined", "grep ^Seccomp: /proc/self/status", "Seccomp:\t0"},
		{"privileged", "mkdir /m && mount -t tmpfs none /m && umount /m && test -c /dev/kmsg && grep -c '/proc/sys proc ro' /proc/mounts || true", "0"},
	}
	if appArmor() {
		checks = append(checks, []struct{ container, script, want string }{
			{"apparmor", "cat /proc/self/attr/current", "strake-default (enforce)"},
			{"noapparmor", "cat /proc/self/attr/current", "unconfined"},
		}...)
	}
	for _, c := range checks {
		p.says(c.container, c.script, c.want)
	}
	p.fails("readonly", "touch /x", "Read-only")
	p.fails("localhost", "mkdir /x", "not permitted")
	p.fails("unconfined", "mount -t tmpfs none /tmp", "") // no CAP_SYS_ADMIN
	if _, err := os.Stat(filepath.Join(p.k.root(), "pods", s.Metadata.UID, "volumes", "kubernetes.io~empty-dir", "data", "x")); err != nil {
		p.t.Error(err)
	}
}
