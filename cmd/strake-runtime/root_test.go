package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Podman without root runs the runtime as the root of a user namespace, and names no
// directory: /run is not that root's to write to.
func TestDefaultRoot(t *testing.T) {
	if os.Getenv("STRAKE_TEST_ROOT") != "" {
		fmt.Printf("root=%s\n", defaultRoot())
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("as root, who is told from the root of a user namespace")
	}
	own := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}}
	for _, c := range []struct {
		attr *syscall.SysProcAttr
		env  string
		want string
	}{
		{nil, "XDG_RUNTIME_DIR=/run/user/0", "/run/strake-runtime"},
		{own, "XDG_RUNTIME_DIR=/run/user/7", "/run/user/7/strake-runtime"},
		{own, "XDG_RUNTIME_DIR=/run/user/7 USER=me", "/run/user/7/strake-runtime"},
		{own, "XDG_RUNTIME_DIR=/run/user/0 USER=root", "/run/strake-runtime"}, // a container that has a root of its own
		{own, "", "/run/strake-runtime"},
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestDefaultRoot$")
		cmd.SysProcAttr = c.attr
		cmd.Env = append(strings.Fields(c.env), "STRAKE_TEST_ROOT=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "root="+c.want+"\n") {
			t.Errorf("in a user namespace %v, %s: %s, %v; want %s", c.attr != nil, c.env, out, err, c.want)
		}
	}
}
