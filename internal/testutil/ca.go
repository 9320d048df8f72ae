package testutil

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certificate authority of one test.
type CA struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	File string // its certificate, PEM
	Pool *x509.CertPool
}

// NewCA makes an authority.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{tb: tb, key: newKey(tb), File: filepath.Join(tb.TempDir(), "ca.pem"), Pool: x509.NewCertPool()}
	template := certificate("ca")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der := ca.sign(template, template, &ca.key.PublicKey)
	var err error
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	ca.Pool.AddCert(ca.cert)
	writePEM(tb, ca.File, "CERTIFICATE", der)
	return ca
}

// Issue writes a certificate of that name, for 127.0.0.1 and for clients, and its key.
func (ca *CA) Issue(name, cert, key string) {
	ca.tb.Helper()
	template := certificate(name)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	own := newKey(ca.tb)
	writePEM(ca.tb, cert, "CERTIFICATE", ca.sign(template, ca.cert, &own.PublicKey))
	der, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		ca.tb.Fatal(err)
	}
	writePEM(ca.tb, key, "EC PRIVATE KEY", der)
}

// Pair is a certificate of that name, in memory.
func (ca *CA) Pair(name string) tls.Certificate {
	ca.tb.Helper()
	dir := ca.tb.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca.Issue(name, cert, key)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return pair
}

func (ca *CA) sign(template, parent *x509.Certificate, key *ecdsa.PublicKey) []byte {
	ca.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, ca.key)
	if err != nil {
		ca.tb.Fatal(err)
	}
	return der
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func writePEM(tb testing.TB, path, kind string, der []byte) {
	tb.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
}
