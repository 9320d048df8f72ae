package strake

import (
	"bytes"
	"fmt"
	"io"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/pod"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// Dump never asks for what a hanging verb could hold: it is for finding that verb.
func (s *service) Dump(_ *strakev1.DumpRequest, stream grpc.ServerStreamingServer[strakev1.DumpResponse]) error {
	var goroutines bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&goroutines, 2); err != nil {
		return asStatus(err)
	}
	out := &chunkWriter{send: func(b []byte) error { return stream.Send(&strakev1.DumpResponse{Data: b}) }}
	now := time.Now()
	if _, err := fmt.Fprintf(out, "straked %s, %s, up %s\n", version.Version, now.UTC().Format(time.RFC3339), now.Sub(s.started).Round(time.Second)); err != nil {
		return err
	}
	if err := writeDump(out, now, s.Pods.Dump(), goroutines.Bytes()); err != nil {
		return err
	}
	return out.flush()
}

func writeDump(w io.Writer, now time.Time, d pod.Dump, goroutines []byte) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n# verbs under way: %d\n", len(d.Verbs))
	for _, v := range d.Verbs {
		stage := v.Stage
		if stage == "" {
			stage = "begins"
		}
		fmt.Fprintf(&b, "%s: %s, since %s (%s), %d waiting\n", v.What, stage,
			v.Since.UTC().Format(time.RFC3339Nano), now.Sub(v.Since).Round(time.Millisecond), v.Waiters)
	}
	fmt.Fprintf(&b, "\n# monitors: %d\n", len(d.Monitors))
	for _, m := range d.Monitors {
		fmt.Fprintf(&b, "%s (%s): %s; pods %s\n", m.Address, m.Handler, m.State, strings.Join(m.Pods, " "))
	}
	waits := lockWaits(string(goroutines))
	fmt.Fprintf(&b, "\n# goroutines that wait for a lock: %d\n", len(waits))
	for _, wait := range waits {
		b.WriteString(wait + "\n")
	}
	fmt.Fprintf(&b, "\n# goroutines: %d\n", bytes.Count(append([]byte("\n"), goroutines...), []byte("\ngoroutine ")))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	_, err := w.Write(goroutines)
	return err
}

// lockWaits finds the goroutines that wait for a mutex: which, how long if it is more
// than a minute, and the call and line that wants it. Go does not tell who has it: that
// is one of the other goroutines with a frame of the same type.
func lockWaits(goroutines string) []string {
	var out []string
	for g := range strings.SplitSeq(goroutines, "\n\n") {
		head, rest, _ := strings.Cut(g, "\n")
		if !strings.Contains(head, "[sync.Mutex.Lock") && !strings.Contains(head, "[sync.RWMutex.") {
			continue
		}
		frames := strings.Split(rest, "\n")
		at := slices.IndexFunc(frames, func(f string) bool {
			return !strings.HasPrefix(f, "\t") && !strings.HasPrefix(f, "sync.") && !strings.HasPrefix(f, "internal/sync.")
		})
		wait := strings.TrimSuffix(head, ":")
		if at >= 0 && at+1 < len(frames) {
			wait += ": " + frames[at] + " at " + strings.TrimSpace(frames[at+1])
		}
		out = append(out, wait)
	}
	return out
}
