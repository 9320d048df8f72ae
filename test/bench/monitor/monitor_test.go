package monitor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/test/node"
)

const (
	logLines = 1_000_000 // of 100 bytes
	probing  = 20 * time.Second
)

// crun is the peers' runtime: $CRUN, or the one in PATH.
func crun() string {
	if path := os.Getenv("CRUN"); path != "" {
		return path
	}
	return "crun"
}

func requirePeers(b *testing.B) {
	b.Helper()
	for _, program := range []string{"conmon", crun(), "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Skip("make bench installs what it needs: ", err)
		}
	}
}

// cpu is the processor time of a process and of the children that it has collected.
func cpu(b *testing.B, pid int, children bool) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	last := 13 // utime and stime, proc(5)'s fields 14 and 15
	if children {
		last = 15
	}
	var sum time.Duration
	for _, field := range fields[11:last] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}

// processes finds processes by words of their command lines.
func processes(b *testing.B, words ...string) (pids []int) {
	b.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
files:
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for _, word := range words {
			if !bytes.Contains(line, []byte(word)) {
				continue files
			}
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			b.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// lines makes a file of them, in memory.
func lines(b *testing.B) string {
	b.Helper()
	f, err := os.CreateTemp("/dev/shm", "strake-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.Remove(f.Name()) })
	w := bufio.NewWriter(f)
	for i := range logLines {
		fmt.Fprintf(w, "%099d\n", i)
	}
	if err := errors.Join(w.Flush(), f.Chmod(0o644), f.Close()); err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

// writer is what writes them, and then a last line.
var writer = []string{"sh", "-c", "cat /lines; echo the end; exec sleep 1000000"}

// awaitEnd waits until the last line is in the log.
func awaitEnd(b *testing.B, path string) {
	b.Helper()
	tail := make([]byte, 64)
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		st, err := f.Stat()
		if err == nil {
			_, _ = f.ReadAt(tail, max(st.Size()-int64(len(tail)), 0))
		}
		_ = f.Close()
		if bytes.Contains(tail, []byte("the end")) {
			return
		}
	}
	b.Fatal("the log does not end")
}

// A container writes lines of 100 bytes as fast as it can: how much of it gets into
// the log each second, and what that costs whoever writes it.
func BenchmarkLog(b *testing.B) {
	requirePeers(b)
	data := lines(b)
	report := func(b *testing.B, took, used time.Duration) {
		mb := float64(logLines) * 100 / 1e6 * float64(b.N)
		b.ReportMetric(mb/took.Seconds(), "MB/s")
		b.ReportMetric(used.Seconds()*1e3/mb, "cpu-ms/MB")
		b.ReportMetric(0, "ns/op")
	}
	b.Run("strake", func(b *testing.B) {
		n := startNode(b)
		var took, used time.Duration
		for i := range b.N {
			c := n.ContainerConfig(fmt.Sprint("log", i), writer...)
			c.Mounts = []*cri.Mount{{HostPath: data, ContainerPath: "/lines", Readonly: true}}
			pod, config := n.pod(b, fmt.Sprint("log", i))
			monitor := processes(b, n.State, "serve")[0]
			usedBefore, began := cpu(b, monitor, false), time.Now()
			if _, err := n.RunContainer(b.Context(), pod, config, c); err != nil {
				b.Fatal(err)
			}
			awaitEnd(b, filepath.Join(config.LogDirectory, c.LogPath))
			took += time.Since(began)
			used += cpu(b, monitor, false) - usedBefore
		}
		report(b, took, used)
	})
	b.Run("conmon", func(b *testing.B) {
		var took, used time.Duration
		for range b.N {
			p := newPeer(b, writer, data)
			began := time.Now()
			p.start()
			awaitEnd(b, p.log)
			took += time.Since(began)
			used += cpu(b, p.conmon.Process.Pid, false)
			p.end()
		}
		report(b, took, used)
	})
}

// Exec probes, one each second in each container: the processor time, in ms for each
// second, of all that is ours, or conmon's and crun's, and of the processes themselves.
func BenchmarkProbes(b *testing.B) {
	requirePeers(b)
	b.Run("strake-100", func(b *testing.B) {
		n := startNode(b)
		var ids []string
		for i := range 100 {
			pod, config := n.pod(b, fmt.Sprint("probe", i))
			id, err := n.RunContainer(b.Context(), pod, config, n.ContainerConfig("main", "sleep", "1000000"))
			if err != nil {
				b.Fatal(err)
			}
			ids = append(ids, id)
		}
		pids := processes(b, n.State) // straked and its monitors, by their arguments
		sum := func() (sum time.Duration) {
			for _, pid := range pids {
				sum += cpu(b, pid, true)
			}
			return sum
		}
		before := sum()
		report(b, probe(b, len(ids), func(ctx context.Context, i int) error {
			r, err := n.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: ids[i], Cmd: []string{"true"}, Timeout: 10})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("exit code %d", r.ExitCode)
			}
			return err
		}), func() time.Duration { return sum() - before })
	})
	b.Run("floor", func(b *testing.B) {
		const n = 2000
		b.ReportMetric(floorProbes(b, n).Seconds()*1e3/n, "cpu-ms/probe")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("conmon-10", func(b *testing.B) {
		var peers []*peer
		for range 10 {
			p := newPeer(b, []string{"sleep", "1000000"}, "")
			p.start()
			defer p.end()
			peers = append(peers, p)
		}
		var mu sync.Mutex
		var used time.Duration
		report(b, probe(b, len(peers), func(ctx context.Context, i int) error {
			spent, err := peers[i].exec(ctx)
			mu.Lock()
			defer mu.Unlock()
			used += spent
			return err
		}), func() time.Duration { return used })
	})
}

// floorProbes has the floor (test/bench/runtime) make so many processes in a container, one
// after the other, and returns the processor time of it and them.
func floorProbes(b *testing.B, n int) time.Duration {
	b.Helper()
	dir := b.TempDir()
	name, bundle := "bench-"+filepath.Base(filepath.Dir(dir)), dir+"/sleeps"
	bin := bundle + "/rootfs/bin"
	if err := os.MkdirAll(bin, 0o755); err != nil {
		b.Fatal(err)
	}
	floor := func(args ...string) *exec.Cmd {
		cmd := exec.Command(dir+"/floor", append([]string{dir}, args...)...)
		cmd.Stderr = os.Stderr
		return cmd
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("gcc", "-O2", "-static", "-o", dir+"/floor", "../runtime/floor/floor.c"),
		exec.Command("gcc", "-O2", "-static", "-o", bin+"/true", "../runtime/floor/static.c"),
		floor("create", bundle, name),
		floor("start", name),
	} {
		if err := cmd.Run(); err != nil {
			b.Fatal(cmd, ": ", err)
		}
	}
	execs := floor("execs", strconv.Itoa(n), name)
	err := execs.Run()
	if err := errors.Join(err, floor("delete-f", name).Run()); err != nil {
		b.Fatal(err)
	}
	return execs.ProcessState.UserTime() + execs.ProcessState.SystemTime()
}

// probe runs one in each of so many containers each second, and returns how many.
func probe(b *testing.B, containers int, one func(ctx context.Context, i int) error) int {
	b.Helper()
	var running sync.WaitGroup
	var n int
	tick := time.NewTicker(time.Second / time.Duration(containers))
	defer tick.Stop()
	for end := time.Now().Add(probing); time.Now().Before(end); n++ {
		<-tick.C
		running.Go(func() {
			if err := one(b.Context(), n%containers); err != nil {
				b.Error(err)
			}
		})
	}
	running.Wait()
	return n
}

func report(b *testing.B, probes int, used func() time.Duration) {
	b.ReportMetric(used().Seconds()*1e3/probing.Seconds(), "cpu-ms/s")
	b.ReportMetric(used().Seconds()*1e3/float64(probes), "cpu-ms/probe")
	b.ReportMetric(float64(probes)/probing.Seconds(), "probes/s")
	b.ReportMetric(0, "ns/op")
}

// strake is a node with straked.
type strake struct{ *node.Node }

func startNode(b *testing.B) strake {
	b.Helper()
	n := strake{node.Start(b, node.Options{})}
	b.Cleanup(func() { n.RemoveAll(context.Background()) })
	if err := n.Pull(b.Context()); err != nil {
		b.Fatal(err)
	}
	return n
}

func (n strake) pod(b *testing.B, name string) (id string, config *cri.PodSandboxConfig) {
	b.Helper()
	config = n.PodConfig(name, true)
	id, err := n.RunPod(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	return id, config
}

// peer is a container of crun's with conmon, called as CRI-O does.
type peer struct {
	b           *testing.B
	dir, id     string
	log         string
	conmon      *exec.Cmd
	processSpec string
}

func newPeer(b *testing.B, args []string, data string) *peer {
	b.Helper()
	dir := b.TempDir()
	p := &peer{b: b, dir: dir, id: "bench-" + filepath.Base(filepath.Dir(dir)) + filepath.Base(dir), log: dir + "/log", processSpec: dir + "/process.json"}
	p.id = strings.Map(func(r rune) rune {
		if r == '/' || r == '#' {
			return '-'
		}
		return r
	}, p.id)
	bin := dir + "/rootfs/bin"
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.Mkdir(dir+"/exits", 0o755)); err != nil {
		b.Fatal(err)
	}
	p.run("cp", p.path("busybox"), bin+"/busybox")
	for _, name := range []string{"sh", "cat", "sleep", "true"} {
		if err := os.Symlink("busybox", bin+"/"+name); err != nil {
			b.Fatal(err)
		}
	}
	p.run(crun(), "spec", "--bundle", dir)
	file := dir + "/config.json"
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		b.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	spec["linux"].(map[string]any)["cgroupsPath"] = "/" + p.id
	if data != "" {
		if err := os.WriteFile(dir+"/rootfs/lines", nil, 0o644); err != nil {
			b.Fatal(err)
		}
		spec["mounts"] = append(spec["mounts"].([]any), map[string]any{
			"destination": "/lines", "type": "bind", "source": data, "options": []string{"bind", "ro"},
		})
	}
	p.write(file, spec)
	process["args"] = []string{"true"}
	p.write(p.processSpec, process)
	return p
}

func (p *peer) path(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		p.b.Fatal(err)
	}
	return path
}

func (p *peer) run(args ...string) {
	p.b.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		p.b.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (p *peer) write(path string, v any) {
	p.b.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		p.b.Fatal(err)
	}
}

// command is conmon's, with the pipes by which it says how far it is.
func (p *peer) command(ctx context.Context, args ...string) (cmd *exec.Cmd, answers *bufio.Reader, err error) {
	cmd = exec.CommandContext(ctx, "conmon", append([]string{
		"--sync", "-c", p.id, "-u", p.id, "-n", p.id, "-r", p.path(crun()), "-b", p.dir, "--runtime-arg=--root=" + p.dir + "/state",
		"--socket-dir-path", p.dir, "--exit-dir", p.dir + "/exits", "--no-sync-log",
	}, args...)...)
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.ExtraFiles = []*os.File{write, gate}
	cmd.Env = append(os.Environ(), "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4")
	err = cmd.Start()
	_, writeErr := open.Write([]byte{0})
	return cmd, bufio.NewReader(read), errors.Join(err, writeErr, write.Close(), gate.Close(), open.Close())
}

// start creates the container and starts it.
func (p *peer) start() {
	p.b.Helper()
	cmd, answers, err := p.command(context.Background(), "-p", p.dir+"/pid", "-l", "k8s-file:"+p.log)
	if err != nil {
		p.b.Fatal(err)
	}
	p.conmon = cmd
	if line, err := answers.ReadString('\n'); err != nil || strings.Contains(line, "-1") {
		p.b.Fatalf("conmon says %q, %v", line, err)
	}
	p.run(crun(), "--root", p.dir+"/state", "start", p.id)
}

// end kills it.
func (p *peer) end() {
	p.run(crun(), "--root", p.dir+"/state", "delete", "--force", p.id)
	_ = p.conmon.Wait() // by the signal of its container
}

// exec runs a probe and returns the processor time that it took.
func (p *peer) exec(ctx context.Context) (time.Duration, error) {
	dir, err := os.MkdirTemp(p.dir, "exec-")
	if err != nil {
		return 0, err
	}
	cmd, answers, err := p.command(ctx, "--exec", "--exec-process-spec", p.processSpec, "-p", dir+"/pid", "-l", "k8s-file:"+dir+"/log", "-T", "10")
	if err != nil {
		return 0, err
	}
	exit := ""
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			break // it has said all
		}
		exit = line
	}
	err = cmd.Wait()
	var answer struct {
		ExitCode *int `json:"exit_code"`
	}
	if parseErr := json.Unmarshal([]byte(exit), &answer); err == nil && (parseErr != nil || answer.ExitCode == nil || *answer.ExitCode != 0) {
		err = fmt.Errorf("conmon says %q", exit)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), errors.Join(err, os.RemoveAll(dir))
}
