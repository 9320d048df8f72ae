package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// The types of a payload.
const (
	simpleType   = "atomic container signature"
	sigstoreType = "cosign container image signature"
)

// maxPayload bounds what a signature says.
const maxPayload = 1 << 20

// keyRing reads GPG keys, armored or not.
func keyRing(keys [][]byte) (openpgp.EntityList, error) {
	var ring openpgp.EntityList
	for _, key := range keys {
		found, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(key))
		if err != nil {
			found, err = openpgp.ReadKeyRing(bytes.NewReader(key))
		}
		if err != nil {
			return nil, fmt.Errorf("key: no GPG public key: %w", err)
		}
		ring = append(ring, found...)
	}
	if len(ring) == 0 {
		return nil, errors.New("key: no GPG public key")
	}
	return ring, nil
}

// verifySimple returns what a signed OpenPGP message says, once one of the ring's
// keys has made it and has not expired.
func verifySimple(ring openpgp.EntityList, signature []byte) ([]byte, error) {
	m, err := openpgp.ReadMessage(bytes.NewReader(signature), ring, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	payload, err := io.ReadAll(io.LimitReader(m.UnverifiedBody, maxPayload+1))
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	switch {
	case len(payload) > maxPayload:
		return nil, fmt.Errorf("signature: it says more than %d bytes", maxPayload)
	case !m.IsSigned || m.IsEncrypted:
		return nil, errors.New("signature: a message that is not signed")
	case m.SignatureError != nil:
		return nil, fmt.Errorf("signature by key %X: %w", m.SignedByKeyId, m.SignatureError)
	case m.SignedBy == nil || m.Signature == nil:
		return nil, fmt.Errorf("signature by key %X, which is none of the policy's", m.SignedByKeyId)
	}
	return payload, nil
}

// publicKeys reads PEM public keys.
func publicKeys(keys [][]byte) ([]crypto.PublicKey, error) {
	var all []crypto.PublicKey
	for _, key := range keys {
		block, _ := pem.Decode(key)
		if block == nil {
			return nil, errors.New("key: no PEM public key")
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		all = append(all, public)
	}
	return all, nil
}

// signers are those whose sigstore signatures a requirement trusts: keys, or an
// authority's certificates.
type signers struct {
	keys      []crypto.PublicKey
	authority *authority
	logs      []*ecdsa.PublicKey // nil: none is asked for
}

// signers reads what a requirement of sigstoreSigned trusts.
func (r Requirement) signers(readKey func(string) ([]byte, error)) (t signers, err error) {
	logs, err := readKeys(r.RekorKeyPath, r.RekorKeyPaths, r.RekorKeyData, r.RekorKeyDatas, readKey)
	if err == nil {
		t.logs, err = rekorKeys(logs)
	}
	if err != nil {
		return t, err
	}
	switch {
	case r.PKI != nil && t.logs != nil:
		return t, errors.New("pki with a rekorPublicKey is not supported")
	case r.PKI != nil:
		t.authority, err = r.PKI.authority(readKey)
	case r.Fulcio != nil:
		t.authority, err = r.Fulcio.authority(readKey)
	default:
		var keys [][]byte
		if keys, err = readKeys(r.KeyPath, r.KeyPaths, r.KeyData, r.KeyDatas, readKey); err == nil {
			t.keys, err = publicKeys(keys)
		}
	}
	return t, err
}

// verify checks that one of the signers has made a signature.
func (t signers) verify(s Sigstore) error {
	if len(s.Payload) > maxPayload {
		return fmt.Errorf("signature: it says more than %d bytes", maxPayload)
	}
	if t.authority != nil {
		return t.verifyCertified(s)
	}
	for _, key := range t.keys {
		made, err := made(key, s)
		if err != nil {
			return err
		}
		if !made {
			continue
		}
		if t.logs == nil {
			return nil
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return fmt.Errorf("key: %w", err)
		}
		_, err = loggedAt(t.logs, s, der)
		return err
	}
	return errors.New("signature: none of the policy's keys has made it")
}

// verifyCertified is verify with certificates. One of a log's entry must have been good
// when that was made, else it must be good now.
func (t signers) verifyCertified(s Sigstore) error {
	leaf, err := s.leaf()
	if err != nil {
		return err
	}
	var at time.Time
	if t.logs != nil {
		if at, err = loggedAt(t.logs, s, leaf.Raw); err != nil {
			return err
		}
	}
	key, err := t.authority.key(s, leaf, at)
	if err != nil {
		return err
	}
	made, err := made(key, s)
	if err == nil && !made {
		err = errors.New("signature: its certificate's key has not made it")
	}
	return err
}

// made reports whether a key has made a signature.
func made(key crypto.PublicKey, s Sigstore) (bool, error) {
	sum := sha256.Sum256(s.Payload)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], s.Signature), nil
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], s.Signature) == nil, nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, s.Payload, s.Signature), nil
	}
	return false, fmt.Errorf("key: %T cannot be used", key)
}

// payload is what both kinds of signature say.
type payload struct {
	Critical struct {
		Type  string `json:"type"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
	} `json:"critical"`
	Optional json.RawMessage `json:"optional"`
}

// matches checks that a verified signature is for this image and this name.
func (r Requirement) matches(data []byte, kind string, ref Reference, manifest string) error {
	var p payload
	if err := strictly(data, &p); err != nil {
		return fmt.Errorf("signature: what it says: %w", err)
	}
	if p.Critical.Type != kind {
		return fmt.Errorf("signature: of type %q, not %q", p.Critical.Type, kind)
	}
	if p.Critical.Image.Digest != manifest {
		return fmt.Errorf("signature: for the manifest %s, not %s", p.Critical.Image.Digest, manifest)
	}
	identity := Identity{Type: "matchRepoDigestOrExact"}
	if r.Identity != nil {
		identity = *r.Identity
	}
	if !identity.allows(ref, p.Critical.Identity.Reference) {
		return fmt.Errorf("signature: for the name %q, which %s does not let stand for %q", p.Critical.Identity.Reference, identity.Type, ref)
	}
	return nil
}

func (i Identity) check() error {
	if (i.Reference != "") != (i.Type == "exactReference") || (i.Repository != "") != (i.Type == "exactRepository") ||
		(i.Prefix != "" && i.SignedPrefix != "") != (i.Type == "remapIdentity") || (i.Prefix == "") != (i.SignedPrefix == "") {
		return fmt.Errorf("signedIdentity: %s has other keys than these", i.Type)
	}
	switch i.Type {
	case "matchExact", "matchRepoDigestOrExact", "matchRepository", "exactReference", "exactRepository", "remapIdentity":
		return nil
	}
	return fmt.Errorf("signedIdentity: unknown type %q", i.Type)
}

// allows reports whether a signature for the name signed is one for ref.
func (i Identity) allows(ref Reference, signed string) bool {
	name, tagged := splitSigned(signed)
	if name == "" {
		return false
	}
	repository := ref.Repository()
	switch i.Type {
	case "matchExact":
		return ref.Digest == "" && tagged && signed == ref.String()
	case "remapIdentity":
		if rest, ok := strings.CutPrefix(repository, i.Prefix); ok && (rest == "" || rest[0] == '/') {
			repository = i.SignedPrefix + rest
		}
		fallthrough
	case "matchRepoDigestOrExact":
		if ref.Digest != "" {
			return name == repository
		}
		return tagged && signed == repository+":"+ref.Tag
	case "matchRepository":
		return name == repository
	case "exactReference":
		return signed == i.Reference
	case "exactRepository":
		return name == i.Repository
	}
	return false
}

// splitSigned is the repository of a signed name, and whether that has a tag.
func splitSigned(signed string) (name string, tagged bool) {
	name, _, digested := strings.Cut(signed, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], !digested
	}
	return name, false
}
