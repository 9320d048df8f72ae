package certs

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// The server's certificate and its clients' authority are renewed while it listens, and
// files that are half written change nothing.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	f := Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), ClientCA: filepath.Join(dir, "ca.pem")}
	old, next := testutil.NewCA(t), testutil.NewCA(t)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if _, err := Server(f, "h2", log); !os.IsNotExist(err) {
		t.Errorf("without files: %v", err)
	}
	renew := func(ca *testutil.CA, name string) {
		ca.Issue(name, f.Cert, f.Key)
		pem, err := os.ReadFile(ca.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.ClientCA, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renew(old, "first")
	c, err := Server(f, "h2", log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x")) // with the handshake
			_ = conn.Close()
		}
	}()
	// dial returns the server's name; from TLS 1.3 on, only a read says that the client
	// was taken.
	sessions := tls.NewLRUClientSessionCache(0)
	dial := func(ca *testutil.CA, clients ...tls.Certificate) (string, error) {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
			RootCAs: ca.Pool, Certificates: clients, NextProtos: []string{"h2"}, ClientSessionCache: sessions,
		})
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_, err = conn.Read(make([]byte, 1))
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed, with a certificate of before")
		}
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, err
	}
	oldClient, nextClient := old.Pair("client"), next.Pair("client")
	for range 2 { // the second time with a session to resume
		if name, err := dial(old, oldClient); err != nil || name != "first" {
			t.Errorf("%q, %v", name, err)
		}
	}
	if _, err := dial(old); err == nil {
		t.Error("a client without a certificate was taken")
	}
	if _, err := dial(old, nextClient); err == nil {
		t.Error("a client of somebody else was taken")
	}
	renew(next, "second")
	if name, err := dial(next, nextClient); err != nil || name != "second" {
		t.Errorf("%q, %v", name, err)
	}
	if _, err := dial(next, oldClient); err == nil {
		t.Error("a client of before was taken")
	}
	if err := os.WriteFile(f.Key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err := dial(next, nextClient); err != nil || name != "second" || !strings.Contains(out.String(), f.Key) {
		t.Errorf("%q, %v, log %s", name, err, out.String())
	}
}
