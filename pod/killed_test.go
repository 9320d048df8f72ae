package pod

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

// counter logs at full speed, and ends with 42.
const counter = `trap 'exit 42' TERM; i=0; while :; do i=$((i+1)); echo $i; done`

// A monitor that is killed again and again, while a container logs at full speed,
// others are attached to and a process was added to one, harms none of them.
func TestRealMonitorKilled(t *testing.T) {
	for _, pods := range []int{1, 8} {
		t.Run(fmt.Sprintf("%d pods", pods), func(t *testing.T) { realMonitorKilled(t, pods) })
	}
}

func realMonitorKilled(t *testing.T, pods int) {
	n := newRealNode(t)
	n.monitorPods = pods
	m := n.open()
	if pods > 1 { // they come and go beside it
		neighbour := n.run(m, n.pod("neighbour"))
		defer func() {
			if p, err := m.Pod(neighbour); err != nil || p.State != PodReady {
				t.Errorf("neighbour: %+v, %v", p, err)
			}
		}()
	}
	config := n.pod("killed")
	config.Namespaces.PID = bundle.NamespacePod
	pod := n.run(m, config)
	counts := n.start(m, pod, ContainerConfig{Name: "counts", Command: []string{"/bin/sh", "-c", counter}})
	echoes := n.start(m, pod, ContainerConfig{Name: "echoes", Stdin: true, Command: []string{"/bin/cat"}})
	terminal := n.start(m, pod, ContainerConfig{Name: "terminal", Stdin: true, TTY: true, Command: []string{"/bin/sh", "-c", "while read x; do echo got $x; done; exit 7"}})
	gated := n.start(m, pod, ContainerConfig{Name: "gated", Command: []string{"/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 43"}})
	talk := map[string]*talker{}
	for _, id := range []string{echoes, terminal} {
		talk[id] = n.talk(m, id)
	}
	type result struct {
		code int
		err  error
	}
	exec := make(chan result, 1)
	started := make(chan struct{})
	go func() {
		code, err := m.Exec(t.Context(), counts, ExecConfig{Cmd: []string{"/bin/sh", "-c", "echo on; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 9"}},
			Streams{Stdout: writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })})
		exec <- result{code, err}
	}()
	<-started
	before := mustContainer(t, m, counts)
	netns := n.netns(pod)

	for i := range 4 {
		n.killMonitor()
		n.alive(m, counts)
		if now := n.netns(pod); now != netns {
			t.Errorf("network namespace %s, was %s", now, netns)
		}
		for id, prefix := range map[string]string{echoes: "", terminal: "got "} {
			want := fmt.Sprintf("%s%d", prefix, i)
			got := talk[id].say(strconv.Itoa(i) + "\n")
			if prefix != "" && !strings.HasPrefix(got, prefix) {
				got = talk[id].line() // before that, the terminal's echo
			}
			if strings.TrimRight(got, "\r\n") != want {
				t.Errorf("%s: %q, want %q", mustContainer(t, m, id).Config.Name, got, want)
			}
		}
	}

	if n := m.Info().MonitorsReplaced; n < 4 {
		t.Errorf("%d monitors are said to have been replaced", n)
	}
	if s := mustContainer(t, m, counts); s.State != ContainerRunning || s.Pid != before.Pid || s.StartedAt != before.StartedAt {
		t.Errorf("container is %+v, was %+v", s, before)
	}
	if p, err := m.Pod(pod); err != nil || p.State != PodReady {
		t.Errorf("pod: %+v, %v", p, err)
	}
	if out := n.sh(m, counts, "ps -o pid,args; hostname; touch /tmp/end"); !strings.Contains(out, "/pause") || !strings.Contains(out, "killed") {
		t.Errorf("in the pod:\n%s", out)
	}
	if r := <-exec; (r.err != nil || r.code != 9) && testutil.ExitsAreKept() {
		t.Errorf("exec: %+v", r)
	}
	n.sh(m, gated, "touch /tmp/go")
	if s := mustExit(t, m, gated); s.ExitCode != 43 && testutil.ExitsAreKept() {
		t.Errorf("gated: %+v", s)
	}
	if err := m.StopContainer(t.Context(), counts, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if s := mustExit(t, m, counts); s.ExitCode != 42 && testutil.ExitsAreKept() {
		t.Errorf("counts: %+v", s)
	}
	checkCount(t, filepath.Join(config.LogDirectory, "counts.log"))
	// What is made on the replacement is as good as any.
	late := n.start(m, pod, ContainerConfig{Name: "late", Command: []string{"/bin/sh", "-c", `[ $(stat -L -c %i /proc/self/ns/net) = ` + netns + ` ] && exit 3`}})
	if s := mustExit(t, m, late); s.ExitCode != 3 {
		t.Errorf("late: %+v", s)
	}
}

// Both are killed; a container ends before the next daemon is there.
func TestRealBothKilled(t *testing.T) {
	for _, pods := range []int{1, 8} {
		t.Run(fmt.Sprintf("%d pods", pods), func(t *testing.T) { realBothKilled(t, pods) })
	}
}

func realBothKilled(t *testing.T, pods int) {
	n := newRealNode(t)
	n.monitorPods = pods
	m := n.open()
	config := n.pod("both")
	config.Namespaces.PID = bundle.NamespacePod
	pod := n.run(m, config)
	counts := n.start(m, pod, ContainerConfig{Name: "counts", Command: []string{"/bin/sh", "-c", counter}})
	gated := n.start(m, pod, ContainerConfig{Name: "gated", Command: []string{"/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 43"}})
	empty := n.run(m, n.pod("empty"))
	netns := n.netns(empty)
	pid := mustContainer(t, m, gated).Pid
	pidfd, err := sys.OpenPidFD(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pidfd.Close() }()
	if err := m.Close(t.Context()); err != nil { // as good as killed: nothing is written
		t.Fatal(err)
	}
	n.killMonitor()
	if pods == 1 {
		n.killMonitor()
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/tmp/go", pid), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := sys.WaitReadable(ctx, pidfd); err != nil {
		t.Fatal(err)
	}

	m = n.open()
	n.alive(m, counts)
	for _, id := range []string{pod, empty} {
		if p, err := m.Pod(id); err != nil || p.State != PodReady {
			t.Errorf("pod: %+v, %v", p, err)
		}
	}
	if s := mustExit(t, m, gated); s.ExitCode != 43 && testutil.ExitsAreKept() {
		t.Errorf("gated: %+v", s)
	}
	if now := n.netns(empty); now != netns {
		t.Errorf("network namespace %s, was %s", now, netns)
	}
	late := n.start(m, empty, ContainerConfig{Name: "late", Command: []string{"/bin/sh", "-c", "[ $(stat -L -c %i /proc/self/ns/net) = " + netns + " ]"}})
	if s := mustExit(t, m, late); s.ExitCode != 0 {
		t.Errorf("late: %+v", s)
	}
	if err := m.StopContainer(t.Context(), counts, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if s := mustExit(t, m, counts); s.ExitCode != 42 && testutil.ExitsAreKept() {
		t.Errorf("counts: %+v", s)
	}
	checkCount(t, filepath.Join(config.LogDirectory, "counts.log"))
}

// The daemon is killed between starting a replacement of a killed monitor and
// having it adopt the pods: the next one has it do so.
func TestRealKilledBeforeAdoption(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("adopted"))
	id := n.start(m, pod, ContainerConfig{Name: "lives", Command: []string{"/bin/sleep", "1000"}})
	was := mustContainer(t, m, id)
	p, err := m.findPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	options := m.startOptions(p.crew)
	if err := m.Close(t.Context()); err != nil { // as good as killed: nothing is written
		t.Fatal(err)
	}
	n.killMonitor()
	var kept client.Kept
	defer kept.Close()
	conn, err := ShimMonitors{}.Replace(t.Context(), options, &kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}

	m = n.open()
	if p, err := m.Pod(pod); err != nil || p.State != PodReady {
		t.Errorf("pod: %+v, %v", p, err)
	}
	if s := mustContainer(t, m, id); s.State != ContainerRunning || s.Pid != was.Pid {
		t.Errorf("container: %+v, was %+v", s, was)
	}
	n.alive(m, id)
}

// alive waits until the container's monitor, or its successor, answers.
func (n *realNode) alive(m *Manager, id string) {
	n.t.Helper()
	for {
		_, err := m.ExecSync(n.t.Context(), id, []string{"/bin/true"}, 0)
		if err == nil {
			return
		}
		if n.t.Context().Err() != nil || !strings.Contains(err.Error(), "unavailable") && !strings.Contains(err.Error(), "monitor") {
			n.t.Fatal(err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// talker is attached to a container.
type talker struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func (n *realNode) talk(m *Manager, id string) *talker {
	n.t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ctx, cancel := context.WithCancel(n.t.Context())
	connected, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := m.Attach(ctx, id, Streams{Stdin: inR, Stdout: outW, Connected: func() { close(connected) }})
		why := errors.Join(errors.New("the attachment has ended"), err)
		_, _ = outW.CloseWithError(why), inR.CloseWithError(why)
		ended <- err
	}()
	n.t.Cleanup(func() {
		cancel()
		_, _ = inW.Close(), outR.Close()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			n.t.Errorf("attach: %v", err)
		}
	})
	select {
	case <-connected:
	case err := <-ended:
		n.t.Fatal(err)
	}
	return &talker{n.t, inW, bufio.NewReader(outR)}
}

func (k *talker) say(line string) string {
	k.t.Helper()
	if _, err := io.WriteString(k.in, line); err != nil {
		k.t.Error(err)
	}
	return k.line()
}

func (k *talker) line() string {
	k.t.Helper()
	line, err := k.out.ReadString('\n')
	if err != nil {
		k.t.Error(err)
	}
	return line
}

// checkCount finds a lost, doubled or torn line in the log of counter.
func checkCount(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for line := range strings.Lines(string(data)) {
		i++
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || fields[1] != "stdout" || fields[2] != "F" || fields[3] != strconv.Itoa(i) {
			t.Fatalf("%s: line %d is %q", path, i, line)
		}
	}
	t.Logf("%d lines", i)
}

// A monitor that an earlier straked has started does not keep the network namespace: then
// that is mounted.
func TestRealOlderMonitor(t *testing.T) {
	n := newRealNode(t)
	m := n.open()
	m.o.Monitors = olderMonitors{}
	pod := n.run(m, n.pod("older"))
	path := filepath.Join(n.state, "netns", pod)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(mounts), path) {
		t.Errorf("%s is not mounted (%v)", path, err)
	}
	id := n.start(m, pod, ContainerConfig{Name: "c", Command: []string{"/bin/sleep", "1000"}})
	netns := strings.TrimSpace(n.sh(m, id, "stat -L -c %i /proc/self/ns/net"))
	if info, err := os.Stat(path); err != nil || strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10) != netns {
		t.Errorf("the container is in %s, %s is %v, %v", netns, path, info, err)
	}
	if err := m.Close(t.Context()); err != nil { // the next one finds a mount, as the earlier left it
		t.Fatal(err)
	}
	m = n.open()
	n.alive(m, id)
	if now := strings.TrimSpace(n.sh(m, id, "stat -L -c %i /proc/self/ns/net")); now != netns {
		t.Errorf("network namespace %s, was %s", now, netns)
	}
}

// A monitor that nothing can replace takes its pods' network namespaces along: no link is left
// that would lead to another process's descriptor one day, also not by way of a restart.
func TestRealMonitorNotReplaced(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %t", restarted), func(t *testing.T) {
			n := newRealNode(t)
			broken := filepath.Join(t.TempDir(), "broken")
			n.change = func(o *Options) {
				program := filepath.Join(filepath.Dir(broken), "monitor")
				script := fmt.Sprintf("#!/bin/sh\n[ \"$7\" = delete ] || [ ! -e %s ] || exit 1\nexec %s \"$@\"\n", broken, o.Runtimes["strake"].Monitor)
				if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
					t.Fatal(err)
				}
				o.Runtimes["strake"] = Runtime{Monitor: program}
			}
			m := n.open()
			pod := n.run(m, n.pod("lost"))
			id := n.start(m, pod, ContainerConfig{Name: "c", Command: []string{"/bin/sleep", "1000"}})
			if err := os.WriteFile(broken, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if restarted {
				if err := m.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			n.killMonitor()
			if restarted {
				m = n.open()
			}
			if s := mustExit(t, m, id); s.ExitCode != exitLost {
				t.Errorf("container: %+v", s)
			}
			if at, err := os.Readlink(filepath.Join(n.state, "netns", pod)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its network namespace is still said to be at %s (%v)", at, err)
			}
			if err := m.StopPod(t.Context(), pod); err != nil {
				t.Error(err)
			}
		})
	}
}

type olderMonitors struct{ ShimMonitors }

func (o olderMonitors) Start(ctx context.Context, options client.StartOptions) (Monitor, error) {
	conn, err := o.ShimMonitors.Start(ctx, options)
	return olderMonitor{conn}, err
}

type olderMonitor struct{ Monitor }

func (o olderMonitor) StartSandbox(ctx context.Context, id string) (client.Sandbox, error) {
	s, err := o.Monitor.StartSandbox(ctx, id)
	delete(s.Namespaces, "network")
	return s, err
}

// netns is the inode of a pod's network namespace, which takes no mount on the host.
func (n *realNode) netns(pod string) string {
	n.t.Helper()
	path := filepath.Join(n.state, "netns", pod)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), path) {
		n.t.Errorf("%s is a mount (%v)", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
}

// killMonitor kills a monitor.
func (n *realNode) killMonitor() {
	n.t.Helper()
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		data, err := os.ReadFile(c)
		if err != nil || !bytes.Contains(data, []byte(n.state)) || !bytes.HasSuffix(data, []byte("serve\x00")) {
			continue
		}
		cgroup, _ := os.ReadFile(filepath.Dir(c) + "/cgroup")
		if bytes.Contains(cgroup, []byte(n.cgroup+"/")) {
			continue // an init that waits to be started has its maker's command line
		}
		var pid int
		if _, err := fmt.Sscanf(c, "/proc/%d/", &pid); err != nil {
			n.t.Fatal(err)
		}
		pidfd, err := sys.OpenPidFD(pid)
		if err != nil {
			n.t.Fatal(err)
		}
		defer func() { _ = pidfd.Close() }()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			n.t.Fatal(err)
		}
		if err := sys.WaitReadable(n.t.Context(), pidfd); err != nil {
			n.t.Fatal(err)
		}
		return
	}
	n.t.Fatal("no monitor")
}

// A container that waits to be started outlives its monitor, too.
func TestRealMonitorKilledBeforeStart(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	config := n.pod("waits")
	pod := n.run(m, config)
	runs := n.start(m, pod, ContainerConfig{Name: "runs", Command: []string{"/bin/sleep", "1000"}})
	id, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: "waits", Image: "busybox", Command: []string{"/bin/sh", "-c", "exit 9"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n.killMonitor()
		n.alive(m, runs)
		if s := mustContainer(t, m, id); s.State != ContainerCreated {
			t.Fatalf("container: %+v", s)
		}
	}
	if err := m.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if s := mustExit(t, m, id); s.ExitCode != 9 && testutil.ExitsAreKept() {
		t.Errorf("container: %+v", s)
	}
}

// A monitor is killed while it removes a container, whose config has gone and whose record
// has not: the next one removes the rest.
func TestRealMonitorKilledInRemoval(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("removes"))
	runs := n.start(m, pod, ContainerConfig{Name: "runs", Command: []string{"/bin/sleep", "1000"}})
	id := n.start(m, pod, ContainerConfig{Name: "goes", Command: []string{"/bin/sleep", "1000"}})
	n.cutOffRemoval(m, id)
	n.alive(m, runs)
	mustExit(t, m, id)
	if err := m.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// The one that replaces a monitor cannot finish the removal that was cut off: whoever removes
// the container does.
func TestRealRemovalThatTheNextMonitorCannotFinish(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("removes"))
	runs := n.start(m, pod, ContainerConfig{Name: "runs", Command: []string{"/bin/sleep", "1000"}})
	id := n.start(m, pod, ContainerConfig{Name: "goes", Command: []string{"/bin/sleep", "1000"}})
	dir := filepath.Join(m.runtimeState(), id)
	busy := filepath.Join(dir, "busy") // it cannot be removed, for now
	if err := errors.Join(os.Mkdir(busy, 0o700), sys.MountFS("tmpfs", "busy", busy, nil)); err != nil {
		t.Fatal(err)
	}
	n.cutOffRemoval(m, id)
	n.alive(m, runs)
	mustExit(t, m, id)
	if err := sys.Unmount(busy); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its state directory is left: %v", err)
	}
}

// cutOffRemoval has a monitor die as if it had just ended a container and were in the middle
// of removing its state.
func (n *realNode) cutOffRemoval(m *Manager, id string) {
	n.t.Helper()
	if err := syscall.Kill(n.monitorsAre(1)[0], syscall.SIGSTOP); err != nil { // it sees nothing of what follows
		n.t.Fatal(err)
	}
	init, err := sys.OpenPidFD(mustContainer(n.t, m, id).Pid)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = init.Close() }()
	err = errors.Join(sys.KillPidFD(sys.Fd(init), syscall.SIGKILL), sys.WaitReadable(n.t.Context(), init),
		os.Remove(filepath.Join(m.runtimeState(), id, "config.json")))
	if err != nil {
		n.t.Fatal(err)
	}
	n.killMonitor()
}

// openGate lets a container that waits for its start run, without anybody's being told.
func (n *realNode) openGate(m *Manager, id string) {
	n.t.Helper()
	gate, err := sys.DialPacket(filepath.Join(m.runtimeState(), id), "start.sock")
	if err != nil {
		n.t.Fatal(err)
	}
	_, _ = gate.Read(make([]byte, 1024)) // its end is that of the gate
	if err := gate.Close(); err != nil {
		n.t.Fatal(err)
	}
}

// The start of a container was cut off and its init comes out of the gate late: when
// another monitor has it already, which takes it for one that waits.
func TestRealLateStart(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("late"))
	runs := n.start(m, pod, ContainerConfig{Name: "runs", Command: []string{"/bin/sleep", "1000"}})
	create := func(name string) string {
		id, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: name, Image: "busybox", Command: []string{"/bin/sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	asked, found := create("asked"), create("found")
	n.killMonitor()
	n.alive(m, runs)
	for _, id := range []string{asked, found} {
		n.openGate(m, id)
	}
	if err := m.StartContainer(t.Context(), asked); err != nil {
		t.Error(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = n.open()
	for _, id := range []string{asked, found} {
		if s := mustContainer(t, m, id); s.State != ContainerRunning || s.StartedAt.IsZero() {
			t.Errorf("container: %+v", s)
		}
	}
}

// The next monitor cannot open a container's log, whose directory has gone: the container
// runs on all the same, what it writes meanwhile is counted as lost, and a log that is
// there again says so.
func TestRealMonitorKilledWithoutLog(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	config := n.pod("logless")
	pod := n.run(m, config)
	other := n.start(m, pod, ContainerConfig{Name: "other", Command: []string{"/bin/sleep", "1000"}})
	id := n.start(m, pod, ContainerConfig{Name: "writes", LogPath: "writes/0.log", Command: []string{"/bin/sleep", "1000"}})
	was := mustContainer(t, m, id)
	logs := filepath.Dir(was.LogPath)
	if err := os.Rename(logs, logs+".gone"); err != nil {
		t.Fatal(err)
	}
	n.killMonitor()
	n.alive(m, other)
	if s := mustContainer(t, m, id); s.State != ContainerRunning || s.Pid != was.Pid {
		t.Fatalf("container: %+v, was %+v", s, was)
	}
	n.sh(m, id, "echo lost >/proc/1/fd/1")
	monitor, err := m.containers[id].running()
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := monitor.ContainerStatus(t.Context(), id)
		if err != nil || s.LogLostBytes > 0 && !strings.Contains(s.LogError, "no such file") {
			t.Fatalf("%+v, %v", s, err)
		}
		if s.LogLostBytes > 0 {
			break
		}
	}
	if err := os.Rename(logs+".gone", logs); err != nil {
		t.Fatal(err)
	}
	if err := m.ReopenLog(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.sh(m, id, "echo kept >/proc/1/fd/1")
	if err := m.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(was.LogPath)
	if err != nil || !strings.Contains(string(data), "are lost here") || !strings.HasSuffix(string(data), " stdout F kept\n") {
		t.Errorf("%q, %v", data, err)
	}
}

// A container that the next monitor cannot take over ends: nobody else could end it.
func TestRealMonitorKilledAndNotAdopted(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("broken"))
	other := n.start(m, pod, ContainerConfig{Name: "other", Command: []string{"/bin/sleep", "1000"}})
	id := n.start(m, pod, ContainerConfig{Name: "broken", Command: []string{"/bin/sleep", "1000"}})
	init, err := sys.OpenPidFD(mustContainer(t, m, id).Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = init.Close() }()
	fifo := filepath.Join(m.containerState(pod, id), "stdout")
	if err := errors.Join(os.Remove(fifo), os.WriteFile(fifo, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	n.killMonitor()
	n.alive(m, other)
	if s := mustExit(t, m, id); s.Reason != ReasonUnknown {
		t.Errorf("container: %+v", s)
	}
	if err := sys.WaitReadable(t.Context(), init); err != nil {
		t.Error(err)
	}
	if err := m.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// The start of a container was cut off, and its command has run and ended before anybody saw
// that: it has been started.
func TestRealLateStartThatEnds(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 8
	m := n.open()
	pod := n.run(m, n.pod("late"))
	runs := n.start(m, pod, ContainerConfig{Name: "runs", Command: []string{"/bin/sleep", "1000"}})
	id, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: "ends", Image: "busybox", Command: []string{"/bin/sh", "-c", "exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	n.killMonitor()
	n.alive(m, runs)
	n.openGate(m, id)
	if s := mustExit(t, m, id); s.ExitCode != 3 || s.StartedAt.IsZero() || s.StartedAt.After(s.FinishedAt) {
		t.Errorf("container: %+v", s)
	}
}
