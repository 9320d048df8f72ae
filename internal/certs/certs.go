// Package certs is the server's end of TLS, with certificates that are renewed while it
// serves: as files that somebody replaces, with no word to us.
//
// The files are read for each connection: sessions and kubelets come seldom, and so
// there is nothing to watch and nothing stale. No session is resumed over another
// certificate or another authority.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/strake-containers/strake/internal/sys"
)

// maxFile bounds each file, in bytes; a chain has a few thousand.
const maxFile = 1 << 20

// Files are paths of PEM files: the server's certificate with what leads to its
// authority, its key, and the authorities of its clients. ClientCA "" asks clients for
// no certificate; with it, one without is refused.
type Files struct{ Cert, Key, ClientCA string }

// Server is a configuration made of the files for servers that speak one protocol
// (ALPN: "h2", "http/1.1"). The files have to be good now. Later on, ones that are not,
// as half-way through a renewal, leave the last good ones in use, and that is logged.
func Server(f Files, protocol string, log *slog.Logger) (*tls.Config, error) {
	first, err := f.load(protocol)
	if err != nil {
		return nil, err
	}
	var good atomic.Pointer[tls.Config]
	good.Store(first)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{protocol},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := f.load(protocol)
			if err != nil {
				log.Warn("certificates cannot be used; those of before stay in use", "error", err)
				return good.Load(), nil
			}
			good.Store(c)
			return c, nil
		},
	}, nil
}

func (f Files) load(protocol string) (*tls.Config, error) {
	cert, err := sys.ReadFile(f.Cert, maxFile)
	if err != nil {
		return nil, err
	}
	key, err := sys.ReadFile(f.Key, maxFile)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{protocol}, Certificates: []tls.Certificate{pair},
		// A ticket would let in whom the authority of before knew, and bring back the
		// server's name of then: its keys are not of this configuration but of the outer one.
		SessionTicketsDisabled: true,
	}
	if f.ClientCA == "" {
		return c, nil
	}
	authorities, err := sys.ReadFile(f.ClientCA, maxFile)
	if err != nil {
		return nil, err
	}
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s: has no certificate", f.ClientCA)
	}
	return c, nil
}
