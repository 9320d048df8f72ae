package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxReferrers     = 10_000 // of one manifest
	maxReferrerPages = 100
)

// Referrers lists the manifests whose subject is d (signatures, attestations, bills of
// materials), those of one artifact type unless that is "". A registry without that
// part of the protocol has them under a tag (distribution-spec 1.1, Referrers Tag Schema).
func (r *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string) ([]v1.Descriptor, error) {
	var found []v1.Descriptor
	err := r.eachHost("referrers of "+d.String(), canRefer, func(h *host) (err error) {
		found, err = r.referrers(ctx, h, d, artifactType)
		return err
	})
	if artifactType != "" { // a registry need not filter, and a tag cannot
		found = slices.DeleteFunc(found, func(m v1.Descriptor) bool { return m.ArtifactType != artifactType })
	}
	return found, err
}

// referrers asks one host, page by page.
func (r *Repository) referrers(ctx context.Context, h *host, d digest.Digest, artifactType string) ([]v1.Descriptor, error) {
	u := r.url(h, "referrers", d.String())
	if artifactType != "" {
		q := u.Query()
		q.Set("artifactType", artifactType)
		u.RawQuery = q.Encode()
	}
	var all []v1.Descriptor
	for page := 0; u != nil; page++ {
		if page == maxReferrerPages || len(all) > maxReferrers {
			return nil, fmt.Errorf("referrers of %s from %s: %w: more than %d, or than %d pages", d, h.base.Host, ErrTooLarge, maxReferrers, maxReferrerPages)
		}
		resp, err := r.do(ctx, h, http.MethodGet, u, http.Header{"Accept": {v1.MediaTypeImageIndex}}, nil, nil) //nolint:bodyclose // readReferrers does
		if errors.Is(err, ErrNotFound) && page == 0 {
			index, err := r.referrersTag(ctx, h, d)
			return index.Manifests, err
		}
		if err != nil {
			return nil, err
		}
		index, err := r.readReferrers(resp, d)
		if err != nil {
			return nil, err
		}
		all = append(all, index.Manifests...)
		if u, err = nextPage(resp); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// nextPage is where a list goes on (RFC 8288); nil is nowhere. It stays on its host.
func nextPage(resp *http.Response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		address, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		u, err := resp.Request.URL.Parse(address)
		if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme {
			return nil, fmt.Errorf("%w: %s: the list goes on at %q", ErrUnavailable, resp.Request.URL.Host, address)
		}
		return u, nil
	}
	return nil, nil
}

// referrersTag fetches the index that stands in for the referrers of d; one that is
// not there is empty.
func (r *Repository) referrersTag(ctx context.Context, h *host, d digest.Digest) (v1.Index, error) {
	resp, err := r.do(ctx, h, http.MethodGet, r.url(h, "manifests", referrersTagOf(d)), http.Header{"Accept": {v1.MediaTypeImageIndex}}, nil, nil) //nolint:bodyclose // readReferrers does
	if errors.Is(err, ErrNotFound) {
		return v1.Index{}, nil
	}
	if err != nil {
		return v1.Index{}, err
	}
	return r.readReferrers(resp, d)
}

func referrersTagOf(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// readReferrers reads an answer that is the referrers of d, and closes it.
func (r *Repository) readReferrers(resp *http.Response, d digest.Digest) (v1.Index, error) {
	defer func() { _ = resp.Body.Close() }() // only read from
	stall := r.watch(resp)
	defer stall.stop()
	var index v1.Index
	body, err := readAll(stall, MaxManifest)
	if err != nil {
		return index, fmt.Errorf("referrers of %s from %s: %w", d, resp.Request.URL.Host, err)
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return index, fmt.Errorf("%w: referrers: %w", ErrInvalidManifest, err)
	}
	for i, d := range index.Manifests {
		if err := checkDescriptor(fmt.Sprintf("manifests[%d]", i), d); err != nil {
			return index, err
		}
	}
	return index, nil
}

// refer notes under the tag of its subject a manifest that was stored in a registry
// which does not do so itself. Of two clients that do this at once one may be lost, as
// the specification says.
func (r *Repository) refer(ctx context.Context, h *host, subject digest.Digest, desc v1.Descriptor) error {
	index, err := r.referrersTag(ctx, h, subject)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(m v1.Descriptor) bool { return m.Digest == desc.Digest }) {
		return nil
	}
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageIndex
	index.Manifests = append(index.Manifests, desc)
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	resp, err := r.do(ctx, h, http.MethodPut, r.url(h, "manifests", referrersTagOf(subject)), http.Header{"Content-Type": {index.MediaType}}, body, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// subjectOf is what a manifest or index refers to, "" for nothing, and how an index
// of referrers describes it.
func subjectOf(mediaType string, body []byte) (subject digest.Digest, desc v1.Descriptor, err error) {
	var m struct {
		ArtifactType string            `json:"artifactType"`
		Config       v1.Descriptor     `json:"config"`
		Subject      *v1.Descriptor    `json:"subject"`
		Annotations  map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", desc, fmt.Errorf("%w: %w", ErrInvalidManifest, err)
	}
	if m.Subject == nil {
		return "", desc, nil
	}
	if err := checkDescriptor("subject", *m.Subject); err != nil {
		return "", desc, err
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	return m.Subject.Digest, v1.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body)), ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}, nil
}
