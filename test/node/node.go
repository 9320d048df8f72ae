// Package node runs a private straked for the tests and the benchmarks that
// drive the built programs: its own directories, socket, bridge, subnet and
// cgroup parent, a loopback registry with one small image, and a check that
// nothing of it is left.
package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/network/bridge"
	"github.com/strake-containers/strake/test/registry"
)

// Node is a private straked and what belongs to it. It is for one test; only
// the CRI clients may be used concurrently.
type Node struct {
	tb testing.TB

	Bin     string // directory of the built programs
	Root    string
	State   string
	Address string // path of the socket
	Parent  string // cgroup parent of the pods that PodConfig makes
	Logs    string // pod log directories
	Image   string // reference of an image with busybox, at Registry
	Bridge  string
	Subnet  netip.Prefix

	Runtime  cri.RuntimeServiceClient
	Images   cri.ImageServiceClient
	Registry *registry.Server

	RootDisk, LogDisk *Disk // with Options.DiskSize

	ownMounts []string // of the test, not of straked

	config string
	conn   *grpc.ClientConn
	daemon *exec.Cmd
	exited chan struct{}
	log    lockedBuffer
}

// Options changes what Start does by default.
type Options struct {
	// Config is TOML appended to the private configuration.
	Config string
	// CgroupDriver is straked's, "systemd" for one that asks systemd, which has to be
	// PID 1; "" is cgroupfs. Parent is a slice then.
	CgroupDriver string
	// CNIConfDir uses CNI in place of the bridge, with plugins from CNIBinDir.
	CNIConfDir, CNIBinDir string
	// RootSize, such as "4m", makes the root directory a file system of that size.
	RootSize string
	// DiskSize, in bytes, puts the root and the pods' logs each on a Disk.
	DiskSize int64
}

// Bin returns the directory of the built programs, $STRAKE_BIN or bin/ at the
// top of the tree, and skips the test where they are not built.
func Bin(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("STRAKE_BIN")
	if dir == "" {
		top, err := moduleRoot()
		if err != nil {
			tb.Fatal(err)
		}
		dir = filepath.Join(top, "bin")
	}
	if _, err := os.Stat(filepath.Join(dir, "straked")); err != nil {
		tb.Skipf("needs the built programs in %s: run make build", dir)
	}
	return dir
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod above the working directory")
}

// Start starts a registry and a straked; both end with the test, which fails if
// anything of them is left then.
func Start(tb testing.TB, o Options) *Node {
	tb.Helper()
	testutil.RequireRoot(tb, "straked makes namespaces, mounts and cgroups")
	bin := Bin(tb)
	// Short, for the socket path; on a file system that overlay can be on.
	dir, err := os.MkdirTemp("", "strake-node-")
	if err != nil {
		tb.Fatal(err)
	}
	id := make([]byte, 2)
	_, _ = rand.Read(id) // never fails: crypto/rand's doc
	n := &Node{
		tb: tb, Bin: bin,
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"),
		Address: filepath.Join(dir, "strake.sock"), Logs: filepath.Join(dir, "logs"),
		Parent: "/" + filepath.Base(dir),
		Bridge: fmt.Sprintf("stk%x", id),
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, id[0]%60 + 190, id[1], 0}), 24),
		config: filepath.Join(dir, "config.toml"),
	}
	switch o.CgroupDriver {
	case "":
		o.CgroupDriver = "cgroupfs"
	case "systemd":
		// A dash is a slice within another.
		n.Parent = "/" + strings.ReplaceAll(filepath.Base(dir), "-", "") + ".slice"
	}
	cni := o.CNIConfDir
	if cni == "" {
		cni = filepath.Join(dir, "no-cni")
	}
	bins := o.CNIBinDir
	if bins == "" {
		bins = "/usr/lib/cni" // Debian's
	}
	config := fmt.Sprintf("cgroup_driver = %q\n[cni]\nconf_dir = %q\nbin_dirs = [%q]\n[network]\nbridge = %q\nsubnets = [%q]\n%s\n",
		o.CgroupDriver, cni, bins, n.Bridge, n.Subnet, o.Config)
	if err := os.WriteFile(n.config, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	n.Registry, n.Image, err = registry.ServeBusybox()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = n.Registry.Close() })
	if o.RootSize != "" {
		n.mountRoot(o.RootSize)
	}
	if o.DiskSize != 0 {
		n.RootDisk, n.LogDisk = newDisk(tb, n.Root, o.DiskSize), newDisk(tb, n.Logs, o.DiskSize)
		n.ownMounts = []string{n.Root, n.Logs}
	}
	n.conn, err = grpc.NewClient("unix://"+n.Address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}, MinConnectTimeout: 20 * time.Second}))
	if err != nil {
		tb.Fatal(err)
	}
	n.Runtime, n.Images = cri.NewRuntimeServiceClient(n.conn), cri.NewImageServiceClient(n.conn)
	tb.Cleanup(func() { n.end(dir) })
	n.StartDaemon()
	return n
}

// mountRoot gives the node a small disk.
func (n *Node) mountRoot(size string) {
	n.tb.Helper()
	if err := os.Mkdir(n.Root, 0o700); err != nil {
		n.tb.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", n.Root, "tmpfs", 0, "size="+size); err != nil {
		n.tb.Fatal(err)
	}
	n.ownMounts = []string{n.Root}
}

// StartDaemon starts straked and waits until it answers.
func (n *Node) StartDaemon() {
	n.tb.Helper()
	n.StartDaemonTo(&n.log)
}

// StartDaemonTo is StartDaemon with another place for its log.
func (n *Node) StartDaemonTo(log io.Writer) {
	n.tb.Helper()
	n.daemon = exec.Command(filepath.Join(n.Bin, "straked"), "--config", n.config, "--root", n.Root, "--state", n.State,
		"--address", n.Address, "--log-level", "debug")
	n.daemon.Stdout, n.daemon.Stderr = log, log
	n.daemon.WaitDelay = time.Second // monitors inherit no output, but a bug there must not hang the test
	if err := n.daemon.Start(); err != nil {
		n.tb.Fatal(err)
	}
	exited, daemon := make(chan struct{}), n.daemon
	go func() {
		_ = daemon.Wait() // its exit is what counts
		close(exited)
	}()
	n.exited = exited
	ctx, cancel := context.WithTimeout(n.tb.Context(), time.Minute)
	defer cancel()
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		_, err := n.Runtime.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
		if err == nil {
			return
		}
		if ctx.Err() != nil { // else it was the connection to the straked before
			_ = daemon.Process.Signal(syscall.SIGQUIT) // where does it hang?
			<-exited
			n.tb.Fatalf("straked does not answer: %v", err)
		}
	}
}

// Reload has a drop-in over the configuration, in the place of the one before, and sends
// straked SIGHUP.
func (n *Node) Reload(drop string) {
	n.tb.Helper()
	n.DropIn(drop)
	if err := n.daemon.Process.Signal(syscall.SIGHUP); err != nil {
		n.tb.Fatal(err)
	}
}

// DropIn writes what goes over the configuration, and says where that is.
func (n *Node) DropIn(text string) (file string) {
	n.tb.Helper()
	file = filepath.Join(n.config+".d", "test.toml")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		n.tb.Fatal(err)
	}
	return file
}

// FailedStart starts straked, which is not to come up, and returns what it says.
func (n *Node) FailedStart() string {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(n.tb.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(n.Bin, "straked"), "--config", n.config, "--root", n.Root, "--state", n.State,
		"--address", n.Address).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || ctx.Err() != nil {
		n.tb.Fatalf("straked did not fail: %v: %s", err, out)
	}
	return string(out)
}

// Log is what straked has logged so far.
func (n *Node) Log() string { return n.log.String() }

// Kill kills straked with SIGKILL; what it monitors lives on.
func (n *Node) Kill() {
	_ = n.daemon.Process.Kill() // it may have exited
	<-n.exited
}

// Terminate ends straked with SIGTERM.
func (n *Node) Terminate() {
	_ = n.daemon.Process.Signal(syscall.SIGTERM) // it may have exited
	<-n.exited
}

// KillRest does, after Kill, what a reboot does: it ends the monitors and the
// containers, and empties the state directory and the cgroups.
func (n *Node) KillRest() {
	n.tb.Helper()
	for range 100 {
		processes := n.processes()
		if len(processes) == 0 {
			break
		}
		for _, p := range processes {
			if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				n.tb.Fatal(err)
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	mounts := n.mounts()
	slices.Reverse(mounts) // what is below others first
	for _, at := range mounts {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			n.tb.Fatal(err)
		}
	}
	if err := os.RemoveAll(n.State); err != nil {
		n.tb.Fatal(err)
	}
	for _, c := range cgroups(n.Parent) {
		_ = os.Remove(c) // it may be another's parent's link
	}
}

// end removes all pods, ends the daemon and looks for what is left.
func (n *Node) end(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	select {
	case <-n.exited:
		n.tb.Errorf("straked is not running at the end of the test")
		n.KillRest()
	default:
		n.RemoveAll(ctx)
		n.Terminate()
	}
	_ = n.conn.Close()
	b := bridge.New(bridge.Config{StateDir: filepath.Join(n.Root, "network", "bridge"), Bridge: n.Bridge})
	if err := errors.Join(b.Destroy(ctx), b.Close()); err != nil {
		n.tb.Errorf("destroy bridge: %v", err)
	}
	left := n.Leftovers()
	// A monitor without pods answers that it ends, and does so a moment later.
	for end := time.Now().Add(10 * time.Second); len(left) > 0 && len(n.processes()) > 0 && time.Now().Before(end); left = n.Leftovers() {
		<-time.After(time.Millisecond)
	}
	for _, l := range left {
		n.tb.Errorf("left behind: %s", l)
	}
	if len(left) > 0 {
		n.KillRest() // what follows must not meet it
	}
	for _, m := range n.ownMounts {
		if err := syscall.Unmount(m, 0); err != nil {
			n.tb.Errorf("unmount %s: %v", m, err)
		}
	}
	if n.tb.Failed() {
		n.tb.Logf("straked's log:\n%s", n.log.String())
	}
	for _, c := range cgroups(n.Parent) {
		_ = os.Remove(c) // the parent, which is the test's own
	}
	if len(n.mounts()) == 0 { // never delete through a mount
		_ = os.RemoveAll(dir)
	}
}

// RemoveAll stops and removes every pod.
func (n *Node) RemoveAll(ctx context.Context) {
	n.tb.Helper()
	pods, err := n.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		n.tb.Errorf("list pods: %v", err)
		return
	}
	for _, p := range pods.Items {
		if _, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			n.tb.Errorf("stop pod: %v", err)
		}
		if _, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			n.tb.Errorf("remove pod: %v", err)
		}
	}
}

// Leftovers lists what a node without pods must not have: mounts, processes
// (but straked), cgroups below Parent, network namespaces, links on the bridge,
// records and bundles. As long as straked runs it has one monitor ready for the next pod, with
// a directory, and two mounts.
func (n *Node) Leftovers() []string {
	var left []string
	spare := n.spare()
	for _, dir := range []string{n.Root + "/pods", n.State + "/pods", n.State + "/netns", n.State + "/runtime", n.State + "/monitors"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // never made
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); path != spare {
				left = append(left, path)
			}
		}
	}
	for _, at := range n.mounts() {
		if n.running() && strings.HasPrefix(at, filepath.Join(n.State, "pins")) {
			continue // two mounts for the whole node, as long as straked runs
		}
		left = append(left, "mount "+at)
	}
	for _, c := range cgroups(n.Parent) {
		if !strings.HasSuffix(c, n.Parent) {
			left = append(left, "cgroup "+c)
		}
	}
	links, _ := filepath.Glob("/sys/class/net/" + n.Bridge + "/brif/*") // a constant pattern
	left = append(left, links...)
	for _, p := range n.processes() {
		if spare != "" && strings.Contains(p.cmdline, " -bundle "+spare+" ") && strings.HasSuffix(p.cmdline, " serve ") {
			spare = "" // there is only one
			continue
		}
		left = append(left, fmt.Sprintf("process %d: %s", p.pid, p.cmdline))
	}
	return left
}

// spare is the directory of the one monitor of a straked that runs and has no pods; "" if
// there are more, or none.
func (n *Node) spare() string {
	dirs, _ := filepath.Glob(n.State + "/monitors/*") // a constant pattern, or nearly
	pods, _ := filepath.Glob(n.State + "/pods/*")
	if !n.running() || len(dirs) != 1 || len(pods) > 0 {
		return ""
	}
	return dirs[0]
}

func (n *Node) running() bool {
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// mounts lists the host's mount points below the node's directory.
func (n *Node) mounts() []string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // procfs is there
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, filepath.Dir(n.Root)) && !slices.Contains(n.ownMounts, at) {
			points = append(points, at)
		}
	}
	return points
}

type process struct {
	pid     int
	cmdline string
}

// processes lists those, except straked, whose command line or cgroup is the
// node's.
func (n *Node) processes() []process {
	var found []process
	dirs, _ := filepath.Glob("/proc/[0-9]*") // a constant pattern
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir)) // the pattern lets nothing else through
		if pid == n.daemon.Process.Pid {
			continue
		}
		stat, _ := os.ReadFile(dir + "/stat") // it may have ended
		if _, state, _ := bytes.Cut(stat, []byte(") ")); len(state) == 0 || state[0] == 'Z' || state[0] == 'X' {
			continue // or has, and waits for its parent, who may be anybody
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		if bytes.Contains(cmdline, []byte(filepath.Dir(n.Root))) || bytes.Contains(cgroup, []byte(n.Parent+"/")) {
			found = append(found, process{pid, string(bytes.ReplaceAll(cmdline, []byte{0}, []byte(" ")))})
		}
	}
	return found
}

// Monitors are the pids of the monitors.
func (n *Node) Monitors() []int {
	var pids []int
	for _, p := range n.processes() {
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid)) // it may have ended
		// An init that waits to be started has its maker's command line.
		if strings.HasSuffix(p.cmdline, " serve ") && !bytes.Contains(cgroup, []byte(n.Parent+"/")) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// cgroups lists the directories at and below parent, in every hierarchy, the
// deepest first.
func cgroups(parent string) []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + parent) // v1; on v2 the line below
	var dirs []string
	for _, root := range append(roots, "/sys/fs/cgroup"+parent) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil // what has gone is what we want
		})
	}
	return dirs
}

// maxLog is how much of straked's log is kept at least: of an hour's, the end.
const maxLog = 16 << 20

// lockedBuffer is a bytes.Buffer for a writer and a reader at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 2*maxLog {
		l.b.Next(maxLog)
	}
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
