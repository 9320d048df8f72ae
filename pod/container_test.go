package pod

import (
	"testing"
	"time"

	"github.com/strake-containers/strake/shim/client"
)

// When a container was started is not lost if the disk was full then and the daemon was
// killed after its end; and what the record says counts before what the monitor does.
func TestEndedSaysWhenStarted(t *testing.T) {
	early := time.Date(2026, 11, 26, 22, 18, 13, 0, time.UTC)
	late := early.Add(time.Millisecond)
	for _, c := range []struct{ recorded, told, want time.Time }{
		{time.Time{}, late, late}, {early, late, early}, {early, time.Time{}, early}, {time.Time{}, time.Time{}, time.Time{}},
	} {
		r := containerRecord{State: ContainerCreated, StartedAt: c.recorded}
		r.ended(client.Exit{Status: 1, StartedAt: c.told, At: late})
		if !r.StartedAt.Equal(c.want) || r.StartedAt.IsZero() != c.want.IsZero() {
			t.Errorf("recorded %v, told %v: %v, want %v", c.recorded, c.told, r.StartedAt, c.want)
		}
	}
}
