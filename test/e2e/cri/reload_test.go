package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	if !strings.Contains(n.Log(), "keys=[network.bridge]") {
		t.Errorf("the log does not name what was refused:\n%s", n.Log())
	}
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
