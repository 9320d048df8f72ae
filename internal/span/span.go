// Package span marks what takes time in a verb as spans of OpenTelemetry traces.
//
// A span is begun below the one in the context, by that one's provider: there is no
// global tracer here. In a context without a recording span, which is every context
// while tracing is off, nothing is begun and nothing kept. What exports spans is
// server/tracing, which straked alone links.
package span

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope names this program as the one that made a span.
const scope = "github.com/strake-containers/strake"

// The keys of attributes, as containerd's traces have them, and OpenTelemetry's
// conventions for Kubernetes. Values are strings, sizes are bytes.
const (
	PodID         = attribute.Key("sandbox.id")
	Namespace     = attribute.Key("k8s.namespace.name")
	PodName       = attribute.Key("k8s.pod.name")
	PodUID        = attribute.Key("k8s.pod.uid")
	Handler       = attribute.Key("runtime.handler")
	ContainerID   = attribute.Key("container.id")
	ContainerName = attribute.Key("k8s.container.name")
	ImageRef      = attribute.Key("image.ref")
	LayerDigest   = attribute.Key("layer.media.digest")
	LayerType     = attribute.Key("layer.media.type")
	LayerSize     = attribute.Key("layer.media.size")
)

// Span is a span under way; the zero Span is none, and its methods do nothing.
type Span struct{ span trace.Span }

// Start begins a span below that of ctx, which the context that it returns has. The
// caller ends it.
func Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, s := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, Span{s}
}

// End ends the span; err, unless it is nil, is what came of it.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

// Describe adds attributes to the span of ctx, if there is one.
func Describe(ctx context.Context, attributes ...attribute.KeyValue) {
	if s := trace.SpanFromContext(ctx); s.IsRecording() {
		s.SetAttributes(attributes...)
	}
}

// Continue is life with the span of caller: for work that a call begins and that does
// not end with it.
func Continue(life, caller context.Context) context.Context {
	if s := trace.SpanFromContext(caller); s.IsRecording() {
		return trace.ContextWithSpan(life, s)
	}
	return life
}

// TraceID is the id of the trace that ctx is in, in hexadecimal; "" if it is not
// recorded.
func TraceID(ctx context.Context) string {
	if s := trace.SpanFromContext(ctx); s.IsRecording() {
		return s.SpanContext().TraceID().String()
	}
	return ""
}
