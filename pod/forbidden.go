package pod

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/strake-containers/strake/shim/client"
)

// ForbiddenCalls are how often a container has made a system call that its seccomp
// profile forbids.
type ForbiddenCalls struct {
	Namespace, Pod, Container string // names
	Call                      string
	Times                     uint64
}

// ForbiddenCalls are those of the containers there are whose calls are counted, by name.
func (m *Manager) ForbiddenCalls() []ForbiddenCalls {
	var containers []*container
	m.mu.Lock()
	for _, c := range m.containers {
		containers = append(containers, c)
	}
	m.mu.Unlock()
	times := map[ForbiddenCalls]uint64{}
	for _, c := range containers {
		c.pod.mu.Lock()
		counted, ended, calls := c.record.CountForbidden, c.record.State == ContainerExited, c.record.Forbidden
		c.pod.mu.Unlock()
		if !counted {
			continue
		}
		if !ended {
			calls = m.forbidden(c)
		}
		pod := &c.pod.record.Config // never changes after its birth
		for call, n := range calls {
			times[ForbiddenCalls{Namespace: pod.Namespace, Pod: pod.Name, Container: c.key.name, Call: call}] += n
		}
	}
	all := make([]ForbiddenCalls, 0, len(times))
	for f, n := range times { // of all attempts at a container
		f.Times = n
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b ForbiddenCalls) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container), cmp.Compare(a.Call, b.Call))
	})
	return all
}

// forbidden is what a container's monitor has counted; nil if it has nothing to count.
func (m *Manager) forbidden(c *container) map[string]uint64 {
	calls, err := client.Forbidden(m.containerState(c.pod.id, c.id))
	if err != nil {
		return nil // without a profile nothing is forbidden
	}
	return calls
}

// usedForbidden says to people which calls were forbidden.
func usedForbidden(calls map[string]uint64) string {
	parts := make([]string, 0, len(calls))
	for _, call := range slices.Sorted(maps.Keys(calls)) {
		parts = append(parts, fmt.Sprintf("%s (%dx)", call, calls[call]))
	}
	return "Used forbidden syscalls: " + strings.Join(parts, ", ")
}
