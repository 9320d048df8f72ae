package main

import (
	"os"

	_ "github.com/strake-containers/strake/internal/growstack" // before anything else
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/early"
)

// Where the program starts (entry_*.s; the linker has to be told, -E main.entry, see the
// Makefile; without, the program works the same), it first does the shortest verbs,
// without Go's runtime.
var runEarly = early.Run //nolint:unused // by entry

// noG is a goroutine descriptor for that: the code asks it where its stack ends, and
// finds that there is room.
var noG [64]uintptr //nolint:unused // by entry

// Before main, Go's runtime prepares for as many threads at once as there are
// processors: with 64 of them a start takes a third longer and 1 MB more, with 192
// twice as long. It would take another number from the environment, GOMAXPROCS. So
// entry puts that there itself, unless its caller has. One is enough for what does one
// thing after the other; what does not says so (sys.Concurrent).

// oneThread is an element of environ(7).
var oneThread = [...]byte{'G', 'O', 'M', 'A', 'X', 'P', 'R', 'O', 'C', 'S', '=', '1', 0} //nolint:unused // by entry

// entered says that entry has put it there.
var entered bool

// leaveEnvironment keeps what entry, or a first start of this program that has sealed it, has
// put into the environment from hooks.
func leaveEnvironment() {
	container.LeaveEnvironment()
	if entered {
		_ = os.Unsetenv("GOMAXPROCS") // fails for names with '=' only
	}
}
