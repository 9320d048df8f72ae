package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
)

// ErrNotKept says that a layer is not here as it was packed.
var ErrNotKept = errors.New("not kept packed")

// content is an image that is read whole, and held until release: its layers and
// blobs stay, whatever becomes of its names.
type content struct {
	store    *Store
	key      string // the name it was asked for by; "" for an id
	name     name
	names    []name // all that the image has
	record   *record
	image    Image
	manifest v1.Manifest
	body     []byte // of the manifest
	config   []byte
	release  func()
}

// hold finds an image and keeps its parts until release.
func (s *Store) hold(ref string) (*content, error) {
	p := &pull{store: s}
	q := s.ask(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, key, n, err := s.nameOf(q)
	if err != nil {
		return nil, err
	}
	c := &content{store: s, key: key, name: n, record: rec, image: s.describe(rec), release: p.release}
	for _, key := range slices.Sorted(maps.Keys(s.names)) {
		if n := s.names[key]; n.id == rec.image.ID {
			c.names = append(c.names, n)
			p.holdLocked(n.top.Digest.String(), n.manifest.String(), n.signatures.String())
		}
	}
	p.holdLocked(rec.image.Manifest.String(), rec.config.String(), string(rec.root))
	for _, l := range rec.layers {
		p.holdLocked(string(l.key), l.blob.Digest.String())
	}
	return c, nil
}

// open is hold that reads the documents too. The caller releases it.
func (s *Store) open(ref string) (_ *content, err error) {
	c, err := s.hold(ref)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.release()
			err = fmt.Errorf("image %q: %w", ref, err)
		}
	}()
	if c.body, err = s.layout.Get(c.name.manifest, registry.MaxManifest); err != nil {
		return nil, err
	}
	if c.manifest, err = registry.ParseManifest(c.body); err != nil {
		return nil, err
	}
	if c.config, err = s.layout.Get(c.manifest.Config.Digest, registry.MaxConfig); err != nil {
		return nil, err
	}
	// The record is of one of the image's manifests; that of this name may have the layers
	// packed in another way.
	rec := *c.record
	rec.layers = slices.Clone(rec.layers)
	for i := range rec.layers {
		rec.layers[i].blob = c.manifest.Layers[i]
	}
	c.record = &rec
	return c, nil
}

// documents are the manifests and indexes of the image and all its names, each once, and
// its config.
func (c *content) documents() []digest.Digest {
	all := []digest.Digest{c.record.image.Manifest}
	for _, n := range c.names {
		all = append(all, n.top.Digest, n.manifest)
	}
	slices.Sort(all)
	return append(slices.Compact(all), c.record.config)
}

// signatures are the blobs of those that were kept.
func (c *content) signatures() []digest.Digest {
	var all []digest.Digest
	for _, n := range c.names {
		if n.signatures != "" {
			all = append(all, n.signatures)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// kept opens the blob of a layer as it was pulled; ErrNotKept if it is not here and cannot
// be made again, as that of a layer that was not packed. Who reads it verifies it.
func (c *content) kept(l imageLayer) (io.ReadCloser, error) {
	if c.store.layout.Has(l.blob.Digest) {
		return c.store.layout.Open(l.blob.Digest)
	}
	if c.image.Artifact {
		return c.store.openFile(l)
	}
	if l.blob.Digest == l.diffID {
		t, err := c.store.layers.Tar(l.key)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, layer.ErrNoRecipe) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("layer %s: %w", l.blob.Digest, ErrNotKept)
}

// tar opens the tar of a layer, verified as it is read, and says its size.
func (c *content) tar(ctx context.Context, l imageLayer) (io.ReadCloser, int64, error) {
	t, err := c.store.layers.Tar(l.key)
	if err == nil {
		return t, t.Size, nil
	}
	if !errors.Is(err, layer.ErrNoRecipe) {
		return nil, 0, err
	}
	info := c.store.layerInfo(l.key)
	blob, keptErr := c.kept(l)
	if keptErr == nil && info.Tar > 0 {
		plain, stop, err := layer.Decompress(ctx, blob)
		if err != nil {
			return nil, 0, errors.Join(err, blob.Close())
		}
		closer := func() error { stop(); return blob.Close() }
		return &verified{in: plain, close: closer, want: l.diffID, hash: l.diffID.Algorithm().Digester()}, info.Tar, nil
	}
	if keptErr == nil {
		_ = blob.Close() // only read from
	}
	return nil, 0, fmt.Errorf("%w: remove the image and pull it again", err)
}

// verified is a stream that ends with an error if it is not what it should be.
type verified struct {
	in    io.Reader
	close func() error
	want  digest.Digest
	hash  digest.Digester
}

func (v *verified) Read(b []byte) (int, error) {
	n, err := v.in.Read(b)
	v.hash.Hash().Write(b[:n])
	if errors.Is(err, io.EOF) && v.hash.Digest() != v.want {
		err = fmt.Errorf("%w: %s is %s", ErrDigestMismatch, v.want, v.hash.Digest())
	}
	return n, err
}

func (v *verified) Close() error { return v.close() }

// repacked is the manifest of the same image with other layer blobs: an OCI one,
// whatever it was.
func (c *content) repacked(layers []v1.Descriptor) ([]byte, error) {
	m := c.manifest
	m.MediaType = v1.MediaTypeImageManifest
	m.Config.MediaType = v1.MediaTypeImageConfig
	m.Layers = layers
	return json.Marshal(m)
}

// holdLocked is hold for several, with mu held.
func (p *pull) holdLocked(what ...string) {
	for _, w := range what {
		p.store.busy[w]++
		p.held = append(p.held, w)
	}
}
