package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"sigs.k8s.io/yaml"

	"github.com/strake-containers/strake/image/policy"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	maxSignatures   = 100 // of one image
	maxSignature    = 1 << 20
	maxSignatureSum = 2 << 20 // of those for one digest
	maxTrustFile    = 1 << 20

	// Cosign's names of the parts of an attached signature.
	sigstoreLayer       = "application/vnd.dev.cosign.simplesigning.v1+json"
	sigstoreValue       = "dev.cosignproject.cosign/signature"
	sigstoreCertificate = "dev.sigstore.cosign/certificate"
	sigstoreChain       = "dev.sigstore.cosign/chain"
	sigstoreBundle      = "dev.sigstore.cosign/bundle"
	sigstoreTagTail     = ".sig"
)

// ErrSignature is the class of images that the signature policy does not let in.
var ErrSignature = policy.ErrRejected

// Trust says where containers' signature files are. Empty fields are none. They are
// read whenever an image comes in, so that an edit needs no restart.
type Trust struct {
	Policy       string // policy.json; a file that is not there lets everything in
	RegistriesD  string // registries.d: where signatures lie
	NamespaceDir string // NAMESPACE.json here is the policy of that Kubernetes namespace
}

// policyOf reads the policy of a Kubernetes namespace, "" for none; nil is that
// there is no policy.
func (t Trust) policyOf(namespace string) (*policy.Policy, string, error) {
	paths := []string{t.Policy}
	if t.NamespaceDir != "" && namespace != "" {
		if strings.ContainsAny(namespace, "/\x00") {
			return nil, "", fmt.Errorf("%w: the namespace %q is no file name", policy.ErrInvalid, namespace)
		}
		paths = []string{filepath.Join(t.NamespaceDir, namespace+".json"), t.Policy}
	}
	for _, path := range paths {
		if path == "" {
			continue
		}
		data, err := readTrustFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, path, fmt.Errorf("signature policy: %w", err)
		}
		p, err := policy.Parse(data)
		if err != nil {
			return nil, path, fmt.Errorf("%s: %w", path, err)
		}
		return p, path, nil
	}
	return nil, "", nil
}

func readTrustFile(path string) ([]byte, error) { return sys.ReadFile(path, maxTrustFile) }

// incoming is an image that a policy is asked about.
type incoming struct {
	transport string              // as policy.json names it: "docker", "oci-archive" …
	ref       *registry.Reference // nil: it has no name
	namespace string
	auth      *Auth
	top       digest.Digest // what the name means
	manifest  digest.Digest // of the platform; top's own unless that is an index
}

// policyRef is the name as a policy has it; nil is none.
func (in incoming) policyRef() *policy.Reference {
	if in.ref == nil {
		return nil
	}
	r := policyReference(*in.ref)
	return &r
}

func policyReference(r registry.Reference) policy.Reference {
	return policy.Reference{Domain: r.Domain, Path: r.Path, Tag: r.Tag, Digest: r.Digest.String()}
}

// allow asks the policy about an image that comes in, and gives the signatures that
// it fetched for that.
func (s *Store) allow(ctx context.Context, in incoming) (signatures, error) {
	p, file, err := s.trust.Load().policyOf(in.namespace)
	if err != nil {
		return nil, classified{ErrSignature, err}
	}
	found := signatures{}
	return found, decide(p, file, in, func(d digest.Digest) (policy.Signatures, error) {
		have, err := s.fetchSignatures(ctx, in, d)
		if err == nil {
			found[d] = have
		}
		return have, err
	})
}

// decide asks a policy, nil for none, with the signatures that fetch gives. One may
// be for the manifest, or for the index that leads to it.
func decide(p *policy.Policy, file string, in incoming, fetch func(digest.Digest) (policy.Signatures, error)) error {
	if p == nil {
		return nil
	}
	ref := in.policyRef()
	list, where := p.For(in.transport, ref)
	where = file + ": " + where
	digests := []digest.Digest{in.manifest}
	if in.top != in.manifest {
		digests = append(digests, in.top)
	}
	var last error
	for _, d := range digests {
		var have policy.Signatures
		if policy.NeedsSignatures(list) && in.ref != nil {
			var err error
			if have, err = fetch(d); err != nil {
				return classified{ErrSignature, fmt.Errorf("%w: signatures of %s: %w", ErrSignature, d, err)}
			}
		}
		if last = policy.Decide(list, where, ref, d.String(), have, readTrustFile); last == nil {
			return nil
		}
	}
	return last
}

// lookaside is a file of registries.d.
type lookaside struct {
	DefaultDocker *lookasideScope           `json:"default-docker"`
	Docker        map[string]lookasideScope `json:"docker"`
}

type lookasideScope struct {
	Lookaside      string `json:"lookaside"`
	LookasideStage string `json:"lookaside-staging"`
	Sigstore       string `json:"sigstore"` // what lookaside was called
	SigstoreStage  string `json:"sigstore-staging"`
	UseAttachments *bool  `json:"use-sigstore-attachments"`
}

// where finds what registries.d says for a reference.
func (t Trust) where(ref registry.Reference) (lookasideScope, error) {
	var found lookasideScope
	if t.RegistriesD == "" {
		return found, nil
	}
	files, err := filepath.Glob(filepath.Join(t.RegistriesD, "*.yaml"))
	if err != nil {
		return found, err
	}
	scopes := policyReference(ref).Scopes(false)
	best := len(scopes) + 1
	for _, file := range files {
		data, err := readTrustFile(file)
		if err != nil {
			return found, err
		}
		var l lookaside
		if err := yaml.UnmarshalStrict(data, &l); err != nil {
			return found, fmt.Errorf("%s: %w", file, err)
		}
		if l.DefaultDocker != nil && best > len(scopes) {
			found, best = *l.DefaultDocker, len(scopes)
		}
		for i, scope := range scopes[:min(best, len(scopes))] {
			if c, ok := l.Docker[scope]; ok {
				found, best = c, i
				break
			}
		}
	}
	if found.Lookaside == "" {
		found.Lookaside = found.Sigstore
	}
	if found.LookasideStage == "" {
		found.LookasideStage = found.SigstoreStage
	}
	return found, nil
}

// fetchSignatures fetches what is there of an image's signatures: simple signing's from
// the lookaside, else from the registry, if that keeps some; and attached ones.
func (s *Store) fetchSignatures(ctx context.Context, in incoming, d digest.Digest) (have policy.Signatures, err error) {
	w, err := s.trust.Load().where(*in.ref)
	if err != nil {
		return have, err
	}
	if w.Lookaside != "" {
		for i := 1; i <= maxSignatures; i++ {
			body, err := s.lookasideFile(ctx, lookasidePath(w.Lookaside, *in.ref, d, i))
			if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return have, err
			}
			have.Simple = append(have.Simple, body)
		}
	}
	if len(have.Simple) == 0 {
		if have.Simple, err = s.registrySignatures(ctx, in, d); err != nil {
			return have, err
		}
	}
	if w.UseAttachments != nil && *w.UseAttachments {
		if have.Sigstore, err = s.attachments(ctx, in, d); err != nil {
			return have, err
		}
	}
	if size := have.Size(); size > maxSignatureSum {
		return have, fmt.Errorf("%d bytes are more than %d", size, maxSignatureSum)
	}
	return have, nil
}

func (s *Store) lookasideFile(ctx context.Context, url string) ([]byte, error) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return readTrustFile(path)
	}
	return s.client.Get(ctx, url, maxSignature)
}

// registrySignatures fetches simple signing's signatures from a registry that keeps
// them itself.
func (s *Store) registrySignatures(ctx context.Context, in incoming, d digest.Digest) ([][]byte, error) {
	repo, err := s.client.Repository(*in.ref, in.auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	found, err := repo.Signatures(ctx, d)
	return found[:min(len(found), maxSignatures)], err
}

// attachments fetches cosign's signatures: the layers of an image with a tag made
// of the digest.
func (s *Store) attachments(ctx context.Context, in incoming, d digest.Digest) ([]policy.Sigstore, error) {
	repo, err := s.client.Repository(attachmentOf(*in.ref, d), in.auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	body, _, err := repo.Manifest(ctx, v1.Descriptor{})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	layers, err := registry.ParseAttachment(body)
	if err != nil {
		return nil, err
	}
	var found []policy.Sigstore
	for _, l := range layers[:min(len(layers), maxSignatures)] {
		if l.MediaType != sigstoreLayer {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(l.Annotations[sigstoreValue])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.Digest, err)
		}
		payload, err := repo.Bytes(ctx, l, maxSignature)
		if err != nil {
			return nil, err
		}
		found = append(found, policy.Sigstore{
			Payload: payload, Signature: signature, Certificate: []byte(l.Annotations[sigstoreCertificate]),
			Chain: []byte(l.Annotations[sigstoreChain]), Bundle: []byte(l.Annotations[sigstoreBundle]),
		})
	}
	return found, nil
}
