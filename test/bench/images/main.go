// Command images measures pulls: straked, the peers that Debian ships, and the
// floor, which is `curl | gzip -dc | tar x` (zstd likewise) of the same blobs from
// the same registry, all layers at once and nothing verified or flushed.
//
//	go run ./test/bench/images [-bin bin] [-rounds 3] [-work DIR] [-containerd PATH] [-skopeo PATH] [-from HOST:PORT]
//
// The images are made of Debian packages (build.go): one of 9 layers, about 940 MB
// unpacked, and one with the same files in a single layer. With -from they come from
// a registry that has bench/big and bench/one, tags gzip and zstd.
//
// Peers take turns in each round, each on a new ext4 of its own (disk.go), so that
// nobody pays for what another has deleted or not flushed yet. CPU time is that of
// the puller alone: the registry runs in this process. Memory is the peak above what
// it was before.
package main

import (
	"cmp"
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
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of the built programs")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds, all peers in each")
	flag.StringVar(&o.work, "work", "", "where packages and pulled files go; \"\" is a temporary directory")
	flag.StringVar(&o.containerd, "containerd", "containerd", "containerd; \"\" leaves it out")
	flag.StringVar(&o.skopeo, "skopeo", "skopeo", "skopeo, which copies to an OCI layout and unpacks nothing; \"\" leaves it out")
	flag.StringVar(&o.from, "from", "", "HOST:PORT of the registry; \"\" makes the images and serves them here")
	flag.StringVar(&o.serve, "serve", "", "make the images, serve them on this HOST:PORT for -from of others, and measure nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/images:", err)
		os.Exit(1)
	}
}

type options struct {
	bin, work, containerd, skopeo string
	from, serve                   string
	rounds                        int
}

// figures are what one thing measured, in the order of rounds.
type figures map[string][]float64

func (f figures) add(name string, value float64) { f[name] = append(f[name], value) }

// median is 0 of none.
func (f figures) median(name string) float64 {
	values := slices.Sorted(slices.Values(f[name]))
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// bench is one session.
type bench struct {
	registry string // HOST:PORT
	work     string
	names    []string // of who is measured, in order
	got      map[string]figures
}

// subject is an image in one compression.
type subject struct {
	repository  string
	compression registry.Compression
}

// subjects are what is pulled: nine layers, and all files in one.
func subjects() (all []subject) {
	for _, repository := range []string{"big", "one"} {
		for _, c := range compressions {
			all = append(all, subject{repository, c})
		}
	}
	return all
}

func (s subject) String() string { return s.repository + " " + string(s.compression) }

// path is the image's name in the registry, without its tag.
func (s subject) path() string { return "bench/" + s.repository }

func (b *bench) of(who string, s subject) figures {
	name := s.String() + ": " + who
	if b.got[name] == nil {
		b.got[name] = figures{}
		b.names = append(b.names, name)
	}
	return b.got[name]
}

func run(ctx context.Context, o options) (err error) {
	if o.work == "" {
		if o.work, err = os.MkdirTemp("", "strake-bench-images-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.work)) }()
	}
	b := &bench{registry: o.from, work: o.work, got: map[string]figures{}}
	if o.from == "" {
		server, serveErr := serve(ctx, filepath.Join(o.work, "packages"), cmp.Or(o.serve, "127.0.0.1:0"))
		if serveErr != nil {
			return serveErr
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		b.registry = server.Addr
	}
	if o.serve != "" {
		<-ctx.Done()
		return nil
	}

	daemons := [][2]string{{"straked", filepath.Join(o.bin, "straked")}}
	if o.containerd != "" {
		daemons = append(daemons, [2]string{"containerd", o.containerd})
	}
	for range o.rounds {
		for _, s := range subjects() {
			if err := b.floor(ctx, s); err != nil {
				return err
			}
			for _, d := range daemons {
				if err := b.daemon(ctx, d[0], d[1], s); err != nil {
					return fmt.Errorf("%s: %w", d[0], err)
				}
			}
			if o.skopeo != "" {
				if err := b.skopeo(ctx, o.skopeo, s); err != nil {
					return err
				}
			}
		}
	}
	b.print()
	return nil
}

// manifest is the image's, as the registry has it.
func (b *bench) manifest(ctx context.Context, s subject) (m v1.Manifest, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/v2/%s/manifests/%s", b.registry, s.path(), s.compression), nil)
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
func (b *bench) floor(ctx context.Context, s subject) error {
	m, err := b.manifest(ctx, s)
	if err != nil {
		return err
	}
	dir, done, err := b.disk(ctx)
	if err != nil {
		return err
	}
	script := "set -o pipefail\n"
	unpack := "gzip -dc"
	if s.compression == registry.Zstd {
		unpack = "zstd -dc"
	}
	for i, l := range m.Layers {
		script += fmt.Sprintf("mkdir -p %[1]s/%[2]d; curl -sf http://%[3]s/v2/%[4]s/blobs/%[5]s | %[6]s | tar -xp --numeric-owner -C %[1]s/%[2]d & jobs+=\" $!\"\n",
			dir, i, b.registry, s.path(), l.Digest, unpack)
	}
	err = b.command(ctx, b.of("floor", s), "/bin/bash", "-c", script+"for j in $jobs; do wait $j || exit; done")
	return errors.Join(err, done())
}

// skopeo copies the image to a directory: it verifies, and unpacks nothing.
func (b *bench) skopeo(ctx context.Context, program string, s subject) error {
	dir, done, err := b.disk(ctx)
	if err != nil {
		return err
	}
	err = b.command(ctx, b.of("skopeo, packed", s), program, "copy", "-q", "--insecure-policy", "--src-tls-verify=false",
		fmt.Sprintf("docker://%s/%s:%s", b.registry, s.path(), s.compression), "oci:"+dir+"/layout:big")
	return errors.Join(err, done())
}

// command measures a program that ends.
func (b *bench) command(ctx context.Context, f figures, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
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

// daemon measures straked or containerd.
func (b *bench) daemon(ctx context.Context, name, program string, s subject) error {
	dir, done, err := b.disk(ctx)
	if err != nil {
		return err
	}
	d, err := start(name, program, dir)
	if err == nil {
		err = errors.Join(b.pull(ctx, d, s), d.stop())
	}
	return errors.Join(err, done())
}

// start starts straked or containerd, with all that it has below dir.
func start(name, program, dir string) (*daemon, error) {
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
func (b *bench) pull(ctx context.Context, d *daemon, s subject) error {
	f := b.of(d.name, s)
	image := fmt.Sprintf("%s/%s:%s", b.registry, s.path(), s.compression)
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
	remove := func(ref string) error {
		_, err := d.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}})
		return err
	}
	if s.repository == "big" {
		more := fmt.Sprintf("%s/bench/more:%s", b.registry, s.compression)
		if err := timed("one layer more s", fetch(more)); err != nil {
			return err
		}
		if err := remove(more); err != nil { // its last layer only
			return err
		}
	}
	return timed("remove s", func() error { return remove(image) })
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

// print shows the median over the rounds and the least, and what the median is of
// the floor's and of containerd's.
func (b *bench) print() {
	columns := []string{"pull s", "CPU s", "memory MB", "again s", "one layer more s", "remove s"}
	fmt.Printf("%-26s", "median [least]")
	for _, c := range columns {
		fmt.Printf("%18s", c)
	}
	fmt.Println()
	for _, who := range slices.Sorted(slices.Values(b.names)) {
		fmt.Printf("%-26s", who)
		for _, c := range columns {
			cell := "-"
			if values := b.got[who][c]; len(values) > 0 {
				cell = fmt.Sprintf("%.3g [%.3g]", b.got[who].median(c), slices.Min(values))
			}
			fmt.Printf("%18s", cell)
		}
		fmt.Println()
	}
	for _, s := range subjects() {
		for _, peer := range []string{"floor", "containerd"} {
			ours, theirs := b.of("straked", s), b.of(peer, s)
			if ours.median("pull s") > 0 && theirs.median("pull s") > 0 {
				fmt.Printf("%s: straked is %.2f x %s's time, %.2f x its CPU\n", s,
					ours.median("pull s")/theirs.median("pull s"), peer, ours.median("CPU s")/theirs.median("CPU s"))
			}
		}
	}
}
