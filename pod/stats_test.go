package pod

import (
	"fmt"
	"slices"
	"testing"

	"github.com/strake-containers/strake/shim/client"
)

// One call asks a monitor for all its pods, but for those that may hold the others up, and
// as far as its answer goes into one message.
func TestStatsBatches(t *testing.T) {
	n := newNode(t)
	m := n.open()
	now := *m.settings()
	now.Runtimes = map[string]Runtime{"strake": {}, "crun": {Handler: client.Handler{Program: "crun"}}, "kata": {Handler: client.Handler{Shim: "kata"}}}
	m.now.Store(&now)
	monitors := map[string]Monitor{}
	reading := func(name, monitor, runtime string, containers int) *statsReading {
		p := &sandbox{id: name}
		p.record.Runtime = runtime
		r := &statsReading{pod: p, query: client.StatsQuery{IDs: make([]string, containers)}}
		if monitor != "" {
			if monitors[monitor] == nil {
				monitors[monitor] = &fakeConn{}
			}
			r.monitor = monitors[monitor]
		}
		return r
	}
	readings := []*statsReading{
		reading("a", "1", "strake", 2), reading("b", "2", "crun", 1), reading("c", "1", "strake", 0), reading("gone", "", "strake", 0),
		reading("k", "3", "kata", 1), reading("l", "3", "kata", 1), reading("big", "2", "crun", statsBatch-2), reading("d", "2", "crun", 0),
		reading("huge", "1", "strake", 2*statsBatch), reading("e", "1", "strake", 1),
	}
	show := func(scope statsScope) (out []string) {
		for _, b := range m.statsBatches(readings, scope) {
			s := ""
			for _, r := range b {
				s += r.pod.id + " "
			}
			out = append(out, s)
		}
		return out
	}
	want := []string{"a c ", "b ", "k ", "l ", "big d ", "huge ", "e "}
	for _, scope := range []statsScope{statsContainers, statsPod} {
		if got := show(scope); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := show(statsProcesses); len(got) != len(readings)-1 {
		t.Errorf("of processes, one by one: %q", got)
	}
	if fmt.Sprint(m.statsBatches(nil, statsPod)) != "[]" {
		t.Error("nothing is something")
	}
}
