// Package annotation names the annotations of pods that the configuration can allow and
// that pods may then have. It is pure.
package annotation

// Notifier are CRI-O's names of its seccomp notifier (ADR 33), of which either allows both.
var Notifier = []string{"seccomp-notifier-action.crio.io", "io.kubernetes.cri-o.seccompNotifierAction"}
