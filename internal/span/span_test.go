package span

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// TestVerb: what is begun in a step is below that step, whenever the context was made,
// and the whole outlives its caller.
func TestVerb(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	caller, call := provider.Tracer("test").Start(t.Context(), "call")
	life, end := context.WithCancel(context.Background())
	defer end()

	ctx, verb := StartVerb(Continue(life, caller), "verb")
	Describe(ctx, PodID.String("p"))
	inner, cancel := context.WithCancel(ctx)
	verb.Step("one")
	_, a := Start(inner, "a")
	a.End(nil)
	verb.Step("two")
	_, b := Start(inner, "b", ImageRef.String("i"))
	b.End(errors.New("broken"))
	verb.Awaited(caller)
	other, second := provider.Tracer("test").Start(t.Context(), "second call")
	verb.Awaited(other)
	verb.End(errors.New("it is broken"))
	second.End()
	call.End()
	cancel()
	end()
	if ctx.Err() == nil {
		t.Error("the verb's context outlives its life")
	}

	spans := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range recorder.Ended() {
		spans[s.Name()] = s
	}
	for child, parent := range map[string]string{"verb": "call", "one": "verb", "two": "verb", "a": "one", "b": "two"} {
		if spans[child] == nil || spans[child].Parent().SpanID() != spans[parent].SpanContext().SpanID() {
			t.Errorf("%s is not below %s", child, parent)
		}
	}
	for name, want := range map[string]string{"one": "", "a": "", "b": "broken", "two": "it is broken", "verb": "it is broken"} {
		if s := spans[name].Status(); s.Description != want || (s.Code == codes.Error) != (want != "") {
			t.Errorf("%s ended with %+v, want %q", name, s, want)
		}
	}
	if a := spans["verb"].Attributes(); len(a) != 1 || a[0] != PodID.String("p") {
		t.Errorf("verb has %v", a)
	}
	if l := spans["call"].Links(); len(l) != 0 {
		t.Errorf("its caller has links: %v", l)
	}
	if l := spans["second call"].Links(); len(l) != 1 || l[0].SpanContext.SpanID() != spans["verb"].SpanContext().SpanID() {
		t.Errorf("who waits too has %v", l)
	}
}

// TestOff: without a span that is recorded nothing is begun, and no memory taken.
func TestOff(t *testing.T) {
	unsampled := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}))
	for _, ctx := range []context.Context{t.Context(), unsampled} {
		if got, s := Start(ctx, "x"); got != ctx || s != (Span{}) {
			t.Error("Start has begun a span")
		}
		if got, v := StartVerb(ctx, "x"); got != ctx || v != nil {
			t.Error("StartVerb has begun a span")
		}
		if Continue(t.Context(), ctx) != t.Context() {
			t.Error("Continue has made a context")
		}
		if n := testing.AllocsPerRun(100, func() {
			ctx, v := StartVerb(ctx, "x")
			v.Step("y")
			_, s := Start(ctx, "z")
			s.End(nil)
			v.Awaited(ctx)
			v.End(nil)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
