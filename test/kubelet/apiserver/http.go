package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// request is what a path and a query of the API say.
type request struct {
	key
	subresource string
	group       string // and version: "v1", "coordination.k8s.io/v1"
	fields      map[string]string
}

// parse reads /api/v1/… and /apis/GROUP/VERSION/….
func parse(r *http.Request) (q request, ok bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		q.group, parts = parts[1], parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		q.group, parts = parts[1]+"/"+parts[2], parts[3:]
	default:
		return q, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		q.namespace, parts = parts[1], parts[2:]
	}
	for i, to := range []*string{&q.resource, &q.name, &q.subresource} {
		if i < len(parts) {
			*to = parts[i]
		}
	}
	q.fields = map[string]string{}
	if selector := r.URL.Query().Get("fieldSelector"); selector != "" {
		for term := range strings.SplitSeq(selector, ",") {
			name, value, _ := strings.Cut(term, "=")
			q.fields[name] = strings.TrimPrefix(value, "=")
		}
	}
	return q, true
}

// selects says whether a list or watch has the object.
func (q request) selects(k key, raw []byte) bool {
	if k.resource != q.resource || q.namespace != "" && k.namespace != q.namespace {
		return false
	}
	var o object
	if len(q.fields) > 0 && json.Unmarshal(raw, &o) != nil {
		return false
	}
	for path, want := range q.fields {
		var at any = o
		for name := range strings.SplitSeq(path, ".") {
			in, _ := at.(object)
			at = in[name]
		}
		if at != want {
			return false
		}
	}
	return true
}

// mergeKeys are of the lists in the statuses that a kubelet patches.
var mergeKeys = map[string]string{
	"conditions": "type", "addresses": "type", "podIPs": "ip", "hostIPs": "ip",
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	q, ok := parse(r)
	if !ok {
		fail(w, fmt.Errorf("%s: %w", r.URL.Path, errNotFound))
		return
	}
	query := r.URL.Query()
	if r.Method == http.MethodGet && q.name == "" {
		if query.Get("watch") == "true" || query.Get("watch") == "1" {
			s.watch(w, r, q)
		} else {
			s.list(w, q)
		}
		return
	}
	var body object
	if r.Method != http.MethodGet && r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			fail(w, err)
			return
		}
	}
	raw, err := s.change(r.Method, q, body)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, raw)
}

// change does what a request about one object says, and returns the object.
func (s *Server) change(method string, q request, body object) ([]byte, error) {
	switch {
	case method == http.MethodPost && q.subresource == "token":
		// Nobody verifies it.
		part(body, "status")["token"] = "token of " + q.name + " " + uuid.NewString()
		part(body, "status")["expirationTimestamp"] = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		return json.Marshal(body)
	case method == http.MethodPost:
		if kinds[q.resource] == "" {
			return nil, fmt.Errorf("resource %s: %w", q.resource, errNotFound)
		}
		name, _ := part(body, "metadata")["name"].(string)
		body["apiVersion"] = q.group
		return s.create(key{q.resource, q.namespace, name}, body)
	case method == http.MethodGet:
		s.mu.Lock()
		defer s.mu.Unlock()
		o, err := s.get(q.key)
		if err != nil {
			return nil, err
		}
		return json.Marshal(o)
	case method == http.MethodPut:
		return s.update(q.key, func(o object) error {
			old := part(o, "metadata")
			clear(o)
			for name, value := range body {
				o[name] = value
			}
			meta := part(o, "metadata")
			for _, name := range []string{"uid", "generation", "creationTimestamp"} {
				meta[name] = old[name]
			}
			return nil
		})
	case method == http.MethodPatch:
		return s.update(q.key, func(o object) error {
			if uid := part(body, "metadata")["uid"]; uid != nil && uid != part(o, "metadata")["uid"] {
				return fmt.Errorf("%s %q: %w", q.resource, q.name, errConflict)
			}
			merge(o, body, mergeKeys)
			return nil
		})
	case method == http.MethodDelete && q.name == "": // a collection of what is not here
		return json.Marshal(object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
	case method == http.MethodDelete:
		var options deleteOptions
		raw, err := json.Marshal(body)
		if err == nil {
			err = json.Unmarshal(raw, &options)
		}
		if err != nil {
			return nil, err
		}
		return s.remove(q.key, options)
	}
	return nil, fmt.Errorf("%s of %s: %w", method, q.resource, errNotFound)
}

// selected are the objects of a list, in the order of their names, and its version.
func (s *Server) selected(q request) (items []json.RawMessage, version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []key
	for k, raw := range s.objects {
		if q.selects(k, raw) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.namespace+"/"+a.name, b.namespace+"/"+b.name) })
	for _, k := range keys {
		items = append(items, s.objects[k])
	}
	return items, len(s.history)
}

func (s *Server) list(w http.ResponseWriter, q request) {
	items, version := s.selected(q)
	if items == nil {
		items = []json.RawMessage{}
	}
	list := object{"metadata": object{"resourceVersion": strconv.Itoa(version)}, "items": items}
	if kind := kinds[q.resource]; kind != "" {
		list["kind"], list["apiVersion"] = kind+"List", q.group
	}
	raw, err := json.Marshal(list)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, raw)
}

// watch sends the changes since a version, or what is there and a bookmark first,
// until the client or the server goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, q request) {
	kind := kinds[q.resource]
	query := r.URL.Query()
	since, _ := strconv.Atoi(query.Get("resourceVersion")) // none is 0: all
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w).Flush
	send := func(how string, raw json.RawMessage) {
		_ = out.Encode(object{"type": how, "object": raw}) // the client may have gone: r.Context says so
	}
	if query.Get("sendInitialEvents") == "true" || since == 0 {
		var items []json.RawMessage
		items, since = s.selected(q)
		for _, raw := range items {
			send("ADDED", raw)
		}
		if query.Get("sendInitialEvents") == "true" {
			if kind == "" {
				kind = emptyKinds[q.resource]
			}
			raw, _ := json.Marshal(object{"kind": kind, "apiVersion": q.group, "metadata": object{ // strings
				"resourceVersion": strconv.Itoa(since), "annotations": object{"k8s.io/initial-events-end": "true"},
			}})
			send("BOOKMARK", raw)
		}
	}
	for {
		s.mu.Lock()
		news, changed := slices.Clip(s.history)[min(since, len(s.history)):], s.changed
		s.mu.Unlock()
		for _, c := range news {
			since++
			if q.selects(c.key, c.raw) {
				send(c.kind, c.raw)
			}
		}
		if flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		}
	}
}

// emptyKinds are of the resources that are watched and have no objects here.
var emptyKinds = map[string]string{
	"csidrivers": "CSIDriver", "resourceslices": "ResourceSlice", "resourceclaims": "ResourceClaim",
	"clustertrustbundles": "ClusterTrustBundle", "podcertificaterequests": "PodCertificateRequest",
	"volumeattachments": "VolumeAttachment", "persistentvolumes": "PersistentVolume", "persistentvolumeclaims": "PersistentVolumeClaim",
}

func reply(w http.ResponseWriter, code int, raw []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(raw) // the client may have gone
}

// fail answers with the Status that a client-go error is made from.
func fail(w http.ResponseWriter, err error) {
	code, reason := http.StatusBadRequest, "BadRequest"
	switch {
	case errors.Is(err, errNotFound):
		code, reason = http.StatusNotFound, "NotFound"
	case errors.Is(err, errExists):
		code, reason = http.StatusConflict, "AlreadyExists"
	case errors.Is(err, errConflict):
		code, reason = http.StatusConflict, "Conflict"
	}
	raw, _ := json.Marshal(object{ // strings and a number
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": err.Error(), "reason": reason, "code": code,
	})
	reply(w, code, raw)
}
