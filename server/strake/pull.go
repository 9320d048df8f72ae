package strake

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/strake-containers/strake/image"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// progressInterval is how often, at most, a client hears of a pull: twenty
// times a second looks smooth and costs nothing.
const progressInterval = 50 * time.Millisecond

func (s *service) Pull(r *strakev1.PullRequest, stream grpc.ServerStreamingServer[strakev1.PullResponse]) error {
	o := image.PullOptions{Auth: authOf(r.Auth)}
	news := newProgress()
	o.Progress = news.put

	pulling, end := s.untilEnd(stream.Context())
	defer end()
	done := news.sendWith(stream.Context(), func(l *strakev1.LayerProgress) error {
		return stream.Send(&strakev1.PullResponse{Event: &strakev1.PullResponse_Progress{Progress: l}})
	})
	img, err := s.Images.Pull(pulling, r.Reference, o)
	if sendErr := done(); sendErr != nil {
		return sendErr // the client has gone
	}
	if err != nil {
		return callError(pulling, err)
	}
	return stream.Send(&strakev1.PullResponse{Event: &strakev1.PullResponse_Image{Image: imageMessage(img)}})
}

// progress holds the newest state of each layer until it is sent: a slow client
// skips what is out of date and never slows the pull.
type progress struct {
	changed chan struct{}

	mu     sync.Mutex
	layers []*strakev1.LayerProgress // not yet sent, in order of first change
}

// put is an image.PullOptions.Progress.
func (p *progress) put(n image.Progress) {
	if n.Layer == "" {
		return // the stream's end says that of the image
	}
	next := &strakev1.LayerProgress{Layer: string(n.Layer), Phase: string(n.Phase), Done: n.Done, Total: n.Total}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range p.layers {
		if l.Layer == next.Layer {
			p.layers[i] = next
			return
		}
	}
	p.layers = append(p.layers, next)
	select {
	case p.changed <- struct{}{}:
	default: // one is waiting already
	}
}

func newProgress() *progress { return &progress{changed: make(chan struct{}, 1)} }

// sendWith sends what changes until done is called, which sends the rest and
// returns the error of sending.
func (p *progress) sendWith(ctx context.Context, send func(*strakev1.LayerProgress) error) (done func() error) {
	sending, stop := context.WithCancel(ctx)
	sent := make(chan error, 1)
	go func() { sent <- p.send(sending, send) }()
	return func() error {
		stop()
		return <-sent
	}
}

// send sends what changes until ctx ends, and then what is left.
func (p *progress) send(ctx context.Context, send func(*strakev1.LayerProgress) error) error {
	for last := false; !last; {
		select {
		case <-p.changed:
		case <-ctx.Done():
			last = true
		}
		p.mu.Lock()
		layers := p.layers
		p.layers = nil
		p.mu.Unlock()
		for _, l := range layers {
			if err := send(l); err != nil {
				return err
			}
		}
		select {
		case <-time.After(progressInterval):
		case <-ctx.Done():
		}
	}
	return nil
}
