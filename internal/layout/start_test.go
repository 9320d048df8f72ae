package layout

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// starters are strake-runtime's packages that do something before main, which
// every container pays for. Most come with Go's own os and fmt. One more is a
// decision: a table that is searched, or sync.OnceValue, needs no init.
var starters = []string{
	"internal/bytealg", "internal/godebug", "internal/poll", "internal/runtime/gc/scan", "runtime",
	"context", "encoding/base64", "encoding/json", "errors", "io/fs", "iter", "math", "os", "path/filepath",
	"reflect", "sync", "syscall", "time", "unicode",
	"github.com/opencontainers/runtime-spec/specs-go", "golang.org/x/sys/unix",
	module + "internal/...", module + "oci/...", module + "cmd/strake-runtime",
}

// mostInit is how much memory all of that may take, in bytes. It was 7,200 when
// this was written; the first regular expression, or map of a hundred entries,
// takes as much again.
const mostInit = 9000

// TestStartOfRuntime counts what strake-runtime does before main. It says
// nothing about time, which no test can measure beside others.
func TestStartOfRuntime(t *testing.T) {
	program := filepath.Join(t.TempDir(), "strake-runtime")
	build := exec.Command("go", "build", "-o", program, module+"cmd/strake-runtime")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// What Go's own goroutines allocate meanwhile is counted, too: more of it on a busy host.
	const runs = 10
	least, trace := math.MaxInt, ""
	for range runs {
		if total, lines := initTrace(t, program); total < least {
			least, trace = total, lines
		}
	}
	if least > mostInit {
		t.Errorf("%d bytes are allocated before main, at most %d: %s", least, mostInit, trace)
	}
}

// initTrace is what Go's runtime says of a program's start, with the bytes that it has allocated.
func initTrace(t *testing.T, program string) (total int, trace string) {
	t.Helper()
	cmd := exec.Command(program, "--version")
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(out.String()) {
		// init PACKAGE @0.12 ms, 0.003 ms clock, 456 bytes, 7 allocs
		f := strings.Fields(line)
		if len(f) != 11 || f[0] != "init" {
			continue
		}
		seen++
		if !matchAny(starters, f[1]) {
			t.Errorf("%s does something before main: %s", f[1], strings.TrimSpace(line))
		}
		n, err := strconv.Atoi(f[7])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		total += n
	}
	if seen < 5 {
		t.Fatalf("no trace of init:\n%s", out.String())
	}
	return total, out.String()
}
