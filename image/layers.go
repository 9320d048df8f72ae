package image

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/layout"
	"github.com/strake-containers/strake/internal/span"
)

// unpacked is a layer whose directory waits for those below it, because it
// implies directories that may be theirs.
type unpacked struct {
	draft  *layer.Draft
	result layer.Result
}

// ensureLayers makes every layer of an image present, all at once, and holds
// them until release. The largest starts first: it decides when all are done.
func (p *pull) ensureLayers(ctx context.Context, diffIDs []digest.Digest, blobs []v1.Descriptor) ([]imageLayer, error) {
	chains := chainIDs(diffIDs)
	waiting := make([]*unpacked, len(diffIDs))
	layers := make([]imageLayer, len(diffIDs))
	order := make([]int, len(diffIDs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(blobs[b].Size, blobs[a].Size) })

	g, gctx := errgroup.WithContext(ctx)
	for _, i := range order {
		layers[i] = imageLayer{diffID: diffIDs[i], blob: blobs[i]}
		keys := []layer.Key{layer.DiffKey(diffIDs[i]), layer.ChainKey(chains[i])}
		for _, k := range keys {
			p.hold(string(k))
		}
		if p.keep {
			p.hold(blobs[i].Digest.String())
		}
		g.Go(func() (err error) {
			layers[i].key, waiting[i], err = p.ensureLayer(gctx, keys, diffIDs[i], blobs[i])
			return err
		})
	}
	err := g.Wait()
	for i, w := range waiting {
		if w == nil {
			continue
		}
		if err != nil {
			w.draft.Discard()
			continue
		}
		layers[i].key = layer.ChainKey(chains[i])
		if err = p.finish(w, layers[i], layers[:i]); err != nil {
			w.draft.Discard()
		}
	}
	if err != nil {
		return nil, err
	}
	return layers, nil
}

// ensureRoot makes the one directory of an image whose layers are there, if the
// driver wants that, holds it until release and returns its key, else "".
func (p *pull) ensureRoot(ctx context.Context, layers []imageLayer) (layer.Key, error) {
	s := p.store
	if !s.options.Driver.Flat() {
		return "", nil
	}
	chain := digest.FromString("") // of an image without layers
	if chains := chainIDs(diffIDsOf(layers)); len(chains) > 0 {
		chain = chains[len(chains)-1]
	}
	key := layer.RootKey(chain)
	p.hold(string(key))
	done, err := s.turn(ctx, string(key), func() bool { _, ok := s.layers.Get(key); return ok })
	if err != nil || done == nil {
		return key, err
	}
	defer done()
	draft, err := s.layers.NewDraft(s.options.Driver.MakeDir)
	if err != nil {
		return "", err
	}
	result, err := layer.Flatten(draft.Path(), s.lowerDirs(keysOf(layers)), s.layers.Form())
	if err == nil {
		err = draft.Publish(key, chain, result)
	}
	if err != nil {
		draft.Discard()
		return "", fmt.Errorf("image root: %w", err)
	}
	return key, nil
}

// turn waits until nobody else makes what; done then says that we have, or gave up.
// There, which is called with mu held, says that nothing is to be made: done is nil.
func (s *Store) turn(ctx context.Context, what string, there func() bool) (done func(), err error) {
	for {
		s.mu.Lock()
		if there() {
			s.mu.Unlock()
			return nil, nil
		}
		other, taken := s.unpack[what]
		if !taken {
			own := make(chan struct{})
			s.unpack[what] = own
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				close(own)
				delete(s.unpack, what)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// finish publishes a layer that waited for those below.
func (p *pull) finish(w *unpacked, l imageLayer, below []imageLayer) error {
	if err := layer.Inherit(w.draft.Path(), w.result.Implied, p.store.lowerDirs(keysOf(below)), p.store.layers.Form()); err != nil {
		return err
	}
	return w.draft.Publish(l.key, l.diffID, w.result)
}

// ensureLayer finds a layer under one of keys or unpacks it. One caller of a
// layer unpacks, whichever images want it; if that one fails or is cancelled,
// the next takes over. A result without a key waits for the layers below.
func (p *pull) ensureLayer(ctx context.Context, keys []layer.Key, diffID digest.Digest, blob v1.Descriptor) (layer.Key, *unpacked, error) {
	s := p.store
	p.progress(Progress{Layer: blob.Digest, Phase: PhaseWaiting, Total: blob.Size})
	var there layer.Key
	done, err := s.turn(ctx, diffID.String(), func() bool {
		for _, key := range keys {
			if _, ok := s.layers.Get(key); ok {
				there = key
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", nil, err
	}
	if done == nil {
		p.progress(Progress{Layer: blob.Digest, Phase: PhaseExists, Done: blob.Size, Total: blob.Size})
		return there, nil, p.keepBlob(ctx, blob)
	}
	defer done()
	select {
	case s.parallel <- struct{}{}:
		defer func() { <-s.parallel }()
	case <-ctx.Done():
		return "", nil, context.Cause(ctx)
	}
	return p.unpackLayer(ctx, diffID, blob)
}

// unpackLayer fetches and writes one layer.
func (p *pull) unpackLayer(ctx context.Context, diffID digest.Digest, blob v1.Descriptor) (_ layer.Key, _ *unpacked, err error) {
	ctx, unpacking := span.Start(ctx, "unpack layer",
		span.LayerDigest.String(blob.Digest.String()), span.LayerType.String(blob.MediaType), span.LayerSize.Int64(blob.Size))
	defer func() { unpacking.End(err) }()
	s := p.store
	src := layer.Source{
		Digest: blob.Digest, DiffID: diffID, Size: blob.Size, Form: s.layers.Form(),
		Open: func(ctx context.Context) (io.ReadCloser, error) { return p.from.Blob(ctx, blob) },
		Progress: func(done int64) {
			p.progress(Progress{Layer: blob.Digest, Phase: PhasePulling, Done: done, Total: blob.Size})
		},
	}
	if p.files {
		var err error
		if src.File, err = fileName(blob); err != nil {
			return "", nil, err
		}
	}
	var kept *layout.BlobWriter
	if p.keep && !s.layout.Has(blob.Digest) {
		var err error
		if kept, err = s.layout.NewBlob(); err != nil {
			return "", nil, err
		}
		src.Copy = kept
	}
	draft, err := s.layers.NewDraft(nil)
	if err != nil {
		if kept != nil {
			kept.Discard()
		}
		return "", nil, err
	}
	if !p.files { // else the file itself is what came
		src.Recipe = draft.Recipe()
	}
	result, err := layer.Unpack(ctx, draft.Path(), src, s.options.Limits)
	if kept != nil {
		if err != nil {
			kept.Discard()
		} else {
			err = kept.Publish(blob.Digest)
		}
	}
	if err != nil {
		draft.Discard()
		return "", nil, err
	}
	if result.Devices > 0 {
		s.log.Warn("devices of an image layer left out: only the host's root can make them", "layer", blob.Digest, "devices", result.Devices)
	}
	p.progress(Progress{Layer: blob.Digest, Phase: PhaseDone, Done: blob.Size, Total: blob.Size})
	if len(result.Implied) > 0 {
		return "", &unpacked{draft, result}, nil
	}
	key := layer.DiffKey(diffID)
	if err := draft.Publish(key, diffID, result); err != nil {
		draft.Discard()
		return "", nil, fmt.Errorf("layer %s: %w", blob.Digest, err)
	}
	return key, nil, nil
}

// keepBlob fetches the blob of a layer that was unpacked when blobs were not
// kept.
func (p *pull) keepBlob(ctx context.Context, blob v1.Descriptor) error {
	if !p.keep || p.store.layout.Has(blob.Digest) {
		return nil
	}
	in, err := p.from.Blob(ctx, blob)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := p.store.layout.NewBlob()
	if err != nil {
		return err
	}
	verifier := blob.Digest.Verifier()
	if _, err := io.Copy(io.MultiWriter(out, verifier), in); err != nil {
		out.Discard()
		return err
	}
	if !verifier.Verified() {
		out.Discard()
		return fmt.Errorf("layer %s: %w", blob.Digest, ErrDigestMismatch)
	}
	return out.Publish(blob.Digest)
}

// hold keeps a layer or blob from collection until release.
func (p *pull) hold(what string) {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.store.busy[what]++
	p.held = append(p.held, what)
}

func (p *pull) release() {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	for _, what := range p.held {
		if p.store.busy[what]--; p.store.busy[what] == 0 {
			delete(p.store.busy, what)
		}
	}
	p.held = nil
}

func keysOf(layers []imageLayer) []layer.Key {
	keys := make([]layer.Key, len(layers))
	for i, l := range layers {
		keys[i] = l.key
	}
	return keys
}

// lowerDirs turns a stack of layers, lowest first, into overlayfs's list,
// topmost first; never empty. What lies below an opaque root is left out; so is a layer that
// is there again above, whose repetition changes nothing and which overlayfs
// refuses to take twice.
func (s *Store) lowerDirs(keys []layer.Key) []string {
	var dirs []string
	seen := map[layer.Key]bool{}
	for _, key := range slices.Backward(keys) {
		if seen[key] {
			continue
		}
		seen[key] = true
		dirs = append(dirs, s.layers.Path(key))
		if s.layerInfo(key).OpaqueRoot {
			break
		}
	}
	if len(dirs) == 0 {
		return []string{s.layers.EmptyPath()}
	}
	return dirs
}
