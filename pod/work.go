package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

// Classes of errors. The front translates them; errors.Is finds them. Errors of
// images and of the network keep the classes of their packages.
var (
	ErrInvalid     = bundle.ErrInvalid     // the caller's mistake; names the field
	ErrUnsupported = bundle.ErrUnsupported // names the field, says what lacks
	ErrNotFound    = errors.New("not found")
	ErrState       = errors.New("not in the right state") // e.g. exec in an exited container
	ErrExists      = errors.New("already exists with a different configuration")
	ErrTimeout     = errors.New("timed out")
	ErrClosed      = errors.New("daemon is shutting down")
	// ErrUnavailable says that the pod's monitor was killed meanwhile: what was asked for may
	// have happened. Another one is on its way.
	ErrUnavailable = client.ErrUnavailable
)

// classed is an error whose words say it all, with a class for those who go by it.
type classed struct{ class, err error }

func (c *classed) Error() string   { return c.err.Error() }
func (c *classed) Unwrap() []error { return []error{c.class, c.err} }

// errorf is fmt.Errorf for an error of a class.
func errorf(class error, format string, args ...any) error {
	return &classed{class, fmt.Errorf(format, args...)}
}

// verbTimeout ends a verb whose monitor, plugin or disk never answers, so that
// it is undone. The kubelet gives up after two to four minutes and retries.
const verbTimeout = 4 * time.Minute

// undoTimeout is for the undo of what failed, or was cancelled.
const undoTimeout = time.Minute

// work is a verb under way. Its fields are guarded by its tracker's mu until done
// is closed, after which err is fixed.
type work struct {
	tracker *tracker
	what    string // "run pod default/web"
	stage   string // the step it is in
	pid     int    // whose end the step waits for; 0: nobody's
	since   time.Time
	waiters int  // callers that have not given up
	left    bool // one has
	done    chan struct{}
	err     error
	trace   *span.Verb // has a lock of its own, with which nothing else is taken
}

// tracker knows all verbs under way.
type tracker struct {
	mu     sync.Mutex
	works  map[*work]struct{}
	calls  map[*work]struct{} // that are shown, and end with their callers
	closed bool
	idle   chan struct{} // closed when closed and nothing is under way
}

func newTracker() *tracker {
	return &tracker{works: map[*work]struct{}{}, calls: map[*work]struct{}{}, idle: make(chan struct{})}
}

// start runs fn, which is a verb on what, on a goroutine of its own; limit, unless
// it is 0, ends its context. Its error is prefixed with the verb and, if its time
// ran out, with the stage that it had reached: other errors name what they are
// about. Finish is called with it before anybody hears of it.
func (t *tracker) start(ctx context.Context, verb, what string, limit time.Duration, fn func(context.Context, *work) error, finish func(*work, error)) *work {
	what = verb + " " + what
	w := &work{tracker: t, what: what, since: time.Now(), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		w.err = fmt.Errorf("%s: %w", what, ErrClosed)
		close(w.done)
		return w
	}
	t.works[w] = struct{}{}
	ctx, w.trace = span.StartVerb(ctx, verb)
	go func() {
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		err := fn(ctx, w)
		w.trace.End(err)
		if err != nil {
			if stage := w.at(); stage != "" && ctx.Err() != nil {
				err = fmt.Errorf("%s: %s: %w", what, stage, err)
			} else {
				err = fmt.Errorf("%s: %w", what, err)
			}
		}
		finish(w, err)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.works, w)
		w.err = err
		close(w.done)
		if t.closed && len(t.works) == 0 {
			close(t.idle)
		}
	}()
	return w
}

// call notes a verb that runs on its caller's goroutine and ends with that, such as
// an exec, so that it is shown; leave is its end.
func (t *tracker) call(what, stage string) (w *work, leave func()) {
	w = &work{tracker: t, what: what, stage: stage, since: time.Now(), waiters: 1}
	t.mu.Lock()
	t.calls[w] = struct{}{}
	t.mu.Unlock()
	return w, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.calls, w)
	}
}

// enter names the step that begins.
func (w *work) enter(stage string) { w.awaitEnd(stage, 0) }

// awaitEnd is enter for a step that waits until a process has ended.
func (w *work) awaitEnd(stage string, pid int) {
	w.tracker.mu.Lock()
	next := w.stage != stage
	w.stage, w.pid = stage, pid
	w.tracker.mu.Unlock()
	if next {
		w.trace.Step(stage)
	}
}

func (w *work) current() string {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	return w.stage
}

// at is current with what keeps the process that is waited for. It reads files: no
// lock is held.
func (w *work) at() string {
	w.tracker.mu.Lock()
	stage, pid := w.stage, w.pid
	w.tracker.mu.Unlock()
	return describe(stage, pid)
}

func describe(stage string, pid int) string {
	if pid != 0 {
		if why := hangs(pid); why != "" {
			return stage + ": " + why
		}
	}
	return stage
}

// abandoned reports whether everybody who waited has given up. Whoever started it and
// has not come to wait yet has not.
func (w *work) abandoned() bool {
	w.tracker.mu.Lock()
	defer w.tracker.mu.Unlock()
	return w.left && w.waiters == 0
}

// wait returns the verb's result, or says where it is when ctx ends first. The
// verb goes on.
func (w *work) wait(ctx context.Context) error {
	w.trace.Awaited(ctx)
	w.tracker.mu.Lock()
	w.waiters++
	w.tracker.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		w.tracker.mu.Lock()
		w.waiters--
		w.left = true
		w.tracker.mu.Unlock()
		return fmt.Errorf("%s: still at %q after %s; it goes on, ask again for its result: %w",
			w.what, w.at(), time.Since(w.since).Round(time.Millisecond), context.Cause(ctx))
	}
}

// close lets no more verbs begin and waits for those under way, or for ctx.
func (t *tracker) close(ctx context.Context) error {
	t.mu.Lock()
	if !t.closed {
		t.closed = true
		if len(t.works) == 0 {
			close(t.idle)
		}
	}
	t.mu.Unlock()
	select {
	case <-t.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("verbs still under way: %q: %w", t.stages(), context.Cause(ctx))
	}
}

// stages lists the verbs under way and their steps, longest first.
func (t *tracker) stages() []string {
	var out []string
	for _, v := range t.dump() {
		out = append(out, fmt.Sprintf("%s: %s (%s)", v.What, v.Stage, time.Since(v.Since).Round(time.Millisecond)))
	}
	return out
}

// lane has the verbs under way on one object by name; it is guarded by the mu
// that guards the object.
type lane map[string]*work

// join returns the verb that is under way on the object, or starts it for caller, whose
// end is not its end. The mu that guards the lane is held.
func (m *Manager) join(caller context.Context, mu *sync.Mutex, l lane, verb, what string, limit time.Duration, fn func(context.Context, *work) error) *work {
	if w := l[verb]; w != nil {
		return w
	}
	w := m.tracker.start(span.Continue(m.life, caller), verb, what, limit, fn, func(*work, error) {
		mu.Lock()
		defer mu.Unlock()
		delete(l, verb)
	})
	select {
	case <-w.done: // refused: what runs cannot end before mu is free
	default:
		l[verb] = w
	}
	return w
}

// others returns the verbs under way on an object but this one.
func (l lane) others(self *work) []*work {
	var out []*work
	for _, w := range l {
		if w != self {
			out = append(out, w)
		}
	}
	return out
}

// settle waits until these verbs have ended, whatever came of them.
func settle(ctx context.Context, works []*work) error {
	for _, w := range works {
		select {
		case <-w.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w", w.what, context.Cause(ctx))
		}
	}
	return nil
}

// undoContext is for an undo: it outlives the cancellation of what failed.
func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}
