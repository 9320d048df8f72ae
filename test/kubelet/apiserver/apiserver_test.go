package apiserver

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

func start(t *testing.T) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // its listener has nothing to lose
	return s
}

// call makes a request and returns its status and body.
func call(t *testing.T, s *Server, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(got)
}

const podManifest = `{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: one, terminationGracePeriodSeconds: 7, containers: [{name: main, image: "x:1"}]}}`

func apply(t *testing.T, s *Server, manifest string) {
	t.Helper()
	if err := s.Apply(manifest); err != nil {
		t.Fatal(err)
	}
}

// pod decodes what the tests look at of pod a.
func pod(t *testing.T, s *Server) (p struct {
	Metadata struct {
		UID                        string
		Generation                 int
		DeletionGracePeriodSeconds *int
	}
	Spec   struct{ RestartPolicy string }
	Status struct {
		Conditions []struct{ Type, Status string }
		PodIPs     []struct{ IP string }
	}
}, found bool) {
	t.Helper()
	found, err := s.Get("pods", "default", "a", &p)
	if err != nil {
		t.Fatal(err)
	}
	return p, found
}

// A status patch merges lists by their keys, changes no generation, and is only for
// the pod that it means.
func TestPatch(t *testing.T) {
	s := start(t)
	apply(t, s, podManifest)
	for _, patch := range []string{
		`{"status": {"conditions": [{"type": "A", "status": "False"}, {"type": "B", "status": "True"}], "podIPs": [{"ip": "192.0.2.1"}]}}`,
		`{"status": {"$setElementOrder/conditions": [{"type": "A"}], "conditions": [{"type": "A", "status": "True"}, {"type": "B", "$patch": "delete"}]}}`,
	} {
		if code, answer := call(t, s, http.MethodPatch, "/api/v1/namespaces/default/pods/a/status", patch); code != http.StatusOK {
			t.Fatal(code, answer)
		}
	}
	p, _ := pod(t, s)
	if c := p.Status.Conditions; len(c) != 1 || c[0].Status != "True" || len(p.Status.PodIPs) != 1 {
		t.Errorf("%+v", p)
	}
	if p.Metadata.Generation != 1 || p.Spec.RestartPolicy != "Always" {
		t.Errorf("%+v", p)
	}
	if code, answer := call(t, s, http.MethodPatch, "/api/v1/namespaces/default/pods/a/status", `{"metadata": {"uid": "another's"}}`); code != http.StatusConflict {
		t.Error(code, answer)
	}
	if err := s.Patch("pods", "default", "a", `{"spec": {"priority": 5}}`); err != nil {
		t.Error(err)
	}
	if p, _ := pod(t, s); p.Metadata.Generation != 2 {
		t.Errorf("generation %d after a change of the spec", p.Metadata.Generation)
	}
}

// A pod of a node is marked, and goes when the kubelet deletes it without grace.
func TestDelete(t *testing.T) {
	s := start(t)
	apply(t, s, podManifest)
	for _, c := range []struct{ grace, want int }{{-1, 7}, {2, 2}} {
		if err := s.Delete("pods", "default", "a", c.grace); err != nil {
			t.Fatal(err)
		}
		if p, found := pod(t, s); !found || p.Metadata.DeletionGracePeriodSeconds == nil || *p.Metadata.DeletionGracePeriodSeconds != c.want {
			t.Errorf("grace %d: %+v", c.grace, p)
		}
	}
	p, _ := pod(t, s)
	const path = "/api/v1/namespaces/default/pods/a"
	if code, answer := call(t, s, http.MethodDelete, path, `{"gracePeriodSeconds": 0, "preconditions": {"uid": "another's"}}`); code != http.StatusConflict {
		t.Error(code, answer)
	}
	if code, answer := call(t, s, http.MethodDelete, path, `{"gracePeriodSeconds": 0, "preconditions": {"uid": "`+p.Metadata.UID+`"}}`); code != http.StatusOK {
		t.Error(code, answer)
	}
	if _, found := pod(t, s); found {
		t.Error("it is still there")
	}
	if code, answer := call(t, s, http.MethodGet, path, ""); code != http.StatusNotFound {
		t.Error(code, answer)
	}
}

// A watch has what is there, a bookmark, and then each change of what it selects.
func TestWatch(t *testing.T) {
	s := start(t)
	apply(t, s, podManifest)
	apply(t, s, strings.NewReplacer("name: a", "name: b", "one", "two").Replace(podManifest))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		s.URL+"/api/v1/pods?fieldSelector=spec.nodeName%3Done&sendInitialEvents=true&watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events := bufio.NewScanner(response.Body)
	next := func(kind, name string) {
		t.Helper()
		var e struct {
			Type   string
			Object struct {
				Metadata struct {
					Name        string
					Annotations map[string]string
				}
			}
		}
		if !events.Scan() || json.Unmarshal(events.Bytes(), &e) != nil {
			t.Fatalf("no event: %v, %s", events.Err(), events.Bytes())
		}
		if e.Type != kind || e.Object.Metadata.Name != name || (kind == "BOOKMARK") != (e.Object.Metadata.Annotations["k8s.io/initial-events-end"] == "true") {
			t.Fatalf("%+v, want %s of %s", e, kind, name)
		}
	}
	next("ADDED", "a")
	next("BOOKMARK", "")
	for _, name := range []string{"b", "a"} {
		if err := s.Patch("pods", "default", name, `{"status": {"phase": "Running"}}`); err != nil {
			t.Fatal(err)
		}
	}
	next("MODIFIED", "a")
	if _, answer := call(t, s, http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3Dtwo", ""); strings.Count(answer, `"kind":"Pod"`) != 1 {
		t.Error(answer)
	}
	if err := s.Delete("pods", "default", "a", 0); err != nil {
		t.Fatal(err)
	}
	next("DELETED", "a")
}
