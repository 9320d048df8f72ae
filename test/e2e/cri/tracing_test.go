package cri

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

// spans is a collector of traces.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*tracev1.Span
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.all = append(s.all, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// path is the names of a span and of those above it, "call/verb/step"; "" without it.
func (s *spans) path(trace, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID := map[string]*tracev1.Span{}
	var path []string
	var at *tracev1.Span
	for _, span := range s.all {
		if hex.EncodeToString(span.TraceId) == trace {
			byID[string(span.SpanId)] = span
			if span.Name == name {
				at = span
			}
		}
	}
	for ; at != nil; at = byID[string(at.ParentSpanId)] {
		path = append([]string{at.Name[strings.LastIndex(at.Name, "/")+1:]}, path...)
	}
	return strings.Join(path, "/")
}

// A pod's calls are spans of the caller's trace, with the verb's steps, the plugins and
// the monitor's calls below them; calls of nobody's trace are none.
func TestTraces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	n := node.Start(t, node.Options{Config: fmt.Sprintf("[tracing]\nendpoint = \"http://%s\"\n", l.Addr())})
	if err := n.Pull(t.Context()); err != nil { // in no trace
		t.Fatal(err)
	}
	trace := func(i int) string { return fmt.Sprintf("%032x", 0xabc00+i) }
	in := func(i int) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace(i)+"-00f067aa0ba902b7-01")
	}
	config := n.PodConfig("traced", false)
	pod, err := n.RunPod(in(1), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.RunContainer(in(2), pod, config, n.ContainerConfig("main", "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime.RemovePodSandbox(in(3), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if err := n.RemoveImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(in(4)); err != nil {
		t.Fatal(err)
	}

	const task, sandbox = "containerd.task.v3.Task/", "containerd.runtime.sandbox.v1.Sandbox/"
	for _, want := range []struct {
		trace      int
		name, path string
	}{
		{1, "network namespace", "RunPodSandbox/run pod/network namespace"},
		{1, "attach to network", "RunPodSandbox/run pod/network and sandbox/attach to network"},
		{1, sandbox + "StartSandbox", "RunPodSandbox/run pod/network and sandbox/start sandbox/StartSandbox"},
		{2, task + "Create", "CreateContainer/create container/process/Create"},
		{2, task + "Start", "StartContainer/start container/process/Start"},
		{3, "stop pod", "RemovePodSandbox/remove pod/stop/stop pod"},
		{3, "detach from network", "RemovePodSandbox/remove pod/stop/stop pod/network and sandbox/detach from network"},
		{4, "unpack layer", "PullImage/pull image/layers/unpack layer"},
	} {
		waitFor(t, want.name, func() bool { return got.path(trace(want.trace), want.name) != "" })
		if path := got.path(trace(want.trace), want.name); path != want.path {
			t.Errorf("got  %s\nwant %s", path, want.path)
		}
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, span := range got.all {
		if id := hex.EncodeToString(span.TraceId); id < trace(1) || id > trace(4) {
			t.Errorf("%s is in trace %s", span.Name, id)
		}
	}
}
