package kubelet

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// probesPod has a container for each kind of probe, with all three probes of
// that kind. Each is told what to answer by files, or by servers, of its own.
const probesPod = `
apiVersion: v1
kind: Pod
metadata: {name: probes}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: program, hostPath: {path: {{.Program}}, type: File}}]
  containers:
  - name: exec
    image: {{.Image}}
    command: [sh, -c, "touch /tmp/ready /tmp/live; sleep 1; touch /tmp/started; sleep 1000000"]
    startupProbe: {exec: {command: [cat, /tmp/started]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1000}
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
    livenessProbe: {exec: {command: [cat, /tmp/live]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
  - name: http
    image: {{.Image}}
    command: [sh, -c, "for f in started ready live; do echo yes > /tmp/$f; done; exec httpd -f -p 8080 -h /tmp"]
    startupProbe: {httpGet: {path: /started, port: 8080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1000}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
    livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
  - name: tcp
    image: {{.Image}}
    command: [sh, -c, "for p in 8081 8082 8083; do httpd -f -p $p -h /tmp & echo $! > /tmp/$p; done; sleep 1000000"]
    startupProbe: {tcpSocket: {port: 8081}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1000}
    readinessProbe: {tcpSocket: {port: 8082}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: 8083}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
  - name: grpc
    image: {{.Image}}
    command: [/program]
    env: [{name: STRAKE_TEST_HEALTH, value: ":8084"}]
    volumeMounts: [{name: program, mountPath: /program}]
    startupProbe: {grpc: {port: 8084, service: started}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1000}
    readinessProbe: {grpc: {port: 8084, service: ready}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
    livenessProbe: {grpc: {port: 8084, service: live}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
`

func prepareProbes(p *pod) map[string]any {
	p.t.Helper()
	program, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	return map[string]any{"Program": program}
}

func checkProbes(p *pod) {
	p.await("all have started and are ready", func(s *podStatus) bool {
		for _, c := range s.Status.ContainerStatuses {
			if c.Started == nil || !*c.Started {
				return false
			}
		}
		return s.ready()
	})
	for _, c := range []struct{ name, unready, dead string }{
		{"exec", "rm /tmp/ready", "rm /tmp/live"},
		{"http", "rm /tmp/ready", "rm /tmp/live"},
		{"tcp", "kill $(cat /tmp/8082)", "kill $(cat /tmp/8083)"},
		{"grpc", "rm /tmp/ready", "rm /tmp/live"},
	} {
		p.says(c.name, c.unready, "")
		s := p.await(c.name+" is not ready", func(s *podStatus) bool { return !s.container(c.name).Ready })
		if got := s.container(c.name); got.RestartCount != 0 || got.State.Running == nil {
			p.t.Errorf("%s, which is only not ready: %+v", c.name, got)
		}
		p.says(c.name, c.dead, "")
		s = p.await(c.name+" was restarted and is ready", func(s *podStatus) bool {
			return s.container(c.name).RestartCount > 0 && s.container(c.name).Ready
		})
		// The first process of a container ignores SIGTERM, but a Go program ends with 2.
		want := 137
		if c.name == "grpc" {
			want = 2
		}
		if code, reason, _ := s.container(c.name).lastExit(); code != want || reason != "Error" {
			p.t.Errorf("%s was ended with %d, %s", c.name, code, reason)
		}
	}
}

// TestMain is also the program of the container that gRPC probes look at.
func TestMain(m *testing.M) {
	if address := os.Getenv("STRAKE_TEST_HEALTH"); address != "" {
		fmt.Fprintln(os.Stderr, serveHealth(address))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// health answers that a service serves as long as there is a file of its name.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(_ context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if _, err := os.Stat("/tmp/" + r.Service); err != nil {
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// serveHealth serves all of its services until it fails.
func serveHealth(address string) error {
	for _, service := range []string{"started", "ready", "live"} {
		if err := os.WriteFile("/tmp/"+service, nil, 0o600); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health{})
	return s.Serve(l)
}
