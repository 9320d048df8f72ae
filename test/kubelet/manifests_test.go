package kubelet

import (
	"flag"
	"regexp"
	"testing"
)

var only = flag.String("pods", "", "run only the manifests whose name matches this regular expression")

// manifest is a pod and what is to be seen of it.
type manifest struct {
	name     string
	manifest string
	prepare  func(*pod) map[string]any // may make files in the pod's directory; the template's values
	check    func(*pod)                // may remove the pod
}

// manifests are of static pods.
var manifests = []manifest{
	{"probes", probesPod, prepareProbes, checkProbes},
	{"inits", initsPod, nil, checkInits},
	{"ends", endsPod, nil, checkEnds},
	{"hooks", hooksPod, nil, checkHooks},
	{"volumes", volumesPod, prepareVolumes, checkVolumes},
	{"resize", resizePod, prepareResize, checkResize},
	{"limits", limitsPod, nil, checkLimits},
	{"logs", logsPod, nil, checkLogs},
	{"streams", streamsPod, nil, checkStreams},
	{"names", namesPod, nil, checkNames},
	{"host", hostPod, nil, checkHost},
	{"shared", sharedPod, nil, checkShared},
	{"userns", usernsPod, nil, checkUserns},
	{"security", securityPod, prepareSecurity, checkSecurity},
}

// lacking says what of this machine forbids a manifest; "" if nothing does.
var lacking = map[string]func(*pod) string{"userns": lackingUserns}

func TestManifests(t *testing.T) {
	n := startNode(t)
	start(t, n, nil, noEviction+patient).runAll(manifests)
}

// runAll has the pods run at once. Each is looked at in turn, while the others live on.
func (k *kubelet) runAll(manifests []manifest) {
	k.t.Helper()
	wanted := regexp.MustCompile(*only)
	pods := map[string]*pod{}
	for _, m := range manifests {
		if !wanted.MatchString(m.name) {
			continue
		}
		p := k.newPod(k.t, m.name)
		if lacks := lacking[m.name]; lacks != nil {
			if why := lacks(p); why != "" {
				k.t.Run(m.name, func(t *testing.T) { t.Skip(why) })
				continue
			}
		}
		var values map[string]any
		if m.prepare != nil {
			values = m.prepare(p)
		}
		p.apply(m.manifest, values)
		pods[m.name] = p
	}
	for _, m := range manifests {
		p := pods[m.name]
		if p == nil {
			continue
		}
		k.t.Run(m.name, func(t *testing.T) {
			p.t = t
			m.check(p)
		})
		p.t = k.t
	}
	for _, p := range pods {
		p.remove()
	}
	k.awaitNone()
}
