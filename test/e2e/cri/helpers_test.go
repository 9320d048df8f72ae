package cri

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func itoa(port uint16) string { return strconv.Itoa(int(port)) }

func get(url string) (string, error) {
	r, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

// waitFor asks again every few milliseconds until ok.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// initPid is the pid, on the host, of a container's first process.
func (p *pod) initPid(ctr string) int {
	p.t.Helper()
	r, err := p.Runtime.ContainerStatus(p.t.Context(), &cri.ContainerStatusRequest{ContainerId: ctr, Verbose: true})
	if err != nil {
		p.t.Fatal(err)
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.Pid == 0 {
		p.t.Fatalf("pid: %v of %s", err, r.Info["info"])
	}
	return info.Pid
}

// readLog splits a CRI log into time, stream, tag and text.
func readLog(t *testing.T, path string) [][4]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][4]string
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) == 4 {
			lines = append(lines, [4]string(parts))
		}
	}
	return lines
}
