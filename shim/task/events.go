package task

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/pb"
	"github.com/strake-containers/strake/shim/wire"
)

const (
	// publishTimeout is how long containerd may take for one event.
	publishTimeout = 5 * time.Second
	// maxEvents is how many may wait while containerd is away; then the oldest
	// goes. containerd asks for the state of everything when it comes back.
	maxEvents = 4096
)

// publisher forwards events to containerd, one by one and in order. Its mu is a
// leaf lock; publishing never blocks.
type publisher struct {
	address, namespace string

	mu    sync.Mutex
	queue []*envelope
	busy  bool          // a goroutine is sending
	idle  chan struct{} // closed when it ends
}

func newPublisher(address, namespace string) *publisher {
	return &publisher{address: strings.TrimPrefix(address, "unix://"), namespace: namespace}
}

// publish queues an event. Without an address there is nobody to tell.
func (p *publisher) publish(topic, url string, event any) {
	if p.address == "" {
		return
	}
	value, err := pb.Marshal(event)
	if err != nil {
		logf("event %s: %v", topic, err)
		return
	}
	e := &envelope{Timestamp: stamp(time.Now()), Namespace: p.namespace, Topic: topic, Event: &wire.Any{TypeURL: url, Value: value}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == maxEvents {
		logf("event %s: dropped: containerd does not take events", p.queue[0].Topic)
		p.queue = p.queue[1:]
	}
	p.queue = append(p.queue, e)
	if !p.busy {
		p.busy = true
		p.idle = make(chan struct{})
		go p.send()
	}
}

// send sends until the queue is empty. The connection lasts as long.
func (p *publisher) send() {
	var client *wire.Client
	defer func() {
		if client != nil {
			_ = client.Close() // every call has been answered
		}
	}()
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.busy = false
			p.queue = nil
			close(p.idle)
			p.mu.Unlock()
			return
		}
		e := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		var err error
		if client, err = p.forward(client, e); err != nil {
			logf("event %s: %v", e.Topic, err)
		}
	}
}

// forward sends one event, over client if that still works.
func (p *publisher) forward(client *wire.Client, e *envelope) (*wire.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	call := func() error {
		return client.Call(ctx, "containerd.services.events.ttrpc.v1.Events", "Forward",
			&forwardRequest{Envelope: e}, &wire.Empty{}, "containerd-namespace-ttrpc", p.namespace)
	}
	if client != nil {
		err := call()
		if err == nil {
			return client, nil
		}
		_ = client.Close() // a restarted containerd, most likely: once more
	}
	conn, err := wire.Dial(ctx, p.address)
	if err != nil {
		return nil, err
	}
	client = wire.NewClient(conn)
	if err := call(); err != nil {
		_ = client.Close() // of no more use
		return nil, err
	}
	return client, nil
}

// flush waits until nothing is queued.
func (p *publisher) flush() {
	p.mu.Lock()
	busy, idle := p.busy, p.idle
	p.mu.Unlock()
	if busy {
		<-idle
	}
}
