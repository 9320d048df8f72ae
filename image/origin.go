package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/policy"
	"github.com/strake-containers/strake/image/registry"
)

const (
	transportDocker = "docker"
	transportMade   = "import" // made here: no policy is asked
	originVersion   = 1
	maxKept         = 8 << 20 // of a blob of signatures: two digests' in base64
)

// signatures are those of an image, by the manifest or index that they are for.
type signatures map[digest.Digest]policy.Signatures

// keptSignatures is the blob that a name's signatures are kept in.
type keptSignatures struct {
	Version    int        `json:"version"`
	Signatures signatures `json:"signatures"`
}

// origin is how a name says where its image is from: TRANSPORT:REFERENCE, the second
// empty for an archive.
func (p *pull) origin() string {
	if p.policy == nil {
		return transportMade + ":"
	}
	origin := p.policy.transport + ":"
	if p.policy.ref != nil {
		origin += p.policy.ref.String()
	}
	return origin
}

// noteOrigin notes in n where the image is from, and in docs the signatures that the
// policy can be asked with again: those that this pull fetched, and those for the
// same digests that earlier ones did, perhaps for a namespace with another policy.
func (p *pull) noteOrigin(n *name, docs documents) error {
	n.origin, n.signatures = p.origin(), ""
	all := signatures{}
	for _, old := range p.store.namesOf(n.manifest) {
		kept, err := p.store.keptSignatures(old)
		if err != nil {
			p.store.log.Warn("kept signatures left out", "manifest", n.manifest, "error", err)
		}
		maps.Copy(all, kept)
	}
	maps.Copy(all, p.signatures)
	maps.DeleteFunc(all, func(d digest.Digest, s policy.Signatures) bool {
		return s.Size() == 0 || d != n.manifest && d != n.top.Digest
	})
	if len(all) == 0 {
		return nil
	}
	body, err := json.Marshal(keptSignatures{originVersion, all})
	if err != nil {
		return err
	}
	n.signatures = digest.FromBytes(body)
	docs[n.signatures] = body
	return nil
}

// namesOf are the names of a manifest that have signatures.
func (s *Store) namesOf(manifest digest.Digest) []name {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []name
	for _, key := range slices.Sorted(maps.Keys(s.names)) {
		if n := s.names[key]; n.manifest == manifest && n.signatures != "" {
			list = append(list, n)
		}
	}
	return list
}

// keptSignatures reads the signatures of a name.
func (s *Store) keptSignatures(n name) (signatures, error) {
	if n.signatures == "" {
		return nil, nil
	}
	body, err := s.layout.Get(n.signatures, maxKept)
	if err != nil {
		return nil, err
	}
	var kept keptSignatures
	if err := json.Unmarshal(body, &kept); err != nil {
		return nil, fmt.Errorf("blob %s: %w", n.signatures, err)
	}
	if kept.Version != originVersion {
		return nil, fmt.Errorf("blob %s: version %d, not %d", n.signatures, kept.Version, originVersion)
	}
	return kept.Signatures, nil
}

// Permit asks today's policy of a Kubernetes namespace, "" for none, about an image
// that is here, as where it was pulled from and with the signatures that were found
// then: it never uses the network. Asked is the name that a container has for it: if
// that is one of the image's, what this name was pulled from counts, else any of
// them. The error is an ErrSignature.
func (s *Store) Permit(id, asked, namespace string) error {
	p, file, err := s.trust.Load().policyOf(namespace)
	if err != nil {
		return classified{ErrSignature, fmt.Errorf("image %s: %w", asked, err)}
	}
	if p == nil {
		return nil
	}
	names := s.namesAsked(id, asked)
	if len(names) == 0 {
		return fmt.Errorf("image %q: %w here", asked, ErrNotFound)
	}
	var first error
	for _, key := range slices.Sorted(maps.Keys(names)) {
		err := s.permit(p, file, key, names[key])
		if err == nil {
			return nil
		}
		if first == nil {
			first = fmt.Errorf("image %s is here, but the policy does not let it be used: %w", key, err)
		}
	}
	return first
}

// namesAsked are the names of an image that Permit looks at.
func (s *Store) namesAsked(id, asked string) map[string]name {
	q := s.ask(asked)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, key, err := s.find(q); err == nil && key != "" && s.names[key].id == id {
		return map[string]name{key: s.names[key]}
	}
	names := map[string]name{}
	for key, n := range s.names {
		if n.id == id {
			names[key] = n
		}
	}
	return names
}

// permit asks the policy about one name.
func (s *Store) permit(p *policy.Policy, file, key string, n name) error {
	in, err := n.incoming(key)
	if err != nil {
		return classified{ErrSignature, err}
	}
	if in.transport == transportMade {
		return nil
	}
	kept, err := s.keptSignatures(n)
	if err != nil {
		return classified{ErrSignature, fmt.Errorf("%w: its signatures: %w: pull it again", ErrSignature, err)}
	}
	missing := false
	err = decide(p, file, in, func(d digest.Digest) (policy.Signatures, error) {
		missing = missing || len(kept) == 0
		return kept[d], nil
	})
	if err != nil && missing {
		err = fmt.Errorf("%w (no signature was fetched when it was pulled: if it has one, pull it again)", err)
	}
	return err
}

// incoming is what the policy is asked about a name. One without an origin is of an
// older version, and stands for itself.
func (n name) incoming(key string) (incoming, error) {
	in := incoming{top: n.top.Digest, manifest: n.manifest}
	transport, ref, ok := strings.Cut(n.origin, ":")
	if !ok && key[0] != '@' {
		transport, ref = transportDocker, key
	}
	in.transport = transport
	if ref != "" {
		parsed, err := registry.ParseReference(ref)
		if err != nil {
			return in, fmt.Errorf("origin %q: %w", n.origin, err)
		}
		in.ref = &parsed
	}
	return in, nil
}

// TrustScope is one list of a policy.
type TrustScope struct {
	Transport, Scope string // both "" for the default
	Requirements     []byte // JSON
}

// TrustDecision is what a policy says of one name of an image.
type TrustDecision struct {
	Image        string
	Origin       string // TRANSPORT:REFERENCE
	Scope        string // the list that counts, by its place in the file
	Requirements []byte // JSON
	Refused      error  // an ErrSignature; nil: it may be used
}

// ShowTrust gives the policy of a Kubernetes namespace, "" for none, with its file,
// "" if there is none, and its lists. If ref is an image that is here, it says what
// Permit decides, and by which list.
func (s *Store) ShowTrust(ref, namespace string) (file string, scopes []TrustScope, decision *TrustDecision, err error) {
	p, file, err := s.trust.Load().policyOf(namespace)
	if err != nil {
		return file, nil, nil, err
	}
	if p != nil {
		if scopes, err = listScopes(p); err != nil {
			return file, nil, nil, err
		}
	}
	if ref == "" {
		return file, scopes, nil, nil
	}
	img, err := s.Get(ref)
	if err != nil {
		return file, nil, nil, err
	}
	names := s.namesAsked(img.ID, ref)
	for _, key := range slices.Sorted(maps.Keys(names)) {
		d, err := s.explain(p, file, key, names[key])
		if err != nil {
			return file, nil, nil, err
		}
		if decision == nil || d.Refused == nil {
			decision = &d
		}
		if d.Refused == nil {
			break
		}
	}
	return file, scopes, decision, nil
}

func listScopes(p *policy.Policy) ([]TrustScope, error) {
	list := func(transport, scope string, r []policy.Requirement) (TrustScope, error) {
		body, err := json.Marshal(r)
		return TrustScope{transport, scope, body}, err
	}
	first, err := list("", "", p.Default)
	if err != nil {
		return nil, err
	}
	scopes := []TrustScope{first}
	for _, transport := range slices.Sorted(maps.Keys(p.Transports)) {
		for _, scope := range slices.Sorted(maps.Keys(p.Transports[transport])) {
			next, err := list(transport, scope, p.Transports[transport][scope])
			if err != nil {
				return nil, err
			}
			scopes = append(scopes, next)
		}
	}
	return scopes, nil
}

// explain is permit that says what it looked at.
func (s *Store) explain(p *policy.Policy, file, key string, n name) (TrustDecision, error) {
	in, err := n.incoming(key)
	if err != nil {
		return TrustDecision{}, err
	}
	d := TrustDecision{Image: key, Origin: in.transport + ":"}
	if in.ref != nil {
		d.Origin += in.ref.String()
	}
	if p == nil || in.transport == transportMade {
		return d, nil // no list counts
	}
	list, where := p.For(in.transport, in.policyRef())
	d.Scope = where
	if d.Requirements, err = json.Marshal(list); err != nil {
		return d, err
	}
	d.Refused = s.permit(p, file, key, n)
	return d, nil
}
