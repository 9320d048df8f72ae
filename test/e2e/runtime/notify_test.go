package runtime

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience is for what happens at once on a machine that has nothing else to do.
const patience = time.Minute

// sayToManager is a service in a container: once the FIFO /go lets it, it says what it
// is told to say, then it waits until all of it has been read (sd_notify_barrier(3)).
func sayToManager(messages []string) error {
	if _, err := os.ReadFile("/go"); err != nil {
		return err
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	for _, m := range messages {
		if _, err := conn.Write([]byte(m)); err != nil {
			return err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	rights := syscall.UnixRights(int(w.Fd()))
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = syscall.Sendmsg(int(fd), []byte("BARRIER=1"), rights, nil, 0) }); err != nil {
		return err
	}
	if err := errors.Join(sendErr, w.Close()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// manager is a service manager's socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	name string
}

func newManager(h *host) *manager {
	h.t.Helper()
	m := &manager{t: h.t, name: filepath.Join(h.root, "manager.sock")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.name, Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	m.conn = conn
	return m
}

// quiet fails if anything has been said so far.
func (m *manager) quiet() {
	m.t.Helper()
	raw, err := m.conn.SyscallConn()
	if err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	var n int
	var recvErr error
	if err := raw.Control(func(fd uintptr) { n, _, recvErr = syscall.Recvfrom(int(fd), buf, syscall.MSG_DONTWAIT) }); err != nil {
		m.t.Fatal(err)
	}
	if !errors.Is(recvErr, syscall.EAGAIN) {
		m.t.Errorf("the service manager has been told %q (%v)", buf[:max(n, 0)], recvErr)
	}
}

// next is the next datagram; a descriptor that comes with it is closed.
func (m *manager) next() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	buf, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		m.t.Fatalf("the service manager is told nothing: %v", err)
	}
	text := string(buf[:n])
	if messages, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) == 1 {
		if fds, err := syscall.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			_ = syscall.Close(fds[0])
			text += " with a descriptor"
		}
	}
	return text
}

// service is a bundle of a container that says things.
func (h *host) service(change func(*specs.Spec), messages ...string) string {
	h.t.Helper()
	bundle := h.bundle(func(s *specs.Spec) {
		s.Root.Readonly = false // for the place to mount on
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		if change != nil {
			change(s)
		}
	}, append([]string{"notify"}, messages...)...)
	fifo := filepath.Join(bundle, "rootfs", "go")
	if err := errors.Join(os.Mkdir(filepath.Join(bundle, "rootfs", "run"), 0o755), syscall.Mkfifo(fifo, 0o644), os.Chmod(fifo, 0o644)); err != nil {
		h.t.Fatal(err)
	}
	return bundle
}

// begin starts a command and returns where its outcome comes to.
func (h *host) begin(cmd *exec.Cmd) <-chan result {
	done := make(chan result, 1)
	go func() { done <- h.finish(cmd) }()
	return done
}

func (h *host) outcome(done <-chan result) result {
	h.t.Helper()
	select {
	case r := <-done:
		return r
	case <-time.After(patience):
		h.t.Fatal("the command does not end")
		panic("unreachable")
	}
}

// gate opens the service's FIFO, which lets it go on once it is closed; it returns once
// the service runs, or fails with the command that is to start it.
func gate(t *testing.T, bundle string, done <-chan result) *os.File {
	t.Helper()
	fifo := filepath.Join(bundle, "rootfs", "go")
	opened := make(chan *os.File, 1)
	go func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for its reader
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	select {
	case f := <-opened:
		return f
	case r := <-done:
		reader, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = (<-opened).Close()
		_ = reader.Close()
		t.Fatalf("the service has not been started: exit code %d, %s", r.code, r.err)
	case <-time.After(patience):
		t.Fatal("the service is not started")
	}
	panic("unreachable")
}

// TestNotifyReady: who starts a container as a service of systemd's is done when the
// container is ready, and systemd is told which process to watch.
func TestNotifyReady(t *testing.T) {
	inUserNS := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 200000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"}) // the rootfs is not its root's to change
	}
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		begin  func(h *host, bundle string) *exec.Cmd
	}{
		"run --detach": {nil, func(h *host, bundle string) *exec.Cmd { return h.command("run", "--detach", "--bundle", bundle, "a") }},
		"start": {nil, func(h *host, bundle string) *exec.Cmd {
			create := h.command("create", "--bundle", bundle, "a")
			create.Env = append(os.Environ(), "NOTIFY_SOCKET=/no/such: only start speaks to it")
			if r := h.finish(create); r.code != 0 {
				h.t.Fatalf("create: %s", r.err)
			}
			return h.command("start", "a")
		}},
		"run": {nil, func(h *host, bundle string) *exec.Cmd { return h.command("run", "--keep", "--bundle", bundle, "a") }},
		"user namespace": {inUserNS, func(h *host, bundle string) *exec.Cmd {
			return h.command("run", "--detach", "--bundle", bundle, "a")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := newManager(h)
			// Nobody but init's parent says which process the service is.
			bundle := h.service(test.change, "STATUS=starting\nMAINPID=1", "", "NOTREADY=1\nREADY=0", "X_A=1\nREADY=1\nMAINPID=1")
			cmd := test.begin(h, bundle)
			cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.name)
			done := h.begin(cmd)
			running := gate(t, bundle, done)
			m.quiet()
			if len(done) > 0 {
				t.Error("the command has ended before the container is ready")
			}
			pid := h.state("a").Pid
			if name == "run" {
				pid = cmd.Process.Pid
			}
			if err := running.Close(); err != nil {
				t.Fatal(err)
			}
			if got, want := m.next(), fmt.Sprintf("READY=1\nMAINPID=%d", pid); got != want {
				t.Errorf("the service manager is told %q, want %q", got, want)
			}
			if got := m.next(); got != "BARRIER=1 with a descriptor" {
				t.Errorf("then %q", got)
			}
			// The container's own barrier is lifted, too, or refused once nobody listens:
			// in the foreground, this is how it ends.
			if r := h.outcome(done); r.code != 0 || r.err != "" {
				t.Errorf("exit code %d, %s", r.code, r.err)
			}
			m.quiet()
			h.must("delete", "--force", "a")
		})
	}
}

// TestNotifyNever: a container that ends without having been ready keeps nobody, and
// nobody is told that it is.
func TestNotifyNever(t *testing.T) {
	h := newHost(t)
	m := newManager(h)
	bundle := h.service(nil, "STATUS=hopeless", "READY=10")
	for _, verb := range []string{"run", "run --detach"} {
		cmd := h.command(append(strings.Fields(verb), "--bundle", bundle, "a")...)
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.name)
		done := h.begin(cmd)
		if err := gate(t, bundle, done).Close(); err != nil {
			t.Fatal(err)
		}
		if r := h.outcome(done); r.code != 0 || r.err != "" {
			t.Errorf("%s: exit code %d, %s", verb, r.code, r.err)
		}
		m.quiet()
		if verb != "run" {
			h.must("delete", "--force", "a")
		}
	}
}

// TestNotifyConfig: what a config arranges itself stays, and what nobody can reach is
// refused before anything is made.
func TestNotifyConfig(t *testing.T) {
	h := newHost(t)
	m := newManager(h)
	own := h.bundle(func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "NOTIFY_SOCKET=/its/own") }, "env", "NOTIFY_SOCKET")
	cmd := h.command("run", "--bundle", own, "a")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.name)
	if r := h.finish(cmd); r.out != "/its/own\n" || r.code != 0 {
		t.Errorf("exit code %d, %q, %s", r.code, r.out, r.err)
	}
	cmd = h.command("run", "--bundle", own, "a")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=vsock:2:1")
	if r := h.finish(cmd); r.code != 1 || !strings.Contains(r.err, `NOTIFY_SOCKET: "vsock:2:1" is neither an absolute path nor an abstract name`) {
		t.Errorf("exit code %d, %s", r.code, r.err)
	}
	// An exec is not the service: it has the config's environment.
	bundle := h.service(func(s *specs.Spec) { s.Process.Args = []string{"/inside", "sleep"} })
	cmd = h.command("create", "--bundle", bundle, "a")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.name)
	if r := h.finish(cmd); r.code != 0 {
		t.Fatalf("create: %s", r.err)
	}
	h.must("start", "a") // whose environment knows of no service manager
	if got := h.must("exec", "a", "/inside", "env", "NOTIFY_SOCKET"); got != "\n" {
		t.Errorf("an exec has NOTIFY_SOCKET=%q", got)
	}
	h.must("delete", "--force", "a")
}
