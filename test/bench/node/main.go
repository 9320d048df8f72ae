// Command node measures straked beside containerd and runc, and CRI-O and crun: the same pods, by
// the same CRI client (test/bench/cribench), on private directories, one after
// the other in each of several rounds, so that both see the same noise.
//
//	go run ./test/bench/node [-bin bin] [-rounds 3] [-n 15] [-pods 20] [-containerd PATH] [-crio PATH]
//	go run ./test/bench/node -many 300 [-many-net cni] [-monitor-pods 50] [-n 15] [-bin bin]
//
// The second form is of straked alone: the memory of so many pods, what a pod's life
// costs beside them and with none, and how soon a straked that was killed is ready again.
// Nobody else's monitors are to be seen in /proc: unshare --pid --fork --mount-proc.
//
// CPU time is that of everything: the daemons run in a cpuacct cgroup and the
// pods' cgroups are below it.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/strake-containers/strake/network/bridge"
	"github.com/strake-containers/strake/test/registry"
)

// bridgeName is that of straked's built-in network, here.
const bridgeName = "stkbench"

// peer is a daemon to measure.
type peer struct {
	name    string
	command func(dir, socket, image string) ([]string, error) // writes its configuration to dir
	dir     string
	socket  string
	cgroup  string // cpuacct directory
	parent  string // cgroup parent of its pods
	args    []string
	daemon  *exec.Cmd
	results map[string][]result
}

// result is what cribench prints with -json, as far as it is used here.
type result struct {
	Name   string
	CPUms  float64
	PerS   float64
	Phases []struct {
		Name     string
		P50, Min float64
	}
}

func main() {
	var (
		bin        = flag.String("bin", "bin", "directory of the built programs")
		rounds     = flag.Int("rounds", 3, "rounds, all peers in each")
		n          = flag.Int("n", 15, "pods in a row, in each round")
		pods       = flag.Int("pods", 20, "pods at a time, for memory; 0 skips it")
		many       = flag.Int("many", 0, "measure straked with so many pods")
		manyNet    = flag.String("many-net", "cni", "their network: host or cni")
		conf       = flag.String("cni-conf", "", "directory of CNI's configuration; none: the built-in bridge")
		shared     = flag.Int("monitor-pods", 0, "pods in one monitor; 0: straked's default")
		containerd = flag.String("containerd", "containerd", "containerd, its shim and runc in PATH; \"\" measures without it")
		crio       = flag.String("crio", "", "CRI-O, pinns beside it, conmon and crun in PATH; \"\" measures without it")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o := options{cniConf: *conf, monitorPods: *shared}
	measure := func(work, image, cribench, bin string) error {
		peers := []*peer{{name: "strake", command: o.straked(bin)}}
		if *containerd != "" {
			peers = append(peers, &peer{name: "containerd+runc", command: containerdCommand(*containerd, *conf)})
		}
		if *crio != "" {
			peers = append(peers, &peer{name: "CRI-O+crun", command: crioCommand(*crio, *conf)})
		}
		return compare(ctx, work, image, cribench, peers, *conf != "", *rounds, *n, *pods)
	}
	if *many > 0 {
		measure = func(work, image, cribench, bin string) error {
			return o.crowd(ctx, work, image, cribench, bin, *many, *manyNet, *n)
		}
	}
	if err := run(ctx, *bin, measure); err != nil {
		fmt.Fprintln(os.Stderr, "bench/node:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, measure func(work, image, cribench, bin string) error) (err error) {
	work, err := os.MkdirTemp("", "strake-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil { // else the logs there say why
			err = os.RemoveAll(work)
		}
	}()
	server, image, err := registry.ServeBusybox()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	cribench := filepath.Join(work, "cribench")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", cribench, "./test/bench/cribench").CombinedOutput(); err != nil {
		return fmt.Errorf("build cribench: %w\n%s", err, out)
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	return measure(work, image, cribench, bin)
}

// compare measures the peers, of which straked is the first; with plugins all have them.
func compare(ctx context.Context, work, image, cribench string, peers []*peer, plugins bool, rounds, n, pods int) (err error) {
	for _, p := range peers {
		if err := p.start(work, image); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
	}
	for round := range rounds {
		for _, network := range []string{"host", "cni"} {
			for _, p := range peers {
				if network == "cni" && p.name != "strake" && !plugins {
					continue // they have no network of their own
				}
				if err := p.bench(ctx, cribench, image, network, n); err != nil {
					return fmt.Errorf("round %d: %s: %w", round, p.name, err)
				}
			}
		}
	}
	networks := map[string]string{"host": "host network", "cni": "built-in bridge"}
	if plugins {
		networks["cni"] = "CNI plugins"
	}
	printTable(peers, networks)
	if pods > 0 {
		for _, p := range peers {
			fmt.Printf("\n%s, %d pods, host network:\n", p.name, pods)
			if err := p.density(ctx, cribench, image, pods); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

// options are what straked is measured with.
type options struct {
	cniConf     string
	monitorPods int
}

func (o options) straked(bin string) func(dir, socket, image string) ([]string, error) {
	return func(dir, socket, _ string) ([]string, error) {
		config := filepath.Join(dir, "config.toml")
		conf := o.cniConf
		if conf == "" {
			conf = filepath.Join(dir, "cni")
		}
		text := fmt.Sprintf("[cni]\nconf_dir = %q\n[network]\nbridge = %q\nsubnets = [\"10.187.0.0/20\"]\n", conf, bridgeName)
		if o.monitorPods > 0 {
			text += fmt.Sprintf("[monitor]\npods = %d\n", o.monitorPods)
		}
		return []string{
			filepath.Join(bin, "straked"), "--config", config, "--root", filepath.Join(dir, "root"),
			"--state", filepath.Join(dir, "run"), "--address", socket, "--log-level", "warn",
		}, os.WriteFile(config, []byte(text), 0o600)
	}
}

// containerdCommand configures containerd 1.6 (Debian's) or 2: what it lacks
// here is CAP_SYS_RESOURCE, and its pause image is the test image.
func containerdCommand(program, conf string) func(dir, socket, image string) ([]string, error) {
	return func(dir, socket, image string) ([]string, error) {
		config := filepath.Join(dir, "config.toml")
		text := fmt.Sprintf(`version = 2
root = %q
state = %q
oom_score = 0
[grpc]
address = %q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = %q
bin_dir = "/usr/lib/cni"
`, filepath.Join(dir, "root"), filepath.Join(dir, "run"), socket, image, cmp.Or(conf, filepath.Join(dir, "cni")))
		return []string{program, "--config", config, "--log-level", "error"}, os.WriteFile(config, []byte(text), 0o600)
	}
}

// crioCommand configures CRI-O: crun by conmon, on private directories, without the pause
// container that it only needs where processes are shared.
func crioCommand(program, conf string) func(dir, socket, image string) ([]string, error) {
	return func(dir, socket, image string) ([]string, error) {
		var programs [2]string
		for i, name := range []string{"crun", "conmon"} {
			path, err := exec.LookPath(name)
			if err != nil {
				return nil, err
			}
			programs[i] = path
		}
		in := func(name string) string { return filepath.Join(dir, name) }
		registry, _, _ := strings.Cut(image, "/")
		text := fmt.Sprintf(`[crio]
root = %q
runroot = %q
storage_driver = "overlay"
log_dir = %q
version_file = %q
version_file_persist = %q
clean_shutdown_file = %q
[crio.api]
listen = %q
[crio.image]
pause_image = %q
signature_policy = %q
[crio.network]
network_dir = %q
plugin_dirs = ["/usr/lib/cni"]
[crio.runtime]
cgroup_manager = "cgroupfs"
namespaces_dir = %q
pinns_path = %q
container_exits_dir = %q
container_attach_socket_dir = %q
default_runtime = "crun"
[crio.runtime.runtimes.crun]
runtime_path = %q
runtime_root = %q
monitor_path = %q
monitor_cgroup = "pod"
`, in("root"), in("run"), in("logs"), in("version"), in("version-persist"), in("clean"), socket, image, in("policy.json"),
			cmp.Or(conf, in("cni")), in("ns"), filepath.Join(filepath.Dir(program), "pinns"), in("exits"), in("attach"),
			programs[0], in("crun"), programs[1])
		insecure := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", registry)
		return []string{program, "--registries-conf", in("registries.conf"), "--config", in("crio.conf"), "--config-dir", in("conf.d"), "--log-level", "error"}, errors.Join(
			os.Mkdir(in("conf.d"), 0o700),
			os.WriteFile(in("policy.json"), []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600),
			os.WriteFile(in("registries.conf"), []byte(insecure), 0o600),
			os.WriteFile(in("crio.conf"), []byte(text), 0o600))
	}
}

// start starts the daemon in a cgroup of its own.
func (p *peer) start(work, image string) error {
	p.dir, p.results = filepath.Join(work, p.name), map[string][]result{}
	p.socket = filepath.Join(p.dir, "cri.sock")
	p.parent = "/" + filepath.Base(work) + "-" + p.name
	p.cgroup = "/sys/fs/cgroup/cpuacct" + p.parent
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		p.cgroup = "/sys/fs/cgroup" + p.parent
	}
	for _, dir := range []string{p.dir, p.cgroup} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var err error
	if p.args, err = p.command(p.dir, p.socket, image); err != nil {
		return err
	}
	if err := p.exec(); err != nil {
		return err
	}
	return p.waitReady()
}

// exec starts the daemon's process.
func (p *peer) exec() error {
	p.daemon = exec.Command("/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, p.cgroup + "/cgroup.procs"}, p.args...)...)
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the daemon has its own descriptor
	p.daemon.Stderr = log
	return p.daemon.Start()
}

// waitReady waits for the socket; neither daemon has another sign that both have.
func (p *peer) waitReady() error {
	for range 500 {
		conn, err := net.Dial("unix", p.socket)
		if err == nil {
			return conn.Close()
		}
		<-time.After(20 * time.Millisecond)
	}
	return fmt.Errorf("%s: nobody serves %s after 10 s", p.name, p.socket)
}

// stop ends the daemon; cribench has removed the pods.
func (p *peer) stop() error {
	_ = p.daemon.Process.Signal(syscall.SIGTERM) // it may have exited
	_ = p.daemon.Wait()                          // by the signal
	// The daemons leave the cgroup parents that they were given, which are ours.
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + p.parent) // a constant pattern
	var err error
	for _, dir := range append(dirs, p.cgroup) {
		for _, d := range []string{filepath.Join(dir, "pods"), dir} {
			if e := os.Remove(d); !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	if p.name == "strake" {
		b := bridge.New(bridge.Config{StateDir: filepath.Join(p.dir, "root", "network", "bridge"), Bridge: bridgeName})
		err = errors.Join(err, b.Destroy(context.Background()), b.Close())
	}
	return err
}

func (p *peer) cribench(cribench, image string, args ...string) *exec.Cmd {
	return exec.Command(cribench, append([]string{
		"-endpoint", "unix://" + p.socket, "-image", image, "-daemon", strconv.Itoa(p.daemon.Process.Pid),
		"-cgroup", p.cgroup, "-cgroup-parent", p.parent + "/pods",
	}, args...)...)
}

// bench measures n pods one after the other, and twice as many, eight at a time.
func (p *peer) bench(ctx context.Context, cribench, image, net string, n int) error {
	var both [2]result
	for i, args := range [][]string{{"-n", strconv.Itoa(n)}, {"-c", "8", "-n", strconv.Itoa(2 * n)}} {
		cmd := p.cribench(cribench, image, append([]string{"-json", "-mode", "lifecycle", "-net", net}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("cribench: %w: %s", err, stderr.String())
		}
		if err := json.Unmarshal(out, &both[i]); err != nil {
			return err
		}
	}
	r := both[0]
	r.PerS = both[1].PerS
	p.results[net] = append(p.results[net], r)
	return ctx.Err()
}

func (p *peer) density(ctx context.Context, cribench, image string, pods int) error {
	cmd := p.cribench(cribench, image, "-mode", "density", "-net", "host", "-pods", strconv.Itoa(pods))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return errors.Join(cmd.Run(), ctx.Err())
}

// Rows beside those of cribench's phases.
const (
	cpuRow   = "CPU ms per pod"
	eightRow = "8 at once, pods/s"
)

// printTable prints the median over the rounds of each phase's p50.
func printTable(peers []*peer, networks map[string]string) {
	for _, net := range []string{"host", "cni"} {
		var rows []string
		columns := map[string]map[string]float64{}
		for _, p := range peers {
			columns[p.name] = map[string]float64{}
			values := map[string][]float64{}
			for _, r := range p.results[net] {
				for _, ph := range r.Phases {
					if !slices.Contains(rows, ph.Name) {
						rows = append(rows, ph.Name)
					}
					values[ph.Name] = append(values[ph.Name], ph.P50)
				}
				values[cpuRow] = append(values[cpuRow], r.CPUms)
				values[eightRow] = append(values[eightRow], r.PerS)
			}
			for name, v := range values {
				slices.Sort(v)
				columns[p.name][name] = v[len(v)/2]
			}
		}
		name := networks[net]
		fmt.Printf("\n%-20s", name+", ms")
		for i, p := range peers {
			fmt.Printf("%18s", p.name)
			if i > 0 {
				fmt.Printf("%8s", "ratio")
			}
		}
		fmt.Println()
		for _, row := range append(rows, cpuRow, eightRow) {
			fmt.Printf("%-20s", row)
			for i, p := range peers {
				cell, ratio := "-", "-" // not measured
				if v, ok := columns[p.name][row]; ok {
					cell, ratio = strconv.FormatFloat(v, 'f', 1, 64), strconv.FormatFloat(columns[peers[0].name][row]/v, 'f', 2, 64)
				}
				fmt.Printf("%18s", cell)
				if i > 0 {
					fmt.Printf("%8s", ratio)
				}
			}
			fmt.Println()
		}
	}
}
