package testutil

import (
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
)

// RequireSELinux skips a test unless a policy with labels for containers is enforced:
// container-selinux's, or that of test/vm.
func RequireSELinux(tb testing.TB) {
	tb.Helper()
	if !selinux.GetEnabled() || selinux.EnforceMode() != selinux.Enforcing {
		tb.Skip("needs SELinux, enforcing: see test/vm")
	}
	process, file := selinux.ContainerLabels()
	selinux.ReleaseLabel(process)
	if process == "" || file == "" {
		tb.Skip("the SELinux policy has no labels for containers")
	}
}
