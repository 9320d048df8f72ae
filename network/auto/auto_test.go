package auto

import (
	"context"
	"slices"
	"testing"

	"github.com/strake-containers/strake/network"
)

// fake records what it was asked.
type fake struct {
	network.Network
	configured bool
	holds      string
	calls      []string
}

func (f *fake) Configured() bool     { return f.configured }
func (f *fake) NeedsMount() bool     { return f.configured }
func (f *fake) Holds(id string) bool { return id == f.holds }
func (f *fake) Setup(_ context.Context, p network.Pod) (network.Result, error) {
	f.calls = append(f.calls, "setup "+p.ID)
	return network.Result{}, nil
}
func (f *fake) Teardown(_ context.Context, p network.Pod) error {
	f.calls = append(f.calls, "teardown "+p.ID)
	return nil
}
func (f *fake) GC(context.Context, []string) error {
	f.calls = append(f.calls, "gc")
	return nil
}

func TestChoice(t *testing.T) {
	cni, bridge := &fake{holds: "c"}, &fake{holds: "b"}
	a := New(cni, bridge)
	all := func() {
		for _, id := range []string{"new", "c", "b"} {
			if _, err := a.Setup(t.Context(), network.Pod{ID: id}); err != nil {
				t.Fatal(err)
			}
			if err := a.Teardown(t.Context(), network.Pod{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	all()
	if want := []string{"setup c", "teardown c"}; !slices.Equal(cni.calls, want) {
		t.Errorf("without a configuration, cni: %v, want %v", cni.calls, want)
	}
	if want := []string{"setup new", "teardown new", "setup b", "teardown b"}; !slices.Equal(bridge.calls, want) {
		t.Errorf("without a configuration, bridge: %v, want %v", bridge.calls, want)
	}
	if a.NeedsMount() {
		t.Error("without a configuration, a namespace has to be mounted")
	}
	cni.calls, bridge.calls, cni.configured = nil, nil, true
	if !a.NeedsMount() {
		t.Error("with a configuration, a namespace need not be mounted")
	}
	all()
	if want := []string{"setup new", "teardown new", "setup c", "teardown c"}; !slices.Equal(cni.calls, want) {
		t.Errorf("with a configuration, cni: %v, want %v", cni.calls, want)
	}
	if want := []string{"setup b", "teardown b"}; !slices.Equal(bridge.calls, want) {
		t.Errorf("with a configuration, bridge: %v, want %v", bridge.calls, want)
	}
	if err := a.GC(t.Context(), nil); err != nil || !slices.Contains(cni.calls, "gc") || !slices.Contains(bridge.calls, "gc") {
		t.Errorf("gc: %v; %v, %v", err, cni.calls, bridge.calls)
	}
}
