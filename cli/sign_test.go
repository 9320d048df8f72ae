package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

func TestSigstoreSigner(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(key any) []byte {
		b, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypted.EncryptWithCustomKDFParameters(der(key), []byte("secret"), encrypted.Legacy)
	if err != nil {
		t.Fatal(err)
	}
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(passphrase, []byte("secret\nnot this\n"))
	for _, c := range []struct {
		what, kind string
		der        []byte
		passphrase string // of cosign's variable; "FILE": of a file
		fails      string
	}{
		{"PKCS8", "PRIVATE KEY", der(key), "", ""},
		{"SEC 1", "EC PRIVATE KEY", ec, "", ""},
		{"cosign's", cosignKey, sealed, "secret", ""},
		{"sigstore's, the passphrase in a file", sigstoreKey, sealed, "FILE", ""},
		{"no passphrase", sigstoreKey, sealed, "", "it is encrypted"},
		{"another passphrase", sigstoreKey, sealed, "guess", "the passphrase is not its"},
		{"another curve", "PRIVATE KEY", der(other), "", "not of ECDSA P-256"},
		{"another kind", "PRIVATE KEY", der(ed), "", "not of ECDSA P-256"},
		{"a public key", "PUBLIC KEY", nil, "", `"PUBLIC KEY" is not one of`},
		{"rubbish", "PRIVATE KEY", []byte("x"), "", "asn1"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		write(path, pem.EncodeToMemory(&pem.Block{Type: c.kind, Bytes: c.der}))
		file := ""
		if c.passphrase == "FILE" {
			file = passphrase
		} else if c.passphrase != "" {
			t.Setenv(passwordVariable, c.passphrase)
		}
		secret, err := readPassphrase(file)
		if err != nil {
			t.Fatal(err)
		}
		if c.passphrase != "" {
			_ = os.Unsetenv(passwordVariable) // t.Setenv brings back what was before
		}
		s, err := sigstoreSigner(path, secret)
		if fails(t, err, c.fails) {
			continue
		}
		signature, err := s.sign(t.Context(), []byte("payload"))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if sum := sha256.Sum256([]byte("payload")); s.kind != "sigstore" || !ecdsa.VerifyASN1(&key.PublicKey, sum[:], signature) {
			t.Errorf("%s: not its signature", c.what)
		}
	}
	if _, err := sigstoreSigner(passphrase, nil); err == nil || !strings.Contains(err.Error(), "no PEM") {
		t.Error(err)
	}
	write(passphrase, bytes.Repeat([]byte("x"), maxSecret+1))
	if _, err := readPassphrase(passphrase); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

func TestGPGSign(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("needs gpg")
	}
	home, err := os.MkdirTemp("", "gpg") // short: its agent's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // it may have none
		_ = os.RemoveAll(home)
	})
	t.Setenv("GNUPGHOME", home)
	gpg := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--batch", "--quiet"}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("gpg %v: %v\n%s", args, err, out)
		}
		return out
	}
	gpg(nil, "--pinentry-mode", "loopback", "--passphrase", "secret", "--quick-generate-key", "k@example.org", "ed25519", "sign", "never")
	if err := exec.Command("gpgconf", "--kill", "gpg-agent").Run(); err != nil { // which knows the passphrase
		t.Fatal(err)
	}
	if _, err := gpgSign(t.Context(), "k@example.org", []byte("guess"), []byte("payload"), io.Discard); err == nil || !strings.Contains(err.Error(), "assphrase") {
		t.Errorf("another passphrase: %v", err)
	}
	signature, err := gpgSign(t.Context(), "k@example.org", []byte("secret"), []byte("payload"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if said := gpg(signature, "--decrypt"); !bytes.HasPrefix(said, []byte("payload")) || !bytes.Contains(said, []byte("Good signature")) {
		t.Errorf("gpg says %s", said)
	}
	if _, err := gpgSign(t.Context(), "nobody@example.org", nil, nil, io.Discard); err == nil || !strings.Contains(err.Error(), "nobody@example.org") {
		t.Errorf("no such key: %v", err)
	}
}
