package span

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// Verb is the span of a verb that goes in steps, and that of the step it is in, one
// after the other. A nil Verb is none, and its methods do nothing. They may be called
// concurrently.
type Verb struct {
	span   Span
	ctx    context.Context // of the verb: what steps are below
	parent trace.SpanID

	mu   sync.Mutex
	step Span
	at   context.Context // of the step; nil before the first
}

// StartVerb begins a verb's span below that of ctx. The span of the context that it
// returns is at any moment that of the step which the verb is then in: what is begun
// with it is below that step.
func StartVerb(ctx context.Context, name string) (context.Context, *Verb) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nil
	}
	v := &Verb{parent: parent.SpanContext().SpanID()}
	v.ctx, v.span = Start(ctx, name)
	return stepping{v.ctx, v}, v
}

// Step ends the step under way and begins the next.
func (v *Verb) Step(name string) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.step.End(nil)
	v.at, v.step = Start(v.ctx, name)
}

// End ends the step and the verb; err, unless it is nil, is what came of them.
func (v *Verb) End(err error) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.step.End(err)
	v.span.End(err)
	v.step, v.at = Span{}, nil
}

// Awaited tells the trace of a caller who waits for a verb that somebody else has
// begun, such as the first call of a repeated request, where that verb is.
func (v *Verb) Awaited(ctx context.Context) {
	if v == nil {
		return
	}
	caller := trace.SpanFromContext(ctx)
	if caller.IsRecording() && caller.SpanContext().SpanID() != v.parent {
		caller.AddLink(trace.LinkFromContext(v.ctx))
	}
}

// current is the context of the step, or of the verb between steps.
func (v *Verb) current() context.Context {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.at != nil {
		return v.at
	}
	return v.ctx
}

// stepping is a verb's context with the values, and so the span, of its step.
type stepping struct {
	context.Context
	verb *Verb
}

func (s stepping) Value(key any) any { return s.verb.current().Value(key) }
