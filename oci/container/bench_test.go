package container

import (
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

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

// BenchmarkExec is one more process of a container, as a monitor makes them for probes.
func BenchmarkExec(b *testing.B) {
	testutil.RequireRoot(b, "containers are made")
	state, err := os.MkdirTemp("/run", "strake-core-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(state) }()
	e := &env{t: &testing.T{}, state: state, bundle: b.TempDir()}
	makeRootfs(e.t, e.bundle+"/rootfs")
	s := e.spec("")
	s.Process.Args = []string{"/bin/sleep", "1000000"}
	c, p, err := Create(b.Context(), CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: state, Spec: s})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := c.Delete(b.Context(), true); err != nil {
			b.Error(err)
		}
		_ = p.PidFD.Close()
	}()
	if err := c.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	process := &specs.Process{Args: []string{"/bin/true"}, Env: s.Process.Env, Cwd: "/"}
	b.ReportAllocs()
	for b.Loop() {
		p, err := c.Exec(b.Context(), ExecOptions{Process: process})
		if err != nil {
			b.Fatal(err)
		}
		if err := sys.WaitReadable(b.Context(), p.PidFD); err != nil {
			b.Fatal(err)
		}
		if _, _, err := sys.WaitPidFD(sys.Fd(p.PidFD)); err != nil {
			b.Fatal(err)
		}
		_ = p.PidFD.Close()
	}
}
