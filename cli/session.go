package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/cli/logfile"
	"github.com/strake-containers/strake/cli/stream"
	"github.com/strake-containers/strake/internal/logdriver"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// session is a person in front of a container: Attach, begun before the start, so
// that nothing is missed.
//
// A monitor drops a client that cannot keep up rather than stop the container,
// and a restart of straked cuts the connection. Without a terminal the output
// then goes on from the log, at the byte where it broke off; on a terminal the
// session ends, and the container goes on.
type session struct {
	app              *app
	client           *client
	signals          *signalProxy
	id               string
	tty, interactive bool
	running          bool // it has been started
	fromNow          bool // show only what comes from now on

	stdout, stderr counter
}

// errGone is how a session on a terminal ends when straked does.
var errGone = errors.New("the connection to the container broke: it goes on; strake attach connects again")

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

	// 2. Connect.
	if s.tty {
		restore, err := s.app.rawTerminal()
		if err != nil {
			return 0, err
		}
		defer restore()
	}
	attached := make(chan error, 1)
	ready := make(chan struct{})
	go func() { attached <- s.attach(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-attached:
		return 0, attachError(ctx, err)
	}

	// 3. Start it, which is not interrupted half-way: it takes milliseconds. A
	// signal from now on is the container's, and waits until there is one.
	started := make(chan struct{})
	s.signals.forward(func(sig syscall.Signal) {
		<-started
		// It fails when the container has just ended, and then that is seen.
		_, _ = s.client.strake.KillContainer(ctx, &strakev1.KillContainerRequest{ContainerId: s.id, Signal: fmt.Sprint(int(sig))})
	})
	err = context.Cause(ctx)
	if err == nil && !s.running {
		err = s.client.start(ctx, s.id)
		s.running = err == nil
	}
	close(started)
	if err != nil {
		return 0, err
	}

	// 4. Its output, to the end.
	if err := <-attached; err != nil {
		err = attachError(ctx, err)
		if !s.goesOn(err) {
			return 0, err
		}
		if err := s.copyLog(ctx, ended); err != nil {
			return 0, err
		}
	}

	// 5. Its exit code, which comes a moment later.
	<-ended
	if waitErr != nil {
		return 0, cause(ctx, waitErr)
	}
	return int(exit.ExitCode), nil
}

func (s *session) attach(ctx context.Context, ready func()) error {
	s.stdout.to, s.stderr.to = s.app.stdout, s.app.stderr
	streams := stream.Streams{Stdout: &s.stdout, Stderr: &s.stderr, Ready: ready}
	if s.interactive {
		streams.Stdin = s.app.stdin
	}
	if s.tty {
		streams.DetachKeys = s.interactive
		streams.Size, _ = s.app.terminalSize() // zero where there is none
		streams.Resize = s.app.terminalSizes(ctx)
	}
	return stream.Attach(ctx, s.client.strake, s.id, streams)
}

// goesOn reports whether the log can continue what Attach began: the whole
// output is in it, and err is neither the person's doing nor our own output's.
func (s *session) goesOn(err error) bool {
	var stopped interrupted
	return !s.tty && !s.fromNow && s.stdout.err == nil && s.stderr.err == nil &&
		!errors.Is(err, context.Canceled) && !errors.As(err, &stopped)
}

// copyLog shows the rest of the output until the container has ended.
func (s *session) copyLog(ctx context.Context, ended <-chan struct{}) error {
	if s.interactive {
		fmt.Fprintln(s.app.stderr, "strake: the connection broke: standard input is not passed on any more")
	}
	is, err := s.client.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: s.id}, grpc.WaitForReady(true))
	if err != nil {
		return cause(ctx, err)
	}
	path := is.Status.LogPath
	if path == "" {
		return fmt.Errorf("the connection broke: %w", s.client.noLogFile(ctx, s.id, s.id[:shortID]))
	}
	if _, err := os.Lstat(logdriver.Older(path, 1)); err == nil || is.Status.Annotations[strakev1.LogOptions] != "" {
		return fmt.Errorf("the connection broke, and the log may have lost its beginning by rotation: see strake logs %s", s.id[:shortID])
	}
	return logfile.Copy(path, logfile.Options{Done: ended, Tail: logfile.All},
		&skipper{to: s.app.stdout, skip: s.stdout.n}, &skipper{to: s.app.stderr, skip: s.stderr.n})
}

// counter counts what it passes on.
type counter struct {
	to  io.Writer
	n   int64
	err error // that to has given
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	c.err = err
	return n, err
}

// skipper drops the first skip bytes.
type skipper struct {
	to   io.Writer
	skip int64
}

func (s *skipper) Write(p []byte) (int, error) {
	drop := min(s.skip, int64(len(p)))
	s.skip -= drop
	if drop == int64(len(p)) {
		return len(p), nil
	}
	n, err := s.to.Write(p[drop:])
	return int(drop) + n, err
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

// wait returns how the container ended. It outlives a restart of the daemon: the
// container does, and the next daemon knows.
func (c *client) wait(ctx context.Context, id string) (*strakev1.WaitContainerResponse, error) {
	for {
		exit, err := c.strake.WaitContainer(ctx, &strakev1.WaitContainerRequest{ContainerId: id}, grpc.WaitForReady(true))
		if err == nil || status.Code(err) != codes.Unavailable || !pause(ctx) {
			return exit, err
		}
	}
}

// retryPause keeps a client from asking a daemon that is shutting down in a loop.
const retryPause = 100 * time.Millisecond

// pause lets some time pass; false if ctx ended.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(retryPause):
		return true
	}
}
