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
	o := image.PullOptions{}
	if a := r.Auth; a != nil {
		o.Auth = &image.Auth{
			Username:      a.Username,
			Password:      a.Password,
			RegistryToken: a.RegistryToken,
			IdentityToken: a.IdentityToken,
		}
	}
	var news progress
	news.changed = make(chan struct{}, 1)
	o.Progress = news.put

	pulling, end := s.untilEnd(stream.Context())
	defer end()
	sending, stop := context.WithCancel(stream.Context())
	sent := make(chan error, 1)
	go func() { sent <- news.send(sending, stream) }()
	img, err := s.Images.Pull(pulling, r.Reference, o)
	stop()
	if sendErr := <-sent; sendErr != nil {
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

// send sends what changes until ctx ends, and then what is left.
func (p *progress) send(ctx context.Context, stream grpc.ServerStreamingServer[strakev1.PullResponse]) error {
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
			if err := stream.Send(&strakev1.PullResponse{Event: &strakev1.PullResponse_Progress{Progress: l}}); err != nil {
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
