package apiserver

import "strings"

// defaultPod sets what a pod from an API server always has: a kubelet relies on it.
func defaultPod(pod object) {
	spec := part(pod, "spec")
	for name, value := range map[string]any{
		"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
		"securityContext": object{}, "enableServiceLinks": true, "serviceAccountName": "default", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
	} {
		setDefault(spec, name, value)
	}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for c := range objects(spec[list]) {
			defaultContainer(c)
		}
	}
	for v := range objects(spec["volumes"]) {
		defaultVolume(v)
	}
	status := part(pod, "status")
	setDefault(status, "phase", "Pending")
}

func defaultContainer(c object) {
	pull := "IfNotPresent"
	if image, _ := c["image"].(string); strings.HasSuffix(image, ":latest") {
		pull = "Always"
	}
	setDefault(c, "imagePullPolicy", pull)
	setDefault(c, "terminationMessagePath", "/dev/termination-log")
	setDefault(c, "terminationMessagePolicy", "File")
	resources := part(c, "resources")
	if limits, ok := resources["limits"].(object); ok {
		requests := part(resources, "requests")
		for name, value := range limits {
			setDefault(requests, name, value)
		}
	}
	for p := range objects(c["ports"]) {
		setDefault(p, "protocol", "TCP")
	}
	for e := range objects(c["env"]) {
		if from, ok := e["valueFrom"].(object); ok {
			defaultField(from)
		}
	}
	for _, name := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		probe, ok := c[name].(object)
		if !ok {
			continue
		}
		for name, value := range map[string]any{"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3} {
			setDefault(probe, name, value)
		}
		if get, ok := probe["httpGet"].(object); ok {
			setDefault(get, "scheme", "HTTP")
		}
	}
}

func defaultVolume(v object) {
	for _, kind := range []string{"configMap", "secret", "downwardAPI", "projected"} {
		source, ok := v[kind].(object)
		if !ok {
			continue
		}
		setDefault(source, "defaultMode", 0o644)
		for item := range objects(source["items"]) {
			defaultField(item)
		}
		for s := range objects(source["sources"]) {
			if token, ok := s["serviceAccountToken"].(object); ok {
				setDefault(token, "expirationSeconds", 3600)
			}
			if info, ok := s["downwardAPI"].(object); ok {
				for item := range objects(info["items"]) {
					defaultField(item)
				}
			}
		}
	}
	if path, ok := v["hostPath"].(object); ok {
		setDefault(path, "type", "")
	}
}

func defaultField(from object) {
	if field, ok := from["fieldRef"].(object); ok {
		setDefault(field, "apiVersion", "v1")
	}
}

func setDefault(o object, name string, value any) {
	if _, ok := o[name]; !ok {
		o[name] = value
	}
}

// objects are those of a list that may be missing.
func objects(list any) func(yield func(object) bool) {
	items, _ := list.([]any)
	return func(yield func(object) bool) {
		for _, item := range items {
			if o, ok := item.(object); ok && !yield(o) {
				return
			}
		}
	}
}
