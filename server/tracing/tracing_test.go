package tracing

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/server"
)

// received has the spans that a collector got; it answers them as answer says.
type received struct {
	collector.UnimplementedTraceServiceServer
	spans  chan *tracev1.Span
	answer func(context.Context) error
}

func (r *received) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if r.answer != nil {
		if err := r.answer(ctx); err != nil {
			return nil, err
		}
	}
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans <- s
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *received) next(t *testing.T) *tracev1.Span {
	t.Helper()
	select {
	case s := <-r.spans:
		return s
	case <-time.After(time.Minute):
		t.Fatal("no span came")
		return nil
	}
}

// overGRPC serves the collector and says where.
func (r *received) overGRPC(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return "http://" + l.Addr().String()
}

func (r *received) overHTTP(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var body collector.ExportTraceServiceRequest
		if data, err := io.ReadAll(request.Body); err != nil || proto.Unmarshal(data, &body) != nil || request.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", request.URL, err)
		}
		answer, err := r.Export(request.Context(), &body)
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		data, _ := proto.Marshal(answer)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// service stops pods in one step, which fails for the pod "bad".
type service struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (service) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (_ *runtimeapi.StopPodSandboxResponse, err error) {
	_, step := span.Start(ctx, "step")
	defer func() { step.End(err) }()
	if r.PodSandboxId == "bad" {
		return nil, errors.New("it is bad")
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// dial serves service with traces and connects to it.
func dial(t *testing.T, traces *Tracing, log *slog.Logger) runtimeapi.RuntimeServiceClient {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := server.NewGRPC(log, func(string, codes.Code, time.Duration) {}, traces.Handler())
	runtimeapi.RegisterRuntimeServiceServer(s, service{})
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	caller  = "00f067aa0ba902b7"
)

// TestCalls: a call of a caller whose trace is recorded is part of it, and what it does
// is below it; others are recorded as often as the configuration says.
func TestCalls(t *testing.T) {
	for protocol, serve := range map[string]func(*received, *testing.T) string{GRPC: (*received).overGRPC, HTTP: (*received).overHTTP} {
		t.Run(protocol, func(t *testing.T) {
			r := &received{spans: make(chan *tracev1.Span, 100)}
			var lines bytes.Buffer
			log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
			traces, err := Open(t.Context(), Config{Endpoint: serve(r, t), Protocol: protocol, Version: "1"}, log)
			if err != nil {
				t.Fatal(err)
			}
			client := dial(t, traces, log)
			stop := func(parent, id string) {
				ctx := t.Context()
				if parent != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", parent)
				}
				if _, err := client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); (err != nil) != (id == "bad") {
					t.Fatal(err)
				}
			}
			stop("", "untraced")
			stop("00-"+traceID+"-"+caller+"-00", "unsampled")
			stop("00-"+traceID+"-"+caller+"-01", "bad")
			if err := traces.provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}

			step, call := r.next(t), r.next(t) // in the order of their ends
			if step.Name != "step" || call.Name != "runtime.v1.RuntimeService/StopPodSandbox" {
				t.Fatalf("got %s and %s", step.Name, call.Name)
			}
			if hex.EncodeToString(call.TraceId) != traceID || hex.EncodeToString(call.ParentSpanId) != caller || !bytes.Equal(step.ParentSpanId, call.SpanId) {
				t.Errorf("call %v, step %v", call, step)
			}
			if step.Status.GetMessage() != "it is bad" || call.Status.GetCode() != tracev1.Status_STATUS_CODE_ERROR {
				t.Errorf("status of the step %v, of the call %v", step.Status, call.Status)
			}
			found := slices.ContainsFunc(call.Attributes, func(a *commonv1.KeyValue) bool {
				return a.Key == string(span.PodID) && a.Value.GetStringValue() == "bad"
			})
			if !found {
				t.Errorf("attributes %v", call.Attributes)
			}
			if !bytes.Contains(lines.Bytes(), []byte("trace="+traceID)) {
				t.Errorf("log:\n%s", lines.String())
			}
			if err := traces.Close(); err != nil {
				t.Error(err)
			}
			if len(r.spans) != 0 {
				t.Errorf("one span more: %v", <-r.spans)
			}
		})
	}
}

// TestSamples: what nobody traces is recorded if it is to be.
func TestSamples(t *testing.T) {
	r := &received{spans: make(chan *tracev1.Span, 100)}
	traces, err := Open(t.Context(), Config{Endpoint: r.overGRPC(t), Protocol: GRPC, SamplesPerMillion: 1e6}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer traces.Close()
	client := dial(t, traces, slog.New(slog.DiscardHandler))
	if _, err := client.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	if s := r.next(t); s.Name != "step" {
		t.Errorf("got %s", s.Name)
	}
	if s := r.next(t); len(s.ParentSpanId) != 0 {
		t.Errorf("%s has a parent", s.Name)
	}
}

// TestHangingCollector: one that takes no spans costs nothing but them. It hears of
// more calls than the queue has room for, all of which return while it hangs.
func TestHangingCollector(t *testing.T) {
	hung := make(chan struct{})
	asked := make(chan struct{}, 100)
	r := &received{spans: make(chan *tracev1.Span, 100), answer: func(ctx context.Context) error {
		asked <- struct{}{}
		select {
		case <-hung:
		case <-ctx.Done():
		}
		return errors.New("hangs")
	}}
	traces, err := Open(t.Context(), Config{Endpoint: r.overGRPC(t), Protocol: GRPC, SamplesPerMillion: 1e6}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer traces.Close()
	t.Cleanup(func() { close(hung) })
	tracer := traces.provider.Tracer("test")
	for range queued { // the first ones go on their way
		_, s := tracer.Start(t.Context(), "x")
		s.End()
	}
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Fatal("the collector was not asked")
	}
	for range 2 * queued {
		_, s := tracer.Start(t.Context(), "x")
		s.End()
	}
}

// answering is an exporter that fails, or not.
type answering struct{ err error }

func (a answering) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return a.err }
func (a answering) Shutdown(context.Context) error                             { return nil }

// TestNoCollector: one that is not there is said once, and so is that it is there.
func TestNoCollector(t *testing.T) {
	var lines bytes.Buffer
	r := &reporting{log: slog.New(slog.NewTextHandler(&lines, nil))}
	for _, answer := range []error{errors.New("refused"), errors.New("refused"), nil, nil} {
		r.SpanExporter = answering{answer}
		if err := r.ExportSpans(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != 2 {
		t.Errorf("log:\n%s", lines.String())
	}
}
