package pod

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Dump is what the Manager is doing, for who looks why it does not go on.
type Dump struct {
	Verbs    []VerbUnderWay // longest first
	Monitors []MonitorInfo  // by address
}

// VerbUnderWay is a verb, the step that it is in, and how many callers wait for it.
type VerbUnderWay struct {
	What, Stage string
	Since       time.Time
	Waiters     int
}

// MonitorInfo is a monitor and the ids of the pods that it holds.
type MonitorInfo struct {
	Address, Handler string
	State            string // starting, connected, being replaced or an error
	Pods             []string
}

// Dump takes only locks that are leaves, so it answers when a verb holds another
// for ever.
func (m *Manager) Dump() Dump {
	return Dump{Verbs: m.tracker.dump(), Monitors: m.crews.dump()}
}

func (t *tracker) dump() []VerbUnderWay {
	t.mu.Lock()
	var out []VerbUnderWay
	var pids []int
	for _, all := range []map[*work]struct{}{t.works, t.calls} {
		for w := range all {
			out = append(out, VerbUnderWay{What: w.what, Stage: w.stage, Since: w.since, Waiters: w.waiters})
			pids = append(pids, w.pid)
		}
	}
	t.mu.Unlock()
	for i := range out {
		out[i].Stage = describe(out[i].Stage, pids[i])
	}
	slices.SortFunc(out, func(a, b VerbUnderWay) int { return a.Since.Compare(b.Since) })
	return out
}

func (s *crewSet) dump() []MonitorInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]MonitorInfo, 0, len(s.all))
	for _, c := range s.all {
		i := MonitorInfo{Address: c.address(), Handler: c.handler, State: "connected", Pods: slices.Sorted(maps.Keys(c.pods))}
		switch {
		case c.err != nil:
			i.State = c.err.Error()
		case c.replacing != nil:
			i.State = "being replaced"
		case c.conn == nil:
			i.State = "starting"
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b MonitorInfo) int { return strings.Compare(a.Address, b.Address) })
	return out
}
