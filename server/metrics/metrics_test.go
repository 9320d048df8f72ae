package metrics

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestScrape(t *testing.T) {
	m := New(func() Counts {
		return Counts{Pods: 3, Containers: 5, Running: 4, VerbsUnderWay: 1, OOMKilled: 2, MonitorsReplaced: 6}
	})
	m.Call("/runtime.v1.RuntimeService/RunPodSandbox", codes.OK, 3*time.Millisecond)
	s, err := m.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	resp, err := http.Get("http://" + s.Address() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"strake_pods 3\n", "strake_containers 5\n", "strake_containers_running 4\n", "strake_verbs_under_way 1\n",
		"strake_containers_oom_killed_total 2\n", "strake_monitors_replaced_total 6\n", `strake_call_duration_seconds_count{code="OK",method="RunPodSandbox"} 1`,
		`strake_call_duration_seconds_bucket{code="OK",method="RunPodSandbox",le="0.005"} 1`,
		`strake_build_info{version="dev"} 1`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in:\n%s", want, body)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
