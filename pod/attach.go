package pod

import (
	"context"
	"errors"
	"fmt"
	"io"

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
	a, err := client.Attach(ctx, m.containerState(c.pod.id, c.id))
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", c.what, m.class(c, err))
	}
	defer func() { _ = a.Close() }() // nothing is buffered
	defer context.AfterFunc(ctx, func() { _ = a.Close() })()

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
	if s.Connected != nil {
		s.Connected()
	}

	done := make(chan struct{})
	defer close(done)
	go resize(ctx, s.Resize, done, func(z Size) { _ = a.Resize(z.Width, z.Height) }) // a broken connection shows in Read
	if s.Stdin != nil && config.Stdin {
		go func() {
			if _, err := io.Copy(writerOnly{a}, readerOnly{s.Stdin}); err == nil && config.StdinOnce {
				_ = a.CloseStdin() // likewise
			}
		}()
	}
	for {
		data, stderr, err := a.Read()
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
