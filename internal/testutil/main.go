package testutil

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// MainWith is a TestMain for tests of one of this module's commands: it builds it, says
// in path where it is, runs the tests and returns their exit code. With STRAKE_BIN in the
// environment, a directory, it is there already: a virtual machine builds slowly.
func MainWith(m *testing.M, command string, path *string) int {
	if dir := os.Getenv("STRAKE_BIN"); dir != "" {
		*path = filepath.Join(dir, command)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "strake-test-"+command)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left of it is the system's to clean
	*path = filepath.Join(dir, command)
	flags := "" // the Makefile's
	if command == "strake-runtime" {
		flags = "-E main.entry"
	}
	build := exec.Command("go", "build", "-ldflags", flags, "-o", *path, "github.com/strake-containers/strake/cmd/"+command)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build %s: %v\n%s", command, err, out)
		return 1
	}
	return m.Run()
}
