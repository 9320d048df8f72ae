package task_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/strake-containers/strake/shim/client"
)

// monitorPid finds the monitor by its command line.
func (p *pod) monitorPid() int {
	p.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, file := range processes {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(p.id)) && bytes.Contains(line, []byte("serve")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				p.t.Fatal(err)
			}
			return pid
		}
	}
	p.t.Fatal("no monitor")
	return 0
}

func countFiles(t testing.TB, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Probes leave nothing behind: no process, no file, no memory. STRAKE_EXECS says how
// many; make test-execs has 100,000.
func TestManyExecs(t *testing.T) {
	execs := 1000 // takes seconds, or minutes where everybody builds
	if text := os.Getenv("STRAKE_EXECS"); text != "" {
		var err error
		if execs, err = strconv.Atoi(text); err != nil || execs < 1000 {
			t.Fatalf("STRAKE_EXECS=%s: write a number from 1000", text)
		}
	}
	p := newPod(t)
	defer p.monitor.Close()
	b := p.run([]string{"sleep", "1000000"})
	monitor := p.monitorPid()
	process := p.process("sh", "-c", "echo out; exit 7")
	run := func(n int) (files, kb int) {
		var running errgroup.Group
		running.SetLimit(4)
		for range n {
			running.Go(func() error {
				r, err := p.monitor.ExecSync(t.Context(), b.id, process, time.Minute, 1024)
				if err != nil || r.ExitCode != 7 || string(r.Stdout) != "out\n" {
					return fmt.Errorf("%+v, %w", r, err)
				}
				return nil
			})
		}
		if err := running.Wait(); err != nil {
			t.Fatal(err)
		}
		return countFiles(t, monitor), anonymous(t, monitor)
	}
	files, kb := run(500)
	filesAfter, kbAfter := run(execs - 500)
	t.Logf("after 500 execs %d files and %d kB, after %d %d and %d", files, kb, execs, filesAfter, kbAfter)
	if filesAfter > files+4 { // of answers on their way
		t.Errorf("the monitor has %d files after %d execs, %d after 500", filesAfter, execs, files)
	}
	if kbAfter > kb+2048 { // what the collector has not looked at yet is a megabyte
		t.Errorf("the monitor has %d kB after %d execs, %d after 500", kbAfter, execs, kb)
	}
	if children := childrenOf(t, monitor); len(children) != 1 {
		t.Errorf("the monitor has children %v", children)
	}
	if left, err := filepath.Glob(filepath.Join(b.bundle, "execs", "*")); len(left) > 0 || err != nil {
		t.Errorf("%d records are left, %v", len(left), err)
	}
	b.remove()
}

func childrenOf(t testing.TB, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		all = append(all, strings.Fields(string(data))...)
	}
	return all
}

func TestExecSyncTimeoutKillsTree(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.run([]string{"sleep", "1000"})
	// Long enough for it to begin on a busy machine.
	r, err := p.monitor.ExecSync(ctx, b.id, p.process("sh", "-c", "(setsid sleep 1001 & sleep 1002) & echo begun; sleep 1003"), 3*time.Second, 1024)
	if !errors.Is(err, client.ErrTimeout) || string(r.Stdout) != "begun\n" {
		t.Errorf("exec: %+v, %v", r, err)
	}
	if pids, err := p.monitor.Pids(ctx, b.id); err != nil || len(pids) != 1 {
		out, _ := p.monitor.ExecSync(ctx, b.id, p.process("ps"), 0, 10000)
		t.Errorf("left over: %v, %v\n%s", pids, err, out.Stdout)
	}
	b.remove()
}

func TestExecSyncOutput(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.run([]string{"sleep", "1000"})
	r, err := p.monitor.ExecSync(ctx, b.id, p.process("sh", "-c", "yes | head -c 9000000; yes no | head -c 3000000 >&2"), 0, 5<<20)
	if err != nil || len(r.Stdout) != 5<<20 || len(r.Stderr) != 3000000 || r.Stderr[0] != 'n' {
		t.Errorf("exec: %d and %d bytes, %v", len(r.Stdout), len(r.Stderr), err)
	}
	if left, _ := filepath.Glob(b.bundle + "/exec-output-*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	// A background child that keeps the output open does not keep the exec.
	r, err = p.monitor.ExecSync(ctx, b.id, p.process("sh", "-c", "sleep 1000 & echo done"), 5*time.Minute, 100)
	if err != nil || string(r.Stdout) != "done\n" {
		t.Errorf("exec: %+v, %v", r, err)
	}
	b.remove()
}

// fifo makes a FIFO in the container's bundle and opens the caller's end.
func (b *box) fifo(name string, flags int) (path string, f *os.File) {
	b.t.Helper()
	path = filepath.Join(b.bundle, name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		b.t.Fatal(err)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { f.Close() })
	return path, f
}

func TestExecWithFIFOs(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.run([]string{"sleep", "1000"})
	in, inFile := b.fifo("x.in", os.O_RDWR)
	out, outFile := b.fifo("x.out", os.O_RDONLY|syscall.O_NONBLOCK)
	err := p.monitor.Exec(ctx, b.id, client.ExecOptions{ExecID: "x", Process: p.process("tr", "a-z", "A-Z"), Stdin: in, Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.monitor.Exec(ctx, b.id, client.ExecOptions{ExecID: "x", Process: p.process("true")}); !errors.Is(err, client.ErrAlreadyExists) {
		t.Errorf("exec id twice: %v", err)
	}
	if _, err := p.monitor.StartExec(ctx, b.id, "x"); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("abcdefg\n", 40000) // more than the pipes hold
	go func() {
		inFile.WriteString(big)
		p.monitor.CloseStdin(ctx, b.id, "x")
	}()
	got, err := io.ReadAll(outFile)
	if err != nil || string(got) != strings.ToUpper(big) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(big), err)
	}
	if e, err := p.monitor.Wait(ctx, b.id, "x"); err != nil || e.Status != 0 {
		t.Errorf("exit: %+v, %v", e, err)
	}
	if _, err := p.monitor.Delete(ctx, b.id, "x"); err != nil {
		t.Error(err)
	}
	if _, err := p.monitor.Wait(ctx, b.id, "x"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("wait after delete: %v", err)
	}
	b.remove()
}

func TestExecTerminal(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	b := p.run([]string{"sleep", "1000"})
	in, inFile := b.fifo("t.in", os.O_RDWR)
	out, outFile := b.fifo("t.out", os.O_RDWR)
	process := p.process("sh", "-c", "read line; stty size; echo got $line")
	process.Terminal = true
	if err := p.monitor.Exec(ctx, b.id, client.ExecOptions{ExecID: "t", Process: process, Terminal: true, Stdin: in, Stdout: out}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.monitor.StartExec(ctx, b.id, "t"); err != nil {
		t.Fatal(err)
	}
	if err := p.monitor.ResizePty(ctx, b.id, "t", 123, 45); err != nil {
		t.Error(err)
	}
	inFile.WriteString("hello\n")
	if e, err := p.monitor.Wait(ctx, b.id, "t"); err != nil || e.Status != 0 {
		t.Errorf("exit: %+v, %v", e, err)
	}
	buf := make([]byte, 4096)
	n, err := outFile.Read(buf)
	if want := "hello\r\n45 123\r\ngot hello\r\n"; err != nil || string(buf[:n]) != want {
		t.Errorf("read %q, %v, want %q", buf[:n], err, want)
	}
	b.remove()
}

// Everything in flight ends with ErrUnavailable when the monitor dies, and the
// container does not.
func TestMonitorKilled(t *testing.T) {
	p := newPod(t)
	ctx := t.Context()
	b := p.run([]string{"sh", "-c", "until [ -e /go ]; do sleep 0.05; done; echo alive; exec sleep 1000"})
	st, err := p.monitor.ContainerStatus(ctx, b.id)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := p.monitor.Wait(ctx, b.id, "")
		waited <- err
	}()
	pid := p.monitorPid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("wait: %v", err)
	}
	waitDead(t, "the monitor", pid) // its connection may be closed before its listener
	if _, err := p.monitor.State(ctx, b.id, ""); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("state: %v", err)
	}
	if _, err := client.Connect(ctx, p.monitor.Address()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("connect: %v", err)
	}
	p.monitor.Close()
	// It writes to a FIFO without any other reader, and lives.
	if err := os.WriteFile(filepath.Join(p.rootfs, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(b.bundle, "stdout"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 100)
	if n, err := f.Read(buf); err != nil || string(buf[:n]) != "alive\n" {
		t.Errorf("its output: %q, %v", buf[:n], err)
	}
	if err := syscall.Kill(st.Pid, 0); err != nil {
		t.Errorf("container: %v", err)
	}
	// The delete command removes it.
	if out := p.delete(b); out[0] == 0 {
		t.Errorf("delete printed %q", out)
	}
	for range 100 {
		if !alive(st.Pid) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the container is still alive")
}

func TestKillAll(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	// Without a PID namespace nothing but the monitor ends what init leaves, and
	// collects it.
	b := p.run([]string{"sh", "-c", "sleep 1000 & (setsid sleep 1000 &) ; exit 5"}, func(_ *client.CreateOptions, s *specs.Spec) {
		s.Linux.Namespaces = s.Linux.Namespaces[1:]
		s.Mounts = s.Mounts[1:]
	})
	monitor := p.monitorPid()
	if e := b.wait(); e.Status != 5 {
		t.Errorf("exit: %+v", e)
	}
	for range 200 { // the kernel takes a moment to end what has been killed
		pids, err := p.monitor.Pids(ctx, b.id)
		if err == nil && len(pids) == 0 && len(childrenOf(t, monitor)) == 0 {
			b.remove()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the monitor has children %v", childrenOf(t, monitor))
}
