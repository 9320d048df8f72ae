package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest bounds manifests and indexes, MaxConfig image configs.
const (
	MaxManifest = 4 << 20
	MaxConfig   = 8 << 20
)

// acceptManifests lists schema 1 too, last: a registry that has nothing else
// then says so, and we can name what is wrong.
var acceptManifests = http.Header{"Accept": {strings.Join([]string{
	v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, MediaTypeDockerManifest, MediaTypeDockerList,
	mediaTypeSchema1 + ";q=0.1", mediaTypeSchema1Signed + ";q=0.1"}, ", ")}}

// Resolve asks what the reference means, with one HEAD: media type, digest and
// size of a manifest or index. Where a registry answers no digest, the digest is
// "" and Manifest finds out.
func (r *Repository) Resolve(ctx context.Context) (v1.Descriptor, error) {
	var desc v1.Descriptor
	err := r.eachHost("resolve", r.canResolve, func(h *host) error {
		resp, err := r.request(ctx, h, http.MethodHead, "manifests", r.ref.identifier(), acceptManifests)
		if err != nil {
			return err
		}
		resp.Body.Close()
		desc = v1.Descriptor{MediaType: mediaType(resp), Size: max(resp.ContentLength, 0)}
		if d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest")); err == nil {
			desc.Digest = d
		}
		if r.ref.Digest != "" {
			desc.Digest = r.ref.Digest
		}
		r.prefer(h)
		return nil
	})
	return desc, err
}

// Manifest fetches a manifest or index: by desc.Digest, or what the reference
// names if that is "". The body is verified; the descriptor returned is exact.
func (r *Repository) Manifest(ctx context.Context, desc v1.Descriptor) ([]byte, v1.Descriptor, error) {
	id, may := desc.Digest.String(), canPull
	if desc.Digest == "" {
		id, may = r.ref.identifier(), r.canResolve
	}
	var body []byte
	var got v1.Descriptor
	err := r.eachHost("manifest "+id, may, func(h *host) error {
		resp, err := r.request(ctx, h, http.MethodGet, "manifests", id, acceptManifests)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		stall := r.watch(resp)
		defer stall.stop()
		if body, err = readAll(stall, MaxManifest); err != nil {
			return fmt.Errorf("manifest %s from %s: %w", id, h.base.Host, err)
		}
		got = v1.Descriptor{MediaType: mediaType(resp), Size: int64(len(body)), Digest: digest.FromBytes(body)}
		want := desc.Digest
		if want == "" {
			want = r.ref.Digest
		}
		if want == "" { // by tag: what the registry says of its own answer must hold
			want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		}
		if want == "" {
			return nil
		}
		if err := verify(want, body); err != nil {
			return fmt.Errorf("manifest from %s: %w", h.base.Host, err)
		}
		got.Digest = want
		return nil
	})
	return body, got, err
}

// Bytes fetches a small blob whole, of at most limit bytes, verified.
func (r *Repository) Bytes(ctx context.Context, desc v1.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("blob %s: %w: %d bytes, the limit is %d", desc.Digest, ErrTooLarge, desc.Size, limit)
	}
	blob, err := r.Blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	body, err := readAll(blob, limit)
	if err == nil {
		err = verify(desc.Digest, body)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, err)
	}
	return body, nil
}

func verify(want digest.Digest, body []byte) error {
	if err := want.Validate(); err != nil {
		return fmt.Errorf("%w: digest %q: %w", ErrInvalidManifest, want, err)
	}
	if have := want.Algorithm().FromBytes(body); have != want {
		return fmt.Errorf("%w: want %s, have %s", ErrDigestMismatch, want, have)
	}
	return nil
}

// readAll reads to the end, or fails beyond limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return body, nil
}

func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// canResolve: what a digest means needs no trust, what a tag means does.
func (r *Repository) canResolve(h *host) bool {
	if r.ref.Digest != "" {
		return h.pull
	}
	return h.resolve
}

func canPull(h *host) bool { return h.pull }

func canRefer(h *host) bool { return h.refers }

// eachHost runs try on the hosts in order until one succeeds. The error names
// what each of them said.
func (r *Repository) eachHost(what string, may func(*host) bool, try func(*host) error) error {
	var all []error
	for _, h := range r.hosts {
		if !may(h) {
			continue
		}
		if h.fallback && len(all) > 0 && !errors.Is(all[len(all)-1], ErrUnavailable) {
			continue // the same registry has answered, and would not say otherwise over TLS
		}
		err := try(h)
		if err == nil {
			return nil
		}
		all = append(all, err)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	switch len(all) {
	case 0:
		return fmt.Errorf("%s: %s: %w: hosts.toml gives no host that capability", r.ref, what, ErrUnsupported)
	case 1:
		return all[0]
	}
	return joined(all)
}

// joined is errors.Join on one line. Its class is that of the last error: the
// registry itself comes after its mirrors.
type joined []error

func (j joined) Error() string {
	texts := make([]string, len(j))
	for i, e := range j {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; then ")
}

func (j joined) Unwrap() error { return j[len(j)-1] }

// prefer moves the host that answered to the front for what follows: it has
// the image. Resolve calls it before anything else runs.
func (r *Repository) prefer(h *host) {
	hosts := []*host{h}
	for _, other := range r.hosts {
		if other != h {
			hosts = append(hosts, other)
		}
	}
	r.hosts = hosts
}

// openBlob asks for the bytes of a blob from offset on.
func (r *Repository) openBlob(ctx context.Context, h *host, d digest.Digest, offset int64) (*http.Response, error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := r.request(ctx, h, http.MethodGet, "blobs", d.String(), header)
	if err != nil || offset == 0 {
		return resp, err
	}
	if resp.StatusCode == http.StatusPartialContent {
		start, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
		if start == strconv.FormatInt(offset, 10) {
			return resp, nil
		}
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %s: asked for bytes from %d, got %q", ErrUnavailable, h.base.Host, offset, resp.Header.Get("Content-Range"))
	}
	// The server knows no ranges: skip what is here already.
	stall := r.watch(resp)
	defer stall.stop()
	if _, err := io.CopyN(io.Discard, stall, offset); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, h.base.Host, err)
	}
	return resp, nil
}

// Get fetches a small file from a web server that is no registry, without
// credentials; ErrNotFound is that it has none.
func (c *Client) Get(ctx context.Context, address string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.config.UserAgent)
	h := &host{}
	resp, err := (&http.Client{Transport: c.transport, CheckRedirect: h.checkRedirect}).Do(req)
	if err != nil {
		return nil, transportError(err)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp, resp.Body)
	}
	return readAll(resp.Body, limit)
}
