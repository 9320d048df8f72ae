package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/sys"
)

// InOwnNetwork runs a package's tests as a process in network and mount
// namespaces of its own, with nothing but loopback, so that they can furnish
// "the host" without touching it. For TestMain: os.Exit(testutil.InOwnNetwork(m)).
// Without root the tests run where they are, and skip what they cannot do.
func InOwnNetwork(m *testing.M) int {
	const inside = "STRAKE_TEST_IN_OWN_NETWORK"
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		if err := sys.LinkUp("lo"); err != nil {
			fmt.Fprintln(os.Stderr, "bring loopback up:", err)
			return 1
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in their own network:", err)
		return 1
	}
	return 0
}
