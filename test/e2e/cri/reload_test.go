package cri

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// SIGHUP makes runtimes and signature policies of another configuration count; a key
// that cannot be changed, and a runtime of which there are pods, are refused by name.
func TestReload(t *testing.T) {
	n := start(t)
	handlers := func() (names []string) {
		s, err := n.Runtime.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range s.RuntimeHandlers {
			names = append(names, h.Name)
		}
		return names
	}
	policy := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default": [{"type": "reject"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	second := "[runtimes.second]\ntype = \"strake\"\n"
	n.Reload("[images]\nsignature_policy = \"" + policy + "\"\n[network]\nbridge = \"other0\"\n" + second)
	waitFor(t, "the second handler", func() bool { return slices.Contains(handlers(), "second") })
	waitFor(t, "what was refused", func() bool { return strings.Contains(n.Log(), "keys=[network.bridge]") })
	if err := n.Pull(t.Context()); err == nil || !strings.Contains(err.Error(), policy) {
		t.Errorf("pulled against the policy: %v", err)
	}
	r, err := n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: n.PodConfig("second", true), RuntimeHandler: "second"})
	if err != nil {
		t.Fatal(err)
	}
	n.Reload("")
	waitFor(t, "the refusal", func() bool { return strings.Contains(n.Log(), "keys=[runtimes.second]") })
	if err := n.Pull(t.Context()); err != nil {
		t.Errorf("the policy still counts: %v", err)
	}
	if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	n.Reload("")
	waitFor(t, "the second handler's end", func() bool { return !slices.Contains(handlers(), "second") })
	_, err = n.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: n.PodConfig("third", true), RuntimeHandler: "second"})
	if err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("a pod of no runtime: %v", err)
	}
}

// strake system reload does what SIGHUP does, and says what came of it.
func TestReloadCommand(t *testing.T) {
	n := node.Start(t, node.Options{})
	reload := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(n.Bin, "strake"), "--address", n.Address, "system", "reload").CombinedOutput()
		return string(out), err
	}
	file := n.DropIn("hooks_dirs = [\"/hooks\"]\n")
	if out, err := reload(); err != nil || !strings.Contains(out, "read "+file+"\n") || !strings.Contains(out, "changed hooks_dirs\n") {
		t.Errorf("%v: %s", err, out)
	}
	n.DropIn("hooks_dirs = [\"/hooks\"]\n[network]\nbridge = \"other0\"\n")
	if out, err := reload(); err == nil || !strings.Contains(out, "refused until a restart of straked") || !strings.Contains(out, ": network.bridge\n") {
		t.Errorf("%v: %s", err, out)
	}
	n.DropIn("log_level = \"loud\"\nroot = 5\n")
	if out, err := reload(); err == nil || !strings.Contains(out, file+":2: root: this is integer, not a string in quotes") {
		t.Errorf("%v: %s", err, out)
	}
	waitFor(t, "the error in the log", func() bool { return strings.Contains(n.Log(), "the configuration is not taken over") })
}

// A straked that is older than what has written to its root says so, and does no harm:
// pods run on, and the newer one finds all as it was.
func TestDowngrade(t *testing.T) {
	n := start(t)
	p := runPod(t, n, "stays", true)
	id := p.run(n.ContainerConfig("main", "sleep", "1000"))
	before, err := n.Status(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	n.Kill()
	format := filepath.Join(n.Root, "format.json")
	ours, err := os.ReadFile(format)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(format, []byte(`{"version":1000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out := n.FailedStart(); !strings.Contains(out, format+": version 1000") || !strings.Contains(out, "install that version again") {
			t.Errorf("it says %s", out)
		}
	}
	if err := os.WriteFile(format, ours, 0o600); err != nil {
		t.Fatal(err)
	}
	n.StartDaemon()
	if after, err := n.Status(t.Context(), id); err != nil || after.State != cri.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("before %v, afterwards %v, %v", before, after, err)
	}
	if r := p.exec(id, "echo", "alive"); string(r.Stdout) != "alive\n" {
		t.Errorf("exec: %v", r)
	}
}
