// Command runtime measures OCI runtimes beside each other: strake-runtime, crun,
// runc and "floor", a C program that does the same kernel work and nothing else.
//
// The runtimes take turns, one command each per round, so that whatever else the
// machine does meets all of them. Each scenario prints medians, and what
// strake-runtime's are of each other's. Only the command itself is timed, from
// its start to its end as seen by the parent; what prepares and removes the
// container is not. Beside the time stand the least time and what says more on a
// machine that is not alone with us: the processor time of the command and the
// children that it waited for, their page faults and switches of threads, and the
// peak memory. Test code: it checks nothing but exit codes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runtime is one contestant.
type runtime struct {
	name string
	path string
	root string // --root; the floor's directory
}

// command is a verb with its flags, as runc's command line has them, the container
// last. The floor's has a bundle where runc's has --bundle, and no flags.
func (r *runtime) command(args ...string) []string {
	if r.name != "floor" {
		return append([]string{r.path, "--root", r.root}, args...)
	}
	verb := args[0]
	switch {
	case slices.Contains(args, "--detach"):
		verb += "-detached"
	case slices.Contains(args, "--force"):
		verb += "-f"
	}
	floor := []string{r.path, r.root, verb}
	if i := slices.Index(args, "--bundle"); i >= 0 {
		return append(floor, args[i+1], args[len(args)-1])
	}
	if verb == "kill" || verb == "exec" {
		return append(floor, args[1])
	}
	return append(floor, args[len(args)-1])
}

// scenario is a command and what goes before and after it. ID is the container's.
type scenario struct {
	name    string
	gap     time.Duration // rest before the command
	prepare func(r *runtime, id string) [][]string
	timed   func(r *runtime, id string) []string
	after   func(r *runtime, id string) [][]string
}

// bench is what the flags said.
type bench struct {
	dir    string // of the bundles
	rss    string // the program that measures memory; "" measures none
	rounds int
	gap    time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var b bench
	var only string
	flag.IntVar(&b.rounds, "n", 50, "rounds")
	flag.DurationVar(&b.gap, "gap", 0, "rest before each command")
	flag.StringVar(&only, "only", "", "scenarios to run, comma-separated; all by default")
	flag.StringVar(&b.dir, "dir", "", "directory for bundles and state, on a tmpfs")
	flag.StringVar(&b.rss, "rss", "", "program that runs another and writes its peak memory to a file")
	static := flag.String("static", "", "static program that does nothing, or with an argument sleeps")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: runtime [FLAG...] NAME=PATH...   (floor=PATH is the floor)")
		flag.PrintDefaults()
	}
	flag.Parse()
	var all []*runtime
	for _, arg := range flag.Args() {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=PATH", arg)
		}
		r := &runtime{name: name, path: path, root: filepath.Join(b.dir, "state-"+name)}
		if name == "floor" {
			r.root = b.dir
		}
		all = append(all, r)
	}
	if err := makeBundles(b.dir, *static); err != nil {
		return err
	}
	for _, s := range b.scenarios() {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if err := b.measure(s, all); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) scenarios() []scenario {
	bundle := func(name string) string { return filepath.Join(b.dir, name) }
	one := func(args ...string) func(*runtime, string) [][]string {
		return func(r *runtime, id string) [][]string { return [][]string{r.command(append(args, id)...)} }
	}
	timed := func(args ...string) func(*runtime, string) []string {
		return func(r *runtime, id string) []string { return r.command(append(args, id)...) }
	}
	remove := one("delete", "--force")
	sleeping := one("run", "--detach", "--bundle", bundle("sleep"))
	return []scenario{
		{"run a", 0, nil, timed("run", "--bundle", bundle("a")), nil},
		{"run a, cold", coldGap, nil, timed("run", "--bundle", bundle("a")), nil},
		{"run b", 0, nil, timed("run", "--bundle", bundle("b")), nil},
		{"create", 0, nil, timed("create", "--bundle", bundle("sleep")), remove},
		{"start", 0, one("create", "--bundle", bundle("sleep")), timed("start"), remove},
		{"exec", 0, sleeping, func(r *runtime, id string) []string { return r.command("exec", id, "/bin/true") }, remove},
		{"exec again", 0, func(r *runtime, id string) [][]string {
			return [][]string{r.command("run", "--detach", "--bundle", bundle("sleep"), id), r.command("exec", id, "/bin/true")}
		}, func(r *runtime, id string) []string { return r.command("exec", id, "/bin/true") }, remove},
		{"state", 0, sleeping, timed("state"), remove},
		{"kill", 0, sleeping, func(r *runtime, id string) []string { return r.command("kill", id, "KILL") }, remove},
		{"delete", 0, func(r *runtime, id string) [][]string {
			return [][]string{r.command("run", "--detach", "--bundle", bundle("sleep"), id), r.command("kill", id, "KILL"), {untilStopped, id}}
		}, timed("delete"), nil},
		{"delete -f", 0, sleeping, timed("delete", "--force"), nil},
	}
}

// coldGap is a rest after which a start finds the kernel's read-copy-update idle: then
// what joins a v1 cgroup waits longest.
const coldGap = 150 * time.Millisecond

// untilStopped is a step that waits: no runtime has a verb for it.
const untilStopped = "until stopped"

func waitStopped(r *runtime, id string) error {
	args := r.command("state", id)
	for range 1000 {
		out, err := exec.Command(args[0], args[1:]...).Output() //nolint:noctx // ended by its own end
		if err != nil {
			return err
		}
		// The floor shows /proc/PID/stat, which is gone or that of a zombie.
		if strings.Contains(string(out), `"stopped"`) || r.name == "floor" && !strings.Contains(string(out), ") S ") {
			return nil
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // see untilStopped; outside of what is timed
	}
	return errors.New("the container does not stop")
}

// figures are what one command took. The order is that of the columns.
type figures [6]float64

const (
	elapsed = iota
	least
	processor
	faults
	switches
	memory
)

var columns = [...]struct {
	name, unit string
	digits     int
}{{"median", "ms", 2}, {"least", "ms", 2}, {"cpu", "ms", 2}, {"faults", "", 0}, {"switches", "", 0}, {"peak", "KiB", 0}}

// ours is the runtime that the others are compared with.
const ours = "strake-runtime"

// memoryRounds is how often the peak memory is measured, apart from the rest.
const memoryRounds = 3

func (b *bench) measure(s scenario, all []*runtime) error {
	rounds := b.rounds
	if s.gap > 0 {
		rounds = (rounds + 1) / 2 // they take long
	}
	samples, failed := make([][]figures, len(all)), make([]error, len(all))
	for round := range rounds + 2 { // two to warm up
		for i, r := range all {
			if failed[i] != nil {
				continue
			}
			f, err := b.once(s, r, fmt.Sprintf("strake-bench-%s-%d-%d", r.name, os.Getpid(), round))
			if failed[i] = err; err == nil && round >= 2 {
				samples[i] = append(samples[i], f)
			}
		}
	}
	fmt.Printf("%-20s", s.name)
	for _, c := range columns {
		fmt.Printf("%9s %-3s", c.name, c.unit)
	}
	fmt.Println()
	medians := make([]figures, len(all))
	for i, r := range all {
		if failed[i] != nil || len(samples[i]) == 0 {
			message, _, _ := strings.Cut(fmt.Sprint(failed[i]), "\n")
			fmt.Printf("  %-18s failed: %s\n", r.name, message)
			continue
		}
		medians[i] = median(samples[i])
		var err error
		if medians[i][memory], err = b.memory(s, r); err != nil {
			return err
		}
		fmt.Printf("  %-18s", r.name)
		for k, c := range columns {
			fmt.Printf("%9.*f    ", c.digits, medians[i][k])
		}
		fmt.Println()
	}
	us := slices.IndexFunc(all, func(r *runtime) bool { return r.name == ours })
	if us < 0 || failed[us] != nil {
		return nil
	}
	for i, r := range all {
		if i == us || failed[i] != nil {
			continue
		}
		fmt.Printf("  of %-15s", r.name)
		for k := range columns {
			fmt.Printf("%9.2f ×  ", medians[us][k]/medians[i][k])
		}
		fmt.Println()
	}
	return nil
}

// median takes each figure's, and the least time.
func median(samples []figures) (m figures) {
	for k := range columns {
		one := make([]float64, 0, len(samples))
		for _, f := range samples {
			one = append(one, f[k])
		}
		slices.Sort(one)
		m[k] = one[len(one)/2]
		if k == least {
			m[k] = one[0]
		}
	}
	return m
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// memory is the peak memory in KiB, the median of a few more runs, or 0 if it is
// not measured.
func (b *bench) memory(s scenario, r *runtime) (float64, error) {
	if b.rss == "" {
		return 0, nil
	}
	file := filepath.Join(b.dir, "rss.txt")
	measured := s
	measured.timed = func(r *runtime, id string) []string {
		return append([]string{b.rss, file}, s.timed(r, id)...)
	}
	var peaks []float64
	for n := range memoryRounds {
		if _, err := b.once(measured, r, fmt.Sprintf("strake-bench-%s-%d-rss%d", r.name, os.Getpid(), n)); err != nil {
			return 0, err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		peak, err := strconv.ParseFloat(string(data), 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		peaks = append(peaks, peak)
	}
	slices.Sort(peaks)
	return peaks[len(peaks)/2], nil
}

func (b *bench) once(s scenario, r *runtime, id string) (f figures, err error) {
	args := s.timed(r, id)
	if err := steps(s.prepare, r, id); err != nil {
		return f, err
	}
	time.Sleep(max(b.gap, s.gap)) //nolint:forbidigo // the rest is what is measured
	f, err = execute(args)
	return f, errors.Join(err, steps(s.after, r, id))
}

// steps runs what goes before or after, untimed.
func steps(f func(*runtime, string) [][]string, r *runtime, id string) error {
	if f == nil {
		return nil
	}
	for _, step := range f(r, id) {
		if step[0] == untilStopped {
			if err := waitStopped(r, step[1]); err != nil {
				return err
			}
			continue
		}
		if _, err := execute(step); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a command. Its errors go to a file and not to a pipe, which a
// detached container would hold open.
func execute(args []string) (f figures, err error) {
	log, err := os.CreateTemp("", "bench")
	if err != nil {
		return f, err
	}
	defer func() { _ = errors.Join(log.Close(), os.Remove(log.Name())) }()
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // ended by its own end
	cmd.Stderr = log
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		data, _ := os.ReadFile(log.Name())
		return f, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(data)))
	}
	f[elapsed], f[least] = ms(took), ms(took)
	f[processor] = ms(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		f[faults], f[switches] = float64(usage.Minflt), float64(usage.Nvcsw)
	}
	return f, nil
}
