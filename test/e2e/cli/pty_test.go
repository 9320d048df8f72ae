package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/test/node"
)

// terminal is a person at a terminal: a program on a pty, what it shows, and
// what is typed.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd

	mu      sync.Mutex
	shown   []byte
	changed chan struct{}
	ended   chan struct{}
}

// open starts cmd on a new terminal of 80×24.
func open(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, master: master, cmd: cmd, changed: make(chan struct{}, 1), ended: make(chan struct{})}
	x.resize(80, 24)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	go func() {
		defer close(x.ended)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.shown = append(x.shown, buf[:n]...)
			x.mu.Unlock()
			select {
			case x.changed <- struct{}{}:
			default:
			}
			if err != nil {
				return // EIO: the last process has closed the terminal
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all is well
		select {
		case <-x.ended:
		case <-time.After(time.Minute):
			t.Error("somebody still has the terminal")
		}
		master.Close()
	})
	return x
}

func (x *terminal) resize(width, height uint16) {
	x.t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) enter(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// expect waits until text is shown, and forgets what came up to it.
func (x *terminal) expect(text string) {
	x.t.Helper()
	for deadline := time.After(time.Minute); ; {
		x.mu.Lock()
		_, after, found := bytes.Cut(x.shown, []byte(text))
		if found {
			x.shown = after
		}
		shown := string(x.shown)
		x.mu.Unlock()
		if found {
			return
		}
		select {
		case <-x.changed:
		case <-x.ended:
			x.t.Fatalf("ended without %q: %q", text, shown)
		case <-deadline:
			x.t.Fatalf("no %q: %q", text, shown)
		}
	}
}

// end waits until the program has ended and returns its exit code. The terminal
// must be as it was found.
func (x *terminal) end() int {
	x.t.Helper()
	done := make(chan error, 1)
	go func() { done <- x.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			x.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		x.t.Fatal("it does not end")
	}
	state, err := unix.IoctlGetTermios(int(x.master.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	if state.Lflag&unix.ECHO == 0 || state.Lflag&unix.ICANON == 0 {
		x.t.Error("the terminal was left raw")
	}
	return x.cmd.ProcessState.ExitCode()
}

func TestTerminal(t *testing.T) {
	n := node.Start(t, node.Options{})
	strake(t, n, "pull", "-q", n.Image)

	t.Run("run, resize, exit code", func(t *testing.T) {
		x := open(t, command(n, "run", "-it", "--rm", "--name", "term-run", n.Image, "sh"))
		x.enter("stty size; tty\n")
		x.expect("24 80")
		x.expect("/dev/pts/")
		x.resize(100, 40)
		x.enter("trap 'stty size' WINCH; while [ \"$(stty size)\" != '40 100' ]; do sleep 0.05; done; stty size\n")
		x.expect("\n40 100")
		x.enter("exit 42\n")
		if code := x.end(); code != 42 {
			t.Errorf("exit code %d", code)
		}
		if out := strake(t, n, "ps", "-a"); strings.Contains(out, "term-run") {
			t.Errorf("--rm left it:\n%s", out)
		}
	})

	t.Run("Ctrl-C reaches the process", func(t *testing.T) {
		x := open(t, command(n, "run", "-it", "--rm", n.Image, "sh", "-c", "trap 'echo got it; exit 9' INT; echo ready; while :; do sleep 0.1; done"))
		x.expect("ready")
		x.enter("\x03")
		x.expect("got it")
		if code := x.end(); code != 9 {
			t.Errorf("exit code %d", code)
		}
	})

	t.Run("detach and attach", func(t *testing.T) {
		x := open(t, command(n, "run", "-it", "--name", "term-detach", n.Image, "sh"))
		x.enter("echo wait$((1+1))\n")
		x.expect("wait2")
		x.enter("\x10\x11")
		if code := x.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if out := strake(t, n, "inspect", "-f", "{{.state}}", "term-detach"); out != "running\n" {
			t.Errorf("state %s", out)
		}
		x = open(t, command(n, "attach", "term-detach"))
		x.enter("echo again$((1+1))\n")
		x.expect("again2")
		x.enter("exit 3\n")
		if code := x.end(); code != 3 {
			t.Errorf("exit code %d", code)
		}
		strake(t, n, "rm", "term-detach")
	})

	t.Run("exec", func(t *testing.T) {
		strake(t, n, "run", "-d", "--name", "term-exec", n.Image, "sleep", "1000")
		x := open(t, command(n, "exec", "-it", "-e", "A=b", "term-exec", "sh"))
		x.enter("stty size; echo $A$TERM\n")
		x.expect("24 80")
		x.expect("bxterm")
		x.resize(120, 50)
		x.enter("while [ \"$(stty size)\" != '50 120' ]; do sleep 0.05; done; stty size\n")
		x.expect("\n50 120")
		x.enter("exit 4\n")
		if code := x.end(); code != 4 {
			t.Errorf("exit code %d", code)
		}
		strake(t, n, "rm", "-f", "term-exec")
	})

	t.Run("the terminal is given back when strake is told to end", func(t *testing.T) {
		strake(t, n, "run", "-d", "--name", "term-kill", n.Image, "sleep", "1000")
		x := open(t, command(n, "exec", "-it", "term-kill", "sh"))
		x.enter("echo up$((1+1))\n")
		x.expect("up2")
		if err := x.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := x.end(); code != 128+int(syscall.SIGTERM) {
			t.Errorf("exit code %d", code)
		}
		strake(t, n, "rm", "-f", "term-kill")
	})

	t.Run("progress", func(t *testing.T) {
		if err := n.RemoveImage(t.Context()); err != nil {
			t.Fatal(err)
		}
		x := open(t, command(n, "pull", n.Image))
		x.expect(": Done")
		x.expect("@sha256:")
		if code := x.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// Without a terminal, signals go to the container, and a restart of straked
// interrupts nothing.
func TestForeground(t *testing.T) {
	n := node.Start(t, node.Options{})
	strake(t, n, "pull", "-q", n.Image)
	start := func(args ...string) (*exec.Cmd, *lockedBuffer) {
		t.Helper()
		cmd, out := command(n, args...), &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, if all is well
		return cmd, out
	}
	code := func(cmd *exec.Cmd) int {
		_ = cmd.Wait() // the code says it
		return cmd.ProcessState.ExitCode()
	}

	t.Run("signals", func(t *testing.T) {
		cmd, out := start("run", "--rm", "--name", "fg-sig", n.Image, "sh", "-c",
			"trap 'echo int' INT; trap 'echo term; exit 6' TERM; echo ready; while :; do sleep 0.1; done")
		out.waitFor(t, "ready\n")
		_ = cmd.Process.Signal(syscall.SIGINT)
		out.waitFor(t, "ready\nint\n")
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if c := code(cmd); c != 6 {
			t.Errorf("exit code %d", c)
		}
		out.waitFor(t, "ready\nint\nterm\n")
	})

	t.Run("a third Ctrl-C ends strake, and --rm holds", func(t *testing.T) {
		cmd, out := start("run", "--rm", "--name", "fg-deaf", n.Image, "sh", "-c", "trap 'echo no' INT; echo ready; while :; do sleep 0.1; done")
		out.waitFor(t, "ready\n")
		want := "ready\n"
		for range 2 {
			_ = cmd.Process.Signal(syscall.SIGINT)
			want += "no\n"
			out.waitFor(t, want)
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		if c := code(cmd); c != 130 {
			t.Errorf("exit code %d", c)
		}
		if all := strake(t, n, "ps", "-a"); strings.Contains(all, "fg-deaf") {
			t.Errorf("--rm left it:\n%s", all)
		}
	})

	t.Run("straked is killed and comes back", func(t *testing.T) {
		gate := t.TempDir()
		cmd, out := start("run", "--name", "fg-kill", "-v", gate+":/gate", n.Image, "sh", "-c",
			"printf one; while [ ! -e /gate/open ]; do sleep 0.05; done; echo; echo two; exit 8")
		out.waitFor(t, "one")
		n.Kill()
		if err := os.WriteFile(gate+"/open", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.StartDaemon()
		if c := code(cmd); c != 8 {
			t.Errorf("exit code %d", c)
		}
		out.waitFor(t, "one\ntwo\n")
		strake(t, n, "rm", "fg-kill")
	})
}

// lockedBuffer is a bytes.Buffer for a program's output and a test at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// waitFor waits until the whole output is want.
func (l *lockedBuffer) waitFor(t *testing.T, want string) {
	t.Helper()
	var got string
	for range 1500 {
		l.mu.Lock()
		got = l.b.String()
		l.mu.Unlock()
		if got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("output %q, want %q", got, want)
}
