package image

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/registry"
)

// Referrers lists what refers to an image in its registry: signatures, attestations,
// bills of materials; those of one artifact type unless that is "". The image need not
// be here. Digest is that of the manifest or index which ref names, whose referrers
// they are.
func (s *Store) Referrers(ctx context.Context, ref, artifactType string, auth *Auth) (d digest.Digest, found []v1.Descriptor, err error) {
	at, err := s.parse(ref)
	if err != nil {
		return "", nil, err
	}
	repo, err := s.client.Repository(at, auth)
	if err != nil {
		return "", nil, err
	}
	defer repo.Close()
	defer func() {
		if err != nil {
			err = fmt.Errorf("referrers of %s: %w", at, classify(err))
		}
	}()
	if d, err = resolve(ctx, repo); err != nil {
		return "", nil, err
	}
	found, err = repo.Referrers(ctx, d, artifactType)
	return d, found, err
}

// resolve is the digest that a repository's reference means.
func resolve(ctx context.Context, repo *registry.Repository) (digest.Digest, error) {
	top, err := repo.Resolve(ctx)
	if err == nil && top.Digest == "" { // the registry does not say
		_, top, err = repo.Manifest(ctx, v1.Descriptor{})
	}
	return top.Digest, err
}
