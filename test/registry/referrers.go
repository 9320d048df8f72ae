package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// referrersPage is how many referrers come at once.
const referrersPage = 2

// WithoutReferrers makes it a registry of before distribution-spec 1.1: a client has to
// note under a tag what refers to what.
func (r *Registry) WithoutReferrers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noReferrers = true
}

// WithSignatures gives it the signature extension of OpenShift's registry.
func (r *Registry) WithSignatures() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signatures = map[string][]json.RawMessage{}
}

func subjectOf(manifest []byte) digest.Digest {
	var m v1.Manifest
	if json.Unmarshal(manifest, &m) != nil || m.Subject == nil {
		return ""
	}
	return m.Subject.Digest
}

// serveReferrers lists the manifests of a repository with a subject, a page at a time.
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, repository string, subject digest.Digest) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	wanted := req.FormValue("artifactType")
	r.mu.Lock()
	if r.noReferrers {
		r.mu.Unlock()
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such path")
		return
	}
	for id, c := range r.manifests[repository] {
		var m v1.Manifest
		if !strings.Contains(id, ":") || json.Unmarshal(c.body, &m) != nil || m.Subject == nil || m.Subject.Digest != subject {
			continue
		}
		if m.ArtifactType == "" {
			m.ArtifactType = m.Config.MediaType
		}
		if wanted == "" || m.ArtifactType == wanted {
			index.Manifests = append(index.Manifests, v1.Descriptor{
				MediaType: c.mediaType, Digest: digest.Digest(id), Size: int64(len(c.body)), ArtifactType: m.ArtifactType, Annotations: m.Annotations,
			})
		}
	}
	r.mu.Unlock()
	slices.SortFunc(index.Manifests, func(a, b v1.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	from, _ := strconv.Atoi(req.FormValue("from")) // "" is the beginning
	index.Manifests = index.Manifests[min(max(from, 0), len(index.Manifests)):]
	if len(index.Manifests) > referrersPage {
		index.Manifests = index.Manifests[:referrersPage]
		q := req.URL.Query()
		q.Set("from", strconv.Itoa(from+referrersPage))
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.Path, q.Encode()))
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	body, _ := json.Marshal(index) // strings and numbers
	w.Header().Set("Content-Type", index.MediaType)
	_, _ = w.Write(body) // the client's loss
}

// serveSignatures answers for the signature extension, if it is there: with a header
// in every answer, and at an address of its own.
func (r *Registry) serveSignatures(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signatures == nil {
		return false
	}
	w.Header().Set("X-Registry-Supports-Signatures", "1")
	path, ok := strings.CutPrefix(req.URL.Path, "/extensions/v2/")
	repository, d, of := strings.Cut(path, "/signatures/")
	if !ok || !of {
		return false
	}
	key := repository + "@" + d
	switch req.Method {
	case http.MethodGet:
		body, _ := json.Marshal(map[string]any{"signatures": r.signatures[key]}) // JSON already
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client's loss
	case http.MethodPut:
		var signature json.RawMessage
		if err := json.NewDecoder(req.Body).Decode(&signature); err != nil {
			fail(w, http.StatusBadRequest, "SIGNATURE_INVALID", err.Error())
			return true
		}
		r.signatures[key] = append(r.signatures[key], signature)
		w.WriteHeader(http.StatusCreated)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", req.Method)
	}
	return true
}
