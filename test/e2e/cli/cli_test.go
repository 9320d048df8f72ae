// Package cli drives the built strake against a private straked: the scripts in
// testdata, and sessions on a terminal.
package cli

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/strake-containers/strake/test/node"
	"github.com/strake-containers/strake/test/sigstore"
)

// The scripts share one straked and run at the same time, so that each names its
// containers after itself.
func TestScripts(t *testing.T) {
	registries := t.TempDir()
	if err := os.WriteFile(filepath.Join(registries, "default.yaml"), []byte("default-docker:\n  use-sigstore-attachments: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := node.Start(t, node.Options{Config: fmt.Sprintf("[images]\nsignature_policy = \"\"\nregistries_d = %q\n", registries)})
	strake(t, n, "pull", "-q", n.Image)
	key, _ := sigstore.NewKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	registry, _, _ := strings.Cut(n.Image, "/")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(5 * time.Minute), // of all; they take seconds where nobody else wants the machine
		Setup: func(e *testscript.Env) error {
			e.Setenv("STRAKE_ADDRESS", n.Address)
			e.Setenv("IMAGE", n.Image)
			e.Setenv("REGISTRY", registry)
			e.Setenv("PATH", n.Bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			return os.WriteFile(filepath.Join(e.WorkDir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
		},
	})
}

// strake runs the built program and returns what it printed.
func strake(t *testing.T, n *node.Node, args ...string) string {
	t.Helper()
	out, err := command(n, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("strake %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func command(n *node.Node, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(n.Bin, "strake"), args...)
	cmd.Env = append(os.Environ(), "STRAKE_ADDRESS="+n.Address)
	return cmd
}
