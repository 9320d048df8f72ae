package policy

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Fulcio says whose short-lived certificates are trusted: of a person whom an OpenID
// provider knows, by a certificate authority that is named here and never asked.
type Fulcio struct {
	CAPath       string `json:"caPath,omitempty"`
	CAData       []byte `json:"caData,omitempty"`
	OIDCIssuer   string `json:"oidcIssuer"`
	SubjectEmail string `json:"subjectEmail"`
}

// PKI says whose certificates are trusted, of an authority of one's own.
type PKI struct {
	CARootsPath         string `json:"caRootsPath,omitempty"`
	CARootsData         []byte `json:"caRootsData,omitempty"`
	CAIntermediatesPath string `json:"caIntermediatesPath,omitempty"`
	CAIntermediatesData []byte `json:"caIntermediatesData,omitempty"`
	SubjectEmail        string `json:"subjectEmail,omitempty"`
	SubjectHostname     string `json:"subjectHostname,omitempty"`
}

// Extensions in which fulcio notes who has vouched for a person, of before and of
// today (fulcio's oid-info). The second is a DER string, the first is not.
var (
	oidIssuerV1 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
)

func (f *Fulcio) check() error {
	switch {
	case (f.CAPath != "") == (f.CAData != nil):
		return errors.New("fulcio: it takes caPath or caData")
	case f.OIDCIssuer == "" || f.SubjectEmail == "":
		return errors.New("fulcio: it takes oidcIssuer and subjectEmail")
	}
	return nil
}

func (p *PKI) check() error {
	switch {
	case (p.CARootsPath != "") == (p.CARootsData != nil):
		return errors.New("pki: it takes caRootsPath or caRootsData")
	case p.CAIntermediatesPath != "" && p.CAIntermediatesData != nil:
		return errors.New("pki: it takes one of caIntermediatesPath and caIntermediatesData")
	case p.SubjectEmail == "" && p.SubjectHostname == "":
		return errors.New("pki: it takes subjectEmail, subjectHostname or both")
	}
	return nil
}

// authority verifies certificates.
type authority struct {
	roots         *x509.CertPool
	intermediates []*x509.Certificate
	issuer        string // OpenID; "" is any
	email         string // "" is any
	hostname      string // "" is any
}

func (f *Fulcio) authority(readKey func(string) ([]byte, error)) (*authority, error) {
	roots, err := certificatePool(f.CAPath, f.CAData, readKey)
	if err != nil {
		return nil, fmt.Errorf("fulcio: %w", err)
	}
	return &authority{roots: roots, issuer: f.OIDCIssuer, email: f.SubjectEmail}, nil
}

func (p *PKI) authority(readKey func(string) ([]byte, error)) (*authority, error) {
	roots, err := certificatePool(p.CARootsPath, p.CARootsData, readKey)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	a := &authority{roots: roots, email: p.SubjectEmail, hostname: p.SubjectHostname}
	if p.CAIntermediatesPath != "" || p.CAIntermediatesData != nil {
		a.intermediates, err = readCertificates(p.CAIntermediatesPath, p.CAIntermediatesData, readKey)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
	}
	return a, nil
}

func certificatePool(path string, data []byte, readKey func(string) ([]byte, error)) (*x509.CertPool, error) {
	all, err := readCertificates(path, data, readKey)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range all {
		pool.AddCert(c)
	}
	return pool, nil
}

// readCertificates reads PEM certificates from a file, or as they are.
func readCertificates(path string, data []byte, readKey func(string) ([]byte, error)) ([]*x509.Certificate, error) {
	if path != "" {
		var err error
		if data, err = readKey(path); err != nil {
			return nil, err
		}
	}
	all, err := parseCertificates(data)
	if err == nil && len(all) == 0 {
		err = errors.New("no PEM certificate")
	}
	if err != nil && path != "" {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return all, err
}

// parseCertificates reads nothing but PEM certificates, one after the other.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for data = bytes.TrimSpace(data); len(data) > 0; data = bytes.TrimSpace(data) {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("something that is no PEM certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, data = append(all, c), rest
	}
	return all, nil
}

// leaf is the certificate of a signature.
func (s Sigstore) leaf() (*x509.Certificate, error) {
	all, err := parseCertificates(s.Certificate)
	switch {
	case err != nil:
		return nil, fmt.Errorf("signature: its certificate: %w", err)
	case len(all) == 0:
		return nil, errors.New("signature: there is no certificate with it")
	case len(all) > 1:
		return nil, fmt.Errorf("signature: %d certificates in place of one", len(all))
	}
	return all[0], nil
}

// key is that of a signature's certificate, if this authority has given it to whom
// the policy names. The certificate must have been good at a time, zero for now.
func (a *authority) key(s Sigstore, leaf *x509.Certificate, at time.Time) (crypto.PublicKey, error) {
	chain, err := parseCertificates(s.Chain)
	if err != nil {
		return nil, fmt.Errorf("signature: its certificate's chain: %w", err)
	}
	between := x509.NewCertPool()
	for _, c := range slices.Concat(a.intermediates, chain) {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil {
		return nil, fmt.Errorf("signature: its certificate: %w", err)
	}
	if a.issuer != "" {
		issuer, err := openIDIssuer(leaf)
		if err != nil {
			return nil, fmt.Errorf("signature: its certificate: %w", err)
		}
		if issuer != a.issuer {
			return nil, fmt.Errorf("signature: its certificate: for a person known to %q, not %q", issuer, a.issuer)
		}
	}
	if a.email != "" && !slices.Contains(leaf.EmailAddresses, a.email) {
		return nil, fmt.Errorf("signature: its certificate: for %q, not %q", leaf.EmailAddresses, a.email)
	}
	if a.hostname != "" {
		if err := leaf.VerifyHostname(a.hostname); err != nil {
			return nil, fmt.Errorf("signature: its certificate: %w", err)
		}
	}
	return leaf.PublicKey, nil
}

// openIDIssuer is who has vouched for the person of a certificate of fulcio's. Go
// refuses certificates with one extension twice.
func openIDIssuer(c *x509.Certificate) (string, error) {
	var found []string
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oidIssuerV1):
			found = append(found, string(e.Value))
		case e.Id.Equal(oidIssuerV2):
			var issuer string
			if rest, err := asn1.Unmarshal(e.Value, &issuer); err != nil || len(rest) > 0 {
				return "", fmt.Errorf("extension %s is no string", oidIssuerV2)
			}
			found = append(found, issuer)
		}
	}
	switch {
	case len(found) == 0:
		return "", errors.New("without the name of an OpenID provider: it is not fulcio's")
	case len(found) == 2 && found[0] != found[1]:
		return "", fmt.Errorf("two OpenID providers, %q and %q", found[0], found[1])
	}
	return found[0], nil
}
