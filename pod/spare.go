package pod

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/strake-containers/strake/shim/client"
)

// The spare is a monitor of the default handler that holds no pod, so that the next one
// that comes alone does not wait for a monitor to start: a third of the time that such a
// pod takes. It is started behind what goes on where no other monitor of that handler is, or is
// the one that the last pod has left where no other has room; who comes beside others that
// have is placed in theirs, and the spare is ended. It ends with the Manager, and when its
// daemon is killed (shim/task).

// KeepMonitorReady has a spare monitor be there from now on.
func (m *Manager) KeepMonitorReady() {
	m.crews.mu.Lock()
	m.crews.spares = true
	m.crews.mu.Unlock()
	m.tendSpare()
}

// program says what a handler's monitor is started from. One that was started from
// anything else, another build of it for one, does not serve as the spare.
func (m *Manager) program(handler string) string {
	o := m.startOptions(&crew{handler: handler})
	path, err := exec.LookPath(o.Binary)
	if err != nil {
		return "" // to start it will say so
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d:%d %d %d %q %t", path, st.Dev, st.Ino, st.Size, st.Ctim.Nano(), o.Env, o.Debug)
}

// wantsSpare says which handler's spare there is to be, "" for none.
func (m *Manager) wantsSpare() string {
	s := m.settings()
	if h := s.Runtimes[s.DefaultRuntime].Handler; s.MonitorPods < 2 || !h.Native() {
		return ""
	}
	return s.DefaultRuntime
}

// tendSpare sees to it that there is the spare that is wanted and no other. It returns at
// once.
func (m *Manager) tendSpare() {
	m.crews.mu.Lock()
	defer m.crews.mu.Unlock()
	if !m.crews.spares {
		return
	}
	m.crews.tending.Add(1)
	go func() {
		defer m.crews.tending.Done()
		m.changeSpare()
	}()
}

func (m *Manager) changeSpare() {
	ctx, cancel := undoContext(m.life)
	defer cancel()
	handler := m.wantsSpare()
	c, over := m.crews.changeSpare(handler, m.program(handler), m.settings().MonitorPods, m.newSharedCrew)
	for _, c := range over {
		if err := m.endSpare(ctx, c); err != nil {
			m.o.Log.Warn("end the spare monitor", "dir", c.dir, "error", err)
		}
	}
	if c != nil {
		m.startSpare(ctx, c)
	}
}

// changeSpare takes out those that are not wanted, to be ended, and makes the one that is,
// to be started.
func (s *crewSet) changeSpare(handler, program string, most int, create func(handler string) *crew) (begin *crew, over []*crew) {
	s.mu.Lock()
	defer s.mu.Unlock()
	others, room := false, false
	for _, c := range s.all {
		if c.shared && c.handler == handler && !c.spare && c.err == nil {
			others, room = true, room || len(c.pods) < most
		}
	}
	for dir, c := range s.all {
		switch {
		case !c.spare:
		case room || c.handler != handler || c.program != program:
			over = append(over, c)
			delete(s.all, dir)
		default:
			others, room = true, true // a second would be one too many
		}
	}
	if others || handler == "" || !s.spares {
		return nil, over
	}
	begin = create(handler)
	begin.spare, begin.program = true, program
	s.all[begin.dir] = begin
	return begin, over
}

// startSpare starts a spare's monitor. A pod may have been placed in it already.
func (m *Manager) startSpare(ctx context.Context, c *crew) {
	conn, err := m.startCrew(ctx, c)
	if err != nil {
		m.o.Log.Warn("start a monitor for the next pod", "handler", c.handler, "error", err)
		m.crews.mu.Lock()
		delete(m.crews.all, c.dir)
		m.crews.mu.Unlock()
		err = errors.Join(err, m.endCrew(ctx, c.dir, nil))
	}
	m.settleCrew(c, conn, err)
}

// endSpare ends a spare that has been taken out, once it has started.
func (m *Manager) endSpare(ctx context.Context, c *crew) error {
	conn, err := m.monitorOf(ctx, c)
	if err != nil {
		return nil //nolint:nilerr // it has none, and startSpare has seen to the rest
	}
	err = m.endCrew(ctx, c.dir, conn)
	c.kept.Close()
	return errors.Join(err, conn.Close())
}

// checkSpare makes sure that a spare's monitor is there, now that a pod has been placed
// in it: nobody has noticed if it was killed. Other pods, which may follow, wait for that.
func (m *Manager) checkSpare(ctx context.Context, c *crew) {
	conn := c.conn // nobody else changes it while it is being replaced
	_, err := conn.SandboxStatus(ctx, c.id)
	if errors.Is(err, client.ErrUnavailable) {
		ctx, cancel := undoContext(ctx)
		defer cancel()
		_ = conn.Close() // broken
		conn, err = m.replaceMonitor(ctx, c)
	} else {
		err = nil // it answers, or takes longer than the pod has
	}
	m.crews.mu.Lock()
	c.conn, c.err = conn, err
	done := c.replacing
	c.replacing = nil
	m.crews.mu.Unlock()
	close(done)
}

// endSpareTimeout is how long a spare that does not answer is waited for.
const endSpareTimeout = 5 * time.Second

// endSpares ends the spare: the Manager is being closed, perhaps for longer than it was to
// take.
func (m *Manager) endSpares(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endSpareTimeout)
	defer cancel()
	m.crews.mu.Lock()
	m.crews.spares = false
	m.crews.mu.Unlock()
	m.crews.tending.Wait() // it has a time limit
	_, over := m.crews.changeSpare("", "", 0, nil)
	var err error
	for _, c := range over {
		err = errors.Join(err, m.endSpare(ctx, c))
	}
	return err
}

// newSharedCrew is a crew with a directory of its own, which is not made yet.
func (m *Manager) newSharedCrew(handler string) *crew {
	id := newID()[:16]
	return newCrew(id, filepath.Join(m.crewsDir(), id), handler, true)
}
