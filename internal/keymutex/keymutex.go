// Package keymutex is a mutex per key: holders of different keys do not wait
// for each other. It is for serialising the slow work on one object (a pod, a
// reference) without a lock that stalls all the others.
package keymutex

import "sync"

// Mutex has no lock held in its zero value. A key costs memory only while
// somebody holds it or waits for it.
type Mutex struct {
	mu   sync.Mutex
	keys map[string]*entry
}

type entry struct {
	sync.Mutex
	users int // holding or waiting; Mutex.mu guards it
}

// Lock waits for key and returns its unlock, which must be called once.
func (m *Mutex) Lock(key string) (unlock func()) {
	m.mu.Lock()
	e := m.keys[key]
	if e == nil {
		if m.keys == nil {
			m.keys = map[string]*entry{}
		}
		e = &entry{}
		m.keys[key] = e
	}
	e.users++
	m.mu.Unlock()

	e.Lock()
	return func() {
		e.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.users--; e.users == 0 {
			delete(m.keys, key)
		}
	}
}
