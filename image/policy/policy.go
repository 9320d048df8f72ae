// Package policy decides by containers' policy.json whether an image may be used:
// it parses the file as strictly as containers/image does, finds the scope that
// counts, and verifies signatures: GPG's simple signing, and sigstore's with keys or
// with certificates, with or without a transparency log.
//
// It fetches nothing, and asks no authority and no log: signatures, with what was
// attached to them, and the contents of key files are handed in. What it does not
// verify rejects by name and never accepts.
//
// Sources: containers-policy.json(5), the simple signing format, cosign's signature
// specification, rekor's hashedrekord 0.0.1 and signed entry timestamp.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// ErrRejected is the class of images that the policy does not let in.
var ErrRejected = errors.New("rejected by the signature policy")

// ErrInvalid is the class of policies that cannot be read.
var ErrInvalid = errors.New("invalid signature policy")

// Policy is a parsed policy.json.
type Policy struct {
	Default    []Requirement
	Transports map[string]map[string][]Requirement
}

// Requirement is one entry of a list, all of which must be fulfilled.
type Requirement struct {
	Type     string    `json:"type"`
	KeyType  string    `json:"keyType,omitempty"`
	KeyPath  string    `json:"keyPath,omitempty"`
	KeyPaths []string  `json:"keyPaths,omitempty"`
	KeyData  []byte    `json:"keyData,omitempty"`
	KeyDatas [][]byte  `json:"keyDatas,omitempty"`
	Identity *Identity `json:"signedIdentity,omitempty"`

	// Of sigstoreSigned: certificates in place of keys, and transparency logs, one of
	// which must have the signature.
	Fulcio        *Fulcio  `json:"fulcio,omitempty"`
	PKI           *PKI     `json:"pki,omitempty"`
	RekorKeyPath  string   `json:"rekorPublicKeyPath,omitempty"`
	RekorKeyPaths []string `json:"rekorPublicKeyPaths,omitempty"`
	RekorKeyData  []byte   `json:"rekorPublicKeyData,omitempty"`
	RekorKeyDatas [][]byte `json:"rekorPublicKeyDatas,omitempty"`

	BaseLayerIdentity *Identity `json:"baseLayerIdentity,omitempty"` // of signedBaseLayer
}

// Identity says which name a signature must have been made for.
type Identity struct {
	Type         string `json:"type"`
	Reference    string `json:"dockerReference,omitempty"`
	Repository   string `json:"dockerRepository,omitempty"`
	Prefix       string `json:"prefix,omitempty"`
	SignedPrefix string `json:"signedPrefix,omitempty"`
}

// The kinds of requirement.
const (
	AcceptAnything  = "insecureAcceptAnything"
	Reject          = "reject"
	SignedBy        = "signedBy"
	SignedBaseLayer = "signedBaseLayer" // rejects, as in containers/image
	SigstoreSigned  = "sigstoreSigned"
)

// Parse reads a policy.json. Unknown and repeated keys, empty lists and what does
// not go together are errors, as a policy that is not understood protects nobody.
func Parse(data []byte) (*Policy, error) {
	var file struct {
		Default    []Requirement                       `json:"default"`
		Transports map[string]map[string][]Requirement `json:"transports"`
	}
	if err := strictly(data, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := checkList("default", file.Default); err != nil {
		return nil, err
	}
	for transport, scopes := range file.Transports {
		for scope, list := range scopes {
			if err := checkList(fmt.Sprintf("transports.%s[%q]", transport, scope), list); err != nil {
				return nil, err
			}
		}
	}
	return &Policy{Default: file.Default, Transports: file.Transports}, nil
}

// strictly decodes one JSON value into what it must have the form of.
func strictly(data []byte, into any) error {
	if err := exactly(json.NewDecoder(bytes.NewReader(data)), "", reflect.TypeOf(into)); err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// exactly reads one JSON value, refuses a key that is there twice, of which Go's decoder
// would take the last, and one that a struct in t, which it is to be decoded into, does
// not have; the decoder would take it in any case. A nil t has any keys.
func exactly(dec *json.Decoder, at string, t reflect.Type) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		where, inner := at, element(t)
		if open == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string) // a key is one
			if seen[name] {
				return fmt.Errorf("%s: the key %q is there twice", strings.TrimPrefix(at, "."), name)
			}
			seen[name] = true
			where = at + "." + name
			if inner, ok = member(t, name); !ok {
				return fmt.Errorf("unknown field %q", strings.TrimPrefix(where, "."))
			}
		}
		if err := exactly(dec, where, inner); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the end
	if at == "" && err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			return errors.New("something follows the policy")
		}
	}
	return err
}

// member is the type of what t has by a key; nil is any.
func member(t reflect.Type, key string) (_ reflect.Type, known bool) {
	t = behind(t)
	switch {
	case t == nil || t.Kind() != reflect.Struct && t.Kind() != reflect.Map:
		return nil, true // of the wrong form, which the decoder says
	case t.Kind() == reflect.Map:
		return t.Elem(), true
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key {
			return f.Type, true
		}
	}
	return nil, false
}

// element is the type of a list's elements; nil is any.
func element(t reflect.Type) reflect.Type {
	t = behind(t)
	if t == nil || t.Kind() != reflect.Slice {
		return nil
	}
	return t.Elem()
}

func behind(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func checkList(where string, list []Requirement) error {
	if len(list) == 0 {
		return fmt.Errorf("%w: %s: an empty list would accept anything: say insecureAcceptAnything or reject", ErrInvalid, where)
	}
	for i, r := range list {
		if err := r.check(); err != nil {
			return fmt.Errorf("%w: %s[%d]: %w", ErrInvalid, where, i, err)
		}
	}
	return nil
}

// check refuses fields that do not belong to the type.
func (r Requirement) check() error {
	logs := count(r.RekorKeyPath != "", r.RekorKeyPaths != nil, r.RekorKeyData != nil, r.RekorKeyDatas != nil)
	sigstoreOnly := r.KeyDatas != nil || r.Fulcio != nil || r.PKI != nil || logs > 0
	keys := count(r.KeyPath != "", r.KeyPaths != nil, r.KeyData != nil, r.KeyDatas != nil, r.Fulcio != nil, r.PKI != nil)
	others := keys > 0 || r.KeyType != "" || sigstoreOnly || r.Identity != nil // than baseLayerIdentity
	switch r.Type {
	case AcceptAnything, Reject:
		if others || r.BaseLayerIdentity != nil {
			return fmt.Errorf("%s has no other keys", r.Type)
		}
		return nil
	case SignedBaseLayer:
		if others || r.BaseLayerIdentity == nil {
			return fmt.Errorf("%s has baseLayerIdentity and no other keys", r.Type)
		}
		return r.BaseLayerIdentity.check()
	case SignedBy:
		if r.KeyType != "GPGKeys" {
			return fmt.Errorf("keyType %q is not GPGKeys", r.KeyType)
		}
		if sigstoreOnly {
			return errors.New("signedBy has keyPath, keyPaths or keyData")
		}
	case SigstoreSigned:
		if r.KeyType != "" {
			return errors.New("sigstoreSigned has no keyType")
		}
	default:
		return fmt.Errorf("type %q is not one of %s, %s, %s, %s, %s", r.Type, AcceptAnything, Reject, SignedBy, SignedBaseLayer, SigstoreSigned)
	}
	if r.BaseLayerIdentity != nil {
		return fmt.Errorf("%s has no baseLayerIdentity", r.Type)
	}
	if keys != 1 || r.KeyPaths != nil && len(r.KeyPaths) == 0 || r.KeyDatas != nil && len(r.KeyDatas) == 0 {
		return errors.New("it takes exactly one of the keys that name keys, and not an empty one")
	}
	if logs > 1 || r.RekorKeyPaths != nil && len(r.RekorKeyPaths) == 0 || r.RekorKeyDatas != nil && len(r.RekorKeyDatas) == 0 {
		return errors.New("it takes at most one of the rekorPublicKey keys, and not an empty one")
	}
	var err error
	switch {
	case r.Fulcio != nil && logs == 0:
		err = errors.New("fulcio: its certificates are good for minutes: it takes one of the rekorPublicKey keys, for the time of a signature")
	case r.Fulcio != nil:
		err = r.Fulcio.check()
	case r.PKI != nil:
		err = r.PKI.check()
	}
	if err == nil && r.Identity != nil {
		err = r.Identity.check()
	}
	return err
}

// count says how many are true.
func count(all ...bool) int {
	n := 0
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// Reference is the name that an image is asked for by: with a tag or a digest.
type Reference struct {
	Domain, Path string
	Tag          string
	Digest       string
}

// Repository is the name without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

func (r Reference) String() string {
	if r.Digest != "" {
		return r.Repository() + "@" + r.Digest
	}
	return r.Repository() + ":" + r.Tag
}

// Scopes are what a policy or registries.d may have for a reference, the most
// specific first; wildcards of the host's domain come last and count in a policy
// only.
func (r Reference) Scopes(wildcards bool) []string {
	scopes := []string{r.String()}
	for name := r.Repository(); ; {
		scopes = append(scopes, name)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	if wildcards {
		for host := r.Domain; ; {
			_, rest, ok := strings.Cut(host, ".")
			if !ok {
				break
			}
			scopes = append(scopes, "*."+rest)
			host = rest
		}
	}
	return scopes
}

// For finds the list that counts for an image of a transport, and where it stands.
// A nil reference is an image without a name.
func (p *Policy) For(transport string, ref *Reference) (list []Requirement, where string) {
	scopes := p.Transports[transport]
	if ref != nil {
		for _, scope := range ref.Scopes(true) {
			if list, ok := scopes[scope]; ok {
				return list, fmt.Sprintf("transports.%s[%q]", transport, scope)
			}
		}
	}
	if list, ok := scopes[""]; ok {
		return list, fmt.Sprintf("transports.%s[\"\"]", transport)
	}
	return p.Default, "default"
}

// NeedsSignatures reports whether a list can only be decided with signatures.
func NeedsSignatures(list []Requirement) bool {
	return slices.ContainsFunc(list, func(r Requirement) bool { return r.Type == SignedBy || r.Type == SigstoreSigned })
}

// Signatures are what was found for an image.
type Signatures struct {
	Simple   [][]byte   `json:"simple,omitempty"` // simple signing: OpenPGP messages
	Sigstore []Sigstore `json:"sigstore,omitempty"`
}

// Sigstore is one of cosign's signatures, with what is attached to it.
type Sigstore struct {
	Payload     []byte `json:"payload"`
	Signature   []byte `json:"signature"`
	Certificate []byte `json:"certificate,omitempty"` // PEM
	Chain       []byte `json:"chain,omitempty"`       // PEM, of the certificate's issuers
	Bundle      []byte `json:"bundle,omitempty"`      // JSON, of a transparency log
}

// Size is how many bytes they are together.
func (s Signatures) Size() int {
	sum := 0
	for _, b := range s.Simple {
		sum += len(b)
	}
	for _, b := range s.Sigstore {
		sum += len(b.Payload) + len(b.Signature) + len(b.Certificate) + len(b.Chain) + len(b.Bundle)
	}
	return sum
}

// Decide checks an image against a list: its manifest's digest, the name it was
// asked for by, and the signatures found. ReadKey reads a key file. The error is an
// ErrRejected that says which requirement was not met, and why.
func Decide(list []Requirement, where string, ref *Reference, manifest string, have Signatures, readKey func(path string) ([]byte, error)) error {
	for i, r := range list {
		if err := r.decide(ref, manifest, have, readKey); err != nil {
			return fmt.Errorf("%w: %s[%d] (%s): %w", ErrRejected, where, i, r.Type, err)
		}
	}
	return nil
}

func (r Requirement) decide(ref *Reference, manifest string, have Signatures, readKey func(string) ([]byte, error)) error {
	switch r.Type {
	case AcceptAnything:
		return nil
	case Reject:
		return errors.New("no image is let in from there")
	case SignedBaseLayer:
		return errors.New("base layers' signatures are not verified: nobody does (containers-policy.json(5))")
	}
	if ref == nil {
		return errors.New("an image without a name in a registry cannot be signed")
	}
	var all []error
	try := func(payload []byte, kind string, err error) bool {
		if err == nil {
			err = r.matches(payload, kind, *ref, manifest)
		}
		if err != nil {
			all = append(all, err)
		}
		return err == nil
	}
	if r.Type == SignedBy {
		keys, err := readKeys(r.KeyPath, r.KeyPaths, r.KeyData, r.KeyDatas, readKey)
		if err != nil {
			return err
		}
		ring, err := keyRing(keys)
		if err != nil {
			return err
		}
		for _, s := range have.Simple {
			payload, err := verifySimple(ring, s)
			if try(payload, simpleType, err) {
				return nil
			}
		}
	} else {
		trusted, err := r.signers(readKey)
		if err != nil {
			return err
		}
		for _, s := range have.Sigstore {
			if try(s.Payload, sigstoreType, trusted.verify(s)) {
				return nil
			}
		}
	}
	if len(all) == 0 {
		return errors.New("there is no signature of that kind")
	}
	return errors.Join(all...)
}

// readKeys gives the keys that one of these names.
func readKeys(path string, paths []string, data []byte, datas [][]byte, readKey func(string) ([]byte, error)) ([][]byte, error) {
	keys := datas
	if data != nil {
		keys = [][]byte{data}
	}
	if path != "" {
		paths = []string{path}
	}
	for _, path := range paths {
		key, err := readKey(path)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
