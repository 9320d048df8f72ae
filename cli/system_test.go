package cli

import (
	"encoding/json"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestEvent(t *testing.T) {
	pod := &cri.PodSandboxStatus{Id: "aaaabbbbccccdddd", Metadata: &cri.PodSandboxMetadata{Name: "web", Namespace: "default"}, Labels: map[string]string{"app": "x"}}
	exited := []*cri.ContainerStatus{{Id: "other"}, {Id: "0123456789abcdef", Metadata: &cri.ContainerMetadata{Name: "main"}, ExitCode: 137, Reason: "OOMKilled"}}
	for _, c := range []struct {
		event      *cri.ContainerEventResponse
		text, json string
	}{
		{
			&cri.ContainerEventResponse{ContainerId: pod.Id, PodSandboxStatus: pod, CreatedAt: 1e9, ContainerEventType: cri.ContainerEventType_CONTAINER_CREATED_EVENT},
			"1970-01-01T00:00:01Z pod created aaaabbbbcccc default/web",
			`{"time":"1970-01-01T00:00:01Z","kind":"pod","event":"created","id":"aaaabbbbccccdddd","pod":"default/web","podId":"aaaabbbbccccdddd","podLabels":{"app":"x"}}`,
		},
		{
			&cri.ContainerEventResponse{ContainerId: "0123456789abcdef", PodSandboxStatus: pod, CreatedAt: 2e9 + 5, ContainersStatuses: exited, ContainerEventType: cri.ContainerEventType_CONTAINER_STOPPED_EVENT},
			"1970-01-01T00:00:02.000000005Z container stopped 0123456789ab default/web/main exit=137 reason=OOMKilled",
			`{"time":"1970-01-01T00:00:02.000000005Z","kind":"container","event":"stopped","id":"0123456789abcdef","name":"main","pod":"default/web","podId":"aaaabbbbccccdddd","exitCode":137,"reason":"OOMKilled","podLabels":{"app":"x"}}`,
		},
	} {
		e := newEvent(c.event)
		if e.String() != c.text {
			t.Errorf("got  %s\nwant %s", e, c.text)
		}
		if text, err := json.Marshal(e); err != nil || string(text) != c.json {
			t.Errorf("got  %s, %v\nwant %s", text, err, c.json)
		}
	}
}
