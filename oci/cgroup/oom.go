package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// OOMWatch tells of processes of a cgroup that the kernel killed for want of
// memory. It owns its descriptors until Close; it belongs to one goroutine.
type OOMWatch struct {
	notify  *os.File // v1 only: readable when something may have happened
	counter *os.File // the file that counts the kills; on v2 it tells of changes itself
	v2      bool
	seen    uint64      // kills that Wait has returned for; v2 only
	slice   *sliceKills // around a scope; nil: none
}

// WatchOOM starts a watch; the caller closes it. It fails with ErrUnsupported
// without a memory controller.
//
// On v2 it is memory.events, which polls as urgent (POLLPRI) after a change; not
// inotify, of which a host has 128 instances by default. On v1 it is an eventfd
// that memory.oom_control signals. Both can tell of something else than a kill
// (another event, or the removal of the cgroup), so ask Killed. V1 signals that it is about
// to kill, so ask Killed again when a process has ended: by then it counts.
func (c *Cgroup) WatchOOM() (*OOMWatch, error) {
	w, err := c.watchOOM()
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: watch for OOM kills: %w", c.path, err)
	}
	return w, nil
}

// FromStart has the next look count what was killed before the watch began.
func (w *OOMWatch) FromStart() { w.seen = 0 }

func (c *Cgroup) watchOOM() (*OOMWatch, error) {
	h, ok := c.find("memory")
	if !ok {
		return nil, fmt.Errorf("no memory controller: %w", ErrUnsupported)
	}
	name := c.dir(h) + "/memory.oom_control"
	if h.v2 {
		name = c.dir(h) + "/memory.events"
	}
	fd, err := open(name, syscall.O_RDONLY|syscall.O_NONBLOCK) // for the runtime's poller
	if err != nil {
		return nil, err
	}
	w := &OOMWatch{counter: os.NewFile(uintptr(fd), name), v2: h.v2}
	if !h.v2 {
		if w.notify, err = oomEventFD(c.dir(h), fd); err != nil {
			return nil, errors.Join(err, w.counter.Close())
		}
	}
	if w.seen, err = w.count(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if h.v2 && c.unit != nil {
		w.watchSlice(path.Dir(c.dir(h)))
	}
	return w, nil
}

// oomEventFD registers an eventfd as cgroup-v1/memory.rst, chapter 10, says.
func oomEventFD(dir string, oomControl int) (*os.File, error) {
	event, err := sys.NewEventFD()
	if err != nil {
		return nil, err
	}
	conn, err := event.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, event.Close())
	}
	controlErr := conn.Control(func(fd uintptr) {
		err = writeFile(dir+"/cgroup.event_control", fmt.Sprintf("%d %d", fd, oomControl))
	})
	if err := errors.Join(controlErr, err); err != nil {
		return nil, errors.Join(err, event.Close())
	}
	return event, nil
}

// FD is the descriptor to poll, edge-triggered. The watch keeps it.
func (w *OOMWatch) FD() int {
	fd, f := -1, w.notify
	if w.v2 {
		f = w.counter
	}
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(n uintptr) { fd = int(n) }) // fails only once closed: -1
	}
	return fd
}

// Killed reports whether any process of the cgroup has been killed for want of
// memory since it was made, and makes FD unreadable until the next event. It
// fails once the cgroup is gone.
func (w *OOMWatch) Killed() (bool, error) {
	n, err := w.count()
	if err == nil {
		w.learn(n)
	}
	return n > 0, err
}

// Wait blocks until there has been a kill since the last Wait, or since WatchOOM;
// on v1, until one is imminent. It fails once the cgroup is gone, and when ctx
// ends.
func (w *OOMWatch) Wait(ctx context.Context) error {
	for {
		if err := w.waitChange(ctx); err != nil {
			return err
		}
		n, err := w.count()
		if err != nil {
			return err
		}
		if n > w.seen || !w.v2 {
			w.seen = n
			return nil
		}
	}
}

func (w *OOMWatch) waitChange(ctx context.Context) error {
	if w.v2 {
		return sys.WaitUrgent(ctx, w.counter)
	}
	return sys.WaitReadable(ctx, w.notify)
}

func (w *OOMWatch) count() (kills uint64, err error) {
	if !w.v2 { // there, reading the counter itself ends its being urgent
		var buf [8]byte
		if conn, err := w.notify.SyscallConn(); err == nil {
			_ = conn.Control(func(fd uintptr) { _, _ = syscall.Read(int(fd), buf[:]) }) // EAGAIN: nothing new
		}
	}
	return oomKills(w.counter)
}

// oomKills reads the count of a memory.events, or memory.oom_control.
func oomKills(counter *os.File) (kills uint64, err error) {
	var buf [4096]byte
	n, err := counter.ReadAt(buf[:], 0)
	if n == 0 && err != nil {
		return 0, fmt.Errorf("OOM kills: %w", err)
	}
	flatKeyed(buf[:n], func(key []byte, value uint64) {
		if string(key) == "oom_kill" {
			kills = value
		}
	})
	return kills, nil
}

// Close ends the watch.
func (w *OOMWatch) Close() error {
	w.leaveSlice()
	if w.v2 {
		return w.counter.Close()
	}
	return errors.Join(w.notify.Close(), w.counter.Close())
}
