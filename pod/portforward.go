package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
)

// PortForward connects conn with port on localhost, as the pod sees it, IPv4
// first, and returns when both directions have ended, or ctx. It closes conn.
func (m *Manager) PortForward(ctx context.Context, podID string, port int32, conn io.ReadWriteCloser) error {
	defer func() { _ = conn.Close() }()
	p, err := m.findPod(podID)
	if err != nil {
		return err
	}
	if port < 1 || port > 65535 {
		return errorf(ErrInvalid, "forward port %d of pod %s: no such port", port, p.what)
	}
	p.mu.Lock()
	ready := p.status().State == PodReady
	p.mu.Unlock()
	if !ready {
		return errorf(ErrState, "forward port %d of pod %s: it is not ready", port, p.what)
	}
	w, leave := m.tracker.call(fmt.Sprintf("forward port %d of pod %s", port, p.what), "connect")
	defer leave()
	var target net.Conn
	dial := func() error {
		var d net.Dialer
		var errs []error
		for _, host := range []string{"127.0.0.1", "::1"} {
			// A literal address and a plain connect: all on this thread.
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err == nil {
				target = c
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if p.record.NetNS == "" {
		err = dial()
	} else {
		err = m.o.NetNS.Do(p.record.NetNS, dial)
		if errors.Is(err, fs.ErrNotExist) && m.joinMonitor(ctx, p) == nil { // who keeps it is being replaced
			err = m.o.NetNS.Do(p.record.NetNS, dial)
		}
	}
	if err != nil {
		return fmt.Errorf("forward port %d of pod %s: %w", port, p.what, err)
	}
	defer func() { _ = target.Close() }()
	w.enter("connected")
	defer context.AfterFunc(ctx, func() { _, _ = target.Close(), conn.Close() })()

	// The pod's end of its direction ends the whole; the client's only its own,
	// as a request may end before its answer.
	go func() {
		_, _ = io.Copy(target, readerOnly{conn})
		if t, ok := target.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	}()
	if _, err := io.Copy(writerOnly{conn}, target); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("forward port %d of pod %s: %w", port, p.what, err)
	}
	return nil
}
