package keymutex

import (
	"sync"
	"testing"
)

func TestLock(t *testing.T) {
	var m Mutex
	counts := map[string]*int{"a": new(int), "b": new(int)}

	var wg sync.WaitGroup
	for _, key := range []string{"a", "b"} {
		for range 8 {
			wg.Go(func() {
				for range 500 {
					unlock := m.Lock(key)
					*counts[key]++
					unlock()
				}
			})
		}
	}
	wg.Wait()
	if *counts["a"] != 4000 || *counts["b"] != 4000 {
		t.Errorf("counts %d, %d: two held one key", *counts["a"], *counts["b"])
	}

	unlock := m.Lock("a")
	m.Lock("b")() // another key does not wait
	unlock()
	if len(m.keys) != 0 {
		t.Errorf("%d keys kept", len(m.keys))
	}
}
