package container

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// agent listens for container process states and answers every notified call
// with EMEDIUMTYPE, an errno that nothing else has.
type agent struct {
	t      *testing.T
	path   string
	states chan specs.ContainerProcessState
	calls  sync.WaitGroup // one for each listener
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, path: filepath.Join(t.TempDir(), "agent"), states: make(chan specs.ContainerProcessState, 10)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			a.serve(conn)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done; a.calls.Wait() })
	return a
}

// serve takes one state and its descriptor, which is what is sent first.
func (a *agent) serve(conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	buf, oob := make([]byte, 64), make([]byte, 64)
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		a.t.Error(err)
		return
	}
	rest, err := io.ReadAll(conn) // to the end: one state per connection
	var state specs.ContainerProcessState
	if err = errors.Join(err, json.Unmarshal(append(buf[:n], rest...), &state)); err != nil {
		a.t.Errorf("state %s%s: %v", buf[:n], rest, err)
		return
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		a.t.Errorf("%d control messages, %v", len(messages), err)
		return
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		a.t.Errorf("descriptors %v, %v", fds, err)
		return
	}
	a.calls.Go(func() { answerCalls(fds[0]) })
	a.states <- state
}

// answerCalls answers until the filter's last process is gone, which before Linux
// 6.11 poll(2) tells and a call to receive does not.
func answerCalls(fd int) {
	const recv, send, errno = 0xc0502100, 0xc0182101, 124
	defer func() { _ = syscall.Close(fd) }()
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var notif [80]byte
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), recv, uintptr(unsafe.Pointer(&notif))); e == syscall.EINTR || e == syscall.ENOENT { // ENOENT: the caller was killed
			continue
		} else if e != 0 {
			return
		}
		resp := struct {
			id         uint64
			val        int64
			err, flags int32
		}{id: *(*uint64)(unsafe.Pointer(&notif)), err: -errno}
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&resp)))
	}
}

func (a *agent) next() specs.ContainerProcessState {
	a.t.Helper()
	select {
	case s := <-a.states:
		return s
	case <-time.After(time.Minute):
		a.t.Fatal("the agent got nothing")
	}
	return specs.ContainerProcessState{}
}

// The listener of a filter that notifies goes to the agent, for the container's
// init and for every process that is added.
func TestSeccompNotify(t *testing.T) {
	e := newEnv(t)
	a := newAgent(t)
	for _, nnp := range []bool{true, false} {
		said := filepath.Join(e.bundle, "rootfs/tmp/said")
		s := e.spec("mkdir /tmp/a; echo > /tmp/said; exec sleep 1000")
		s.Process.NoNewPrivileges = nnp
		s.Annotations = map[string]string{"long": strings.Repeat("x", 300<<10)}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path, ListenerMetadata: "opaque \" data",
			Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv, specs.LinuxSeccompFlagLog},
			// Calls of our own on the way to execve are among them.
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "sendmsg", "recvfrom", "sendto"}, Action: specs.ActNotify}}}
		w, text := collect(t)
		c, p := e.create(s, func(o *CreateOptions) { o.Stdout, o.Stderr = w, w })
		must(t, c.Start(t.Context()))
		got := a.next()
		want := specs.ContainerProcessState{Version: specs.Version, Fds: []string{"seccompFd"}, Pid: p.Pid, Metadata: "opaque \" data",
			State: specs.State{Version: specs.Version, ID: c.ID(), Status: specs.StateCreated, Pid: p.Pid, Bundle: e.bundle, Annotations: s.Annotations}}
		if !sameJSON(t, got, want) {
			t.Errorf("state %+v, want %+v", got, want)
		}
		r, err := e.exec(c, sh("mkdir /tmp/b; ls /proc/self/fd | wc -l"))
		must(t, err)
		contains(t, r.out, "can't create directory '/tmp/b': Wrong medium type\n4\n")
		got = a.next()
		if got.Pid == p.Pid || got.State.Pid != p.Pid || got.State.Status != specs.StateRunning {
			t.Errorf("state of an added process: %+v", got)
		}
		eventually(t, "the program's word", func() bool { return os.Remove(said) == nil })
		must(t, c.Delete(t.Context(), true))
		contains(t, text(), "can't create directory '/tmp/a': Wrong medium type")
	}

	// Made and started at once.
	s := e.spec("mkdir /tmp/a; true")
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
	w, text := collect(t)
	_, p, err := Create(t.Context(), CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: s, Stdout: w, Stderr: w, Run: func(*Process) error { return nil }})
	must(t, err)
	got := a.next()
	if got.Pid != p.Pid || got.State.Status != specs.StateCreating {
		t.Errorf("state %+v", got)
	}
	wait(t, p)
	must(t, deleteAll(t, e))
	contains(t, text(), "Wrong medium type")

	// Without an agent there is no start, and what is left can be deleted.
	s.Linux.Seccomp.ListenerPath = "/no/agent"
	if _, err := e.run(s); err == nil || !strings.Contains(err.Error(), "linux.seccomp.listenerPath: failed to connect with seccomp agent: connect /no/agent: no such file") {
		t.Errorf("error %v", err)
	}
}

func deleteAll(t *testing.T, e *env) error {
	t.Helper()
	list, err := List(e.state)
	for _, s := range list {
		c, e := Load(e.state, s.ID)
		err = errors.Join(err, e, c.Delete(t.Context(), true))
	}
	return err
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	one, err := json.Marshal(a)
	must(t, err)
	two, err := json.Marshal(b)
	must(t, err)
	return string(one) == string(two)
}

// Each action has its effect on the kernel.
func TestSeccompActions(t *testing.T) {
	e := newEnv(t)
	errno := uint(124)
	for _, tt := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		code   int
		out    string
	}{
		{specs.ActAllow, nil, 0, "after\n"},
		{specs.ActLog, nil, 0, "after\n"},
		{specs.ActErrno, &errno, 0, "Wrong medium type\nafter\n"},
		{specs.ActErrno, nil, 0, "Operation not permitted\nafter\n"},
		{specs.ActTrace, &errno, 0, "Function not implemented\nafter\n"}, // there is no tracer
		{specs.ActTrap, nil, 128 + int(syscall.SIGSYS), ""},
		{specs.ActKill, nil, 128 + int(syscall.SIGSYS), ""},
		{specs.ActKillThread, nil, 128 + int(syscall.SIGSYS), ""},
		{specs.ActKillProcess, nil, 128 + int(syscall.SIGSYS), ""},
	} {
		s := e.spec("")
		s.Process.Args = []string{"sh", "-c", "mkdir /tmp/x; r=$?; rm -rf /tmp/x; [ $r -gt 128 ] && exit $r; echo after"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
			Flags:    []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagLog},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: tt.action, ErrnoRet: tt.errno}}}
		if tt.action == specs.ActAllow {
			s.Linux.Seccomp.DefaultAction = specs.ActLog
		}
		r, err := e.run(s)
		must(t, err)
		if r.code != tt.code || !strings.HasSuffix(r.out, tt.out) {
			t.Errorf("%s: exit code %d, output %q", tt.action, r.code, r.out)
		}
	}
}
