// Package tracing exports spans of calls, and of what they have straked do, to a
// collector of OpenTelemetry's, over OTLP.
//
// A call is part of its caller's trace (the W3C traceparent in its gRPC metadata, which
// a kubelet sends), and recorded if that is; of calls without one, a share. Spans go
// through a queue of bounded length to one goroutine that sends them: a collector that
// hangs or is not there costs spans, and never a call's time. Spans of what is below a
// call are begun by internal/span.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/stats"
)

// The protocols, by the names of OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	GRPC = "grpc"
	HTTP = "http/protobuf"
)

// Config says where spans go. Endpoint is http://HOST:PORT, or https for TLS with the
// host's certificate authorities; over HTTP a path can follow, "" is /v1/traces.
// SamplesPerMillion is how many of a million calls are recorded whose caller says nothing of a
// trace.
type Config struct {
	Endpoint          string
	Protocol          string
	SamplesPerMillion int
	Version           string // of straked, told to the collector
}

const (
	// queued is how many ended spans wait to be sent, at most: of about 100 pods' starts.
	queued = 2048
	// sendTimeout is how long the collector may take over some of them.
	sendTimeout = 10 * time.Second
	// closeTimeout is how long the end of straked waits for the last ones.
	closeTimeout = 2 * time.Second
)

// Tracing is a running exporter.
type Tracing struct {
	provider *sdktrace.TracerProvider
}

// Open begins to export. It does not connect: a collector may come later. Close ends it.
func Open(ctx context.Context, c Config, log *slog.Logger) (*Tracing, error) {
	client, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(ctx, resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "straked"), attribute.String("service.version", c.Version)))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	sender, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	exporter := &reporting{SpanExporter: sender, log: log, endpoint: c.Endpoint}
	return &Tracing{sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(c.SamplesPerMillion)/1e6))),
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(queued), sdktrace.WithExportTimeout(sendTimeout)),
	)}, nil
}

func newClient(c Config) (otlptrace.Client, error) {
	to, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, err
	}
	switch c.Protocol {
	case GRPC:
		return otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL(c.Endpoint), otlptracegrpc.WithTimeout(sendTimeout)), nil
	case HTTP:
		if to.Path == "" || to.Path == "/" {
			to.Path = "/v1/traces"
		}
		return otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(to.String()), otlptracehttp.WithTimeout(sendTimeout)), nil
	}
	return nil, fmt.Errorf("protocol %q is not one of %s, %s", c.Protocol, GRPC, HTTP)
}

// Handler makes spans of a gRPC server's calls.
func (t *Tracing) Handler() stats.Handler {
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
		otelgrpc.WithPropagators(propagation.TraceContext{}))
}

// Close sends what is queued, as far as the collector takes it soon.
func (t *Tracing) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // spans that are lost are no reason to end badly
	return nil
}

// reporting logs when a collector stops taking spans, and when it takes them again.
type reporting struct {
	sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string
	failing  bool
}

// ExportSpans is called by one goroutine at a time.
func (r *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !r.failing:
		r.log.Warn("the collector takes no spans; they are lost until it does", "endpoint", r.endpoint, "error", err)
	case err == nil && r.failing:
		r.log.Info("the collector takes spans again", "endpoint", r.endpoint)
	}
	r.failing = err != nil
	return nil // it has been told
}
