package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/policy"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/atomicfile"
)

// SignatureKind is a kind of signature: "simple" or "sigstore".
type SignatureKind = policy.Kind

// signatureCreator is who a signature says that it was made with.
const signatureCreator = "strake"

// SignOptions of one Sign.
type SignOptions struct {
	Kind SignatureKind
	// In is the repository that the image is in, with or without a tag; "" is the
	// image's own.
	In string
	// Identity is the name that the image is signed for; "" is In.
	Identity string
	Auth     *Auth
}

// Signed is a signature that was stored.
type Signed struct {
	Digest digest.Digest // of the manifest or index that it is for
	Where  string        // a file, or an address in the registry
}

// Sign has an image signed as it lies in a registry, and stores the signature where
// registries.d says that signatures of that repository are looked for. Both the
// platform's manifest and the index above it are signed, if the registry has both.
// Signer gives the signature of a payload: no private key is known here.
func (s *Store) Sign(ctx context.Context, ref string, o SignOptions, signer func(payload []byte) ([]byte, error)) (_ []Signed, err error) {
	// 1. The image, its name in a registry, and the name that it is signed for.
	q := s.ask(ref)
	s.mu.Lock()
	_, key, n, err := s.nameOf(q)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	in := o.In
	if in == "" {
		in = key
	}
	if in == "" || in[0] == '@' {
		return nil, fmt.Errorf("sign %s: %w: an id is in no registry: give a name", ref, ErrInvalidReference)
	}
	at, err := registry.ParseReference(in)
	if err != nil {
		return nil, err
	}
	identity := at
	if o.Identity != "" {
		if identity, err = registry.ParseReference(o.Identity); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("sign %s: %w", at, classify(err))
		}
	}()
	w, err := s.trust.Load().where(at)
	if err != nil {
		return nil, err
	}

	// 2. What of it the registry has.
	digests, err := s.inRegistry(ctx, at, o.Auth, n)
	if err != nil {
		return nil, err
	}

	// 3. A signature for each, stored.
	var all []Signed
	for _, d := range digests {
		payload, err := policy.Payload(o.Kind, d.String(), policyReference(identity), signatureCreator, time.Now())
		if err != nil {
			return all, err
		}
		signature, err := signer(payload)
		if err != nil {
			return all, err
		}
		if len(signature) == 0 || len(signature) > maxSignature {
			return all, fmt.Errorf("a signature of %d bytes", len(signature))
		}
		var where string
		if o.Kind == policy.KindSimple {
			where, err = s.storeSimple(ctx, at, o.Auth, w, d, signature)
		} else {
			where, err = s.storeAttachment(ctx, at, o.Auth, w, d, policy.Sigstore{Payload: payload, Signature: signature})
		}
		if err != nil {
			return all, err
		}
		all = append(all, Signed{d, where})
	}
	return all, nil
}

// inRegistry lists which of a name's index and manifest a repository has.
func (s *Store) inRegistry(ctx context.Context, at registry.Reference, auth *Auth, n name) ([]digest.Digest, error) {
	var there []digest.Digest
	for _, d := range slices.Compact([]digest.Digest{n.manifest, n.top.Digest}) {
		repo, err := s.client.Repository(at.WithDigest(d), auth)
		if err != nil {
			return nil, err
		}
		_, err = repo.Resolve(ctx)
		repo.Close()
		if err == nil {
			there = append(there, d)
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	if len(there) == 0 {
		return nil, fmt.Errorf("%w in %s: push the image there before it is signed", ErrNotFound, at.Repository())
	}
	return there, nil
}

// storeSimple puts a simple signing signature in the lookaside, or in the registry if
// no lookaside is configured and the registry takes signatures.
func (s *Store) storeSimple(ctx context.Context, at registry.Reference, auth *Auth, w lookasideScope, d digest.Digest, signature []byte) (string, error) {
	staging := w.LookasideStage
	if staging == "" {
		staging = w.Lookaside
	}
	if staging == "" {
		repo, err := s.client.Repository(at, auth)
		if err != nil {
			return "", err
		}
		defer repo.Close()
		err = repo.PutSignature(ctx, d, signature)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: %s has no lookaside for %s, and the registry takes no signatures: "+
				"write lookaside: file:///PATH into a file there", ErrUnsupported, s.trust.Load().placeName(), at.Repository())
		}
		return at.Domain, err
	}
	root, ok := strings.CutPrefix(staging, "file://")
	if !ok || !filepath.IsAbs(root) {
		return "", fmt.Errorf("%w: signatures cannot be written to %s: set lookaside-staging: file:///PATH, and publish what is put there", ErrUnsupported, staging)
	}
	dir := filepath.Dir(lookasidePath(root, at, d, 1))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for i := 1; i <= maxSignatures; i++ {
		path := lookasidePath(root, at, d, i)
		err := atomicfile.WriteNew(path, signature, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		return path, err
	}
	return "", fmt.Errorf("%s: %d signatures are there already", dir, maxSignatures)
}

// lookasidePath is where the number-th signature of a manifest lies below a lookaside,
// a directory or an address.
func lookasidePath(root string, at registry.Reference, d digest.Digest, number int) string {
	return fmt.Sprintf("%s/%s@%s=%s/signature-%d", strings.TrimSuffix(root, "/"), at.Path, d.Algorithm(), d.Encoded(), number)
}

// placeName is the directory of registries.d, for an error.
func (t Trust) placeName() string {
	if t.RegistriesD == "" {
		return "the configuration, without a registries.d,"
	}
	return t.RegistriesD
}

// attachmentOf is the name of the manifest that carries the attached signatures of
// another.
func attachmentOf(at registry.Reference, d digest.Digest) registry.Reference {
	return registry.Reference{Domain: at.Domain, Path: at.Path, Tag: strings.Replace(d.String(), ":", "-", 1) + sigstoreTagTail}
}

// storeAttachment adds a sigstore signature to those that the repository has of a
// manifest, as cosign does. Of two who do so at once one may be lost: the protocol has
// no way to tell.
func (s *Store) storeAttachment(ctx context.Context, at registry.Reference, auth *Auth, w lookasideScope, d digest.Digest, signature policy.Sigstore) (string, error) {
	if w.UseAttachments == nil || !*w.UseAttachments {
		return "", fmt.Errorf("%w: %s does not say use-sigstore-attachments: true for %s: nobody would look for the signature",
			ErrUnsupported, s.trust.Load().placeName(), at.Repository())
	}
	carrier := attachmentOf(at, d)
	repo, err := s.client.Repository(carrier, auth)
	if err != nil {
		return "", err
	}
	defer repo.Close()
	target, err := repo.Target(ctx)
	if err != nil {
		return "", err
	}
	var m v1.Manifest
	body, _, err := target.Manifest(ctx, v1.Descriptor{})
	if err == nil {
		if _, err = registry.ParseAttachment(body); err == nil {
			err = json.Unmarshal(body, &m)
		}
		if err == nil && len(m.Layers) >= maxSignatures {
			err = fmt.Errorf("%d signatures are there already", len(m.Layers))
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("%s: %w", carrier, err)
	}
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageManifest
	m.Layers = append(m.Layers, v1.Descriptor{
		MediaType: sigstoreLayer, Digest: digest.FromBytes(signature.Payload), Size: int64(len(signature.Payload)),
		Annotations: map[string]string{sigstoreValue: base64.StdEncoding.EncodeToString(signature.Signature)},
	})
	// An image's configuration, as cosign has it: some registries take nothing else.
	config := v1.Image{RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range m.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest)
	}
	configBody, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(configBody), Size: int64(len(configBody))}
	for _, blob := range [][]byte{signature.Payload, configBody} {
		if _, err := target.Upload(ctx, bytes.NewReader(blob), digest.FromBytes(blob), nil); err != nil {
			return "", err
		}
	}
	if body, err = json.Marshal(m); err != nil {
		return "", err
	}
	_, err = target.PutManifest(ctx, m.MediaType, body)
	return carrier.String(), err
}
