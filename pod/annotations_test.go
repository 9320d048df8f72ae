package pod

import (
	"errors"
	"strings"
	"testing"

	"github.com/strake-containers/strake/pod/bundle"
)

// A pod that asks CRI-O for a user namespace, a seccomp profile, its notifier or links
// to its logs is not run without.
func TestAnnotationsAreRefused(t *testing.T) {
	n := newNode(t)
	m := n.open()
	for key, instead := range map[string]string{
		"io.kubernetes.cri-o.userns-mode":                "spec.hostUsers",
		"userns-mode.crio.io":                            "spec.hostUsers",
		"seccomp-profile.kubernetes.cri-o.io/main":       "securityContext.seccompProfile",
		"seccomp-profile.crio.io":                        "securityContext.seccompProfile",
		"io.kubernetes.cri-o.seccompNotifierAction":      "SCMP_ACT_LOG",
		"io.kubernetes.cri-o.seccompNotifierAction.main": "SCMP_ACT_LOG",
		"seccomp-notifier-action.crio.io/main":           "SCMP_ACT_LOG",
		"io.kubernetes.cri-o.LinkLogs":                   "/var/log/pods",
		"link-logs.crio.io":                              "/var/log/pods",
	} {
		c := podConfig("web")
		c.Annotations = map[string]string{"a": "b", key: "stop"}
		_, err := m.RunPod(t.Context(), c, "")
		if !errors.Is(err, bundle.ErrUnsupported) || !strings.Contains(err.Error(), "annotations["+key+"]") || !strings.Contains(err.Error(), instead) {
			t.Errorf("%s: %v", key, err)
		}
	}
	n.checkEmpty()

	// Others are what they are: text.
	c := podConfig("web")
	c.Annotations = map[string]string{"io.kubernetes.cri-o.userns-modes": "x", "example.org/link-logs.crio.io": "x", "io.kubernetes.cri-o.umask": "022"}
	id, err := m.RunPod(t.Context(), c, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod(t.Context(), id); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}
