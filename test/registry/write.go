package registry

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Manifest returns what a tag or digest of a repository is.
func (r *Registry) Manifest(repository, id string) (body []byte, ok bool) {
	c, ok := r.lookup(repository, "manifests", id)
	return c.body, ok
}

// Own makes a blob one of these repositories only, as if it had been pushed there.
func (r *Registry) Own(d digest.Digest, repositories ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[d] = map[string]bool{}
	for _, repository := range repositories {
		r.owners[d][repository] = true
	}
}

// serveWrite answers what changes the registry.
func (r *Registry) serveWrite(w http.ResponseWriter, req *http.Request, repository, kind, id string) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client has gone
	}
	switch {
	case kind == "manifests" && req.Method == http.MethodPut:
		tag := id
		if strings.Contains(id, ":") {
			tag = ""
		}
		d := r.AddManifest(repository, tag, req.Header.Get("Content-Type"), body)
		w.Header().Set("Docker-Content-Digest", d.String())
		r.mu.Lock()
		if subject := subjectOf(body); subject != "" && !r.noReferrers {
			w.Header().Set("OCI-Subject", subject.String())
		}
		r.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
	case kind == "uploads" && id == "" && req.Method == http.MethodPost:
		r.startUpload(w, req, repository)
	case kind == "uploads":
		r.serveUpload(w, req, repository, body)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", req.Method)
	}
}

// startUpload mounts a blob, if it can, and else begins an upload.
func (r *Registry) startUpload(w http.ResponseWriter, req *http.Request, repository string) {
	d, from := digest.Digest(req.FormValue("mount")), req.FormValue("from")
	if _, ok := r.lookup(from, "blobs", d.String()); ok && from != "" {
		r.mu.Lock()
		if r.owners[d] != nil {
			r.owners[d][repository] = true
		}
		r.mu.Unlock()
		w.Header().Set("Location", "/v2/"+repository+"/blobs/"+d.String())
		w.WriteHeader(http.StatusCreated)
		return
	}
	path := "/v2/" + repository + "/blobs/uploads/" + rand.Text()
	r.mu.Lock()
	r.uploads[path] = &bytes.Buffer{}
	r.mu.Unlock()
	w.Header().Set("Location", path+"?state=1")
	w.WriteHeader(http.StatusAccepted)
}

// serveUpload continues, ends or asks for an upload.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, repository string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	up, ok := r.uploads[req.URL.Path]
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", req.URL.Path)
		return
	}
	state := fmt.Sprintf("?state=%d", up.Len())
	switch req.Method {
	case http.MethodGet:
		w.Header().Set("Location", req.URL.Path+state)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(up.Len()-1, 0)))
		w.WriteHeader(http.StatusNoContent)
	case http.MethodDelete:
		delete(r.uploads, req.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		if start, _, _ := strings.Cut(req.Header.Get("Content-Range"), "-"); start != fmt.Sprint(up.Len()) {
			w.Header().Set("Range", fmt.Sprintf("0-%d", up.Len()-1))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		up.Write(body)
		w.Header().Set("Location", req.URL.Path+state)
		w.Header().Set("Range", fmt.Sprintf("0-%d", up.Len()-1))
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		up.Write(body)
		d := digest.Digest(req.URL.Query().Get("digest"))
		if digest.FromBytes(up.Bytes()) != d {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", d.String())
			return
		}
		delete(r.uploads, req.URL.Path)
		if _, everywhere := r.blobs[d]; !everywhere {
			r.owners[d] = map[string]bool{}
		}
		r.blobs[d] = content{"application/octet-stream", up.Bytes()}
		if r.owners[d] != nil {
			r.owners[d][repository] = true
		}
		w.WriteHeader(http.StatusCreated)
	}
}
