package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/shim/client"
)

// monitorsAre waits until the node has so many monitors, all of which serve.
func (n *realNode) monitorsAre(want int) (pids []int) {
	n.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		pids = nil
		for c, cmdline := range n.processes() {
			var pid int
			if _, err := fmt.Sscanf(c, "/proc/%d/cmdline", &pid); err != nil || !strings.HasSuffix(cmdline, "\x00serve\x00") {
				continue
			}
			pids = append(pids, pid)
		}
		busy := false
		for _, i := range n.m.Dump().Monitors {
			busy = busy || i.State != "connected"
		}
		if len(pids) == want && !busy {
			return pids
		}
		if time.Now().After(end) {
			n.t.Fatalf("monitors %v, want %d; known: %+v", pids, want, n.m.Dump().Monitors)
		}
		time.Sleep(time.Millisecond)
	}
}

func only(t *testing.T, pids []int) int {
	t.Helper()
	if len(pids) != 1 {
		t.Fatalf("monitors %v", pids)
	}
	return pids[0]
}

// There is always a monitor for the next pod, and one without pods at most.
func TestRealSpare(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 2
	// A program that can be replaced.
	program := filepath.Join(n.root, "monitor")
	install := func(build string) {
		t.Helper()
		from, err := monitorBinary()
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program+".next", append(data, build...), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".next", program); err != nil {
			t.Fatal(err)
		}
	}
	install("first")
	n.change = func(o *Options) {
		o.Runtimes["strake"] = Runtime{Monitor: program}
		o.Runtimes["other"] = Runtime{Monitor: program, Env: []string{"A=B"}}
	}
	m := n.open()
	m.tendSpare()
	m.crews.tending.Wait()
	n.monitorsAre(0) // nobody has asked for one
	remove := func(pod string) {
		t.Helper()
		if err := m.RemovePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	monitorOf := func(pod string) int {
		t.Helper()
		p, err := m.findPod(pod)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.monitor.SandboxStatus(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		return s.Pid
	}

	m.KeepMonitorReady()
	first := only(t, n.monitorsAre(1))
	a, b := n.run(m, n.pod("a")), n.run(m, n.pod("b"))
	if monitorOf(a) != first || monitorOf(b) != first {
		t.Errorf("pods on monitors %d and %d, want %d", monitorOf(a), monitorOf(b), first)
	}
	only(t, n.monitorsAre(1)) // full, and none is started for who may never come
	c := n.run(m, n.pod("c"))
	n.monitorsAre(2)

	// One that is left while the others are full stays, until one of them has room.
	for range 2 {
		was := monitorOf(c)
		remove(c)
		n.monitorsAre(2)
		if c = n.run(m, n.pod("c")); monitorOf(c) != was {
			t.Errorf("the pod beside a full monitor is on %d, was on %d", monitorOf(c), was)
		}
	}
	remove(c)
	remove(a)
	if left := only(t, n.monitorsAre(1)); left != first {
		t.Errorf("monitor %d stays, the pods are on %d", left, first)
	}
	a, c = n.run(m, n.pod("a")), n.run(m, n.pod("c"))
	n.monitorsAre(2)
	remove(a)
	remove(b) // others are there
	second := only(t, n.monitorsAre(1))
	if second != monitorOf(c) {
		t.Errorf("monitor %d stays, the pod is on %d", second, monitorOf(c))
	}
	n.sh(m, n.start(m, c, ContainerConfig{Name: "main", Command: []string{"/bin/sleep", "1234"}}), "true")
	remove(c)
	if left := only(t, n.monitorsAre(1)); left != second {
		t.Errorf("monitor %d is the spare, the last pod was on %d", left, second)
	}

	// Another handler's is no spare, and does not end it.
	other := n.pod("other")
	o, err := m.RunPod(t.Context(), other, "other")
	if err != nil {
		t.Fatal(err)
	}
	n.monitorsAre(2)
	remove(o)
	if left := only(t, n.monitorsAre(1)); left != second {
		t.Errorf("monitor %d is the spare, was %d", left, second)
	}

	// One that was killed is noticed by the next pods, which come at once.
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pods := make(chan string, 2)
	for i := range 2 {
		go func() {
			id, err := m.RunPod(t.Context(), n.pod(fmt.Sprint("after", i)), "")
			if err != nil {
				t.Error(err)
			}
			pods <- id
		}()
	}
	for range 2 {
		if id := <-pods; id != "" {
			n.sh(m, n.start(m, id, ContainerConfig{Name: "main", Command: []string{"/bin/sleep", "1234"}}), "true")
			defer remove(id)
		}
	}
	third := only(t, n.monitorsAre(1))

	// What a monitor is started from has changed: who comes gets a new one.
	for _, p := range m.Pods(PodFilter{}) {
		remove(p.ID)
	}
	if left := only(t, n.monitorsAre(1)); left != third {
		t.Errorf("monitor %d is the spare, was %d", left, third)
	}
	install("another build")
	next := n.run(m, n.pod("next"))
	if monitorOf(next) == third {
		t.Error("a pod is on a monitor of the program before")
	}
	n.sh(m, n.start(m, next, ContainerConfig{Name: "main", Command: []string{"/bin/sleep", "1234"}}), "true")
	m.tendSpare() // as the next change of anything would
	m.crews.tending.Wait()
	if left := only(t, n.monitorsAre(1)); left != monitorOf(next) {
		t.Errorf("monitor %d is there, the pod is on %d", left, monitorOf(next))
	}
	remove(next)
	fourth := only(t, n.monitorsAre(1))

	// So have the settings.
	settings := *m.settings()
	settings.Debug = true
	change := func() {
		t.Helper()
		if _, err := m.Change(settings); err != nil {
			t.Fatal(err)
		}
		m.crews.tending.Wait()
	}
	change()
	if left := only(t, n.monitorsAre(1)); left == fourth {
		t.Error("the spare is as it was before the change")
	}
	settings.MonitorPods = 1
	change()
	n.monitorsAre(0)
	settings.MonitorPods = 2
	change()
	fifth := only(t, n.monitorsAre(1))
	settings.Runtimes["strake"] = Runtime{Monitor: program, Handler: client.Handler{Program: "/bin/false"}}
	change()
	n.monitorsAre(0)
	settings.DefaultRuntime = "other"
	change()
	if left := only(t, n.monitorsAre(1)); left == fifth {
		t.Error("the spare is as it was before the change")
	}

	settings.Runtimes["strake"], settings.DefaultRuntime = Runtime{Monitor: program}, "strake"
	change()
	only(t, n.monitorsAre(1))

	// A pod that outlives the Manager is on a monitor of unknown origin.
	p := n.run(m, n.pod("stays"))
	sixth := monitorOf(p)
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = n.open()
	m.KeepMonitorReady()
	m.crews.tending.Wait()
	if left := only(t, n.monitorsAre(1)); left != sixth || monitorOf(p) != sixth {
		t.Errorf("monitor %d is there, the pod is on %d, was on %d", left, monitorOf(p), sixth)
	}
	remove(p)
	if left := only(t, n.monitorsAre(1)); left == sixth {
		t.Error("the spare is a monitor that another Manager has started")
	}
	// The end of the test closes m, and looks for what is left.
}

// A Manager that cannot start its spare says so, and works.
func TestSpareFails(t *testing.T) {
	n := newRealNode(t)
	n.monitorPods = 50
	n.change = func(o *Options) {
		o.Runtimes["broken"] = Runtime{Monitor: filepath.Join(n.root, "none")}
		o.Runtimes["false"] = Runtime{Monitor: "/bin/false"}
		o.DefaultRuntime = "broken"
	}
	m := n.open()
	m.KeepMonitorReady()
	for _, broken := range []string{"broken", "false"} {
		settings := *m.settings()
		settings.DefaultRuntime = broken
		if _, err := m.Change(settings); err != nil {
			t.Fatal(err)
		}
		m.crews.tending.Wait()
		n.monitorsAre(0)
		if known := m.Dump().Monitors; len(known) > 0 || len(names(m.crewsDir())) > 0 {
			t.Errorf("known: %v, directories: %v", known, names(m.crewsDir()))
		}
	}
	pod, err := m.RunPod(t.Context(), n.pod("works"), "strake")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n.monitorsAre(0)
}
