package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/sys"
)

// Finding is what Verify says of one layer or blob.
type Finding struct {
	Image   Image
	What    string // "layer sha256:…", "blob sha256:…", "root-sha256-…" (the layers in one directory)
	Problem error  // nil: it is what it should be
	// Unknown says that there is nothing to compare with: a layer that was unpacked
	// by an older version and whose blob is not kept.
	Unknown bool
}

// Verify reads every blob and every layer of an image ("" is all of them) and
// tells what it finds.
func (s *Store) Verify(ctx context.Context, ref string, tell func(Finding)) error {
	images := s.List()
	if ref != "" {
		img, err := s.Get(ref)
		if err != nil {
			return err
		}
		images = []Image{img}
	}
	seen := map[string]error{}
	for _, img := range images {
		if err := s.verifyImage(ctx, img, seen, tell); err != nil {
			return err
		}
	}
	return nil
}

// verifyImage checks what no image before had. An error is no finding.
func (s *Store) verifyImage(ctx context.Context, img Image, seen map[string]error, tell func(Finding)) error {
	c, err := s.hold(img.ID)
	if errors.Is(err, ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer c.release()
	check := func(what string, verify func() error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err, ok := seen[what]; ok && err == nil {
			return nil
		}
		f := Finding{Image: img, What: what, Problem: verify()}
		seen[what] = f.Problem
		if errors.Is(f.Problem, layer.ErrNoRecipe) {
			f.Unknown, f.Problem = true, nil
		}
		f.Problem = classify(f.Problem)
		tell(f)
		return nil
	}
	for _, d := range append(c.documents(), c.signatures()...) {
		if err := check("blob "+d.String(), func() error { return s.verifyBlob(ctx, d) }); err != nil {
			return err
		}
	}
	for _, l := range c.record.layers {
		if s.layout.Has(l.blob.Digest) {
			if err := check("blob "+l.blob.Digest.String(), func() error { return s.verifyBlob(ctx, l.blob.Digest) }); err != nil {
				return err
			}
		}
		verify := func() error { return s.layers.Verify(l.key) }
		if img.Artifact {
			verify = func() error { return s.verifyFile(l) }
		}
		if err := check("layer "+l.diffID.String(), verify); err != nil {
			return err
		}
	}
	if root := c.record.root; root != "" {
		return check(string(root), func() error {
			return layer.Same(s.layers.Path(root), s.lowerDirs(keysOf(c.record.layers)), s.layers.Form())
		})
	}
	return nil
}

func (s *Store) verifyBlob(ctx context.Context, d digest.Digest) error {
	f, err := s.layout.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s: %w: it is gone", d, ErrDigestMismatch)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	sys.DropCache(f)                 // the disk is checked, not the memory
	v := d.Verifier()
	if _, err := io.Copy(v, untilDone{ctx, f}); err != nil {
		return err
	}
	if !v.Verified() {
		return fmt.Errorf("blob %s: %w", d, ErrDigestMismatch)
	}
	return nil
}

// Repair makes whole what Verify found broken: documents and blobs are fetched
// again by their digest, layers unpacked from their blob or fetched, under the
// image's own digest in its registry. Auth gives the credentials for a name. A
// layer that a container uses is left as it is, and an error.
func (s *Store) Repair(ctx context.Context, findings []Finding, auth func(name string) *Auth) error {
	broken := map[string]map[string]bool{} // by image
	for _, f := range findings {
		if f.Problem == nil {
			continue
		}
		if broken[f.Image.ID] == nil {
			broken[f.Image.ID] = map[string]bool{}
		}
		broken[f.Image.ID][f.What] = true
	}
	var errs []error
	for id, what := range broken {
		if err := s.repair(ctx, id, what, auth); err != nil {
			errs = append(errs, fmt.Errorf("repair %s: %w", id, classify(err)))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) repair(ctx context.Context, id string, broken map[string]bool, auth func(name string) *Auth) error {
	// 1. The image, held; what cannot be read of it is in its record.
	c, err := s.hold(id)
	if err != nil {
		return err
	}
	defer c.release()
	rec, img := c.record, c.image
	p := &pull{store: s, keep: s.options.KeepLayerBlobs, files: img.Artifact, progress: func(Progress) {}}
	defer p.release()
	for _, l := range rec.layers {
		if broken["layer "+l.diffID.String()] && s.leased(l.key) {
			return fmt.Errorf("%w: a container uses layer %s: remove that first", ErrInUse, l.diffID)
		}
	}
	if broken[string(rec.root)] && s.leased(rec.root) {
		return fmt.Errorf("%w: a container uses %s: remove that first", ErrInUse, rec.root)
	}

	// 2. Where it comes from.
	from := repairSource{local: layoutSource{s.root}}
	for _, name := range img.RepoDigests {
		ref, err := registry.ParseReference(name)
		if err != nil {
			return err
		}
		repo, err := s.client.Repository(ref, auth(ref.String()))
		if err != nil {
			return err
		}
		defer repo.Close()
		from.remotes = append(from.remotes, repo)
	}
	p.from = from

	// 3. The documents.
	var m v1.Manifest
	for _, d := range c.documents() {
		if broken["blob "+d.String()] {
			if err := s.layout.Delete(d); err != nil {
				return err
			}
		}
		body, err := from.document(ctx, d, d == rec.config, m.Config.Size)
		if err == nil && d == img.Manifest {
			m, err = registry.ParseManifest(body)
		}
		if err == nil {
			err = s.layout.Put(d, body)
		}
		if err != nil {
			return err
		}
	}
	for _, d := range c.signatures() { // they are of several places, and of a pull
		if broken["blob "+d.String()] {
			return fmt.Errorf("blob %s: %w: the signatures that were kept: pull the image again", d, ErrDigestMismatch)
		}
	}

	// 4. The layers: the broken ones go, and all that is missing comes.
	for _, l := range rec.layers {
		if broken["blob "+l.blob.Digest.String()] {
			if err := s.layout.Delete(l.blob.Digest); err != nil {
				return err
			}
		}
		if broken["layer "+l.diffID.String()] {
			if err := s.layers.Remove(l.key); err != nil {
				return err
			}
		}
	}
	if broken[string(rec.root)] {
		if err := s.layers.Remove(rec.root); err != nil {
			return err
		}
	}
	layers, err := p.ensureLayers(ctx, diffIDsOf(rec.layers), m.Layers)
	if err == nil {
		_, err = p.ensureRoot(ctx, layers)
	}
	return err
}

// leased reports whether somebody holds a layer.
func (s *Store) leased(key layer.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		if slices.Contains(l.Layers, key) {
			return true
		}
	}
	return false
}

func diffIDsOf(layers []imageLayer) []digest.Digest {
	ids := make([]digest.Digest, len(layers))
	for i, l := range layers {
		ids[i] = l.diffID
	}
	return ids
}

// repairSource is what is here, and else the registries that the image has names in.
type repairSource struct {
	local   layoutSource
	remotes []*registry.Repository
}

var errNoRegistry = fmt.Errorf("%w: the image has no name in a registry: load or import it again", ErrUnavailable)

// document is a manifest, or an image's config of size bytes.
func (r repairSource) document(ctx context.Context, d digest.Digest, config bool, size int64) ([]byte, error) {
	if config {
		return r.Bytes(ctx, v1.Descriptor{Digest: d, Size: size}, registry.MaxConfig)
	}
	body, _, err := r.Manifest(ctx, v1.Descriptor{Digest: d})
	return body, err
}

// Manifest implements source.
func (r repairSource) Manifest(ctx context.Context, d v1.Descriptor) (body []byte, got v1.Descriptor, err error) {
	err = r.first(func(from source) error { body, got, err = from.Manifest(ctx, d); return err })
	return body, got, err
}

// Bytes implements source.
func (r repairSource) Bytes(ctx context.Context, d v1.Descriptor, limit int64) (body []byte, err error) {
	err = r.first(func(from source) error { body, err = from.Bytes(ctx, d, limit); return err })
	return body, err
}

// Blob implements source.
func (r repairSource) Blob(ctx context.Context, d v1.Descriptor) (blob io.ReadCloser, err error) {
	err = r.first(func(from source) error { blob, err = from.Blob(ctx, d); return err })
	return blob, err
}

// first tries one source after the other; the error is that of all registries.
func (r repairSource) first(try func(source) error) error {
	if try(r.local) == nil {
		return nil
	}
	if len(r.remotes) == 0 {
		return errNoRegistry
	}
	var errs []error
	for _, remote := range r.remotes {
		err := try(remote)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
