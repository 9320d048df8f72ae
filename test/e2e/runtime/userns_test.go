package runtime

import (
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Podman without root runs the runtime as root of a user namespace, in which nobody makes
// device nodes, with a config that says nothing of one.
func TestInAUserNamespace(t *testing.T) {
	h := newHost(t)
	some := []syscall.SysProcIDMap{{Size: 65536}}
	cmd := h.command("run", "--bundle", h.bundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "" }, "open", "/dev/null"), "a")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: some, GidMappings: some, GidMappingsEnableSetgroups: true}
	if r := h.finish(cmd); r.code != 0 || r.out != "<nil>\n" {
		t.Errorf("exit code %d, output %q: %s", r.code, r.out, r.err)
	}
}
