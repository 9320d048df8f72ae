package pod

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strake-containers/strake/pod/bundle"
)

// asked are annotations by which pods ask CRI-O for what this daemon does not have, with
// what to do instead (ADR 40). Each may be followed by a container's name.
var asked = []struct{ keys, instead string }{
	{"io.kubernetes.cri-o.userns-mode userns-mode.crio.io",
		"a range of ids is found by the kubelet: set spec.hostUsers to false"},
	{"seccomp-profile.kubernetes.cri-o.io seccomp-profile.crio.io",
		"set securityContext.seccompProfile"},
	{"io.kubernetes.cri-o.seccompNotifierAction seccomp-notifier-action.crio.io",
		"forbidden calls are not counted: a profile whose action is SCMP_ACT_LOG writes them to the kernel's log"},
	{"io.kubernetes.cri-o.LinkLogs link-logs.crio.io",
		"mount the log directory, /var/log/pods, as a hostPath volume"},
}

// refuseAnnotations refuses a pod that would believe itself more confined than it is.
func refuseAnnotations(annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		for _, a := range asked {
			for base := range strings.FieldsSeq(a.keys) {
				if rest, ok := strings.CutPrefix(key, base); ok && (rest == "" || rest[0] == '/' || rest[0] == '.') {
					return fmt.Errorf("annotations[%s]: not supported: %s: %w", key, a.instead, bundle.ErrUnsupported)
				}
			}
		}
	}
	return nil
}
