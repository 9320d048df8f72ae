package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The signature extension of the registries of OpenShift and Atomic: simple signing's
// signatures lie in the registry itself. A registry says in its answers that it has it.
const (
	signaturesHeader  = "X-Registry-Supports-Signatures"
	signaturesVersion = 2
	signaturesType    = "atomic"
)

// attachedSignature is one of a manifest's, and the body that adds one.
type attachedSignature struct {
	Version int    `json:"schemaVersion"`
	Name    string `json:"name"` // DIGEST@ and something that makes it unique
	Type    string `json:"type"`
	Content []byte `json:"content"` // an OpenPGP message
}

// Signatures fetches the simple signing signatures that a registry has of a manifest.
// None is also that it cannot have any.
func (r *Repository) Signatures(ctx context.Context, d digest.Digest) ([][]byte, error) {
	var found [][]byte
	err := r.eachHost("signatures of "+d.String(), canPull, func(h *host) error {
		u, err := r.signatures(ctx, h, d)
		if err != nil {
			return err
		}
		resp, err := r.do(ctx, h, http.MethodGet, u, nil, nil, nil)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // only read from
		stall := r.watch(resp)
		defer stall.stop()
		body, err := readAll(stall, MaxManifest)
		if err != nil {
			return fmt.Errorf("signatures of %s from %s: %w", d, h.base.Host, err)
		}
		var list struct {
			Signatures []attachedSignature `json:"signatures"`
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return fmt.Errorf("%w: signatures of %s from %s: %w", ErrInvalidManifest, d, h.base.Host, err)
		}
		found = nil
		for _, s := range list.Signatures {
			if s.Version == signaturesVersion && s.Type == signaturesType {
				found = append(found, s.Content)
			}
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return found, err
}

// PutSignature adds a simple signing signature to those that the registry has of a
// manifest; ErrNotFound is that it cannot have any.
func (r *Repository) PutSignature(ctx context.Context, d digest.Digest, signature []byte) error {
	h, err := r.target(ctx)
	if err != nil {
		return err
	}
	u, err := r.signatures(ctx, h, d)
	if err != nil {
		return err
	}
	unique := make([]byte, 16)
	_, _ = rand.Read(unique) // it never fails
	body, err := json.Marshal(attachedSignature{signaturesVersion, d.String() + "@" + hex.EncodeToString(unique), signaturesType, signature})
	if err != nil {
		return err
	}
	resp, err := r.do(ctx, h, http.MethodPut, u, http.Header{"Content-Type": {"application/json"}}, body, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// signatures is where a host has a manifest's signatures; ErrNotFound is that it has
// not that extension. Who may not read is told so by the address itself: the answer to
// this question has the header whether it lets us in or not.
func (r *Repository) signatures(ctx context.Context, h *host, d digest.Digest) (*url.URL, error) {
	u := h.base
	prefix, ok := strings.CutSuffix(u.Path, "/v2")
	if !ok {
		return nil, fmt.Errorf("signatures: %w: %s has a path of its own", ErrNotFound, h.base.Host)
	}
	u.Path += "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", r.client.config.UserAgent)
	for name, values := range h.header {
		req.Header[name] = values
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, transportError(err)
	}
	_ = resp.Body.Close() // its headers say it
	if resp.Header.Get(signaturesHeader) != "1" {
		return nil, fmt.Errorf("signatures: %w: %s keeps none", ErrNotFound, h.base.Host)
	}
	u.Path = prefix + "/extensions/v2/" + r.path(h) + "/signatures/" + d.String()
	return &u, nil
}
