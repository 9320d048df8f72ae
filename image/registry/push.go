package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// uploadChunk is held in memory, so that it can be sent again.
	uploadChunk = 8 << 20
	maxResumes  = 5 // of an upload, in a row, without progress
)

// target is the host that gets what is pushed: the registry itself, or a mirror if
// hosts.toml takes that capability from the registry and gives it to the mirror. Of
// several ways to one host it is the first that is answered.
func (r *Repository) target(ctx context.Context) (*host, error) {
	r.pushMu.Lock()
	defer r.pushMu.Unlock()
	if r.pushTo != nil {
		return r.pushTo, nil
	}
	var ways []*host
	for _, upstream := range []bool{true, false} {
		for _, h := range r.hosts {
			if h.push && h.upstream == upstream && (len(ways) == 0 || h.fallback && h.base.Host == ways[0].base.Host) {
				ways = append(ways, h)
			}
		}
	}
	if len(ways) == 0 {
		return nil, fmt.Errorf("%s: push: %w: hosts.toml gives no host that capability", r.ref, ErrUnsupported)
	}
	var failed joined
	for _, h := range ways {
		if len(ways) > 1 {
			u := h.base
			u.Path += "/"
			resp, err := r.do(ctx, h, http.MethodGet, &u, nil, nil, nil)
			if errors.Is(err, ErrUnavailable) {
				failed = append(failed, err)
				continue
			}
			if err == nil {
				_ = resp.Body.Close() // an empty one
			}
		}
		r.pushTo = h
		return h, nil
	}
	return nil, failed
}

// HasBlob reports whether the repository has a blob.
func (r *Repository) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	h, err := r.target(ctx)
	if err != nil {
		return false, err
	}
	resp, err := r.request(ctx, h, http.MethodHead, "blobs", d.String(), nil)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// Mount makes a blob of another repository of the same registry one of this
// repository too. It reports whether the registry did: it need not.
func (r *Repository) Mount(ctx context.Context, d digest.Digest, from Reference) (bool, error) {
	h, err := r.target(ctx)
	if err != nil {
		return false, err
	}
	q := url.Values{"mount": {d.String()}, "from": {from.Path}}
	location, err := r.startUpload(ctx, h, q, "repository:"+from.Path+":pull")
	if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrNotFound) {
		return false, nil // not from there, then: the upload says what is wrong here
	}
	if err != nil {
		return false, err
	}
	if location == nil {
		return true, nil
	}
	// 202: the registry began an upload instead, which nobody continues.
	if resp, err := r.do(ctx, h, http.MethodDelete, location, nil, nil, nil); err == nil {
		_ = resp.Body.Close()
	}
	return false, nil
}

// startUpload sends the POST that begins an upload, and says where it goes on; nil
// is nowhere, as the blob was mounted.
func (r *Repository) startUpload(ctx context.Context, h *host, q url.Values, scopes ...string) (*url.URL, error) {
	u := h.base
	u.Path += "/" + r.path(h) + "/blobs/uploads/"
	u.RawQuery = q.Encode()
	resp, err := r.do(ctx, h, http.MethodPost, &u, nil, []byte{}, scopes)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close() // an empty one
	if resp.StatusCode == http.StatusCreated {
		return nil, nil
	}
	return nextLocation(resp)
}

// nextLocation is where an upload goes on.
func nextLocation(resp *http.Response) (*url.URL, error) {
	u, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: %s: the upload has no Location", ErrUnavailable, resp.Request.URL.Host)
	}
	if resp.Request.URL.Scheme == "https" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: %s: the upload leads from https to %s", ErrUnavailable, resp.Request.URL.Host, u.Scheme)
	}
	return u, nil
}

// Upload sends a blob in chunks. Its digest is want, or whatever comes if that is
// ""; a reader that brings something else is an error and leaves nothing. Progress
// may be nil.
func (r *Repository) Upload(ctx context.Context, in io.Reader, want digest.Digest, progress func(done int64)) (v1.Descriptor, error) {
	h, err := r.target(ctx)
	if err != nil {
		return v1.Descriptor{}, err
	}
	location, err := r.startUpload(ctx, h, nil)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if location == nil {
		return v1.Descriptor{}, fmt.Errorf("%w: %s: an upload that has ended before it began", ErrUnavailable, h.base.Host)
	}
	hash := digest.SHA256.Digester()
	if want != "" {
		hash = want.Algorithm().Digester()
	}
	up := upload{repo: r, host: h, location: location}
	chunk := make([]byte, uploadChunk)
	for last := false; !last; {
		n, err := io.ReadFull(in, chunk)
		if last = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); err != nil && !last {
			up.cancel(ctx)
			return v1.Descriptor{}, err
		}
		hash.Hash().Write(chunk[:n])
		if n > 0 {
			if err := up.send(ctx, chunk[:n]); err != nil {
				return v1.Descriptor{}, err
			}
		}
		if progress != nil {
			progress(up.offset)
		}
	}
	desc := v1.Descriptor{Digest: hash.Digest(), Size: up.offset}
	if want != "" && desc.Digest != want {
		up.cancel(ctx)
		return desc, fmt.Errorf("blob %s: %w: what was read is %s", want, ErrDigestMismatch, desc.Digest)
	}
	u := *up.location
	q := u.Query()
	q.Set("digest", desc.Digest.String())
	u.RawQuery = q.Encode()
	resp, err := r.do(ctx, h, http.MethodPut, &u, http.Header{"Content-Type": {"application/octet-stream"}}, []byte{}, nil)
	if err != nil {
		return desc, err
	}
	return desc, resp.Body.Close()
}

// upload is one blob on its way.
type upload struct {
	repo     *Repository
	host     *host
	location *url.URL
	offset   int64 // what the registry has
}

func (u *upload) cancel(ctx context.Context) {
	if resp, err := u.repo.do(ctx, u.host, http.MethodDelete, u.location, nil, nil, nil); err == nil {
		_ = resp.Body.Close() // the registry collects what stays
	}
}

// send sends one chunk. After a broken connection it asks how far the registry
// came, and goes on from there.
func (u *upload) send(ctx context.Context, chunk []byte) error {
	start := u.offset
	end := start + int64(len(chunk))
	for resumes := 0; u.offset < end; {
		body := chunk[u.offset-start:]
		header := http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", u.offset, end-1)},
		}
		resp, err := u.repo.once(ctx, u.host, http.MethodPatch, u.location, header, body)
		if err == nil {
			_ = resp.Body.Close() // an empty one
			if u.location, err = nextLocation(resp); err != nil {
				return err
			}
			u.offset = end
			return nil
		}
		if resumes++; resumes > maxResumes || !errors.Is(err, ErrUnavailable) {
			return err
		}
		if !wait(ctx, u.repo.client.retryDelay<<(resumes-1)) {
			return context.Cause(ctx)
		}
		status, e := u.repo.do(ctx, u.host, http.MethodGet, u.location, nil, nil, nil)
		if e != nil {
			return joined{e, err}
		}
		_ = status.Body.Close() // an empty one
		if u.location, e = nextLocation(status); e != nil {
			return joined{e, err}
		}
		_, last, ok := strings.Cut(status.Header.Get("Range"), "-")
		have, e := strconv.ParseInt(last, 10, 64)
		if have++; !ok || e != nil || have == 1 && last == "0" && u.offset == 0 {
			have = 0 // "0-0" is also how some say that there is nothing
		}
		if have < start || have > end {
			return fmt.Errorf("%w: %s has %d bytes of the upload, not between %d and %d: %w", ErrUnavailable, u.host.base.Host, have, start, end, err)
		}
		u.offset = have
	}
	return nil
}

// PutManifest stores a manifest under the reference's tag, or its digest. What it is
// about, its subject, is told by the registry afterwards, or else by a tag (Referrers).
func (r *Repository) PutManifest(ctx context.Context, mediaType string, body []byte) (digest.Digest, error) {
	h, err := r.target(ctx)
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(body)
	if r.ref.Digest != "" && r.ref.Digest != d {
		return "", fmt.Errorf("%s: %w: the manifest is %s", r.ref, ErrDigestMismatch, d)
	}
	subject, desc, err := subjectOf(mediaType, body)
	if err != nil {
		return "", err
	}
	resp, err := r.do(ctx, h, http.MethodPut, r.url(h, "manifests", r.ref.identifier()), http.Header{"Content-Type": {mediaType}}, body, nil)
	if err != nil {
		return "", err
	}
	_ = resp.Body.Close() // an empty one
	if subject != "" && resp.Header.Get("OCI-Subject") == "" {
		err = r.refer(ctx, h, subject, desc)
	}
	return d, err
}

// Target is the repository with no other host than the one that gets what is pushed:
// to read what is to be changed, and not a mirror's copy. It is closed with r.
func (r *Repository) Target(ctx context.Context) (*Repository, error) {
	h, err := r.target(ctx)
	if err != nil {
		return nil, err
	}
	only := *h
	only.pull, only.resolve, only.refers = true, true, true
	return &Repository{ref: r.ref, client: r.client, hosts: []*host{&only}, pushTo: &only}, nil
}

// once is do for a request that must not be repeated blindly, beyond what
// authentication asks for.
func (r *Repository) once(ctx context.Context, h *host, method string, u *url.URL, header http.Header, body []byte) (*http.Response, error) {
	return r.exchange(ctx, h, method, u, header, body, nil, 1)
}
