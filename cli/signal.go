package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// forwarded are the signals that a container gets in place of strake.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
}

// patience is how many times somebody asks strake to end, in vain because the
// container takes the signals, before it does.
const patience = 3

// interrupted is the end of a context by a signal.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string { return fmt.Sprintf("interrupted: %s", e.signal) }

// exitCode is what a shell gives to a process that the signal killed.
func (e interrupted) exitCode() int { return 128 + int(e.signal) }

// signalProxy takes the signals that strake gets. They end its context until
// forward says where else they go.
type signalProxy struct {
	caught chan os.Signal
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	to   func(syscall.Signal)
	asks int // how often it was asked to end since forward
}

// catchSignals begins; stop ends it.
func catchSignals(ctx context.Context) (context.Context, *signalProxy) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &signalProxy{caught: make(chan os.Signal, 16), cancel: cancel}
	signal.Notify(p.caught, forwarded...)
	// A reader of our output that goes is an error of the write, and no sudden
	// death: a container of --rm goes with it.
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		for s := range p.caught {
			p.handle(s.(syscall.Signal))
		}
	}()
	return ctx, p
}

func (p *signalProxy) handle(s syscall.Signal) {
	p.mu.Lock()
	to := p.to
	if s == syscall.SIGINT || s == syscall.SIGTERM {
		p.asks++
	}
	asks := p.asks
	p.mu.Unlock()
	if to == nil || asks >= patience {
		p.cancel(interrupted{s})
		return
	}
	to(s)
}

// forward sends the signals to the container from now on.
func (p *signalProxy) forward(to func(syscall.Signal)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to, p.asks = to, 0
}

func (p *signalProxy) stop() {
	signal.Stop(p.caught)
	close(p.caught)
	p.cancel(nil)
}
