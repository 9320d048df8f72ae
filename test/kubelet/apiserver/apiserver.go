// Package apiserver is as much of a Kubernetes API server as one kubelet needs, and
// the tests that play its user, scheduler and controllers: it keeps the objects that
// either writes, as JSON, and tells the other of each change. It knows no types but
// for the few rules that the kubelet's own behaviour rests on: what pods are
// defaulted to, the grace of their deletion, and which lists are merged by a key.
// There is no authentication, no validation, no admission and no garbage collection.
//
// One lock guards the objects and the history; nothing is called with it held.
package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"sigs.k8s.io/yaml"
)

// object is one of any kind, as encoding/json decodes it.
type object = map[string]any

// Kinds of which there are objects: what a kubelet asks for and is not here has none.
var kinds = map[string]string{
	"nodes": "Node", "pods": "Pod", "services": "Service", "configmaps": "ConfigMap", "secrets": "Secret",
	"serviceaccounts": "ServiceAccount", "events": "Event", "namespaces": "Namespace", "leases": "Lease", "runtimeclasses": "RuntimeClass",
	"csinodes": "CSINode",
}

// key names an object. A resource is in one group only, of those that are here.
type key struct{ resource, namespace, name string }

// change is one entry of the history.
type change struct {
	kind string // ADDED, MODIFIED or DELETED
	key  key
	raw  []byte // the object after it; before it, when deleted
}

// Server is a running API server. Its methods may be used concurrently.
type Server struct {
	URL string

	http *http.Server
	done chan struct{} // closed by Close

	mu      sync.Mutex
	objects map[key][]byte
	history []change // a resourceVersion is how many there were
	changed chan struct{}
}

// Start serves on a loopback port, until Close.
func Start() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL: "http://" + l.Addr().String(), done: make(chan struct{}),
		objects: map[key][]byte{}, changed: make(chan struct{}),
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(l) }() // until Close, which is its only end
	return s, nil
}

// Close ends it, and the watches with it.
func (s *Server) Close() error {
	close(s.done)
	return s.http.Close()
}

// Kubeconfig is the client's configuration for it.
func (s *Server) Kubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %s}}]
contexts: [{name: test, context: {cluster: test}}]
current-context: test
`, s.URL)
}

// Apply makes the object of a manifest, or gives one that exists all that the
// manifest has, as kubectl apply --server-side does; lists are replaced.
func (s *Server) Apply(manifest string) error {
	var o object
	if err := yaml.Unmarshal([]byte(manifest), &o); err != nil {
		return err
	}
	k, err := keyOf(o)
	if err != nil {
		return err
	}
	if _, err = s.create(k, o); errors.Is(err, errExists) {
		_, err = s.update(k, func(old object) error { merge(old, o, nil); return nil })
	}
	return err
}

// Get decodes an object into v, or says that there is none.
func (s *Server) Get(resource, namespace, name string, v any) (found bool, err error) {
	s.mu.Lock()
	raw, found := s.objects[key{resource, namespace, name}]
	s.mu.Unlock()
	if !found {
		return false, nil
	}
	return true, json.Unmarshal(raw, v)
}

// Patch merges the JSON of patch into an object; lists are replaced.
func (s *Server) Patch(resource, namespace, name, patch string) error {
	var p object
	if err := json.Unmarshal([]byte(patch), &p); err != nil {
		return err
	}
	_, err := s.update(key{resource, namespace, name}, func(o object) error { merge(o, p, nil); return nil })
	return err
}

// Delete deletes an object, if it is there, as kubectl does: a pod that has a node is
// marked, and goes when its kubelet says so. Grace is in seconds; negative is the pod's own.
func (s *Server) Delete(resource, namespace, name string, grace int) error {
	var o deleteOptions
	if grace >= 0 {
		o.GracePeriodSeconds = &grace
	}
	if _, err := s.remove(key{resource, namespace, name}, o); !errors.Is(err, errNotFound) {
		return err
	}
	return nil
}

// Was says whether an object has ever been as is says; is gets its JSON.
func (s *Server) Was(resource, namespace, name string, is func(raw []byte) bool) bool {
	s.mu.Lock()
	history := slices.Clip(s.history)
	s.mu.Unlock()
	return slices.ContainsFunc(history, func(c change) bool {
		return c.key == key{resource, namespace, name} && is(c.raw)
	})
}

// All returns the JSON of each object of a resource.
func (s *Server) All(resource string) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]byte
	for k, raw := range s.objects {
		if k.resource == resource {
			all = append(all, raw)
		}
	}
	return all
}

// clusterScoped are the resources outside of namespaces.
var clusterScoped = []string{"nodes", "namespaces", "runtimeclasses", "csinodes"}

// keyOf reads a manifest's; a namespace that it does not name is default.
func keyOf(o object) (key, error) {
	meta, _ := o["metadata"].(object)
	name, _ := meta["name"].(string)
	for resource, kind := range kinds {
		if kind != o["kind"] || name == "" {
			continue
		}
		if slices.Contains(clusterScoped, resource) {
			return key{resource, "", name}, nil
		}
		namespace, _ := meta["namespace"].(string)
		if namespace == "" {
			namespace = "default"
		}
		return key{resource, namespace, name}, nil
	}
	return key{}, fmt.Errorf("manifest of kind %v and name %q: not one that is kept here", o["kind"], name)
}

// Errors that the API has a reason for.
var (
	errExists   = errors.New("already exists")
	errNotFound = errors.New("not found")
	errConflict = errors.New("another object has this name now")
)

// create makes a new object and returns its JSON.
func (s *Server) create(k key, o object) ([]byte, error) {
	o["kind"] = kinds[k.resource]
	meta := part(o, "metadata")
	meta["name"] = k.name
	if k.namespace != "" {
		meta["namespace"] = k.namespace
	}
	meta["uid"] = uuid.NewString()
	meta["generation"] = 1
	meta["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	if k.resource == "pods" {
		defaultPod(o)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[k]; ok {
		return nil, fmt.Errorf("%s %q: %w", k.resource, k.name, errExists)
	}
	return s.put("ADDED", k, o)
}

// update changes an object. A change of its spec is a new generation.
func (s *Server) update(k key, change func(object) error) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.get(k)
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(o["spec"])
	if err != nil {
		return nil, err
	}
	if err := change(o); err != nil {
		return nil, err
	}
	if k.resource == "pods" {
		defaultPod(o) // a container may be new
	}
	if now, err := json.Marshal(o["spec"]); err != nil || string(now) != string(spec) {
		meta := part(o, "metadata")
		generation, _ := meta["generation"].(float64) // as create made it
		meta["generation"] = generation + 1
	}
	return s.put("MODIFIED", k, o)
}

// deleteOptions are meta/v1's, as far as they are used.
type deleteOptions struct {
	GracePeriodSeconds *int
	Preconditions      struct{ UID string }
}

func (s *Server) remove(k key, options deleteOptions) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.get(k)
	if err != nil {
		return nil, err
	}
	meta, spec := part(o, "metadata"), part(o, "spec")
	if want := options.Preconditions.UID; want != "" && want != meta["uid"] {
		return nil, fmt.Errorf("%s %q: %w", k.resource, k.name, errConflict)
	}
	grace := 0
	if k.resource == "pods" && spec["nodeName"] != nil {
		if own, ok := spec["terminationGracePeriodSeconds"].(float64); ok {
			grace = int(own)
		}
		if options.GracePeriodSeconds != nil {
			grace = *options.GracePeriodSeconds
		}
	}
	if grace > 0 {
		meta["deletionTimestamp"] = time.Now().Add(time.Duration(grace) * time.Second).UTC().Format(time.RFC3339)
		meta["deletionGracePeriodSeconds"] = grace
		return s.put("MODIFIED", k, o)
	}
	raw, err := s.put("DELETED", k, o)
	delete(s.objects, k)
	return raw, err
}

// get and put are called with the lock held.
func (s *Server) get(k key) (object, error) {
	raw, ok := s.objects[k]
	if !ok {
		return nil, fmt.Errorf("%s %q: %w", k.resource, k.name, errNotFound)
	}
	var o object
	return o, json.Unmarshal(raw, &o)
}

func (s *Server) put(how string, k key, o object) ([]byte, error) {
	part(o, "metadata")["resourceVersion"] = strconv.Itoa(len(s.history) + 1)
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	s.objects[k] = raw
	s.history = append(s.history, change{how, k, raw})
	close(s.changed)
	s.changed = make(chan struct{})
	return raw, nil
}

// part is the object at name in o, made if there is none.
func part(o object, name string) object {
	p, ok := o[name].(object)
	if !ok {
		p = object{}
		o[name] = p
	}
	return p
}

// merge does RFC 7396. Lists named in mergeKeys, by the field that is the key of
// their items, are merged by it as a strategic merge patch does.
func merge(into, patch object, mergeKeys map[string]string) {
	for name, value := range patch {
		if strings.HasPrefix(name, "$") { // directives: the order, which nobody needs
			continue
		}
		list, isList := value.([]any)
		mergeKey := mergeKeys[name]
		switch old := into[name].(type) {
		case object:
			if value, ok := value.(object); ok {
				merge(old, value, mergeKeys)
				continue
			}
		case []any:
			if isList && mergeKey != "" {
				into[name] = mergeList(old, list, mergeKey, mergeKeys)
				continue
			}
		}
		switch {
		case value == nil:
			delete(into, name)
		case isList && mergeKey != "":
			into[name] = mergeList(nil, list, mergeKey, mergeKeys)
		default:
			into[name] = value
		}
	}
}

func mergeList(old, patch []any, mergeKey string, mergeKeys map[string]string) []any {
	for _, item := range patch {
		p, ok := item.(object)
		if !ok {
			continue
		}
		at := slices.IndexFunc(old, func(item any) bool { o, ok := item.(object); return ok && o[mergeKey] == p[mergeKey] })
		switch {
		case p["$patch"] == "delete":
			if at >= 0 {
				old = slices.Delete(old, at, at+1)
			}
		case p["$patch"] != nil: // replace: of the whole list
			old = nil
		case at >= 0:
			merge(old[at].(object), p, mergeKeys)
		default:
			old = append(old, p)
		}
	}
	return old
}
