// Package sigstore makes, for tests, what sigstore's signers attach to an image: keys,
// certificates of an authority of one's own, and what a transparency log promises.
//
// Sources: cosign's signature specification, fulcio's certificate specification,
// rekor's hashedrekord 0.0.1.
package sigstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// Signature is one of cosign's, with what is attached to it.
type Signature struct {
	Payload, Signature         []byte
	Certificate, Chain, Bundle []byte // nil: none
}

// NewKey makes a key, and its public half in PEM.
func NewKey(t testing.TB) (key *ecdsa.PrivateKey, public []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Payload is what a signature of an image says.
func Payload(digest, name string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, name, digest)
}

// Sign makes a bare signature.
func Sign(t testing.TB, key *ecdsa.PrivateKey, payload []byte) Signature {
	t.Helper()
	sum := sha256.Sum256(payload)
	s, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Payload: payload, Signature: s}
}

// Authority is a root and one below it, which issues certificates.
type Authority struct {
	Root, Intermediate []byte // PEM

	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) Authority {
	t.Helper()
	root := Authority{}
	rootKey, _ := NewKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	root.key, root.issuer = rootKey, template
	self, rootPEM := root.create(t, template, &rootKey.PublicKey)
	root.issuer = self

	key, _ := NewKey(t)
	template.Subject.CommonName, template.SerialNumber = "intermediate", big.NewInt(2)
	issuer, intermediate := root.create(t, template, &key.PublicKey)
	return Authority{Root: rootPEM, Intermediate: intermediate, key: key, issuer: issuer}
}

func (a Authority) create(t testing.TB, template *x509.Certificate, public *ecdsa.PublicKey) (*x509.Certificate, []byte) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuer, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Issue makes a certificate for signing code, good for an hour from a time on, and its
// key. Change may be nil.
func (a Authority) Issue(t testing.TB, from time.Time, change func(*x509.Certificate)) (key *ecdsa.PrivateKey, certificate []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: from, NotAfter: from.Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	key, _ = NewKey(t)
	_, certificate = a.create(t, template, &key.PublicKey)
	return key, certificate
}

// Issuer is fulcio's extension that names an OpenID provider: a bare string in version
// 1, a DER string in version 2.
func Issuer(t testing.TB, version int, name string) pkix.Extension {
	t.Helper()
	if version == 1 {
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(name)}
	}
	der, err := asn1.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: der}
}

// Log is a transparency log.
type Log struct {
	Public []byte // PEM

	key *ecdsa.PrivateKey
}

// NewLog makes one.
func NewLog(t testing.TB) Log {
	t.Helper()
	key, public := NewKey(t)
	return Log{public, key}
}

// Promise is the bundle that the log gives for a signature by a key or certificate in
// PEM, which came in at a time.
func (l Log) Promise(t testing.TB, s Signature, maker []byte, at time.Time) []byte {
	t.Helper()
	sum := sha256.Sum256(s.Payload)
	marshal := func(v any) []byte {
		b, err := json.Marshal(v) // a map's keys come in RFC 8785's order
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	entry := marshal(map[string]any{
		"body": marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
			"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
			"signature": map[string]any{"content": s.Signature, "publicKey": map[string]any{"content": maker}},
		}}),
		"integratedTime": at.Unix(), "logIndex": 7, "logID": "c0d23d6ad406973f",
	})
	return marshal(map[string]any{"SignedEntryTimestamp": Sign(t, l.key, entry).Signature, "Payload": json.RawMessage(entry)})
}
