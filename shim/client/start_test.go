package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/wire"
)

// A monitor has been started when its program has ended, whatever has its output.
func TestLingeringStart(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := wire.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	program := filepath.Join(dir, "shim")
	script := testutil.Lingers(t, `echo '{"version":3,"protocol":"ttrpc","address":"unix://`+socket+`"}'`)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	m, err := Start(t.Context(), StartOptions{Binary: program, Namespace: "n", ID: "i", Bundle: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
