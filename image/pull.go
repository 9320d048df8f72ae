package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/span"
)

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 3

// flight is a pull that several callers wait for.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when image and err are set
	image   Image
	err     error
	trace   *span.Verb
	waiters int         // under Store.mu
	hear    []*listener // under Store.mu
	alone   *time.Timer // cancels it, unless somebody comes back; under Store.mu
}

// listener is one caller's Progress function, which must not run once its Pull
// has returned: what it writes to may be gone.
type listener struct {
	mu   sync.Mutex // taken with nothing else held
	hear func(Progress)
	gone bool
}

func (l *listener) tell(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gone {
		l.hear(p)
	}
}

func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
}

// Pull fetches an image. Callers of one name share one fetch; a caller whose
// context ends leaves it, and the last one to leave ends it, after its Patience.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	parsed, err := s.parse(ref)
	if err != nil {
		return Image{}, err
	}
	platform := s.platform(o.Platform)
	own := &listener{hear: o.Progress, gone: o.Progress == nil}
	defer own.leave()
	f := s.join(ctx, parsed, platform, o.Auth, o.Namespace, own)
	f.trace.Awaited(ctx)
	select {
	case <-f.done:
	case <-ctx.Done():
		s.leave(f, o.Patience)
		// The flight may have finished at the same moment; the caller has gone
		// either way.
		return Image{}, fmt.Errorf("pull %s: %w", parsed, context.Cause(ctx))
	}
	if f.err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", parsed, classify(f.err))
	}
	return f.image, nil
}

// parse is ParseReference of a name that may be short.
func (s *Store) parse(name string) (registry.Reference, error) {
	whole, err := s.client.Expand(name)
	if err != nil {
		return registry.Reference{}, err
	}
	return registry.ParseReference(whole)
}

// join finds the flight for a pull or starts it. Callers with different
// credentials do not share: what one may see, the other may not; nor do namespaces,
// as each may have a policy.
func (s *Store) join(caller context.Context, ref registry.Reference, platform v1.Platform, auth *Auth, namespace string, own *listener) *flight {
	secret, _ := json.Marshal(auth) // plain strings always encode
	key := fmt.Sprintf("%s %s/%s/%s %x %s", ref, platform.OS, platform.Architecture, platform.Variant, sha256.Sum256(secret), namespace)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.pulls[key]
	if f == nil || f.waiters == 0 && (f.alone == nil || !f.alone.Stop()) { // it is being cancelled
		// The flight outlives the caller that starts it, if another one joined.
		ctx, cancel := context.WithCancel(span.Continue(context.Background(), caller))
		ctx, trace := span.StartVerb(ctx, "pull image")
		span.Describe(ctx, span.ImageRef.String(ref.String()))
		f = &flight{cancel: cancel, done: make(chan struct{}), trace: trace}
		s.pulls[key] = f
		s.flying.Go(func() { s.fly(ctx, key, f, ref, platform, auth, namespace) })
	}
	f.waiters++
	f.hear = append(f.hear, own)
	return f
}

func (s *Store) leave(f *flight, patience time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.waiters--; {
	case f.waiters > 0:
	case patience > 0:
		f.alone = time.AfterFunc(patience, f.cancel)
	default:
		f.alone = nil
		f.cancel()
	}
}

// fly runs one pull to its end.
func (s *Store) fly(ctx context.Context, key string, f *flight, ref registry.Reference, platform v1.Platform, auth *Auth, namespace string) {
	defer f.cancel()
	in := incoming{transport: transportDocker, ref: &ref, namespace: namespace, auth: auth}
	p := &pull{store: s, platform: platform, policy: &in, keep: s.options.KeepLayerBlobs, trace: f.trace, progress: func(ev Progress) {
		ev.Ref = ref.String()
		s.mu.Lock()
		hear := f.hear[:len(f.hear):len(f.hear)]
		s.mu.Unlock()
		for _, l := range hear {
			l.tell(ev)
		}
	}}
	image, err := p.run(ctx, ref, auth)
	f.trace.End(err)
	p.release()
	if err == nil {
		p.progress(Progress{Phase: PhaseDone})
	} else if e := s.collectGarbage(); e != nil {
		s.log.Warn("leftovers of a failed pull stay until the next start", "image", ref, "error", e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.alone != nil {
		f.alone.Stop()
	}
	if s.pulls[key] == f {
		delete(s.pulls, key)
	}
	f.image, f.err = image, err
	close(f.done)
	if len(s.pulls) == 0 {
		// A node pulls now and then: the buffers of one are no use until the next.
		go debug.FreeOSMemory()
	}
}

func (s *Store) platform(asked Platform) v1.Platform {
	p := registry.HostPlatform()
	for _, o := range []Platform{s.options.Platform, asked} {
		if o.OS != "" {
			p.OS = o.OS
		}
		if o.Architecture != "" && o.Architecture != p.Architecture {
			p.Architecture, p.Variant = o.Architecture, ""
		}
		if o.Variant != "" {
			p.Variant = o.Variant
		}
	}
	return p
}

// source is where an image comes from: a repository, or a layout on disk.
type source interface {
	// Manifest gives a verified manifest or index, and its exact descriptor.
	Manifest(ctx context.Context, d v1.Descriptor) ([]byte, v1.Descriptor, error)
	// Bytes gives a small blob, verified.
	Bytes(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error)
	// Blob gives a blob, which the reader verifies.
	Blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// pull is one image on its way into the store.
type pull struct {
	store    *Store
	platform v1.Platform
	from     source
	policy   *incoming // what the policy is asked; nil: nothing comes in
	keep     bool      // layer blobs
	files    bool      // the layers are those of an artifact
	progress func(Progress)
	trace    *span.Verb // nil of what is no pull
	held     []string   // layer keys and blobs that a collection must leave

	signatures signatures // what allowed has fetched
}

// run is the pull, step by step.
func (p *pull) run(ctx context.Context, ref registry.Reference, auth *Auth) (Image, error) {
	// 1. The repository and its mirrors, with the caller's credentials.
	repo, err := p.store.client.Repository(ref, auth)
	if err != nil {
		return Image{}, err
	}
	defer repo.Close()
	p.from = repo
	keys := func(top digest.Digest) []string {
		if ref.Digest != "" {
			return []string{ref.String()}
		}
		return []string{ref.String(), ref.WithDigest(top).String()}
	}

	// 2. What the name means now: one HEAD, and all that a present image costs.
	p.progress(Progress{Phase: PhaseResolving})
	p.trace.Step("resolve")
	top, err := repo.Resolve(ctx)
	if err != nil {
		return Image{}, err
	}
	if n, ok := p.store.present(top.Digest, p.platform); ok {
		if err := p.allowed(ctx, n.top.Digest, n.manifest); err != nil {
			return Image{}, err
		}
		docs := documents{}
		if err := p.noteOrigin(&n, docs); err != nil {
			return Image{}, err
		}
		return p.store.publish(keys(top.Digest), n, &newImage{docs: docs})
	}
	return p.install(ctx, top, keys)
}

// install makes the image that top leads to present, under the names that keys
// gives for top's digest.
func (p *pull) install(ctx context.Context, top v1.Descriptor, keys func(top digest.Digest) []string) (Image, error) {
	defer p.store.layers.Writing()()

	// 3. The manifest, through an index if there is one; may it come in?
	p.trace.Step("manifest")
	docs := documents{}
	top, manifest, m, err := p.manifest(ctx, top, docs)
	if err != nil {
		return Image{}, err
	}
	if err := p.allowed(ctx, top.Digest, manifest.Digest); err != nil {
		return Image{}, err
	}

	// 4. The config, which names the layers' contents.
	p.trace.Step("config")
	body, err := p.from.Bytes(ctx, m.Config, registry.MaxConfig)
	if err != nil {
		return Image{}, err
	}
	docs[m.Config.Digest] = body
	config, err := parseConfig(body, m)
	if err != nil {
		return Image{}, err
	}
	if err := checkPlatform(config, p.platform); err != nil {
		return Image{}, err
	}

	// 5. The layers, each fetched, verified and written in one pass.
	p.trace.Step("layers")
	p.files = registry.IsArtifact(m)
	layers, err := p.ensureLayers(ctx, config.RootFS.DiffIDs, m.Layers)
	if err != nil {
		return Image{}, err
	}

	root, err := p.ensureRoot(ctx, layers)
	if err != nil {
		return Image{}, err
	}

	// 6. Publish: from here on the image is there, also after a crash.
	p.trace.Step("publish")
	rec := newRecord(manifest, m, config, layers, root, p.store.layerInfo)
	n := name{top: top, manifest: manifest.Digest, id: rec.image.ID, pulledAt: time.Now()}
	if err := p.noteOrigin(&n, docs); err != nil {
		return Image{}, err
	}
	return p.store.publish(keys(top.Digest), n, &newImage{rec, docs})
}

// allowed asks the policy about what comes in.
func (p *pull) allowed(ctx context.Context, top, manifest digest.Digest) error {
	if p.policy == nil {
		return nil
	}
	p.trace.Step("signature policy")
	in := *p.policy
	in.top, in.manifest = top, manifest
	found, err := p.store.allow(ctx, in)
	p.signatures = found
	return err
}

// documents are the small blobs of an image, by digest.
type documents map[digest.Digest][]byte

// manifest fetches what top names down to an image manifest.
func (p *pull) manifest(ctx context.Context, top v1.Descriptor, docs documents) (_, manifest v1.Descriptor, m v1.Manifest, err error) {
	desc := top
	for depth := 0; ; depth++ {
		body, got, err := p.from.Manifest(ctx, desc)
		if err != nil {
			return top, manifest, m, err
		}
		docs[got.Digest] = body
		if depth == 0 {
			top = got // with the size and type that it really has
		}
		kind, err := registry.Detect(body, got.MediaType)
		if err != nil {
			return top, manifest, m, fmt.Errorf("manifest %s: %w", got.Digest, err)
		}
		if kind == registry.KindManifest {
			if m, err = registry.ParseManifest(body); err != nil {
				err = fmt.Errorf("manifest %s: %w", got.Digest, err)
			}
			return top, got, m, err
		}
		if depth == maxIndexDepth {
			return top, manifest, m, fmt.Errorf("%w: more than %d indexes in each other", registry.ErrUnsupported, maxIndexDepth)
		}
		if desc, err = registry.Select(body, p.platform); err != nil {
			return top, manifest, m, fmt.Errorf("index %s: %w", got.Digest, err)
		}
	}
}

// checkPlatform refuses an image of another machine: it would fail at exec with
// an error that says nothing.
func checkPlatform(config v1.Image, want v1.Platform) error {
	if config.OS != "" && config.OS != want.OS || config.Architecture != "" && config.Architecture != want.Architecture {
		return fmt.Errorf("%w: the image is for %s/%s, not %s/%s", ErrUnsupported, config.OS, config.Architecture, want.OS, want.Architecture)
	}
	return nil
}

// present finds an image by what a name resolved to.
func (s *Store) present(top digest.Digest, platform v1.Platform) (name, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.names {
		rec := s.images[n.id]
		img := rec.image
		if top != "" && n.top.Digest == top && s.lacks(rec) == "" && (img.Artifact || img.OS == platform.OS && img.Arch == platform.Architecture) {
			n.pulledAt = time.Now()
			return n, true
		}
	}
	return name{}, false
}

// newImage is what publish adds besides the names.
type newImage struct {
	record *record // nil: the image is there
	docs   documents
}

// classified gives an error of a package below its class here, text unchanged.
type classified struct {
	class, err error
}

func (c classified) Error() string   { return c.err.Error() }
func (c classified) Unwrap() []error { return []error{c.class, c.err} }

func classify(err error) error {
	switch {
	case errors.Is(err, layer.ErrDigestMismatch):
		return classified{ErrDigestMismatch, err}
	case errors.Is(err, layer.ErrInvalid), errors.Is(err, layer.ErrLimit),
		errors.Is(err, registry.ErrInvalidManifest), errors.Is(err, registry.ErrTooLarge):
		return classified{ErrInvalidImage, err}
	}
	return err
}
