package task

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/host"
	"github.com/strake-containers/strake/oci/seccomp"
	"github.com/strake-containers/strake/shim/reap"
	"github.com/strake-containers/strake/shim/wire"
)

// calm is how long a container that is to be stopped makes no forbidden call before it
// is: those that follow from the first are counted, too.
const calm = 5 * time.Second

// forbidden answers the system calls that a container's seccomp profile forbids, as the
// profile would have, counts them and, if it is asked to, ends the container (ADR 33).
//
// The kernel writes each call that it hands over into the mapping, and what is to be
// counted is written there before it is. So the next monitor knows what one that was
// killed had in hand: a call is answered, and counted once. Listeners are kept by straked.
type forbidden struct {
	task    *task
	profile *seccomp.Program // says what a call fails with
	stop    bool

	mu        sync.Mutex // only the keeper's is taken under it
	page      []byte     // of wire.Forbidden; nil once closed
	listeners map[string]*listener
	next      int         // numbers the names of listeners
	calm      *time.Timer // ends the container; nil: nothing was forbidden yet
}

// listener is of one filter: that of init, or of a process that was added.
type listener struct {
	fd   *os.File
	stop func()
}

// Where things are in the mapping, before the counts: the call in hand, then the id of
// the last one that is counted with where and what that makes.
const (
	forbiddenCall    = 0
	forbiddenCounted = 128
	forbiddenAt      = 136
	forbiddenTimes   = 144
)

// notifyForbidden makes of a profile one whose forbidden calls wait for a listener.
func notifyForbidden(spec *specs.Spec, bundle string) error {
	notify, _, err := seccomp.Notify(spec.Linux.Seccomp, host.Arch)
	if err != nil {
		return err
	}
	notify.ListenerPath = filepath.Join(bundle, wire.Forbidden) // of an agent; we are that
	spec.Linux.Seccomp = notify
	return nil
}

// watchForbidden begins to answer for a container with a profile.
func (t *task) watchForbidden(profile *specs.LinuxSeccomp, stop bool) error {
	_, program, err := seccomp.Notify(profile, host.Arch)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(t.bundle, wire.Forbidden), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("count forbidden calls: %w", err)
	}
	defer func() { _ = f.Close() }() // the mapping stays
	page, err := sys.MapShared(f, wire.ForbiddenSize)
	if err != nil {
		return fmt.Errorf("count forbidden calls: %s: %w", f.Name(), err)
	}
	t.forbidden = &forbidden{task: t, profile: program, stop: stop, page: page, listeners: map[string]*listener{}}
	return nil
}

// keepPrefix begins the names of the container's listeners with the keeper.
func (f *forbidden) keepPrefix() string { return f.task.id + "/seccomp-" }

// agent takes a listener of the container's.
func (f *forbidden) agent(fd *os.File) error {
	dup, err := sys.Dup(fd)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.next++
	name := f.keepPrefix() + strconv.Itoa(f.next)
	f.mu.Unlock()
	return f.add(name, dup)
}

// add begins to answer a listener, which it takes over.
func (f *forbidden) add(name string, fd *os.File) error {
	l := &listener{fd: fd}
	var err error
	if kept := f.task.service.kept; f.task.service.adoptable() {
		err = kept.keep(name, fd)
	}
	f.mu.Lock() // the first look waits for it
	defer f.mu.Unlock()
	if err == nil && f.page == nil {
		err = f.task.notRunning()
	}
	if err == nil {
		l.stop, err = reap.WatchFD(sys.Fd(fd), func() bool { return f.look(name) })
	}
	if err != nil {
		return errors.Join(fmt.Errorf("take a seccomp listener: %w", err), fd.Close())
	}
	f.listeners[name] = l
	return nil
}

// look answers the calls that wait at a listener. It returns false when no process is
// left that has its filter.
func (f *forbidden) look(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.listeners[name]
	if l == nil || f.page == nil {
		return false
	}
	for {
		ok, alive, err := sys.ReceiveSeccomp(sys.Fd(l.fd), f.page[forbiddenCall:][:sys.SeccompCallSize])
		if err != nil { // without a listener the calls fail all the same, with ENOSYS
			logf("container %s: its forbidden calls are not counted any more: %v", f.task.id, err)
		}
		if ok {
			f.answer(l)
			continue
		}
		if !alive {
			delete(f.listeners, name)
			go l.close() // it waits for this look
			f.task.service.kept.drop(name)
		}
		return alive
	}
}

// answer counts the call in hand, if it is forbidden, and lets it fail as the profile
// would have. Of the listeners, the one that it does not wait at does not know it.
func (f *forbidden) answer(listeners ...*listener) {
	call := sys.LastSeccomp(f.page[forbiddenCall:])
	errno, is := f.profile.Forbids(call.Nr, call.Arch, call.Args)
	if is {
		f.count(call)
	}
	for _, l := range listeners {
		if _, err := sys.FailSeccomp(sys.Fd(l.fd), call.ID, errno); err != nil {
			logf("container %s: answer a forbidden call: %v", f.task.id, err) // it fails when the container ends
		}
	}
	clear(f.page[forbiddenCall:][:sys.SeccompCallSize])
}

// count counts a call once, however often it is called for that.
func (f *forbidden) count(call sys.SeccompCall) {
	order := binary.NativeEndian
	if order.Uint64(f.page[forbiddenCounted:]) != call.ID {
		name := seccomp.Name(call.Nr, call.Arch)
		at := wire.ForbiddenAt(f.page, name)
		times := wire.ForbiddenTimes(f.page, at) + 1
		if times == 1 {
			logf("container %s: its seccomp profile forbids %s", f.task.id, name)
		}
		order.PutUint64(f.page[forbiddenAt:], uint64(at))
		order.PutUint64(f.page[forbiddenTimes:], times)
		order.PutUint64(f.page[forbiddenCounted:], call.ID)
	}
	wire.SetForbiddenTimes(f.page, int(order.Uint64(f.page[forbiddenAt:])), order.Uint64(f.page[forbiddenTimes:]))
	f.wait()
}

// wait ends the container after a time without another call, if it is to be ended.
func (f *forbidden) wait() {
	switch {
	case !f.stop:
	case f.calm == nil:
		f.calm = time.AfterFunc(calm, f.end)
	default:
		f.calm.Reset(calm)
	}
}

// end kills the container.
func (f *forbidden) end() {
	t := f.task
	t.mu.Lock()
	t.forbade = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	var finished *wire.Error
	if err := t.killAll(ctx, syscall.SIGKILL); err != nil && (!errors.As(err, &finished) || finished.Code != wire.NotFound) {
		logf("container %s: end it for its forbidden calls: %v", t.id, err)
	}
	t.thaw(ctx)
}

// adoptForbidden goes on for a monitor that was killed: with the listeners that straked
// kept, and what that one had in hand.
func (t *task) adoptForbidden(spec *specs.Spec) error {
	if !t.record.CountForbidden || spec.Linux == nil || spec.Linux.Seccomp == nil {
		return nil
	}
	if err := t.watchForbidden(spec.Linux.Seccomp, t.record.StopForbidden); err != nil {
		return err
	}
	f := t.forbidden
	kept := t.service.kept.takeAll(f.keepPrefix())
	var listeners []*listener
	for name, fd := range kept {
		listeners = append(listeners, &listener{fd: fd})
		if n, err := strconv.Atoi(name[len(f.keepPrefix()):]); err == nil {
			f.next = max(f.next, n)
		}
	}
	f.mu.Lock()
	if sys.LastSeccomp(f.page[forbiddenCall:]).ID != 0 {
		f.answer(listeners...)
	}
	if len(wire.ForbiddenOf(f.page)) > 0 {
		f.wait()
	}
	f.mu.Unlock()
	var err error
	for name, fd := range kept {
		err = errors.Join(err, f.add(name, fd))
	}
	return err
}

// close ends it; the file stays. Nothing of the container may run any more. A nil one
// is closed.
func (f *forbidden) close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	listeners, page := f.listeners, f.page
	f.listeners, f.page = nil, nil
	if f.calm != nil {
		f.calm.Stop()
	}
	f.mu.Unlock()
	for name, l := range listeners {
		l.close()
		f.task.service.kept.drop(name)
	}
	if page != nil {
		_ = sys.Unmap(page) // it is one
	}
}

func (l *listener) close() {
	l.stop()
	_ = l.fd.Close() // only ioctls
}
