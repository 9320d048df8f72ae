// Command images measures pulls: straked, the peers that Debian ships, and the
// floor, which is `curl | gzip -dc | tar x` (zstd likewise) of the same blobs from
// the same registry, all layers at once and nothing verified or flushed.
//
//	go run ./test/bench/images [-bin bin] [-rounds 3] [-work DIR] [-containerd PATH] [-skopeo PATH]
//
// The image is made of Debian packages (build.go): 9 layers, about 940 MB
// unpacked. Peers take turns in each round. CPU time is that of the puller alone:
// the registry runs in this process. Memory is the peak above what it was before.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/registry"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the built programs")
	rounds := flag.Int("rounds", 3, "rounds, all peers in each")
	work := flag.String("work", "", "where packages and pulled files go; \"\" is a temporary directory")
	containerd := flag.String("containerd", "containerd", "containerd; \"\" leaves it out")
	skopeo := flag.String("skopeo", "skopeo", "skopeo, which copies to an OCI layout and unpacks nothing; \"\" leaves it out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *work, *containerd, *skopeo, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench/images:", err)
		os.Exit(1)
	}
}

// figures are what one thing measured, in the order of rounds.
type figures map[string][]float64

func (f figures) add(name string, value float64) { f[name] = append(f[name], value) }

// bench is one session.
type bench struct {
	server *registry.Server
	work   string
	names  []string // of who is measured, in order
	got    map[string]figures
}

func (b *bench) of(who string) figures {
	if b.got[who] == nil {
		b.got[who] = figures{}
		b.names = append(b.names, who)
	}
	return b.got[who]
}

func run(ctx context.Context, bin, work, containerd, skopeo string, rounds int) (err error) {
	if work == "" {
		if work, err = os.MkdirTemp("", "strake-bench-images-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	server, err := serve(ctx, filepath.Join(work, "packages"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	b := &bench{server: server, work: work, got: map[string]figures{}}

	var daemons []*daemon
	for _, p := range []struct{ name, program string }{{"strake", filepath.Join(bin, "straked")}, {"containerd", containerd}} {
		if p.program == "" {
			continue
		}
		d, err := b.start(p.name, p.program)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		daemons = append(daemons, d)
	}
	for range rounds {
		for _, c := range []registry.Compression{registry.Gzip, registry.Zstd} {
			if err := b.floor(ctx, c); err != nil {
				return err
			}
			for _, d := range daemons {
				if err := b.pull(ctx, d, c); err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
			}
			if skopeo != "" {
				if err := b.skopeo(ctx, skopeo, c); err != nil {
					return err
				}
			}
		}
	}
	b.print()
	return nil
}

// manifest is the image's, as the registry has it.
func (b *bench) manifest(ctx context.Context, c registry.Compression) (m v1.Manifest, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.server.Addr+"/v2/bench/big/manifests/"+string(c), nil)
	if err != nil {
		return m, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return m, err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	return m, json.NewDecoder(resp.Body).Decode(&m)
}

// floor runs one pipeline for each layer, all at once.
func (b *bench) floor(ctx context.Context, c registry.Compression) error {
	m, err := b.manifest(ctx, c)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.work, "floor")
	script := "set -o pipefail\n"
	unpack := "gzip -dc"
	if c == registry.Zstd {
		unpack = "zstd -dc"
	}
	for i, l := range m.Layers {
		script += fmt.Sprintf("mkdir -p %[1]s/%[2]d; curl -sf http://%[3]s/v2/bench/big/blobs/%[4]s | %[5]s | tar -xp --numeric-owner -C %[1]s/%[2]d & jobs+=\" $!\"\n",
			dir, i, b.server.Addr, l.Digest, unpack)
	}
	err = b.command(ctx, "floor "+string(c), "/bin/bash", "-c", script+"for j in $jobs; do wait $j || exit; done")
	return errors.Join(err, os.RemoveAll(dir))
}

// skopeo copies the image to a directory: it verifies, and unpacks nothing.
func (b *bench) skopeo(ctx context.Context, program string, c registry.Compression) error {
	dir := filepath.Join(b.work, "skopeo")
	err := b.command(ctx, "skopeo (packed) "+string(c), program, "copy", "-q", "--insecure-policy", "--src-tls-verify=false",
		"docker://"+b.server.Addr+"/bench/big:"+string(c), "oci:"+dir+":big")
	return errors.Join(err, os.RemoveAll(dir))
}

// command measures a program that ends.
func (b *bench) command(ctx context.Context, who, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	f := b.of(who)
	f.add("pull s", time.Since(start).Seconds())
	f.add("CPU s", (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	return nil
}

// daemon serves CRI.
type daemon struct {
	name   string
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	images cri.ImageServiceClient
}

// start starts straked or containerd, with directories of its own.
func (b *bench) start(name, program string) (*daemon, error) {
	dir := filepath.Join(b.work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	socket, config := filepath.Join(dir, "cri.sock"), filepath.Join(dir, "config.toml")
	args := []string{"--config", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "run"), "--address", socket, "--log-level", "warn"}
	text := fmt.Sprintf("[cni]\nconf_dir = %q\n", filepath.Join(dir, "cni"))
	if name == "containerd" {
		args = []string{"--config", config, "--log-level", "error"}
		text = fmt.Sprintf("version = 2\nroot = %q\nstate = %q\noom_score = 0\n[grpc]\naddress = %q\n[plugins.\"io.containerd.grpc.v1.cri\"]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n",
			filepath.Join(dir, "root"), filepath.Join(dir, "run"), socket)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemon{name: name, cmd: cmd}
	for range 500 { // neither has another sign that both have
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	var err error
	if d.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	d.images = cri.NewImageServiceClient(d.conn)
	return d, nil
}

func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have exited
	_ = d.cmd.Wait()                          // by the signal
	if d.conn == nil {
		return nil
	}
	return d.conn.Close()
}

// pull measures a pull, again with everything present, of an image that has one
// layer more, and the removal.
func (b *bench) pull(ctx context.Context, d *daemon, c registry.Compression) error {
	f := b.of(d.name + " " + string(c))
	image, more := b.server.Addr+"/bench/big:"+string(c), b.server.Addr+"/bench/more:"+string(c)
	idle, err := d.memory("VmRSS")
	if err != nil {
		return err
	}
	// "5" makes the peak what it is now.
	if err := os.WriteFile(d.proc("clear_refs"), []byte("5"), 0o200); err != nil {
		return err
	}
	cpu, err := d.cpu()
	if err != nil {
		return err
	}
	timed := func(name string, call func() error) error {
		start := time.Now()
		err := call()
		f.add(name, time.Since(start).Seconds())
		return err
	}
	fetch := func(ref string) func() error {
		return func() error {
			_, err := d.images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
			return err
		}
	}
	if err := timed("pull s", fetch(image)); err != nil {
		return err
	}
	after, err := d.cpu()
	if err != nil {
		return err
	}
	f.add("CPU s", after-cpu)
	peak, err := d.memory("VmHWM")
	if err != nil {
		return err
	}
	f.add("memory MB", (peak-idle)/1024)
	if err := timed("again s", fetch(image)); err != nil {
		return err
	}
	if err := timed("one layer more s", fetch(more)); err != nil {
		return err
	}
	for _, ref := range []string{more, image} {
		if err := timed("remove s", func() error {
			_, err := d.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}})
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), file)
}

// memory is a line of the daemon's status, in KiB.
func (d *daemon) memory(line string) (float64, error) {
	data, err := os.ReadFile(d.proc("status"))
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(l, line+":"); ok {
			return strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", d.proc("status"), line)
}

// cpu is what the daemon and the children it has waited for have used, in seconds.
func (d *daemon) cpu() (float64, error) {
	data, err := os.ReadFile(d.proc("stat"))
	if err != nil {
		return 0, err
	}
	// After the name in parentheses: utime, stime, cutime, cstime are 12 to 15.
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, fmt.Errorf("%s: %d fields", d.proc("stat"), len(fields))
	}
	var ticks float64
	for _, field := range fields[11:15] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return ticks / 100, nil
}

// print shows the median over the rounds, and the least.
func (b *bench) print() {
	columns := []string{"pull s", "CPU s", "memory MB", "again s", "one layer more s", "remove s"}
	fmt.Printf("%-22s", "median [least]")
	for _, c := range columns {
		fmt.Printf("%18s", c)
	}
	fmt.Println()
	slices.SortStableFunc(b.names, func(x, y string) int {
		return strings.Compare(x[strings.LastIndexByte(x, ' '):], y[strings.LastIndexByte(y, ' '):])
	})
	for _, who := range b.names {
		fmt.Printf("%-22s", who)
		for _, c := range columns {
			values := slices.Sorted(slices.Values(b.got[who][c]))
			cell := "-"
			if len(values) > 0 {
				cell = fmt.Sprintf("%.3g [%.3g]", values[len(values)/2], values[0])
			}
			fmt.Printf("%18s", cell)
		}
		fmt.Println()
	}
}
