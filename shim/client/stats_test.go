package client

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/shim/wire"
)

type oldRequest struct {
	IDs       []string `pb:"1"`
	PodCgroup string   `pb:"2"`
}

type oldResponse struct {
	Pod *oldStats `pb:"2"`
}

type oldStats struct {
	PidsCurrent uint64 `pb:"4"`
}

// A monitor that an older straked has started, and that has no PodsStats, is asked for one
// pod after the other.
func TestPodsStatsOfOldMonitor(t *testing.T) {
	testutil.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "monitor.sock")
	l, err := wire.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := wire.NewServer()
	s.Handle("strake.monitor.v1.Monitor", "Stats", wire.Method(func(_ context.Context, r *oldRequest) (*oldResponse, error) {
		if r.PodCgroup == "" {
			return nil, errors.New("broken")
		}
		return &oldResponse{&oldStats{uint64(len(r.PodCgroup))}}, nil
	}))
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	m, err := Connect(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := m.PodsStats(t.Context(), []StatsQuery{{PodCgroup: "/a"}, {}, {PodCgroup: "/abc"}})
	if err != nil || len(all) != 3 || all[0].Pod.PidsCurrent != 2 || all[1].Err == nil || all[2].Pod.PidsCurrent != 4 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := errors.Join(m.Close(), s.Shutdown(t.Context()), <-served); err != nil {
		t.Error(err)
	}
}
