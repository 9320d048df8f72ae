package container

import (
	"os"
	"testing"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// BenchmarkRun is a container's whole life within one process; strake-runtime
// adds its own start and the decoding of config.json.
func BenchmarkRun(b *testing.B) {
	testutil.RequireRoot(b, "containers are made")
	state, err := os.MkdirTemp("/run", "strake-core-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(state) }()
	t := &testing.T{}
	e := &env{t: t, state: state, bundle: b.TempDir()}
	makeRootfs(t, e.bundle+"/rootfs")
	s := e.spec("")
	s.Process.Args = []string{"/bin/true"}
	for b.Loop() {
		c, p, err := Create(b.Context(), CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: state, Spec: s})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := sys.WaitReadable(b.Context(), p.PidFD); err != nil {
			b.Fatal(err)
		}
		if _, _, err := sys.WaitPidFD(sys.Fd(p.PidFD)); err != nil {
			b.Fatal(err)
		}
		if err := c.Delete(b.Context(), false); err != nil {
			b.Fatal(err)
		}
		_ = p.PidFD.Close()
	}
}
