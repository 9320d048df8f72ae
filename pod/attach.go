package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/strake-containers/strake/shim/client"
)

// Attach connects the caller's streams to a container's, until its output ends
// or ctx does. A created one can be attached to as well, so that nothing it
// writes is missed. The end of Stdin ends the container's only if that is
// StdinOnce.
func (m *Manager) Attach(ctx context.Context, id string, s Streams) error {
	c, err := m.findContainer(id)
	if err != nil {
		return err
	}
	c.pod.mu.Lock()
	state, config := c.record.State, c.record.Config
	c.pod.mu.Unlock()
	if state == ContainerExited {
		return errorf(ErrState, "attach to container %s: it is %s", c.what, state)
	}
	w, leave := m.tracker.call("attach to container "+c.what, "connect")
	defer leave()
	a := &attachment{manager: m, c: c}
	if err := a.connect(ctx); err != nil {
		return fmt.Errorf("attach to container %s: %w", c.what, m.class(c, err))
	}
	defer a.close()
	defer context.AfterFunc(ctx, a.close)()

	// A size that is known by now is the terminal's before the caller goes on,
	// and perhaps starts the container.
	select {
	case z, ok := <-s.Resize:
		if !ok || !config.TTY {
			break
		}
		monitor, err := c.pod.live()
		if err == nil {
			err = monitor.ResizePty(ctx, c.id, "", uint32(z.Width), uint32(z.Height))
		}
		if err != nil {
			return fmt.Errorf("attach to container %s: set its terminal's size: %w", c.what, m.class(c, err))
		}
	default:
	}
	w.enter("attached")
	if s.Connected != nil {
		s.Connected()
	}

	done := make(chan struct{})
	defer close(done)
	go resize(ctx, s.Resize, done, func(z Size) { _ = a.now().Resize(z.Width, z.Height) }) // a broken connection shows in read
	if s.Stdin != nil && config.Stdin {
		go func() {
			if _, err := io.Copy(writerOnly{a}, readerOnly{s.Stdin}); err == nil && config.StdinOnce {
				a.endStdin()
			}
		}()
	}
	for {
		data, stderr, err := a.read(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("attach to container %s: %w", c.what, err)
		}
		w := s.Stdout
		if stderr {
			w = s.Stderr
		}
		if w == nil || len(data) == 0 {
			continue
		}
		if _, err := w.Write(data); err != nil {
			return fmt.Errorf("attach to container %s: its client is gone: %w", c.what, err)
		}
	}
}

// attachment is a client's connection to a container's streams. It goes on with
// the monitor that replaces one that was killed.
type attachment struct {
	manager *Manager
	c       *container

	mu     sync.Mutex
	a      *client.Attachment
	with   Monitor       // the monitor when it was connected
	next   chan struct{} // closed when a is another, or closed
	closed bool
}

// connect connects it, again.
func (t *attachment) connect(ctx context.Context) error {
	monitor, err := t.c.pod.live()
	if err != nil {
		return err
	}
	a, err := client.Attach(ctx, t.manager.containerState(t.c.pod.id, t.c.id))
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.Join(context.Canceled, a.Close())
	}
	if t.a != nil {
		_ = t.a.Close() // broken
		close(t.next)
	}
	t.a, t.with, t.next = a, monitor, make(chan struct{})
	return nil
}

// now is the present connection.
func (t *attachment) now() *client.Attachment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.a
}

func (t *attachment) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		_ = t.a.Close() // nothing is buffered
		close(t.next)
	}
}

// read returns the next piece of output.
func (t *attachment) read(ctx context.Context) (data []byte, stderr bool, err error) {
	for {
		data, stderr, err = t.now().Read()
		if !errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil {
			return data, stderr, err
		}
		if e := t.again(ctx); e != nil {
			return nil, false, errors.Join(err, e)
		}
	}
}

// again connects with the monitor that has replaced the one that was killed. A
// monitor that answers has cut off a client that was too slow.
func (t *attachment) again(ctx context.Context) error {
	monitor, err := t.c.pod.live()
	if err != nil {
		return err
	}
	if _, err := monitor.ContainerStatus(ctx, t.c.id); err == nil && !t.replaced(monitor) {
		return errors.New("the client was too slow")
	}
	return t.manager.onMonitor(ctx, t.c.pod, func(Monitor) error { return t.connect(ctx) })
}

// replaced: the attachment is with an earlier monitor than this one.
func (t *attachment) replaced(monitor Monitor) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.with != monitor
}

// Write sends input, all of it to one monitor.
func (t *attachment) Write(p []byte) (int, error) {
	for {
		t.mu.Lock()
		a, next, closed := t.a, t.next, t.closed
		t.mu.Unlock()
		n, err := a.Write(p)
		if err == nil || closed {
			return n, err
		}
		<-next // read connects again, or closes
	}
}

// endStdin ends the container's input.
func (t *attachment) endStdin() {
	t.c.pod.mu.Lock()
	held := t.c.held
	t.c.pod.mu.Unlock()
	held.EndStdin()
	_ = t.now().CloseStdin() // a broken connection shows in read
}
