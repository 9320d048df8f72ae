package kubelet

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// volumesPod mounts each kind of volume that a kubelet has without an API server.
const volumesPod = `
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {colour: blue}, annotations: {note: hello}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: dir, hostPath: {path: {{.Dir}}/dir, type: Directory}}
  - {name: new-dir, hostPath: {path: {{.Dir}}/new-dir, type: DirectoryOrCreate}}
  - {name: file, hostPath: {path: {{.Dir}}/file, type: File}}
  - {name: new-file, hostPath: {path: {{.Dir}}/new-file, type: FileOrCreate}}
  - {name: socket, hostPath: {path: {{.Dir}}/socket, type: Socket}}
  - {name: device, hostPath: {path: /dev/zero, type: CharDevice}}
  - {name: block, hostPath: {path: {{.Dir}}/block, type: BlockDevice}}
  - {name: any, hostPath: {path: {{.Dir}}/file}}
  - {name: spread, hostPath: {path: {{.Spread}}, type: Directory}}
  - name: info
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: note, mode: 0400, fieldRef: {fieldPath: "metadata.annotations['note']"}}
      - {path: deep/cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}
  - {name: image, image: {reference: {{.Image}}, pullPolicy: IfNotPresent}}
  initContainers:
  - name: init
    image: {{.Image}}
    command: [sh, -c, "mkdir -p /empty/a/b && echo below > /empty/a/b/here"]
    volumeMounts: [{name: empty, mountPath: /empty}]
  containers:
  - name: main
    image: {{.Image}}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 250m, memory: 64Mi}}
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: empty, mountPath: /empty}
    - {name: empty, mountPath: /sub, subPath: a/b}
    - {name: empty, mountPath: /sub-file, subPath: a/b/here}
    - {name: empty, mountPath: /named, subPathExpr: $(POD_NAME)}
    - {name: memory, mountPath: /memory}
    - {name: dir, mountPath: /dir}
    - {name: dir, mountPath: /ro, readOnly: true}
    - {name: new-dir, mountPath: /new-dir}
    - {name: file, mountPath: /file}
    - {name: new-file, mountPath: /new-file}
    - {name: socket, mountPath: /socket}
    - {name: device, mountPath: /device}
    - {name: block, mountPath: /block}
    - {name: any, mountPath: /any}
    - {name: spread, mountPath: /spread, mountPropagation: HostToContainer}
    - {name: info, mountPath: /info}
    - {name: image, mountPath: /image}
    - {name: image, mountPath: /programs, subPath: bin}
  - name: mounter
    image: {{.Image}}
    securityContext: {privileged: true}
    volumeMounts: [{name: spread, mountPath: /spread, mountPropagation: Bidirectional}]
`

func prepareVolumes(p *pod) map[string]any {
	p.t.Helper()
	check := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(p.dir, "dir", "below"), 0o755))
	check(os.WriteFile(filepath.Join(p.dir, "file"), []byte("a file"), 0o644))
	l, err := net.Listen("unix", filepath.Join(p.dir, "socket"))
	check(err)
	p.t.Cleanup(func() { _ = l.Close() }) // nobody connects
	check(syscall.Mknod(filepath.Join(p.dir, "block"), syscall.S_IFBLK|0o600, 7<<8|255))
	mount := func(source, at, kind string, flags uintptr) {
		p.t.Helper()
		check(syscall.Mount(source, at, kind, flags, ""))
	}
	mount("below", filepath.Join(p.dir, "dir", "below"), "tmpfs", 0)
	p.t.Cleanup(func() { p.unmount(filepath.Join(p.dir, "dir", "below")) })
	spread := filepath.Join(p.dir, "spread")
	check(os.MkdirAll(spread, 0o755))
	mount(spread, spread, "", syscall.MS_BIND)
	p.t.Cleanup(func() { p.unmount(spread) })
	mount("", spread, "", syscall.MS_SHARED)
	check(os.Mkdir(filepath.Join(spread, "host"), 0o755))
	check(os.Mkdir(filepath.Join(spread, "container"), 0o755))
	return map[string]any{"Spread": spread}
}

func (p *pod) unmount(at string) {
	if err := syscall.Unmount(at, 0); err != nil {
		p.t.Errorf("unmount %s: %v", at, err)
	}
}

func checkVolumes(p *pod) {
	p.awaitReady()
	for _, c := range []struct{ script, want string }{
		{"cat /sub/here /sub-file", "below\nbelow"},
		{"echo new > /named/x && cat /empty/volumes-" + nodeName + "/x", "new"},
		{"grep -c ' /memory tmpfs .*size=1024k' /proc/mounts", "1"},
		{"cat /file /any && echo written > /new-dir/x && echo written > /new-file", "a filea file"},
		{"test -S /socket && test -b /block && head -c 3 /device | wc -c", "3"},
		{"cat /info/labels && echo && cat /info/deep/cpu", "colour=\"blue\"\n250"},
		{"cat /info/note && stat -L -c %a /info/note", "hello400"},
		{"cmp /image/bin/busybox /programs/busybox && /programs/echo from an image", "from an image"},
		{"echo seen > /dir/below/x && cat /ro/below/x", "seen"},
		{"touch /ro/below/y", ""}, // only recursiveReadOnly makes what is mounted below read-only
	} {
		p.says("main", c.script, c.want)
	}
	for script, words := range map[string]string{
		"dd if=/dev/zero of=/memory/big bs=1M count=2": "No space left",
		"touch /ro/x":       "Read-only",
		"touch /image/x":    "Read-only",
		"touch /programs/x": "Read-only",
		"head -c 1 /block":  "not permitted", // its node is there, the container has no right to it
		"touch /info/x":     "Read-only",
	} {
		p.fails("main", script, words)
	}
	for name, want := range map[string]string{"new-dir/x": "written\n", "new-file": "written\n"} {
		p.awaitFile(name, want)
	}

	// Mounts go from the host to both, from the privileged one to the host and the other.
	spread := filepath.Join(p.dir, "spread")
	if err := syscall.Mount("late", filepath.Join(spread, "host"), "tmpfs", 0, ""); err != nil {
		p.t.Fatal(err)
	}
	defer p.unmount(filepath.Join(spread, "host"))
	if err := os.WriteFile(filepath.Join(spread, "host", "x"), []byte("from the host"), 0o644); err != nil {
		p.t.Error(err)
	}
	p.says("main", "cat /spread/host/x", "from the host")
	p.says("mounter", "cat /spread/host/x && mount -t tmpfs inner /spread/container && echo from within > /spread/container/x", "from the host")
	p.awaitFile("spread/container/x", "from within\n")
	p.says("main", "cat /spread/container/x", "from within")
	p.says("mounter", "umount /spread/container", "")
	if _, err := os.Stat(filepath.Join(spread, "container", "x")); err == nil {
		p.t.Error("what the container unmounted is still mounted on the host")
	}
}
