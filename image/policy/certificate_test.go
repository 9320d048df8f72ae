package policy

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strake-containers/strake/test/sigstore"
)

const (
	person   = "person@example.org"
	provider = "https://id.example.org/"
)

// withIdentity is a certificate for person, known to provider by fulcio's extension of
// a version.
func withIdentity(t *testing.T, version int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.EmailAddresses = []string{person}
		c.ExtraExtensions = []pkix.Extension{sigstore.Issuer(t, version, provider)}
	}
}

// checkSigned asks a requirement about signatures; want is in the error, or "" for none.
func checkSigned(t *testing.T, what string, r Requirement, want string, signatures ...sigstore.Signature) {
	t.Helper()
	r.Type, r.Identity = SigstoreSigned, &Identity{Type: "matchRepository"}
	if err := r.check(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	var have Signatures
	for _, s := range signatures {
		have.Sigstore = append(have.Sigstore, Sigstore(s))
	}
	err := Decide([]Requirement{r}, "test", &signedName, manifest, have, os.ReadFile)
	if want == "" && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if want != "" && (!errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// flipped has one bit of every byte changed, one after the other.
func flipped(data []byte, each func(changed []byte)) {
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 0x08
		each(changed)
	}
}

func TestFulcio(t *testing.T) {
	ca, log := sigstore.NewAuthority(t), sigstore.NewLog(t)
	then := time.Now().AddDate(0, -1, 0) // the certificate is long out of date
	key, leaf := ca.Issue(t, then, withIdentity(t, 2))
	signed := func() sigstore.Signature {
		s := sigstore.Sign(t, key, sigstore.Payload(manifest, "a.io/x"))
		s.Certificate, s.Chain = leaf, append(bytes.Clone(ca.Intermediate), ca.Root...)
		s.Bundle = log.Promise(t, s, leaf, then.Add(time.Minute))
		return s
	}
	require := func(change func(*Requirement)) Requirement {
		r := Requirement{Fulcio: &Fulcio{CAData: ca.Root, OIDCIssuer: provider, SubjectEmail: person}, RekorKeyData: log.Public}
		if change != nil {
			change(&r)
		}
		return r
	}
	right := signed()
	checkSigned(t, "right", require(nil), "", right)
	checkSigned(t, "one of two", require(nil), "", sigstore.Signature{Payload: []byte("{}")}, right)

	// The same by files, and with one of several logs.
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca": ca.Root, "log": log.Public, "other": sigstore.NewLog(t).Public} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	checkSigned(t, "by files", require(func(r *Requirement) {
		r.Fulcio.CAData, r.Fulcio.CAPath = nil, file("ca")
		r.RekorKeyData, r.RekorKeyPaths = nil, []string{file("other"), file("log")}
	}), "", right)
	checkSigned(t, "a missing file", require(func(r *Requirement) { r.Fulcio.CAData, r.Fulcio.CAPath = nil, file("none") }), "fulcio: ", right)
	checkSigned(t, "no certificate in it", require(func(r *Requirement) { r.Fulcio.CAData, r.Fulcio.CAPath = nil, file("log") }), "no PEM certificate", right)
	checkSigned(t, "a log's key that is none", require(func(r *Requirement) { r.RekorKeyData = ca.Root }), "rekor: key:", right)

	// Another signer.
	checkSigned(t, "another person", require(func(r *Requirement) { r.Fulcio.SubjectEmail = "x@example.org" }), `not "x@example.org"`, right)
	checkSigned(t, "another provider", require(func(r *Requirement) { r.Fulcio.OIDCIssuer = "https://x/" }), `not "https://x/"`, right)
	checkSigned(t, "another authority", require(func(r *Requirement) { r.Fulcio.CAData = sigstore.NewAuthority(t).Root }), "unknown authority", right)
	checkSigned(t, "another log", require(func(r *Requirement) { r.RekorKeyData = sigstore.NewLog(t).Public }), "none of the policy's keys has signed the entry", right)
	checkSigned(t, "a bare key", Requirement{KeyData: log.Public}, "none of the policy's keys has made it", right)

	// Something is missing, or does not belong to the rest.
	other := sigstore.Sign(t, key, sigstore.Payload(manifest, "a.io/x"))
	_, otherLeaf := ca.Issue(t, then, withIdentity(t, 2))
	for want, change := range map[string]func(s *sigstore.Signature){
		"there is no entry":              func(s *sigstore.Signature) { s.Bundle = nil },
		"there is no certificate":        func(s *sigstore.Signature) { s.Certificate = nil },
		"2 certificates":                 func(s *sigstore.Signature) { s.Certificate = append(bytes.Clone(leaf), leaf...) },
		"no PEM certificate":             func(s *sigstore.Signature) { s.Certificate = log.Public },
		"unknown authority":              func(s *sigstore.Signature) { s.Chain = nil },
		"chain: something":               func(s *sigstore.Signature) { s.Chain = []byte("x") },
		"for another content":            func(s *sigstore.Signature) { s.Payload = sigstore.Payload(manifest, "a.io/y") },
		"for another signature":          func(s *sigstore.Signature) { s.Signature = other.Signature },
		"for another key or certificate": func(s *sigstore.Signature) { s.Certificate = otherLeaf },
		"key has not made it": func(s *sigstore.Signature) { // the log took what it was given
			s.Certificate = otherLeaf
			s.Bundle = log.Promise(t, *s, otherLeaf, then.Add(time.Minute))
		},
		"expired or is not yet valid": func(s *sigstore.Signature) { s.Bundle = log.Promise(t, *s, leaf, then.Add(2*time.Hour)) },
		"unknown field":               func(s *sigstore.Signature) { s.Bundle = []byte(`{"Payload":{"more":1}}`) },
		"there twice":                 func(s *sigstore.Signature) { s.Bundle = []byte(`{"Payload":{},"Payload":{}}`) },
	} {
		s := signed()
		change(&s)
		checkSigned(t, want, require(nil), want, s)
	}

	// Tampered anywhere.
	r := require(nil)
	r.Type, r.Identity = SigstoreSigned, &Identity{Type: "matchRepository"}
	refused := func(what string, s sigstore.Signature) {
		if err := Decide([]Requirement{r}, "test", &signedName, manifest, Signatures{Sigstore: []Sigstore{Sigstore(s)}}, noFiles); !errors.Is(err, ErrRejected) {
			t.Errorf("tampered %s: %v\n%q", what, err, s)
		}
	}
	flipped(right.Payload, func(b []byte) { s := right; s.Payload = b; refused("payload", s) })
	flipped(right.Signature, func(b []byte) { s := right; s.Signature = b; refused("signature", s) })

	// Certificates that are not such a person's.
	for want, change := range map[string]func(*x509.Certificate){
		"without the name of an OpenID provider": func(c *x509.Certificate) { c.EmailAddresses = []string{person} },
		"two OpenID providers": func(c *x509.Certificate) {
			c.EmailAddresses = []string{person}
			c.ExtraExtensions = []pkix.Extension{sigstore.Issuer(t, 1, "https://x/"), sigstore.Issuer(t, 2, provider)}
		},
		"incompatible key usage": func(c *x509.Certificate) {
			withIdentity(t, 2)(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		},
		"": withIdentity(t, 1),
	} {
		key, leaf := ca.Issue(t, then, change)
		s := sigstore.Sign(t, key, right.Payload)
		s.Certificate, s.Chain = leaf, ca.Intermediate
		s.Bundle = log.Promise(t, s, leaf, then.Add(time.Minute))
		checkSigned(t, "certificate "+want, require(nil), want, s)
	}
}

func TestPKI(t *testing.T) {
	ca := sigstore.NewAuthority(t)
	key, leaf := ca.Issue(t, time.Now().Add(-time.Minute), func(c *x509.Certificate) {
		c.EmailAddresses, c.DNSNames = []string{person}, []string{"build.example.org"}
	})
	right := sigstore.Sign(t, key, sigstore.Payload(manifest, "a.io/x"))
	right.Certificate, right.Chain = leaf, ca.Intermediate
	require := func(change func(*PKI)) Requirement {
		p := &PKI{CARootsData: ca.Root, SubjectEmail: person, SubjectHostname: "build.example.org"}
		if change != nil {
			change(p)
		}
		return Requirement{PKI: p}
	}
	checkSigned(t, "right", require(nil), "", right)
	bare := right
	bare.Chain = nil
	checkSigned(t, "no chain", require(nil), "unknown authority", bare)
	checkSigned(t, "the policy has it", require(func(p *PKI) { p.CAIntermediatesData = ca.Intermediate }), "", bare)
	file := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(file, append(bytes.Clone(ca.Root), ca.Intermediate...), 0o600); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, "by files", require(func(p *PKI) {
		p.CARootsData, p.CARootsPath, p.CAIntermediatesPath = nil, file, file
	}), "", bare)
	checkSigned(t, "a missing file", require(func(p *PKI) { p.CAIntermediatesPath = file + "x" }), "pki: ", right)
	checkSigned(t, "another person", require(func(p *PKI) { p.SubjectEmail = "x@example.org" }), `not "x@example.org"`, right)
	checkSigned(t, "another host", require(func(p *PKI) { p.SubjectHostname = "x.example.org" }), "x.example.org", right)
	checkSigned(t, "the email alone", require(func(p *PKI) { p.SubjectHostname = "" }), "", right)
	checkSigned(t, "another authority", require(func(p *PKI) { p.CARootsData = sigstore.NewAuthority(t).Root }), "unknown authority", right)
	r := require(nil)
	r.RekorKeyData = sigstore.NewLog(t).Public
	checkSigned(t, "with a log", r, "not supported", right)

	key, leaf = ca.Issue(t, time.Now().Add(-2*time.Hour), func(c *x509.Certificate) {
		c.EmailAddresses, c.DNSNames = []string{person}, []string{"build.example.org"}
	})
	old := sigstore.Sign(t, key, right.Payload)
	old.Certificate, old.Chain = leaf, ca.Intermediate
	checkSigned(t, "expired", require(nil), "expired", old)
	tampered := right
	tampered.Signature = bytes.Clone(right.Signature)
	tampered.Signature[len(tampered.Signature)-1] ^= 1
	checkSigned(t, "tampered", require(nil), "key has not made it", tampered)
}

// TestKeyWithLog is a key whose signatures a log must have.
func TestKeyWithLog(t *testing.T) {
	key, public := sigstore.NewKey(t)
	_, unused := sigstore.NewKey(t)
	log := sigstore.NewLog(t)
	right := sigstore.Sign(t, key, sigstore.Payload(manifest, "a.io/x"))
	bare := right
	right.Bundle = log.Promise(t, right, public, time.Now())
	require := Requirement{KeyDatas: [][]byte{unused, public}, RekorKeyDatas: [][]byte{sigstore.NewLog(t).Public, log.Public}}
	checkSigned(t, "right", require, "", right)
	checkSigned(t, "not logged", require, "there is no entry", bare)
	right.Bundle = log.Promise(t, right, unused, time.Now())
	checkSigned(t, "logged for another key", require, "for another key", right)
}

// TestParseCertificates refuses by name what does not go together.
func TestParseCertificates(t *testing.T) {
	for text, want := range map[string]string{
		`"fulcio":{"caPath":"/x","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`:                  "",
		`"fulcio":{"caData":"eA==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyDatas":["eA=="]`:           "",
		`"fulcio":{"caPath":"/x","oidcIssuer":"i","subjectEmail":"e"}`:                                            "rekorPublicKey",
		`"fulcio":{"caPath":"/x","caData":"eA==","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`:  "caPath or caData",
		`"fulcio":{"caPath":"/x","subjectEmail":"e"},"rekorPublicKeyPath":"/r"`:                                   "oidcIssuer",
		`"fulcio":{"caPath":"/x","oidcIssuer":"i"},"rekorPublicKeyPath":"/r"`:                                     "subjectEmail",
		`"fulcio":{"caPath":"/x","oidcIssuer":"i","subjectEmail":"e","subjectURI":"u"},"rekorPublicKeyPath":"/r"`: "subjectURI",
		`"fulcio":{"caPath":"/x","oidcIssuer":"i","subjectEmail":"e"},"keyPath":"/k","rekorPublicKeyPath":"/r"`:   "exactly one",
		`"keyPath":"/k","rekorPublicKeyPath":"/r","rekorPublicKeyData":"eA=="`:                                    "at most one",
		`"keyPath":"/k","rekorPublicKeyPaths":[]`:                                                                 "at most one",
		`"pki":{"caRootsPath":"/x","subjectEmail":"e"}`:                                                           "",
		`"pki":{"caRootsData":"eA==","caIntermediatesPath":"/i","subjectHostname":"h"}`:                           "",
		`"pki":{"caRootsPath":"/x"}`: "subjectEmail",
		`"pki":{"subjectEmail":"e"}`: "caRoots",
		`"pki":{"caRootsPath":"/x","caIntermediatesPath":"/i","caIntermediatesData":"eA==","subjectEmail":"e"}`: "caIntermediates",
		`"pki":{"caRootsPath":"/x","oidcIssuer":"i","subjectEmail":"e"}`:                                        "oidcIssuer",
	} {
		_, err := Parse([]byte(`{"default":[{"type":"sigstoreSigned",` + text + `}]}`))
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
