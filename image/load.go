package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layout"
	"github.com/strake-containers/strake/image/registry"
)

// layoutSource is an OCI image layout directory as a source of images: one that
// is loaded, or our own where layer blobs are kept.
type layoutSource struct{ dir string }

// Manifest implements source.
func (l layoutSource) Manifest(ctx context.Context, d v1.Descriptor) ([]byte, v1.Descriptor, error) {
	body, err := l.Bytes(ctx, d, registry.MaxManifest)
	return body, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(body))}, err
}

// Bytes implements source.
func (l layoutSource) Bytes(_ context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	body, err := layout.ReadBlob(l.dir, d.Digest, limit)
	switch {
	case errors.Is(err, layout.ErrCorrupt):
		err = classified{ErrDigestMismatch, err}
	case errors.Is(err, fs.ErrNotExist):
		err = classified{ErrNotFound, err}
	}
	return body, err
}

// Blob implements source.
func (l layoutSource) Blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := layout.OpenBlob(l.dir, d.Digest)
	if err != nil {
		return nil, classified{ErrNotFound, err}
	}
	return f, nil
}

// LoadLayout adds the images of an OCI layout directory and returns them. Names
// come from the index's org.opencontainers.image.ref.name annotations, as far as
// they are image names; an entry without one gets nameless, if that is not "",
// and else can be had by id only.
func (s *Store) LoadLayout(ctx context.Context, dir, nameless string) ([]Image, error) {
	entries, err := layout.ReadIndex(dir)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("load %s: %w: no index.json with an image", dir, ErrInvalidImage)
	}
	var images []Image
	for _, e := range entries {
		keys, err := entryNames(e, nameless)
		if err != nil {
			return images, fmt.Errorf("load %s: %w", dir, err)
		}
		e.Annotations = nil
		img, err := s.installFrom(ctx, layoutSource{dir}, "oci", e, keys)
		if err != nil {
			return images, fmt.Errorf("load %s: %w", dir, err)
		}
		images = append(images, img)
	}
	return images, nil
}
