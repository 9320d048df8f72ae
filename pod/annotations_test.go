package pod

import (
	"errors"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/annotation"
	"github.com/strake-containers/strake/pod/bundle"
)

// A pod that asks CRI-O for a user namespace, a seccomp profile or links to its logs is
// not run without, and one that asks for its notifier not unless that is allowed.
func TestAnnotationsAreRefused(t *testing.T) {
	n := newNode(t)
	m := n.open()
	for key, instead := range map[string]string{
		"io.kubernetes.cri-o.userns-mode":                "spec.hostUsers",
		"userns-mode.crio.io":                            "spec.hostUsers",
		"seccomp-profile.kubernetes.cri-o.io/main":       "securityContext.seccompProfile",
		"seccomp-profile.crio.io":                        "securityContext.seccompProfile",
		"io.kubernetes.cri-o.seccompNotifierAction":      "[runtimes.strake] allowed_annotations",
		"io.kubernetes.cri-o.seccompNotifierAction.main": "[runtimes.strake] allowed_annotations",
		"seccomp-notifier-action.crio.io/main":           "[runtimes.strake] allowed_annotations",
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

// Who is allowed the notifier has to say what is to be done.
func TestNotifierAnnotations(t *testing.T) {
	allowed := Runtime{AllowedAnnotations: annotation.Notifier[:1]}
	for _, key := range []string{"seccomp-notifier-action.crio.io", "io.kubernetes.cri-o.seccompNotifierAction", "seccomp-notifier-action.crio.io/web"} {
		for value, ok := range map[string]bool{"": true, "stop": true, "halt": false} {
			if err := checkAnnotations(map[string]string{key: value}, "strake", allowed); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s=%s: %v", key, value, err)
			}
		}
	}
	for _, c := range []struct {
		annotations map[string]string
		count, stop bool
	}{
		{nil, false, false},
		{map[string]string{"seccomp-notifier-action.crio.io": ""}, true, false},
		{map[string]string{"seccomp-notifier-action.crio.io": "stop"}, true, true},
		{map[string]string{"seccomp-notifier-action.crio.io": "stop", "seccomp-notifier-action.crio.io/web": ""}, true, false},
		{map[string]string{"io.kubernetes.cri-o.seccompNotifierAction.web": "stop"}, true, true},
		{map[string]string{"seccomp-notifier-action.crio.io/db": "stop"}, false, false},
	} {
		if count, stop := notifier(c.annotations, "web"); count != c.count || stop != c.stop {
			t.Errorf("%v: %v, %v", c.annotations, count, stop)
		}
	}
}
