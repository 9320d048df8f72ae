// Package chaos lets many clients carry out random verbs on one node, while the
// daemon, monitors, CNI plugins and containers are killed at random moments and the
// disks are full or stand still. Each client knows what it has asked for, and
// checks all the while that the node agrees: the same pods with the same addresses,
// the same containers with the states and exit codes they must have, every log line.
// When the pods are removed, nothing may be left.
//
// The test runs in network and mount namespaces of its own, so that what is left is
// easy to tell. How long it takes, and the seed of all that it decides, are flags:
//
//	go test ./test/crash/chaos -chaos.time 1h -chaos.seed 42
//
// What the machine does between two decisions is not repeatable; a seed repeats
// what was asked for, in which order, by each client.
package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/test/node"
)

var (
	length = flag.Duration("chaos.time", 20*time.Second, "how long things go wrong")
	seed   = flag.Uint64("chaos.seed", 0, "decides what is done, in which order; 0: a random one")
	keep   = flag.String("chaos.keep", "", "a directory to copy the node's files and logs to when something is wrong")
	faults = flag.String("chaos.faults", "daemon,monitor,container,plugin,network,full,slow", "what goes wrong")
)

const (
	criClients = 14
	cliClients = 2
	// enduring is how long a verb may go on failing before its client asks for calm:
	// on a busy machine straked is killed faster than it gets one done.
	enduring = 20 * time.Second
	// patience is how long a verb may go on failing after that, when nothing goes wrong
	// any more and the others begin nothing new.
	patience = 4 * time.Minute
	// fewest is how many verbs a run has at least: with fewer it says nothing.
	fewest = 100
	// longest is how long a run goes on beyond its time until it has them.
	longest = 5 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(testutil.InOwnNetwork(m)) }

// world is what clients and faults share.
type world struct {
	*node.Node
	t    *testing.T
	ctx  context.Context // ends when a client has given up, too
	fail context.CancelFunc

	verbs, retries atomic.Int64
	hostPort       atomic.Int32
	calm           atomic.Int32 // how many clients ask for it: nothing new goes wrong or begins meanwhile

	mu     sync.Mutex
	killed map[string]bool // containers of which we killed a process
	counts map[string]int  // what went wrong, and how often
}

func TestChaos(t *testing.T) {
	testutil.RequireRoot(t, "straked makes namespaces, mounts and cgroups")
	if _, err := os.Stat(realPlugins + "/bridge"); err != nil {
		t.Skipf("needs CNI plugins: install Debian's containernetworking-plugins: %v", err)
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-chaos.seed %d -chaos.time %v", *seed, *length)
	before := hostState(t)
	t.Cleanup(func() { // after the node's own
		if t.Failed() {
			return
		}
		for _, line := range added(before, hostState(t)) {
			t.Errorf("left behind on the host: %s", line)
		}
	})
	dir := t.TempDir()
	conf, bin := pluginWrappers(t, dir)
	n := node.Start(t, node.Options{
		DiskSize: 512 << 20, CNIConfDir: conf, CNIBinDir: bin, Config: "[monitor]\npods = 5\n",
	})
	w := &world{Node: n, t: t, killed: map[string]bool{}, counts: map[string]int{}}
	w.hostPort.Store(20000)
	w.ctx, w.fail = context.WithCancel(t.Context())
	defer w.fail()
	if err := n.Pull(w.ctx); err != nil {
		t.Fatal(err)
	}

	// 1. Things go wrong.
	var working sync.WaitGroup
	enough := make(chan struct{})
	var clients []*client
	for i := range criClients {
		c := newClient(w, i)
		clients = append(clients, c)
		working.Go(func() { c.work(enough) })
	}
	for i := range cliClients {
		working.Go(func() { w.commandLine(i, enough) })
	}
	var breaking sync.WaitGroup
	for i, f := range w.faults(conf, bin) {
		if !strings.Contains(","+*faults+",", ","+f.name+",") {
			continue
		}
		rng := rand.New(rand.NewPCG(*seed, uint64(1000+i)))
		breaking.Go(func() {
			defer func() {
				if t.Failed() { // straked does not start: Goexit
					w.fail()
				}
			}()
			f.run(w, rng, enough)
		})
	}
	select {
	case <-time.After(*length):
	case <-w.ctx.Done():
	}
	// On a machine that is busy with other things it takes longer to do enough.
	for began := time.Now(); w.verbs.Load() < fewest && time.Since(began) < longest && w.ctx.Err() == nil; {
		<-time.After(50 * time.Millisecond)
	}
	close(enough)
	breaking.Wait()
	working.Wait()
	t.Logf("%d verbs; asked again after a failure %d times; %v", w.verbs.Load(), w.retries.Load(), w.counts)
	if w.verbs.Load() < fewest {
		t.Error("next to nothing got done")
	}

	for _, f := range must1(filepath.Glob(filepath.Join(bin, "faults", "*")))(t) {
		if err := os.Remove(f); err != nil { // one that no plugin has met yet
			t.Fatal(err)
		}
	}

	// 2. The node has what the clients have, and nothing else.
	w.sameAsModel(clients)
	n.Kill()
	n.StartDaemon()
	w.sameAsModel(clients)

	// 3. It can all be removed, and then nothing is left.
	for _, c := range clients {
		working.Go(c.removeAll)
	}
	working.Wait()
	w.empty()
	w.nothingElse(dir)
	n.Terminate()
	n.StartDaemon() // in the end all the same, after one that had nothing to find
	w.empty()
	if !t.Failed() { // the plugins never remove their bridge and their tables
		_ = exec.Command("ip", "link", "del", "chaos0").Run() // it may never have been made
		_ = exec.Command("nft", "flush", "ruleset").Run()     // the same
	}
}

// problem says what is wrong and ends the test early.
func (w *world) problem(format string, args ...any) {
	w.t.Helper()
	w.mu.Lock()
	first := w.ctx.Err() == nil
	w.mu.Unlock()
	if first && *keep != "" {
		out, err := exec.Command("cp", "-a", w.State, w.Root+"/pods", *keep).CombinedOutput()
		if err != nil {
			w.t.Logf("keep: %v: %s", err, out)
		}
	}
	w.t.Errorf(time.Now().UTC().Format("15:04:05.000 ")+format, args...)
	w.fail()
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// noteKill notes that a container may end now, before anybody can see it.
func (w *world) noteKill(container string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed[container] = true
}

func (w *world) wasKilled(container string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed[container]
}

// sameAsModel compares what the node has with what the clients have. Pods of the
// command line's killed clients go by themselves.
func (w *world) sameAsModel(clients []*client) {
	if w.ctx.Err() != nil {
		return
	}
	for _, c := range clients {
		for _, p := range c.pods {
			c.verifyPod(p)
		}
	}
	var pods, containers []string
	for _, c := range clients {
		for _, p := range c.pods {
			pods = append(pods, p.id)
			for _, k := range p.containers {
				containers = append(containers, k.id)
			}
		}
	}
	slices.Sort(pods)
	slices.Sort(containers)
	w.eventually("the node has the pods and containers of its clients", func() error {
		list, err := w.Runtime.ListPodSandbox(w.ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		var have []string
		for _, p := range list.Items {
			have = append(have, p.Id)
			if !slices.Contains(pods, p.Id) {
				err = fmt.Errorf("pod %s (%s, attempt %d, %v) is nobody's", p.Id, p.Metadata.Name, p.Metadata.Attempt, p.State)
			}
		}
		slices.Sort(have)
		if err == nil && !slices.Equal(have, pods) {
			err = fmt.Errorf("pods are %v, want %v", have, pods)
		}
		if err != nil {
			return err
		}
		got, err := w.Runtime.ListContainers(w.ctx, &cri.ListContainersRequest{})
		if err != nil {
			return err
		}
		have = nil
		for _, k := range got.Containers {
			// One that was killed before its client, who had given up, asked for it
			// again: another was made then.
			if !slices.Contains(containers, k.Id) && w.wasKilled(k.Id) && k.State == cri.ContainerState_CONTAINER_EXITED {
				continue
			}
			have = append(have, k.Id)
		}
		slices.Sort(have)
		if !slices.Equal(have, containers) {
			return fmt.Errorf("containers are %v, want %v", have, containers)
		}
		return nil
	})
}

// empty checks that a node without pods has nothing of any.
func (w *world) empty() {
	if w.ctx.Err() != nil {
		return
	}
	w.eventually("nothing is left", func() error {
		left := w.Leftovers()
		for _, pattern := range []string{
			w.Root + "/network/bridge/*/*", w.Root + "/network/cni/*/*",
			w.State + "/netns/*",
		} {
			files, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			left = append(left, files...)
		}
		if len(left) > 0 {
			return fmt.Errorf("%d things: %s", len(left), strings.Join(left, ", "))
		}
		return nil
	})
}

// nothingElse checks that no rule, lease or plugin's link is left for a pod. A link
// may go a moment after its pod: the kernel takes network namespaces apart behind the
// back of who removes them.
func (w *world) nothingElse(dir string) {
	if w.ctx.Err() != nil {
		return
	}
	w.eventually("no plugin has left anything", func() error {
		leases, err := filepath.Glob(filepath.Join(dir, "leases", "*", "10.*"))
		if err != nil {
			return err
		}
		for _, lease := range leases {
			whose, err := os.ReadFile(lease)
			if err != nil {
				return err
			}
			if len(whose) > 0 || w.counts["plugin"] == 0 { // one that is killed before it has written whose it is leaves it for good
				return fmt.Errorf("a lease of host-local, %s: %q", lease, whose)
			}
		}
		for _, line := range command(w.t, "ip", "-o", "link") {
			if strings.Contains(line, "veth") {
				return fmt.Errorf("a link: %s", line)
			}
		}
		if w.counts["plugin"] > 0 {
			return nil // a bridge plugin that is killed in its DEL forgets the rule that it made
		}
		for _, line := range append(command(w.t, "iptables-save"), command(w.t, "nft", "list", "ruleset")...) {
			if strings.Contains(line, "10.66.") && strings.Contains(line, "/32") || strings.Contains(line, "dport 2") {
				return fmt.Errorf("a rule: %s", line)
			}
		}
		return nil
	})
}

// eventually asks again until check has nothing to say: what follows a pod's end
// may take a moment.
func (w *world) eventually(what string, check func() error) {
	for began := time.Now(); ; {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > 30*time.Second || w.ctx.Err() != nil {
			w.problem("%s: %v", what, err)
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// hostState is what the test must leave as it found it: links, mounts and rules of
// its own namespaces.
func hostState(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, line := range command(t, "ip", "-o", "link") {
		lines = append(lines, "link "+strings.SplitN(line, ": ", 3)[1])
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		lines = append(lines, "mount "+strings.Fields(line)[4])
	}
	return append(lines, command(t, "nft", "list", "tables")...)
}

func must1[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func added(before, after []string) []string {
	return slices.DeleteFunc(after, func(s string) bool { return slices.Contains(before, s) })
}

func command(t *testing.T, name string, args ...string) []string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}
