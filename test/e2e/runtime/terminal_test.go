package runtime

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// openPTY makes a terminal for a program in the foreground.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := sys.Fd(master)
	// What does not come, fails.
	if err := master.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestTerminalForeground(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) { s.Process.Terminal = true }, "tty")
	h.must("run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b")
	defer h.must("delete", "--force", "b")
	for _, args := range [][]string{{"run", "--bundle", bundle, "a"}, {"exec", "--tty", "b", "/inside", "tty"}} {
		master, slave := openPTY(t)
		before, err := unix.IoctlGetTermios(sys.Fd(slave), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		cmd := h.command(args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(master)
		lines.Scan()
		if got := strings.TrimSpace(lines.Text()); got != "true true true" {
			t.Errorf("%s: terminal is %q", args[0], got)
		}
		if _, err := master.WriteString("word\r"); err != nil {
			t.Fatal(err)
		}
		var got []string
		for lines.Scan() {
			got = append(got, strings.TrimSpace(lines.Text()))
			if strings.HasPrefix(lines.Text(), "got") {
				break
			}
		}
		if strings.Join(got, "|") != "word|got word" { // echoed once, by the container's terminal
			t.Errorf("%s: %q", args[0], got)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
		if after, err := unix.IoctlGetTermios(sys.Fd(slave), unix.TCGETS); err != nil || *after != *before {
			t.Errorf("%s: our terminal is not as it was: %v", args[0], err)
		}
	}
}

// listen makes a socket; each call of receive takes a connection and the one file that comes.
func (h *host) listen(socket string) (receive func() *os.File) {
	t := h.t
	t.Helper()
	// The net package would make this program a dynamic one, which does not run in
	// an empty rootfs.
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(listener) })
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		t.Fatal(err)
	}
	return func() *os.File {
		t.Helper()
		conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(conn)
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 256), oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		f := os.NewFile(uintptr(fds[0]), "received")
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// TestPidfdSocket: create, run and exec hand over a pidfd of the process that they start.
func TestPidfdSocket(t *testing.T) {
	h := newHost(t)
	socket, pidFile := filepath.Join(h.root, "pidfd"), filepath.Join(h.root, "pid")
	receive := h.listen(socket)
	flags := []string{"--pidfd-socket", socket, "--pid-file", pidFile}
	for _, args := range [][]string{
		{"create", "--bundle", h.bundle(nil, "sleep"), "a"},
		{"run", "--detach", "--bundle", h.bundle(nil, "sleep"), "b"},
		{"exec", "--detach", "b", "/inside", "sleep"},
	} {
		h.must(append(append([]string{args[0]}, flags...), args[1:]...)...)
		if id := args[len(args)-1]; args[0] != "exec" {
			defer h.must("delete", "--force", id)
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", receive().Fd()))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := os.ReadFile(pidFile)
		if err != nil || !strings.Contains(string(info), "\nPid:\t"+string(pid)+"\n") {
			t.Errorf("%s: pid %s, %v; received\n%s", args[0], pid, err, info)
		}
	}
}

func TestConsoleSocket(t *testing.T) {
	h := newHost(t)
	bundle := h.bundle(func(s *specs.Spec) { s.Process.Terminal = true }, "tty")
	h.fails(1, "--console-socket", "run", "--detach", "--bundle", bundle, "a")
	h.fails(1, "--console-socket", "create", "--bundle", bundle, "a")
	socket := filepath.Join(h.root, "console")
	receive := h.listen(socket)
	h.must("run", "--detach", "--console-socket", socket, "--bundle", bundle, "a")
	master := receive()
	line, err := bufio.NewReader(master).ReadString('\n')
	if strings.TrimSpace(line) != "true true true" {
		t.Errorf("%q, %v", line, err)
	}
	h.must("delete", "--force", "a")
}
