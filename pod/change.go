package pod

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
)

// Change makes other settings count. A runtime handler of which there are pods stays as
// it is: they were made by its program, and only that can end them. Those are named.
// The default runtime has to be among the runtimes.
func (m *Manager) Change(to Settings) (kept []string, err error) {
	if _, ok := to.Runtimes[to.DefaultRuntime]; !ok {
		return nil, errorf(ErrInvalid, "pods: default runtime %q is not among the runtimes", to.DefaultRuntime)
	}
	defer m.tendSpare()
	m.mu.Lock()
	defer m.mu.Unlock()
	used := map[string]bool{}
	for _, p := range m.pods {
		used[p.record.Runtime] = true // never changes after its birth
	}
	for _, p := range m.names { // being made
		used[p.record.Runtime] = true
	}
	to.Runtimes = maps.Clone(to.Runtimes)
	for name, was := range m.now.Load().Runtimes {
		if is, there := to.Runtimes[name]; used[name] && !(there && sameRuntime(was, is)) {
			to.Runtimes[name] = was
			kept = append(kept, name)
		}
	}
	m.now.Store(&to)
	slices.Sort(kept)
	return kept, nil
}

// sameRuntime: what a shim is given is a message, which compares by its bytes.
func sameRuntime(a, b Runtime) bool {
	x, y := a.Handler.Options, b.Handler.Options
	a.Handler.Options, b.Handler.Options = nil, nil
	return reflect.DeepEqual(a, b) && x.GetTypeUrl() == y.GetTypeUrl() && bytes.Equal(x.GetValue(), y.GetValue())
}

// settings are those of this moment.
func (m *Manager) settings() *Settings { return m.now.Load() }
