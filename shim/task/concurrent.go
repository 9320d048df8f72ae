package task

import (
	"runtime"
	"sync"
)

// secondProcessor lends Go's scheduler, which a monitor starts with one processor's worth of,
// another one for what is long and can be shared out.
type secondProcessor struct {
	mu     sync.Mutex
	users  int
	before int // what GOMAXPROCS was
}

// use lends it until give is called. For the first user, and at the end of the last, it stops
// everything for some ten microseconds.
func (p *secondProcessor) use() (give func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users++; p.users == 1 {
		p.before = runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(max(p.before, 2))
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.users--; p.users == 0 {
			runtime.GOMAXPROCS(p.before)
		}
	}
}
