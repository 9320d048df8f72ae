// Package registry is a container registry in this process, on loopback: for tests
// and for the demonstration, never for a network. It builds its images from
// directories and tars, takes what is pushed, and can be made to misbehave.
//
// Source: OCI distribution-spec 1.1; Docker's token authentication.
package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry serves what was added to it. It is safe for concurrent use.
type Registry struct {
	mu        sync.Mutex
	manifests map[string]map[string]content // by repository, then tag or digest
	blobs     map[digest.Digest]content
	owners    map[digest.Digest]map[string]bool // repositories of a blob that was pushed; nil: all
	uploads   map[string]*bytes.Buffer          // by path
	faults    []*Fault
	requests  []string // "METHOD path", in order
	user      string
	password  string

	noReferrers bool                         // and so no OCI-Subject
	signatures  map[string][]json.RawMessage // by repository@digest; nil: without the extension
}

type content struct {
	mediaType string
	body      []byte
}

// New makes an empty registry.
func New() *Registry {
	return &Registry{manifests: map[string]map[string]content{}, blobs: map[digest.Digest]content{},
		owners: map[digest.Digest]map[string]bool{}, uploads: map[string]*bytes.Buffer{}}
}

// Server is a Registry that listens.
type Server struct {
	*Registry
	// Addr is HOST:PORT, which is also the beginning of its images' names.
	Addr   string
	server *http.Server
	done   chan error
	close  sync.Once
	err    error // of close
}

// Start serves on address; "127.0.0.1:0" takes a free port. Close ends it.
func (r *Registry) Start(address string) (*Server, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s := &Server{Registry: r, Addr: l.Addr().String(), done: make(chan error, 1),
		server: &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}}
	go func() { s.done <- s.server.Serve(l) }()
	return s, nil
}

// Close drops all connections. A second one does nothing.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.err = s.server.Close()
		if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
			s.err = errors.Join(s.err, served)
		}
	})
	return s.err
}

// RequireLogin makes the registry ask for a token, which its own /token gives
// to this user, and which is good for one repository.
func (r *Registry) RequireLogin(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user, r.password = user, password
}

// Requests lists what was asked so far, "METHOD path" each, and forgets it.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.requests
	r.requests = nil
	return list
}

// AddManifest stores a manifest or index under a repository ("demo/web"), by its
// digest and, unless tag is "", by the tag.
func (r *Registry) AddManifest(repository, tag, mediaType string, body []byte) digest.Digest {
	d := digest.FromBytes(body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manifests[repository] == nil {
		r.manifests[repository] = map[string]content{}
	}
	r.manifests[repository][d.String()] = content{mediaType, body}
	if tag != "" {
		r.manifests[repository][tag] = content{mediaType, body}
	}
	return d
}

// AddBlob stores a blob, for all repositories.
func (r *Registry) AddBlob(body []byte) digest.Digest {
	d := digest.FromBytes(body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = content{"application/octet-stream", body}
	return d
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	fault := r.takeFault(req)
	r.mu.Unlock()
	if req.URL.Path == "/token" {
		r.serveToken(w, req)
		return
	}
	if r.serveSignatures(w, req) {
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such path")
		return
	}
	repository, kind, id := split(path)
	if !r.authorized(w, req, repository) {
		return
	}
	if kind == "uploads" || req.Method != http.MethodGet && req.Method != http.MethodHead {
		if fault != nil && fault.serve(w, req, &content{}) {
			return
		}
		r.serveWrite(w, req, repository, kind, id)
		return
	}
	if kind == "referrers" {
		if fault != nil && fault.serve(w, req, &content{}) {
			return
		}
		r.serveReferrers(w, req, repository, digest.Digest(id))
		return
	}
	if path == "" {
		return // the version check
	}
	c, ok := r.lookup(repository, kind, id)
	if !ok {
		fail(w, http.StatusNotFound, strings.ToUpper(strings.TrimSuffix(kind, "s"))+"_UNKNOWN", id+" is not in "+repository)
		return
	}
	if fault != nil && fault.serve(w, req, &c) {
		return
	}
	w.Header().Set("Content-Type", c.mediaType)
	if kind == "manifests" {
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(c.body).String())
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(c.body))
}

// split takes "a/b/manifests/latest" apart.
func split(path string) (repository, kind, id string) {
	if i := strings.Index(path, "/blobs/uploads/"); i >= 0 {
		return path[:i], "uploads", path[i+len("/blobs/uploads/"):]
	}
	for _, kind := range []string{"manifests", "blobs", "referrers"} {
		if i := strings.LastIndex(path, "/"+kind+"/"); i >= 0 {
			return path[:i], kind, path[i+len(kind)+2:]
		}
	}
	return "", "", ""
}

func (r *Registry) lookup(repository, kind, id string) (content, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == "blobs" {
		c, ok := r.blobs[digest.Digest(id)]
		owners := r.owners[digest.Digest(id)]
		return c, ok && (owners == nil || owners[repository])
	}
	c, ok := r.manifests[repository][id]
	return c, ok
}

func (r *Registry) authorized(w http.ResponseWriter, req *http.Request, repository string) bool {
	r.mu.Lock()
	user := r.user
	r.mu.Unlock()
	scope := "repository:" + repository + ":pull"
	if req.Method != http.MethodGet && req.Method != http.MethodHead || strings.Contains(req.URL.Path, "/blobs/uploads/") {
		scope += ",push"
	}
	if user == "" || req.Header.Get("Authorization") == "Bearer token-for-"+scope {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q,scope=%q", "http://"+req.Host+"/token", req.Host, scope))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// serveToken knows the password, or an identity token that is the password.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	r.mu.Lock()
	good := user == r.user && password == r.password ||
		req.Method == http.MethodPost && req.FormValue("refresh_token") == r.password
	r.mu.Unlock()
	if !good {
		fail(w, http.StatusUnauthorized, "DENIED", "wrong user name or password")
		return
	}
	body, _ := json.Marshal(map[string]any{"token": "token-for-" + req.FormValue("scope"), "expires_in": 300}) // strings and a number
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client's loss
}

func fail(w http.ResponseWriter, status int, code, message string) {
	body, _ := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}}) // strings
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client's loss
}
