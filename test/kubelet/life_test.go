package kubelet

import "strings"

// initsPod has an init container that fails once, a sidecar that the one behind
// it needs, and a container that ends. They write down their order.
const initsPod = `
apiVersion: v1
kind: Pod
metadata: {name: inits}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 60
  volumes: [{name: shared, hostPath: {path: {{.Dir}}, type: Directory}}]
  initContainers:
  - name: first
    image: {{.Image}}
    command: [sh, -c, "echo first >> /shared/order; test $(wc -l < /shared/order) = 2"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: sidecar
    image: {{.Image}}
    restartPolicy: Always
    command: [sh, -c, "trap 'echo sidecar ends >> /shared/order; exit 0' TERM; echo sidecar >> /shared/order; httpd -p 8080 -h /shared; while true; do sleep 1; done"]
    startupProbe: {httpGet: {path: /order, port: 8080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1000}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: second
    image: {{.Image}}
    command: [sh, -c, "wget -q -O /shared/seen http://127.0.0.1:8080/order && echo second >> /shared/order"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: {{.Image}}
    command: [sh, -c, "echo main >> /shared/order; until test -e /shared/go; do sleep 1; done; echo main ends >> /shared/order"]
    volumeMounts: [{name: shared, mountPath: /shared}]
`

func checkInits(p *pod) {
	p.await("main runs", func(s *podStatus) bool { return s.container("main").running() })
	order := "first\nfirst\nsidecar\nsecond\nmain\n"
	p.awaitFile("order", order)
	p.awaitFile("seen", "first\nfirst\nsidecar\n")

	p.says("sidecar", "kill 1", "")
	order += "sidecar ends\nsidecar\n"
	p.awaitFile("order", order)
	s := p.await("the sidecar was restarted", func(s *podStatus) bool {
		return s.container("sidecar").RestartCount == 1 && s.container("sidecar").running()
	})
	if code, reason, _ := s.container("sidecar").lastExit(); code != 0 || reason != "Completed" {
		p.t.Errorf("the sidecar ended with %d, %s", code, reason)
	}

	p.says("main", "touch /shared/go", "")
	s = p.await("the pod has succeeded", func(s *podStatus) bool { return s.Status.Phase == "Succeeded" })
	p.awaitFile("order", order+"main ends\nsidecar ends\n")
	if end := s.container("main").State.Terminated; end == nil || end.ExitCode != 0 {
		p.t.Errorf("main: %+v", end)
	}
}

// endsPod has containers that end in several ways, and are started again.
const endsPod = `
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: message
    image: {{.Image}}
    command: [sh, -c, "echo log; printf told > /tmp/last; exit 4"]
    terminationMessagePath: /tmp/last
  - name: words
    image: {{.Image}}
    command: [sh, -c, "echo what was said last; exit 5"]
    terminationMessagePolicy: FallbackToLogsOnError
  - name: signal
    image: {{.Image}}
    command: [sh, -c, "sleep 1 & kill -9 $! ; wait $!"]
  - name: hungry
    image: {{.Image}}
    command: [dd, if=/dev/zero, of=/dev/null, bs=64M, count=1]
    resources: {limits: {memory: 16Mi}}
  - name: missing
    image: {{.Image}}
    command: [/no/such/program]
  - name: nohook
    image: {{.Image}}
    lifecycle: {postStart: {exec: {command: ["false"]}}}
  - name: rules
    image: {{.Image}}
    restartPolicy: Never
    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]
    command: [sh, -c, "if test -e /dev/shm/again; then exit 43; fi; touch /dev/shm/again; exit 42"]
`

func checkEnds(p *pod) {
	for _, c := range []struct {
		name    string
		code    int
		reason  string
		message string
	}{
		{"message", 4, "Error", "told"},
		{"words", 5, "Error", "what was said last\n"},
		{"signal", 137, "Error", ""},
		{"hungry", 137, "OOMKilled", ""},
	} {
		s := p.await(c.name+" was restarted twice, with a wait between", func(s *podStatus) bool {
			got := s.container(c.name)
			return got.RestartCount >= 2 && got.backedOff()
		})
		if code, reason, message := s.container(c.name).lastExit(); code != c.code || reason != c.reason || message != c.message {
			p.t.Errorf("%s ended with %d, %q, %q; want %d, %q, %q", c.name, code, reason, message, c.code, c.reason, c.message)
		}
	}
	p.await("the program that is missing is named", func(s *podStatus) bool {
		waits := s.container("missing").State.Waiting
		return waits.Reason == "CreateContainerError" && strings.Contains(waits.Message, "/no/such/program")
	})
	s := p.await("what has a failing hook was killed and restarted", func(s *podStatus) bool { return s.container("nohook").RestartCount >= 1 })
	if code, _, _ := s.container("nohook").lastExit(); code != 137 {
		p.t.Errorf("nohook ended with %d", code)
	}
	s = p.await("the rules' container has ended for good", func(s *podStatus) bool {
		end := s.container("rules").State.Terminated
		return end != nil && end.ExitCode == 43
	})
	if got := s.container("rules").RestartCount; got != 1 {
		p.t.Errorf("it was restarted %d times, want once", got)
	}
}

// hooksPod has lifecycle hooks, and containers that end slowly.
const hooksPod = `
apiVersion: v1
kind: Pod
metadata: {name: hooks}
spec:
  terminationGracePeriodSeconds: 15
  volumes: [{name: shared, hostPath: {path: {{.Dir}}, type: Directory}}]
  containers:
  - name: hooked
    image: {{.Image}}
    command: [sh, -c, "trap 'echo terminated >> /shared/hooks; exit 0' TERM; until test -e /shared/hooks; do sleep 1; done; echo runs >> /shared/hooks; while true; do sleep 1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo started >> /shared/hooks"]}}
      preStop: {exec: {command: [sh, -c, "echo stopping >> /shared/hooks"]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: patient
    image: {{.Image}}
    command: [sh, -c, "trap 'echo slept >> /shared/patient; exit 0' TERM; while true; do sleep 1; done"]
    lifecycle: {preStop: {sleep: {seconds: 1}}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: stubborn
    image: {{.Image}}
    command: [sh, -c, "trap 'echo ignored >> /shared/stubborn' TERM; while true; do sleep 1; done"]
    volumeMounts: [{name: shared, mountPath: /shared}]
`

func checkHooks(p *pod) {
	p.awaitReady()
	p.awaitFile("hooks", "started\nruns\n")
	p.remove()
	p.awaitFile("hooks", "started\nruns\nstopping\nterminated\n")
	p.awaitFile("patient", "slept\n")
	p.awaitFile("stubborn", "ignored\n") // and is killed: it ends no other way, and at last no pod is left
}
