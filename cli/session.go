package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/cli/logfile"
	"github.com/strake-containers/strake/cli/stream"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// session is a person in front of a container.
//
// With a terminal, input and output go through Attach. Without one, only the
// input does: the output is read from the log, where nothing is lost however
// slow the reader is, and which a restart of straked does not interrupt.
type session struct {
	app              *app
	client           *client
	signals          *signalProxy
	id               string
	tty, interactive bool
	running          bool // it has been started
	fromNow          bool // show only what comes from now on
}

// errGone is how a session on a terminal ends when straked does.
var errGone = errors.New("straked went away: the container goes on; strake attach connects again")

// run starts the container, unless it is running, and returns its exit code
// when it has ended and its output is written. It returns stream.ErrDetached
// when the detach keys were typed; the cause of ctx when that ended.
func (s *session) run(ctx context.Context) (code int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// 1. Wait for its end, before it can come.
	ended := make(chan struct{}) // closed when exit or waitErr is set
	var exit *strakev1.WaitContainerResponse
	var waitErr error
	go func() {
		defer close(ended)
		exit, waitErr = s.client.wait(ctx, s.id)
	}()

	// 2. Connect, so that nothing is missed.
	var attached chan error // nil: no attach
	if s.tty || s.interactive {
		if s.tty {
			restore, err := s.app.rawTerminal()
			if err != nil {
				return 0, err
			}
			defer restore()
		}
		attached = make(chan error, 1)
		ready := make(chan struct{})
		go func() { attached <- s.attach(ctx, func() { close(ready) }) }()
		select {
		case <-ready:
		case err := <-attached:
			return 0, attachError(ctx, err)
		}
	}

	// 3. Start it. This is not interrupted half-way: it takes milliseconds.
	if !s.running {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		if err := s.client.start(context.WithoutCancel(ctx), s.id); err != nil {
			return 0, err
		}
		s.running = true
	}
	s.signals.forward(func(sig syscall.Signal) {
		// It fails when the container has just ended, and then that is seen.
		_, _ = s.client.strake.KillContainer(ctx, &strakev1.KillContainerRequest{ContainerId: s.id, Signal: fmt.Sprint(int(sig))})
	})

	// 4. Its output, to the end.
	if s.tty {
		select {
		case err = <-attached:
			if err != nil {
				return 0, attachError(ctx, err)
			}
			<-ended // the output ends a moment before
		case <-ended:
			if err := <-attached; err != nil && waitErr == nil {
				return 0, attachError(ctx, err)
			}
		}
	} else if err := s.copyLog(ctx, ended, attached); err != nil {
		return 0, err
	}
	<-ended
	if waitErr != nil {
		return 0, cause(ctx, waitErr)
	}
	return int(exit.ExitCode), nil
}

func (s *session) attach(ctx context.Context, ready func()) error {
	streams := stream.Streams{Ready: ready}
	if s.interactive {
		streams.Stdin = s.app.stdin
	}
	if s.tty {
		streams.Stdout = s.app.stdout
		streams.DetachKeys = s.interactive
		streams.Resize = s.app.terminalSizes(ctx)
	}
	return stream.Attach(ctx, s.client.strake, s.id, streams)
}

// copyLog shows the container's output until it has ended. An attached standard
// input that breaks is only worth telling while the container runs.
func (s *session) copyLog(ctx context.Context, ended <-chan struct{}, attached <-chan error) error {
	is, err := s.client.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.id})
	if err != nil {
		return cause(ctx, err)
	}
	tail := logfile.All
	if s.fromNow {
		tail = 0
	}
	done := make(chan struct{})
	copied := make(chan error, 1)
	go func() {
		copied <- logfile.Copy(is.Status.LogPath, logfile.Options{Done: done, Tail: tail}, s.app.stdout, s.app.stderr)
	}()
	for {
		select {
		case err := <-copied: // an error: it cannot have been done
			return err
		case <-ended:
		case <-ctx.Done():
		case err := <-attached:
			attached = nil
			if err != nil && status.Code(err) == codes.Unavailable {
				fmt.Fprintf(s.app.stderr, "strake: %s\r\n", "straked went away: standard input is not passed on any more")
			}
			continue
		}
		close(done)
		return <-copied
	}
}

// cause prefers why ctx ended over the error that this made.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

func attachError(ctx context.Context, err error) error {
	if errors.Is(err, stream.ErrDetached) {
		return err
	}
	if c := context.Cause(ctx); c != nil {
		return c
	}
	if status.Code(err) == codes.Unavailable {
		return errGone
	}
	return err
}

// retryPause keeps wait from asking a daemon that is shutting down in a loop.
const retryPause = 200 * time.Millisecond

// wait returns how the container ended. It outlives a restart of the daemon: the
// container does, and the next daemon knows.
func (c *client) wait(ctx context.Context, id string) (*strakev1.WaitContainerResponse, error) {
	for {
		exit, err := c.strake.WaitContainer(ctx, &strakev1.WaitContainerRequest{ContainerId: id}, grpc.WaitForReady(true))
		if err == nil || status.Code(err) != codes.Unavailable {
			return exit, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryPause):
		}
	}
}
