// Command runtime measures OCI runtimes beside each other: strake-runtime, crun,
// runc and "floor", a C program that does the same kernel work and nothing else.
//
// The runtimes take turns, one command each per round, so that whatever else the
// machine does meets all of them. Each scenario prints the median, the least and
// the ratio to the first runtime named. Only the command itself is timed, from
// its start to its end as seen by the parent; what prepares and removes the
// container is not. Beside the time it shows the processor time of the command and
// the children that it waited for, which says more on a machine that is not alone
// with us. Test code: it checks nothing but exit codes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	flag.DurationVar(&b.gap, "gap", 0, "rest before each command: 150ms makes every start a cold one")
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
		{"run a", nil, timed("run", "--bundle", bundle("a")), nil},
		{"run b", nil, timed("run", "--bundle", bundle("b")), nil},
		{"create", nil, timed("create", "--bundle", bundle("sleep")), remove},
		{"start", one("create", "--bundle", bundle("sleep")), timed("start"), remove},
		{"exec", sleeping, func(r *runtime, id string) []string { return r.command("exec", id, "/bin/true") }, remove},
		{"state", sleeping, timed("state"), remove},
		{"kill", sleeping, func(r *runtime, id string) []string { return r.command("kill", id, "KILL") }, remove},
		{"delete", func(r *runtime, id string) [][]string {
			return [][]string{r.command("run", "--detach", "--bundle", bundle("sleep"), id), r.command("kill", id, "KILL"), {untilStopped, id}}
		}, timed("delete"), nil},
		{"delete -f", sleeping, timed("delete", "--force"), nil},
	}
}

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

// result is what one runtime took.
type result struct {
	times, cpu []time.Duration
	failed     error
}

func (b *bench) measure(s scenario, all []*runtime) error {
	results := make([]result, len(all))
	for round := range b.rounds + 2 { // two to warm up
		for i, r := range all {
			if results[i].failed != nil {
				continue
			}
			id := fmt.Sprintf("strake-bench-%s-%d-%d", r.name, os.Getpid(), round)
			took, cpu, err := b.once(s, r, id)
			if err != nil {
				results[i].failed = err
			} else if round >= 2 {
				results[i].times = append(results[i].times, took)
				results[i].cpu = append(results[i].cpu, cpu)
			}
		}
	}
	fmt.Printf("%s\n", s.name)
	var base, baseCPU time.Duration
	for i, r := range all {
		res := results[i]
		if res.failed != nil {
			message, _, _ := strings.Cut(res.failed.Error(), "\n")
			fmt.Printf("  %-16s failed: %s\n", r.name, message)
			continue
		}
		if len(res.times) == 0 {
			continue
		}
		slices.Sort(res.times)
		slices.Sort(res.cpu)
		median, cpu := res.times[len(res.times)/2], res.cpu[len(res.cpu)/2]
		if base == 0 {
			base, baseCPU = median, cpu
		}
		memory, err := b.memory(s, r)
		if err != nil {
			return err
		}
		fmt.Printf("  %-16s median %7.2f ms %5.2f ×   least %7.2f ms   cpu %7.2f ms %5.2f ×   %s\n", r.name,
			ms(median), float64(median)/float64(base), ms(res.times[0]), ms(cpu), float64(cpu)/float64(baseCPU), memory)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// memory is the peak memory of one more run, or "" if it is not measured.
func (b *bench) memory(s scenario, r *runtime) (string, error) {
	if b.rss == "" {
		return "", nil
	}
	file := filepath.Join(b.dir, "rss.txt")
	measured := s
	measured.timed = func(r *runtime, id string) []string {
		return append([]string{b.rss, file}, s.timed(r, id)...)
	}
	if _, _, err := b.once(measured, r, fmt.Sprintf("strake-bench-%s-%d-rss", r.name, os.Getpid())); err != nil {
		return "", err
	}
	data, err := os.ReadFile(file)
	return fmt.Sprintf("%6s KiB", data), err
}

func (b *bench) once(s scenario, r *runtime, id string) (took, cpu time.Duration, err error) {
	args := s.timed(r, id)
	if err := steps(s.prepare, r, id); err != nil {
		return 0, 0, err
	}
	time.Sleep(b.gap) //nolint:forbidigo // the rest is what is measured
	took, cpu, err = execute(args)
	return took, cpu, errors.Join(err, steps(s.after, r, id))
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
		if _, _, err := execute(step); err != nil {
			return err
		}
	}
	return nil
}

// execute runs a command. Its errors go to a file and not to a pipe, which a
// detached container would hold open.
func execute(args []string) (took, cpu time.Duration, err error) {
	log, err := os.CreateTemp("", "bench")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = errors.Join(log.Close(), os.Remove(log.Name())) }()
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // ended by its own end
	cmd.Stderr = log
	start := time.Now()
	err = cmd.Run()
	took = time.Since(start)
	if err != nil {
		data, _ := os.ReadFile(log.Name())
		return 0, 0, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(data)))
	}
	return took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
