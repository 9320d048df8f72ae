package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strake-containers/strake/internal/annotation"
	"github.com/strake-containers/strake/pod/bundle"
)

// asked are annotations by which pods ask CRI-O for what this daemon does not have, with
// what to do instead (ADR 40). Each may be followed by a container's name.
var asked = []struct {
	keys    []string
	instead string
}{
	{[]string{"io.kubernetes.cri-o.userns-mode", "userns-mode.crio.io"},
		"a range of ids is found by the kubelet: set spec.hostUsers to false"},
	{[]string{"seccomp-profile.kubernetes.cri-o.io", "seccomp-profile.crio.io"},
		"set securityContext.seccompProfile"},
	{[]string{"io.kubernetes.cri-o.LinkLogs", "link-logs.crio.io"},
		"mount the log directory, /var/log/pods, as a hostPath volume"},
}

// notifierStop is the value of one of annotation.Notifier that ends containers; "" only
// counts. By those a pod asks for its seccomp notifier: the system calls that its profile
// forbids are counted and, with this value, its containers ended for them (ADR 33).
// Followed by a container's name they are for that one.
const notifierStop = "stop"

// suffixOf is what follows one of the keys in an annotation's key: "", or a container's
// name.
func suffixOf(key string, keys []string) (name string, ok bool) {
	for _, base := range keys {
		rest, ok := strings.CutPrefix(key, base)
		switch {
		case !ok:
		case rest == "":
			return "", true
		case rest[0] == '/' || rest[0] == '.':
			return rest[1:], true
		}
	}
	return "", false
}

// checkAnnotations refuses a pod that would believe itself more confined, or more watched,
// than its handler has it.
func checkAnnotations(annotations map[string]string, handler string, runtime Runtime) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		for _, a := range asked {
			if _, ok := suffixOf(key, a.keys); ok {
				return fmt.Errorf("annotations[%s]: not supported: %s: %w", key, a.instead, bundle.ErrUnsupported)
			}
		}
		if _, ok := suffixOf(key, annotation.Notifier); !ok {
			continue
		}
		if !slices.ContainsFunc(annotation.Notifier, func(k string) bool { return slices.Contains(runtime.AllowedAnnotations, k) }) {
			return fmt.Errorf("annotations[%s]: not allowed with the handler %s: have %q in [runtimes.%s] allowed_annotations: %w",
				key, handler, annotation.Notifier[0], handler, bundle.ErrUnsupported)
		}
		if v := annotations[key]; v != "" && v != notifierStop {
			return errorf(ErrInvalid, "annotations[%s]: %q: it is empty, to count, or %q", key, v, notifierStop)
		}
	}
	return nil
}

// notifier is what a pod's annotations ask for its container of that name: one for that
// container counts before those for all.
func notifier(annotations map[string]string, container string) (count, stop bool) {
	for _, name := range []string{"", container} {
		for key, value := range annotations {
			if of, ok := suffixOf(key, annotation.Notifier); ok && of == name {
				count, stop = true, value == notifierStop
			}
		}
	}
	return count, stop
}
