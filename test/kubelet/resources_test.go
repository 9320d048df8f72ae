package kubelet

import "strings"

// resizePod is changed while it runs: because its UID is its own and not one
// made from the manifest, the kubelet takes the second manifest for the same pod,
// and resizes it in place.
const resizePod = `
apiVersion: v1
kind: Pod
metadata: {name: resize, uid: 7d1f5a6e-5c5f-4d63-9a0a-5f6f0e6b1c11}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: kept
    image: {{.Image}}
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: {{.CPU}}m, memory: {{.Memory}}Mi}}
  - name: again
    image: {{.Image}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: {{.CPU}}m, memory: {{.Memory}}Mi}}
`

func prepareResize(*pod) map[string]any { return map[string]any{"CPU": 100, "Memory": 32} }

func checkResize(p *pod) {
	before := p.awaitReady()
	uid, kept := before.Metadata.UID, before.container("kept").id()
	for _, c := range []struct {
		cpu, memory    int
		container, pod string
	}{
		{100, 32, "memory 33554432, cpu 10000/100000", "memory 67108864, cpu 20000/100000"},
		{200, 64, "memory 67108864, cpu 20000/100000", "memory 134217728, cpu 40000/100000"},
		{150, 48, "memory 50331648, cpu 15000/100000", "memory 100663296, cpu 30000/100000"},
	} {
		p.apply(resizePod, map[string]any{"CPU": c.cpu, "Memory": c.memory})
		for _, at := range []struct{ id, want string }{{kept, c.container}, {uid, c.pod}} {
			got := ""
			p.k.until(p.t, at.id+" has "+at.want, func() bool {
				got = p.k.cgroups.limits(at.id)
				return got == at.want
			}, func() any { return got })
		}
	}
	s := p.await("the other was restarted and has the last limits", func(s *podStatus) bool {
		again := s.container("again")
		return again.RestartCount >= 2 && again.running() && p.k.cgroups.limits(again.id()) == "memory 50331648, cpu 15000/100000"
	})
	if got := s.container("kept"); got.RestartCount != 0 || got.id() != kept {
		p.t.Errorf("what is resized in place was restarted: %+v", got)
	}
}

// limitsPod has limits as a pod, above those of its containers.
const limitsPod = `
apiVersion: v1
kind: Pod
metadata: {name: limits}
spec:
  terminationGracePeriodSeconds: 1
  resources: {requests: {cpu: 120m, memory: 32Mi}, limits: {cpu: 300m, memory: 48Mi}}
  containers:
  - name: one
    image: {{.Image}}
    resources: {limits: {cpu: 100m, memory: 24Mi}}
  - name: two
    image: {{.Image}}
`

func checkLimits(p *pod) {
	s := p.awaitReady()
	for id, want := range map[string]string{
		s.Metadata.UID:          "memory 50331648, cpu 30000/100000",
		s.container("one").id(): "memory 25165824, cpu 10000/100000",
	} {
		if got := p.k.cgroups.limits(id); got != want {
			p.t.Errorf("limits of %s: %s, want %s", id, got, want)
		}
	}
	if got := p.k.cgroups.read(s.Metadata.UID, "pids.max"); got != "100" {
		p.t.Errorf("the pod's limit of processes is %s", got)
	}
	// A limit is one of the whole pod: the other container may not fork either.
	status, out := p.exec("two", "for i in $(yes | head -n 200); do sleep 100 > /dev/null 2>&1 & done")
	if !strings.Contains(out, "fork") {
		p.t.Errorf("200 processes where 100 may be: %d, %s", status, out)
	}
}
