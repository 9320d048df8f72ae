package cri

import (
	"sync"
	"time"
)

// rates turns CPU counters into CPU in use: the mean since the sample before.
// Nobody has to collect in the background for that; whoever asks for statistics
// regularly, as the kubelet does, gets the mean of the time between.
type rates struct {
	mu   sync.Mutex
	last map[string]sample // by container or pod id
}

type sample struct {
	usage uint64 // ns of CPU time
	at    time.Time
	rate  uint64 // nanocores, of the interval that ended at at
}

// minInterval is the shortest time a rate is computed over: counters are not
// finer than a scheduler tick, and two clients may ask at once.
const minInterval = 100 * time.Millisecond

// maxSamples bounds what removed containers leave; the map starts anew then.
const maxSamples = 16384

func newRates() *rates { return &rates{last: map[string]sample{}} }

// nanocores returns the use of CPU since the last call for id, and false when
// this is the first one or the counter went back (the container was restarted).
func (r *rates) nanocores(id string, usage uint64, at time.Time) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, ok := r.last[id]
	if elapsed := at.Sub(before.at); ok && usage >= before.usage && elapsed < minInterval {
		return before.rate, before.rate > 0
	}
	if len(r.last) >= maxSamples {
		clear(r.last)
	}
	now := sample{usage: usage, at: at}
	defer func() { r.last[id] = now }()
	if !ok || usage < before.usage {
		return 0, false
	}
	now.rate = uint64(float64(usage-before.usage) / at.Sub(before.at).Seconds())
	return now.rate, true
}
