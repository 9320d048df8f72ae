package handlers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// gvisor is gVisor by its shim. Its programs are in $STRAKE_GVISOR, where make
// test-handlers builds them.
func gvisor(t *testing.T) handler {
	t.Helper()
	dir := os.Getenv("STRAKE_GVISOR")
	if dir == "" {
		t.Skip("needs gVisor: run make test-handlers, which builds it")
	}
	// systrap is the platform that needs no /dev/kvm.
	options := filepath.Join(t.TempDir(), "runsc.toml")
	text := fmt.Sprintf("binary_name = %q\nroot = %q\n[runsc_config]\nplatform = \"systrap\"\n", filepath.Join(dir, "runsc"), filepath.Join(t.TempDir(), "runsc"))
	if err := os.WriteFile(options, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return handler{
		name: "gvisor", needs: filepath.Join(dir, "runsc"), shim: "containerd-shim-runsc-v1", ownKernel: true, fragile: true,
		config: fmt.Sprintf("type = \"shim\"\npath = %q\n[runtimes.gvisor.options]\ntype_url = \"io.containerd.runsc.v1.options\"\nconfig_path = %q\n",
			gvisorShim(t, filepath.Join(dir, "containerd-shim-runsc-v1")), options),
	}
}

// gvisorShim is a program that starts gVisor's shim, which insists on an OOM score that
// takes CAP_SYS_RESOURCE, unless it thinks that it is in a user namespace.
func gvisorShim(t *testing.T, program string) string {
	t.Helper()
	const score = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(score)
	if err == nil && os.WriteFile(score, []byte("-998"), 0) == nil {
		_ = os.WriteFile(score, before, 0) // raising it is always allowed
		return program
	}
	dir := t.TempDir()
	uidMap := filepath.Join(dir, "uid_map")
	path := filepath.Join(dir, filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m --propagation slave sh -c 'mount --bind %s /proc/$$/uid_map && exec %s \"$@\"' shim \"$@\"\n", uidMap, program)
	for name, text := range map[string]string{uidMap: "0 0 1000\n", path: script} {
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestGVisor(t *testing.T) { story(t, gvisor(t)) }

// A pod that is not trusted runs in gVisor and one that is natively, side by side. What
// each sees of the kernel proves it.
func TestTrustedAndUntrusted(t *testing.T) {
	n := start(t, gvisor(t))
	untrusted := run(t, n, "untrusted", "gvisor", nil)
	trusted := run(t, n, "trusted", "", nil)
	kernels := map[*pod]string{}
	for _, p := range []*pod{untrusted, trusted} {
		id := p.container(n.ContainerConfig("main", "sleep", "1000"))
		kernels[p] = p.out(id, "uname", "-r") + "\n" + p.out(id, "sh", "-c", "dmesg 2>/dev/null | head -n 1; true")
	}
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := strings.Cut(kernels[trusted], "\n"); got != strings.TrimSpace(string(host)) {
		t.Errorf("the trusted pod sees Linux %q, the host is %q", got, host)
	}
	if got := kernels[untrusted]; !strings.Contains(got, "Starting gVisor") || strings.HasPrefix(got, strings.TrimSpace(string(host))) {
		t.Errorf("the untrusted pod sees %q: that is not gVisor", got)
	}
	s, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: untrusted.id})
	if err != nil || s.Status.RuntimeHandler != "gvisor" {
		t.Errorf("runtime handler: %v, %v", s, err)
	}
}
