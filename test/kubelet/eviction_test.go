package kubelet

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const mib = 1 << 20

// Memory of the pods together, in MiB: so much may they have as cgroups, and one is
// evicted when less than evictBelow of it is available. What else runs on this
// machine, and how much it has, does not count.
const (
	podsMemory = 384
	evictBelow = 128
)

// evicting has the kubelet evict pods for want of memory, and admit new ones soon after.
const evicting = `
enforceNodeAllocatable: [pods]
systemReserved: {memory: %dKi}
evictionHard: {memory.available: %dMi}
evictionPressureTransitionPeriod: 10s
featureGates: {PodAndContainerStatsFromCRI: %v}
`

// eaterPod takes so much memory, once it is told to, then more, and keeps it: dd fills a
// block that never becomes full.
const eaterPod = `
apiVersion: v1
kind: Pod
metadata: {name: {{.Name}}}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: eater
    image: {{.Image}}
    command: [sh, -c, "until test -e /eat; do sleep 1; done; (head -c {{.Eats}}m /dev/zero; touch /full; until test -e /more; do sleep 1; done; head -c {{.More}}m /dev/zero; exec sleep 1000000) | dd of=/dev/null bs=1000M iflag=fullblock"]
    resources: {requests: { {{.Requests}} }}
`

// TestEviction has a pod take so much memory that the kubelet must choose one to
// evict: by the stats of each, which it gets from straked or, in part, reads itself.
func TestEviction(t *testing.T) {
	for _, c := range []struct {
		name    string
		fromCRI bool
	}{{"stats from CRI", true}, {"stats from cAdvisor", false}} {
		t.Run(c.name, func(t *testing.T) { evict(t, c.fromCRI) })
	}
}

func evict(t *testing.T, fromCRI bool) {
	n := startNode(t)
	k := start(t, n, startAPI(t), fmt.Sprintf(evicting, memTotal(t)-podsMemory<<10, evictBelow, fromCRI))
	pods := map[string]*pod{}
	eat := func(name string, eats, more int, requests string) {
		p := k.newPod(t, name)
		p.apply(eaterPod, map[string]any{"Eats": eats, "More": more, "Requests": requests})
		p.await(name+" runs", func(s *podStatus) bool { return s.container("eater").running() })
		pods[name] = p
	}
	full := func(name string) *podStatus {
		pods[name].says("eater", "touch /eat; until test -e /full; do sleep 1; done", "")
		return pods[name].status()
	}

	// 1. Three pods, the one that will be the biggest the oldest. One has more than
	// the others, but no more than it asks for. The biggest has more than the small one
	// before it grows: the kubelet looks at stats that are some seconds old.
	const bigEats, bigMore = 60, 130
	eat("big", bigEats, bigMore, "")
	eat("entitled", 80, 0, "memory: 90Mi")
	eat("small", 20, 0, "")
	full("big")
	before := map[string]*podStatus{"entitled": full("entitled"), "small": full("small")}
	k.awaitNode(t, "there is no want of memory", func(n *nodeStatus) bool { return n.condition("MemoryPressure").Status == "False" })
	for name, want := range map[string]int{"small": 20, "entitled": 80, "big": bigEats} {
		k.awaitMemory(pods[name], want)
	}

	// 2. The big one grows, and is evicted.
	uid := pods["big"].status().Metadata.UID
	pods["big"].says("eater", "touch /more", "")
	s := pods["big"].await("the big pod has failed", func(s *podStatus) bool { return s.Status.Phase == "Failed" })
	if s.Status.Reason != "Evicted" {
		t.Errorf("the big pod: %+v", s.Status)
	}
	if end := s.container("eater").State.Terminated; end == nil || end.ExitCode != 137 {
		t.Errorf("its container: %+v", s.container("eater"))
	}
	if c := s.condition("DisruptionTarget"); c.Status != "True" || c.Reason != "TerminationByKubelet" {
		t.Errorf("its condition: %+v", c)
	}
	// What it had, then or before it grew: the number is of straked's stats, or of its cgroup.
	used := regexp.MustCompile(`Container eater was using (\d+)Ki, request is 0`).FindStringSubmatch(s.Status.Message)
	if used == nil {
		t.Errorf("its message: %s", s.Status.Message)
	} else if ki, _ := strconv.Atoi(used[1]); ki < bigEats<<10 || ki > (bigEats+bigMore+30)<<10 {
		t.Errorf("it had %d Ki, of %d to %d Mi that it takes", ki, bigEats, bigEats+bigMore)
	}
	if !k.wasNode(func(n *nodeStatus) bool { return n.condition("MemoryPressure").Status == "True" }) {
		k.awaitNode(t, "there is want of memory", func(n *nodeStatus) bool { return n.condition("MemoryPressure").Status == "True" })
	}

	// 3. Nothing of it runs, and its cgroup has gone.
	containers, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": uid},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers.Containers {
		if c.State != cri.ContainerState_CONTAINER_EXITED {
			t.Errorf("container %s of the evicted pod: %s", c.Id, c.State)
		}
	}
	var left []string
	k.until(t, "the evicted pod has no cgroup", func() bool {
		left = k.cgroups.of(uid)
		return len(left) == 0
	}, func() any { return left })

	// 4. The others were not disturbed; there is room for another again.
	k.awaitNode(t, "there is no want of memory any more", func(n *nodeStatus) bool { return n.condition("MemoryPressure").Status == "False" })
	eat("next", 10, 0, "")
	full("next")
	for name, before := range before {
		was, is := before.container("eater"), pods[name].status().container("eater")
		if !is.Ready || is.RestartCount != 0 || is.id() != was.id() {
			t.Errorf("%s was %+v, is %+v", name, was, is)
		}
	}

	// 5. All is deleted, and nothing is left.
	for _, p := range pods {
		p.remove()
	}
	k.awaitNone()
}

// awaitMemory waits until the kubelet's stats of a pod are of one that has eaten.
func (k *kubelet) awaitMemory(p *pod, eaten int) {
	p.t.Helper()
	const rest = 12 // what shells and their page tables may have
	within := func(bytes uint64) bool {
		return bytes >= uint64(eaten)*mib && bytes <= uint64(eaten+rest)*mib
	}
	var s podSummary
	k.until(p.t, fmt.Sprintf("the stats of %s are of one that has %d MiB", p.name, eaten), func() bool {
		s = k.summary(p)
		return len(s.Containers) == 1 && within(s.Memory.WorkingSetBytes) && within(s.Containers[0].Memory.WorkingSetBytes)
	}, func() any { return s })
}

// memTotal is the machine's memory in KiB.
func memTotal(t *testing.T) (kib int) {
	t.Helper()
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatalf("no MemTotal in %s", info)
	return 0
}
