package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/strake-containers/strake/image/registry"
)

// PushOptions of one Push.
type PushOptions struct {
	// To is the name to push as; "" is the image's own.
	To   string
	Auth *Auth
	// Repack allows layers to be packed anew where they are neither kept nor in
	// the registry already. The manifest then has another digest; the image's id
	// stays.
	Repack   bool
	Progress func(Progress)
}

// Push sends an image to a registry: only what that lacks, mounted from another
// repository of it where it is known to be. It returns the digest of the manifest.
func (s *Store) Push(ctx context.Context, ref string, o PushOptions) (_ digest.Digest, err error) {
	// 1. The image, held; the repository.
	c, err := s.open(ref)
	if err != nil {
		return "", err
	}
	defer c.release()
	to := o.To
	if to == "" {
		to = c.key
	}
	if to == "" || to[0] == '@' {
		return "", fmt.Errorf("push %s: %w: an id is no place to push to: give a name", ref, ErrInvalidReference)
	}
	target, err := registry.ParseReference(to)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("push %s: %w", target, classify(err))
		}
	}()
	repo, err := s.client.Repository(target, o.Auth)
	if err != nil {
		return "", err
	}
	defer repo.Close()

	// 2. The layers, those that are not there.
	p := &pushing{content: c, repo: repo, target: target, repack: o.Repack, progress: o.Progress, from: c.repositories(target)}
	layers := make([]v1.Descriptor, len(c.record.layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(s.parallel))
	for i, l := range c.record.layers {
		g.Go(func() (err error) {
			layers[i], err = p.layer(gctx, l)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}

	// 3. The config.
	there, err := repo.HasBlob(ctx, c.manifest.Config.Digest)
	if err == nil && !there {
		_, err = repo.Upload(ctx, bytes.NewReader(c.config), c.manifest.Config.Digest, nil)
	}
	if err != nil {
		return "", err
	}

	// 4. The manifest: the same one, if every layer is.
	body, mediaType, same := c.body, c.manifest.MediaType, true
	if mediaType == "" {
		mediaType = v1.MediaTypeImageManifest
	}
	for i := range layers {
		same = same && layers[i].Digest == c.manifest.Layers[i].Digest
	}
	if !same {
		if body, err = c.repacked(layers); err != nil {
			return "", err
		}
		mediaType = v1.MediaTypeImageManifest
	}
	d, err := repo.PutManifest(ctx, mediaType, body)
	if err != nil || !same {
		return d, err
	}

	// 5. The image is known by that repository's digest now.
	n := name{top: v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}, manifest: d, id: c.image.ID, pulledAt: time.Now(), origin: c.name.origin}
	if n.manifest == c.name.manifest {
		n.signatures = c.name.signatures
	}
	if _, err := s.publish([]string{target.WithDigest(d).String()}, n, nil); err != nil && !errors.Is(err, ErrNotFound) {
		return d, err
	}
	return d, nil
}

// repositories are those of the target's registry that may have the image's
// blobs, as it has names there.
func (c *content) repositories(target registry.Reference) []registry.Reference {
	var found []registry.Reference
	seen := map[string]bool{target.Repository(): true}
	for _, key := range append(c.image.RepoTags, c.image.RepoDigests...) {
		ref, err := registry.ParseReference(key)
		if err == nil && ref.Domain == target.Domain && !seen[ref.Repository()] {
			seen[ref.Repository()] = true
			found = append(found, ref)
		}
	}
	return found
}

// pushing is one push.
type pushing struct {
	*content
	repo     *registry.Repository
	target   registry.Reference
	from     []registry.Reference
	repack   bool
	progress func(Progress)
}

func (p *pushing) tell(l imageLayer, phase Phase, done int64) {
	if p.progress != nil {
		p.progress(Progress{Ref: p.target.String(), Layer: l.blob.Digest, Phase: phase, Done: done, Total: l.blob.Size})
	}
}

// layer makes one layer present in the registry, and returns what it is there.
func (p *pushing) layer(ctx context.Context, l imageLayer) (v1.Descriptor, error) {
	desc := l.blob
	p.tell(l, PhaseWaiting, 0)
	there, err := p.repo.HasBlob(ctx, desc.Digest)
	for i := 0; err == nil && !there && i < len(p.from); i++ {
		there, err = p.repo.Mount(ctx, desc.Digest, p.from[i])
	}
	if err != nil || there {
		p.tell(l, PhaseExists, l.blob.Size)
		return desc, err
	}
	blob, err := p.kept(l)
	if err == nil {
		defer func() { _ = blob.Close() }() // only read from
		_, err = p.repo.Upload(ctx, blob, desc.Digest, func(done int64) { p.tell(l, PhasePushing, done) })
	} else if errors.Is(err, ErrNotKept) && p.repack {
		desc, err = p.pack(ctx, l)
	} else if errors.Is(err, ErrNotKept) {
		err = fmt.Errorf("%w, and %s does not have it: set keep_layer_blobs = true in [images] and pull the image again, "+
			"or push with --repack, which makes new layers of the same content", err, p.target.Domain)
	}
	if err != nil {
		return desc, err
	}
	p.tell(l, PhaseDone, l.blob.Size)
	return desc, nil
}

// pack uploads a layer packed anew.
func (p *pushing) pack(ctx context.Context, l imageLayer) (v1.Descriptor, error) {
	plain, _, err := p.tar(ctx, l)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer func() { _ = plain.Close() }() // only read from
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		z := gzip.NewWriter(w)
		_, err := io.Copy(z, plain)
		w.CloseWithError(errors.Join(err, z.Close())) // nil is the end
	}()
	desc, err := p.repo.Upload(ctx, r, "", func(done int64) { p.tell(l, PhasePushing, done) })
	_ = r.CloseWithError(errors.New("the upload has ended")) // of the pipe; it returns nil
	<-packed
	desc.MediaType = v1.MediaTypeImageLayerGzip
	return desc, err
}
