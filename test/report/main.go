// Command report reads `go test -json` on standard input and prints what a
// person wants of it: each package as it ends, the output of what failed, what
// was skipped and why, what failed once more in a line or a few, since its output
// may be long and far above, and the counts on the last line. Its exit code is 1
// if anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

type test struct{ pkg, name string }

type report struct {
	output                  map[test][]string
	builds                  map[string][]string
	failing                 map[string]bool // packages with a test that failed
	skips, failures         []string
	passed, failed, skipped int
}

func main() {
	r := report{output: map[test][]string{}, builds: map[string][]string{}, failing: map[string]bool{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Println(lines.Text()) // go's own words, outside any package
			continue
		}
		r.add(e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	slices.Sort(r.skips)
	for _, s := range r.skips {
		fmt.Println("skipped:", s)
	}
	for _, f := range r.failures {
		fmt.Println("failed:", f)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if r.failed > 0 || r.passed == 0 {
		os.Exit(1)
	}
}

func (r *report) add(e event) {
	key := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
	case "build-fail":
		fmt.Print(strings.Join(r.builds[e.ImportPath], ""))
	case "pass", "fail", "skip":
		r.end(key, e)
		delete(r.output, key)
	}
}

// end counts a test that has ended. A package's own event has no test name; it
// counts only where it fails outside its tests (a build, a panic, TestMain).
func (r *report) end(key test, e event) {
	short := strings.TrimPrefix(e.Package, "github.com/strake-containers/strake/")
	output := strings.Join(r.output[key], "")
	if key.name == "" {
		switch e.Action {
		case "pass":
			fmt.Printf("ok    %-32s %6.1f s\n", short, e.Elapsed)
		case "fail":
			fmt.Printf("FAIL  %-32s %6.1f s\n%s", short, e.Elapsed, output)
			if !r.failing[e.Package] {
				r.failed++
				r.failures = append(r.failures, fmt.Sprintf("%s, outside its tests", short))
			}
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.failing[e.Package] = true
		fmt.Printf("FAIL  %s %s\n%s", short, key.name, output)
		r.failures = append(r.failures, short+" "+key.name)
		for _, line := range said(r.output[key]) {
			r.failures = append(r.failures, "\t"+line)
		}
	case "skip":
		r.skipped++
		r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", short, key.name, reason(r.output[key])))
	}
}

// reason is what the test said when it skipped: the last line that is not the
// testing package's own.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

// message is how a line begins that a test itself has written.
var message = regexp.MustCompile(`^\s+\w+\.go:\d+: `)

// said is the last things that a failed test said, each by its first line.
func said(output []string) []string {
	const most, width = 8, 400
	var lines []string
	for _, o := range output {
		if !message.MatchString(o) {
			continue
		}
		line := strings.TrimSpace(o)
		lines = append(lines, line[:min(len(line), width)])
	}
	return lines[max(0, len(lines)-most):]
}
