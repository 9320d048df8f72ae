package reap

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// reaper is shared: there is one per process.
var reaper = sync.OnceValues(New)

func newReaper(t *testing.T) *Reaper {
	t.Helper()
	r, err := reaper()
	if err != nil {
		t.Fatal(err)
	}
	testutil.CheckLeaks(t)
	return r
}

// watch starts a shell that the reaper collects.
func watch(t *testing.T, r *Reaper, script string) <-chan Exit {
	t.Helper()
	release := r.Hold()
	defer release()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := sys.OpenPidFD(p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan Exit, 1)
	if err := r.Watch(p.Pid, pidfd, func(e Exit) { exits <- e }); err != nil {
		t.Fatal(err)
	}
	pidfd.Close() // the reaper has its own
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	return exits
}

func TestWatch(t *testing.T) {
	r := newReaper(t)
	for script, want := range map[string]Exit{
		"exit 0":         {Status: 0},
		"exit 255":       {Status: 255},
		"kill -9 $$":     {Status: 137, Signal: 9},
		"kill -TERM $$":  {Status: 143, Signal: 15},
		"sleep 0.05":     {Status: 0},
		"kill -SEGV $$;": {Status: 139, Signal: 11},
	} {
		select {
		case e := <-watch(t, r, script):
			if e.Status != want.Status || e.Signal != want.Signal || time.Since(e.At) > time.Minute {
				t.Errorf("%s: %+v", script, e)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: no exit", script)
		}
	}
}

// Orphans are collected, and neither watched children nor those of a holder are.
func TestOrphans(t *testing.T) {
	r := newReaper(t)
	r.AdoptOrphans()
	var exits []<-chan Exit
	for i := range 20 {
		exits = append(exits, watch(t, r, "(sleep 0.0"+strconv.Itoa(i%10)+"; exit 9) & exit "+strconv.Itoa(i)))
	}
	for range 20 {
		cmd := exec.Command("sh", "-c", "(exit 8) & exit 3")
		collected, err := r.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		collected()
		if e := (*exec.ExitError)(nil); !errors.As(err, &e) || e.ExitCode() != 3 {
			t.Errorf("started command: %v", err)
		}
	}
	for i, c := range exits {
		if e := <-c; e.Status != i {
			t.Errorf("child %d: %+v", i, e)
		}
	}
	for range 500 {
		var s syscall.WaitStatus
		// No child left, not even a zombie.
		if _, err := syscall.Wait4(-1, &s, syscall.WNOHANG, nil); err == syscall.ECHILD {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	out, _ := exec.Command("ps", "--ppid", strconv.Itoa(os.Getpid())).CombinedOutput()
	t.Errorf("children left:\n%s", strings.TrimSpace(string(out)))
}

func TestWatchFD(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{}, 10)
	var stop func()
	if err := raw.Control(func(fd uintptr) {
		stop, err = WatchFD(int(fd), func() bool { looked <- struct{}{}; return true })
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	<-looked // once at the start
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-looked:
	case <-time.After(time.Minute):
		t.Error("nobody looked")
	}
}

// The exit of a process that is somebody else's child.
func TestWatchOther(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exit 42")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := sys.OpenPidFD(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pidfd.Close() }()
	type result struct {
		exit  Exit
		known bool
	}
	done := make(chan result, 1)
	if err := WatchOther(cmd.Process.Pid, pidfd, func(e Exit, known bool) { done <- result{e, known} }); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it is ours after all
	r := <-done
	if !r.known {
		t.Skip("this kernel does not tell (Linux 6.15 does)")
	}
	if r.exit.Status != 42 || r.exit.Pid != cmd.Process.Pid {
		t.Errorf("exit: %+v", r.exit)
	}
}

// A child that has ended and that its tracer does not collect, who comes first, is
// reported all the same, and collected when the tracer lets it go.
func TestWatchTraced(t *testing.T) {
	r := newReaper(t)
	release := r.Hold()
	defer release()
	p, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	pidfd, err := sys.OpenPidFD(p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	exits := make(chan Exit, 2)
	if err := r.Watch(p.Pid, pidfd, func(e Exit) { exits <- e }); err != nil {
		t.Fatal(err)
	}
	tracer := exec.Command(os.Args[0], "-test.run=^TestTracer$")
	tracer.Env = append(os.Environ(), "TRACE="+strconv.Itoa(p.Pid))
	stdin, err1 := tracer.StdinPipe()
	stdout, err2 := tracer.StdoutPipe()
	if err := errors.Join(err1, err2, tracer.Start()); err != nil {
		t.Fatal(err)
	}
	defer tracer.Wait()
	defer stdin.Close()
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the tracer says nothing: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-exits:
		if e.Pid != p.Pid || e.Status != 137 || e.Signal != 9 {
			t.Errorf("%+v", e)
		}
	case <-time.After(30 * time.Second):
		t.Error("no exit")
	}
	stdin.Close() // the tracer goes
	for deadline := time.Now().Add(30 * time.Second); sys.SignalPidFD(int(pidfd.Fd()), 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not collected")
		}
	}
	if len(exits) != 0 {
		t.Error("it is reported twice")
	}
}

// TestTracer is TestWatchTraced's other process.
func TestTracer(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv("TRACE"))
	if err != nil {
		t.Skip("runs as a process of TestWatchTraced")
	}
	runtime.LockOSThread() // a tracer is a thread
	if err := syscall.PtraceAttach(pid); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, syscall.WALL, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}
