package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// childCode is where the child's code begins: what fork does behind the clone.
const childCode = "github.com/strake-containers/strake/oci/launch.(*child).run"

// leaves are what the child's code may call beside itself: bare system calls.
// Anything of the runtime would be a stack that grows, an allocation, a write
// barrier, a check that panics or a lock; anything in a register an interface or
// a closure.
var leaves = []string{"syscall.RawSyscall", "syscall.RawSyscall6"}

// The rules of the package comment, looked up in what the compiler made of them.
func TestChildCallsNothingOfTheRuntime(t *testing.T) {
	if testing.Short() {
		t.Skip("builds strake-runtime")
	}
	program := filepath.Join(t.TempDir(), "strake-runtime")
	build := exec.Command("go", "build", "-o", program, "github.com/strake-containers/strake/cmd/strake-runtime")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	calls := callsIn(t, program, `^github.com/strake-containers/strake/oci/launch\.`)
	if len(calls[childCode]) == 0 {
		t.Fatalf("%s is not there, or calls nothing", childCode)
	}
	seen := map[string]bool{}
	for todo := []string{childCode}; len(todo) > 0; {
		function := todo[0]
		todo = todo[1:]
		if seen[function] {
			continue
		}
		seen[function] = true
		for _, called := range calls[function] {
			if _, ours := calls[called]; ours {
				todo = append(todo, called)
				continue
			}
			if called != leaves[0] && called != leaves[1] {
				t.Errorf("%s calls %s", function, called)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d functions are looked at", len(seen))
	}
	variables := variablesIn(t, program, `^github.com/strake-containers/strake/oci/launch\.|^syscall\.RawSyscall|^internal/runtime/syscall/`)
	for function := range seen {
		for _, name := range variables[function] {
			t.Errorf("%s needs the variable %s, which the child does not have", function, name)
		}
	}
	for _, leaf := range append([]string{"internal/runtime/syscall/linux.Syscall6"}, leaves...) {
		if names, there := variables[leaf]; len(names) > 0 || !there {
			t.Errorf("%s needs the variables %q (it is there: %v)", leaf, names, there)
		}
	}
	// The controls: what must not be found can be.
	if !slices.Contains(variables["github.com/strake-containers/strake/oci/launch.(*memory).advise"], "github.com/strake-containers/strake/oci/launch.hidden") {
		t.Errorf("advise needs %q: the look-up does not work", variables["github.com/strake-containers/strake/oci/launch.(*memory).advise"])
	}
	const careless = "github.com/strake-containers/strake/oci/launch.lower"
	if !strings.Contains(strings.Join(calls[careless], " "), "runtime.") {
		t.Errorf("%s calls nothing of the runtime: the look-up does not work", careless)
	}
}

// The linker refuses a child that wants more stack than is certain to be there; on
// arm64 it wants most.
func TestChildFitsItsStackOnARM64(t *testing.T) {
	if testing.Short() {
		t.Skip("builds strake-runtime")
	}
	build := exec.Command("go", "build", "-o", filepath.Join(t.TempDir(), "strake-runtime"), "github.com/strake-containers/strake/cmd/strake-runtime")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// variablesIn lists what variables each function of a program names.
func variablesIn(t *testing.T, program, functions string) map[string][]string {
	t.Helper()
	table, err := exec.Command("go", "tool", "nm", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	variable := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) == 3 && strings.Contains("DdBb", f[1]) {
			variable[f[2]] = true
		}
	}
	return eachInstruction(t, program, functions, func(_ string, words []string) (names []string) {
		for _, word := range words {
			name, symbol := strings.CutSuffix(strings.TrimSuffix(word, ","), "(SB)")
			name, _, _ = strings.Cut(strings.TrimLeft(name, "$"), "+")
			if symbol && variable[name] {
				names = append(names, name)
			}
		}
		return names
	})
}

// callsIn lists what each function of a program calls or jumps to elsewhere.
func callsIn(t *testing.T, program, functions string) map[string][]string {
	t.Helper()
	return eachInstruction(t, program, functions, func(function string, words []string) []string {
		for i, word := range words {
			// amd64's CALL, arm64's too; a JMP or B to a symbol is a tail call.
			jump := word == "JMP" || word == "B"
			if i+1 >= len(words) || word != "CALL" && !jump {
				continue
			}
			to, symbol := strings.CutSuffix(words[i+1], "(SB)")
			if jump && (!symbol || to == function) {
				continue // inside the function
			}
			return []string{to}
		}
		return nil
	})
}

// eachInstruction gathers, for each function of a program, what find finds in its instructions.
func eachInstruction(t *testing.T, program, functions string, find func(function string, words []string) []string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "tool", "objdump", "-s", functions, program).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	function := ""
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "TEXT" {
			function = strings.TrimSuffix(words[1], "(SB)")
			found[function] = nil
			continue
		}
		found[function] = append(found[function], find(function, words)...)
	}
	return found
}
