// Package metrics serves straked's own Prometheus metrics over HTTP: how long
// each call took, what there is, and the process itself. What containers use is
// CRI's business (ListPodSandboxMetrics), not this endpoint's.
//
// It is off unless [metrics] address is set; the counting of calls costs some
// hundred nanoseconds and is always on, so that turning the endpoint on later
// needs no other code path.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/strake-containers/strake/internal/version"
)

// Counts is what is on the node, and what has happened since straked was started.
type Counts struct {
	Pods, Containers, Running, VerbsUnderWay int
	OOMKilled, MonitorsReplaced              uint64
	Forbidden                                []Forbidden
}

// Forbidden is how often a container has made a system call that its seccomp profile
// forbids.
type Forbidden struct {
	Namespace, Pod, Container, Call string
	Times                           uint64
}

// node collects the Counts: they are asked for once a scrape.
type node struct {
	counts func() Counts
	series []nodeSeries
}

type nodeSeries struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Counts) float64
}

func (n *node) add(kind prometheus.ValueType, name, help string, value func(Counts) float64) {
	n.series = append(n.series, nodeSeries{prometheus.NewDesc(name, help, nil, nil), kind, value})
}

func (n *node) Describe(to chan<- *prometheus.Desc) {
	for _, s := range n.series {
		to <- s.desc
	}
	to <- forbidden
}

func (n *node) Collect(to chan<- prometheus.Metric) {
	c := n.counts()
	for _, s := range n.series {
		to <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value(c))
	}
	for _, f := range c.Forbidden {
		to <- prometheus.MustNewConstMetric(forbidden, prometheus.CounterValue, float64(f.Times), f.Namespace, f.Pod, f.Container, f.Call)
	}
}

var forbidden = prometheus.NewDesc("strake_container_forbidden_syscalls_total",
	"System calls that a container's seccomp profile forbade, of containers that are watched for them.",
	[]string{"namespace", "pod", "container", "syscall"}, nil)

// Metrics holds the series.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
}

// New makes the series. Counts is asked at every scrape.
func New(counts func() Counts) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "strake_call_duration_seconds",
			Help:    "How long gRPC calls took, by method and status code.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"method", "code"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "strake_build_info", Help: "Always 1; the version is the label.",
		ConstLabels: prometheus.Labels{"version": version.Version},
	})
	build.Set(1)
	n := &node{counts: counts}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	n.add(gauge, "strake_pods", "Pods known.", func(c Counts) float64 { return float64(c.Pods) })
	n.add(gauge, "strake_containers", "Containers known.", func(c Counts) float64 { return float64(c.Containers) })
	n.add(gauge, "strake_containers_running", "Containers running.", func(c Counts) float64 { return float64(c.Running) })
	n.add(gauge, "strake_verbs_under_way", "Pod and container verbs being carried out.", func(c Counts) float64 { return float64(c.VerbsUnderWay) })
	n.add(counter, "strake_containers_oom_killed_total", "Containers that ended because their memory ran out.", func(c Counts) float64 { return float64(c.OOMKilled) })
	n.add(counter, "strake_monitors_replaced_total", "Monitors that were killed and replaced.", func(c Counts) float64 { return float64(c.MonitorsReplaced) })
	m.registry.MustRegister(m.calls, build, n,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Call counts a gRPC call.
func (m *Metrics) Call(method string, code codes.Code, took time.Duration) {
	m.calls.WithLabelValues(path.Base(method), code.String()).Observe(took.Seconds())
}

// Server answers at /metrics.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen listens on address (IP:PORT); Serve answers.
func (m *Metrics) Listen(ctx context.Context, address string) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics server: listen on metrics.address %q: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return &Server{l, &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}}, nil
}

// Address is the IP:PORT listened on.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve answers until Close; it returns nil then.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics server on %s: %w", s.Address(), err)
	}
	return nil
}

// Close stops answering.
func (s *Server) Close() error {
	err := s.http.Close()
	if e := s.listener.Close(); !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}
