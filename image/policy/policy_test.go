package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	ok := `{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"insecureAcceptAnything"}],
		"a.io/b":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","signedIdentity":{"type":"remapIdentity","prefix":"a","signedPrefix":"b"}},
		{"type":"sigstoreSigned","keyDatas":["aGk="]},{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchRepository"}}]},"dir":{"/x":[{"type":"reject"}]}}}`
	if _, err := Parse([]byte(ok)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		``:                                   "EOF",
		`{}`:                                 "default: an empty list",
		`{"default":[]}`:                     "an empty list",
		`{"default":[{"type":"reject"}]} {}`: "something follows",
		`{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`:                                  `"default" is there twice`,
		`{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`:                                                "is there twice",
		`{"default":[{"type":"reject"}],"transport":{}}`:                                                                 `unknown field "transport"`,
		`{"default":[{"type":"reject","keyPath":"/x"}]}`:                                                                 "no other keys",
		`{"Default":[{"type":"reject"}]}`:                                                                                `unknown field "Default"`,
		`{"default":[{"type":"signedBy","keytype":"GPGKeys","keyPath":"/x"}]}`:                                           `unknown field "default.keytype"`,
		`{"default":[{"type":"sigstoreSigned","keyPath":"/x","signedIdentity":{"Type":"matchExact"}}]}`:                  `unknown field "default.signedIdentity.Type"`,
		`{"default":[{"type":"sigstoreSigned","pki":{"caRootsPath":"/x","SubjectEmail":"e"}}]}`:                          `unknown field "default.pki.SubjectEmail"`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"TYPE":"reject"}]}}}`:                               `unknown field "transports.docker..TYPE"`,
		`{"default":[{"type":"signedBaseLayer"}]}`:                                                                       "baseLayerIdentity",
		`{"default":[{"type":"signedBaseLayer","baseLayerIdentity":{"type":"x"}}]}`:                                      "unknown type",
		`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/x","baseLayerIdentity":{"type":"matchExact"}}]}`: "no baseLayerIdentity",
		`{"default":[{"type":"maybe"}]}`:                                                                                 `type "maybe" is not one of`,
		`{"default":[{"type":"signedBy","keyPath":"/x"}]}`:                                                               "is not GPGKeys",
		`{"default":[{"type":"signedBy","keyType":"GPGKeys"}]}`:                                                          "exactly one",
		`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/x","keyData":"aGk="}]}`:                          "exactly one",
		`{"default":[{"type":"sigstoreSigned","keyPaths":[]}]}`:                                                          "exactly one",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/x","signedIdentity":{"type":"exactReference"}}]}`:              "signedIdentity",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/x","signedIdentity":{"type":"matchExact","prefix":"x"}}]}`:     "signedIdentity",
		`{"default":[{"type":"reject"}],"transports":{"docker":{"a":[]}}}`:                                               `transports.docker["a"]: an empty list`,
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := Parse(data); err == nil && len(p.Default) == 0 {
			t.Error("a policy without a default")
		}
	})
}

func TestScopes(t *testing.T) {
	ref := Reference{Domain: "a.b.io", Path: "x/y", Tag: "1"}
	if got := ref.Scopes(true); !slices.Equal(got, []string{"a.b.io/x/y:1", "a.b.io/x/y", "a.b.io/x", "a.b.io", "*.b.io", "*.io"}) {
		t.Errorf("%q", got)
	}
	list := func(s string) []Requirement { return []Requirement{{Type: s}} }
	p := &Policy{Default: list("default"), Transports: map[string]map[string][]Requirement{
		"docker": {"a.b.io/x/y:1": list("tag"), "a.b.io/x": list("namespace"), "a.b.io": list("host"), "*.b.io": list("wildcard"), "": list("transport")}, "oci": {}}}
	for _, c := range []struct {
		transport string
		ref       *Reference
		want      string
	}{
		{"docker", &ref, "tag"}, {"docker", &Reference{Domain: "a.b.io", Path: "x/y", Tag: "2"}, "namespace"},
		{"docker", &Reference{Domain: "a.b.io", Path: "z", Digest: "sha256:0"}, "host"}, {"docker", &Reference{Domain: "c.b.io", Path: "z", Tag: "1"}, "wildcard"},
		{"docker", &Reference{Domain: "b.io", Path: "z", Tag: "1"}, "transport"}, {"docker", nil, "transport"}, {"oci", &ref, "default"}, {"dir", nil, "default"},
	} {
		if got, where := p.For(c.transport, c.ref); got[0].Type != c.want || where == "" {
			t.Errorf("%s %v: %s, want %s", c.transport, c.ref, got[0].Type, c.want)
		}
	}
}

func TestIdentity(t *testing.T) {
	tag := Reference{Domain: "a.io", Path: "x", Tag: "1"}
	dig := Reference{Domain: "a.io", Path: "x", Digest: "sha256:0"}
	for _, c := range []struct {
		i      Identity
		ref    Reference
		signed string
		want   bool
	}{
		{Identity{Type: "matchExact"}, tag, "a.io/x:1", true}, {Identity{Type: "matchExact"}, tag, "a.io/x:2", false}, {Identity{Type: "matchExact"}, dig, "a.io/x:1", false},
		{Identity{Type: "matchRepoDigestOrExact"}, tag, "a.io/x:1", true}, {Identity{Type: "matchRepoDigestOrExact"}, tag, "a.io/x", false},
		{Identity{Type: "matchRepoDigestOrExact"}, dig, "a.io/x:9", true}, {Identity{Type: "matchRepoDigestOrExact"}, dig, "a.io/y:9", false},
		{Identity{Type: "matchRepository"}, tag, "a.io/x", true}, {Identity{Type: "matchRepository"}, tag, "a.io/x2", false},
		{Identity{Type: "exactReference", Reference: "b:5000/y:3"}, tag, "b:5000/y:3", true}, {Identity{Type: "exactRepository", Repository: "b:5000/y"}, tag, "b:5000/y:3", true},
		{Identity{Type: "remapIdentity", Prefix: "a.io", SignedPrefix: "up.io/z"}, tag, "up.io/z/x:1", true},
		{Identity{Type: "remapIdentity", Prefix: "a.i", SignedPrefix: "up.io"}, tag, "up.ioo/x:1", false},
		{Identity{Type: "matchRepository"}, tag, "", false},
	} {
		if got := c.i.allows(c.ref, c.signed); got != c.want {
			t.Errorf("%+v: %s signed as %q: %v", c.i, c.ref, c.signed, got)
		}
	}
}

const manifest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

var signedName = Reference{Domain: "a.io", Path: "x", Tag: "1"}

func says(kind, digest, name string) []byte {
	return fmt.Appendf(nil, `{"critical":{"type":%q,"image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{"creator":"test"}}`, kind, digest, name)
}

func noFiles(path string) ([]byte, error) { return nil, os.ErrNotExist }

// TestGPG has Debian's gpg make keys and signatures.
func TestGPG(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("needs gpg")
	}
	home, err := os.MkdirTemp("", "gpg") // short: its agent's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	gpg := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
		cmd.Stdin = strings.NewReader(string(in))
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("gpg %v: %v\n%s", args, err, exit.Stderr)
		}
		return out
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // it may have none
		_ = os.RemoveAll(home)
	})
	gpg(nil, "--quick-generate-key", "good@example.org", "rsa2048", "sign", "never")
	gpg(nil, "--quick-generate-key", "other@example.org", "ed25519", "sign", "never")
	good, other := gpg(nil, "--export", "--armor", "good@example.org"), gpg(nil, "--export", "other@example.org")
	sign := func(key string, payload []byte) []byte {
		return gpg(payload, "--local-user", key, "--sign", "--output", "-")
	}
	right := sign("good@example.org", says(simpleType, manifest, "a.io/x:1"))
	require := func(key []byte) []Requirement {
		return []Requirement{{Type: SignedBy, KeyType: "GPGKeys", KeyData: key}}
	}
	decide := func(list []Requirement, signatures ...[]byte) error {
		return Decide(list, "test", &signedName, manifest, Signatures{Simple: signatures}, noFiles)
	}
	if err := decide(require(good), right); err != nil {
		t.Error(err)
	}
	if err := decide(require(other), sign("other@example.org", says(simpleType, manifest, "a.io/x:1"))); err != nil {
		t.Error(err)
	}
	// One of several is enough; all requirements must be met.
	if err := decide(require(good), []byte("rubbish"), right); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Decide([]Requirement{{Type: SignedBy, KeyType: "GPGKeys", KeyPaths: []string{file}}}, "test", &signedName, manifest, Signatures{Simple: [][]byte{right}}, os.ReadFile); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]struct {
		list       []Requirement
		signatures [][]byte
		want       string
	}{
		"none":           {require(good), nil, "no signature"},
		"another key":    {require(other), [][]byte{right}, "none of the policy's"},
		"both":           {append(require(good), require(other)...), [][]byte{right}, "test[1]"},
		"another image":  {require(good), [][]byte{sign("good@example.org", says(simpleType, strings.Replace(manifest, "1", "2", 1), "a.io/x:1"))}, "for the manifest"},
		"another name":   {require(good), [][]byte{sign("good@example.org", says(simpleType, manifest, "a.io/x:2"))}, "for the name"},
		"another type":   {require(good), [][]byte{sign("good@example.org", says("x", manifest, "a.io/x:1"))}, "of type"},
		"unknown key":    {require(good), [][]byte{sign("good@example.org", []byte(`{"critical":{},"more":1}`))}, "unknown field"},
		"not signed":     {require(good), [][]byte{says(simpleType, manifest, "a.io/x:1")}, "signature"},
		"no key":         {require([]byte("x")), [][]byte{right}, "no GPG public key"},
		"a missing file": {[]Requirement{{Type: SignedBy, KeyType: "GPGKeys", KeyPath: "/none"}}, [][]byte{right}, "key:"},
		"reject":         {[]Requirement{{Type: Reject}}, [][]byte{right}, "reject"},
	} {
		if err := decide(c.list, c.signatures...); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	// Tampered anywhere: it is rejected, or says what was signed, for not every bit of a
	// compressed message has a meaning.
	ring, err := keyRing([][]byte{good})
	if err != nil {
		t.Fatal(err)
	}
	signed := says(simpleType, manifest, "a.io/x:1")
	for i := range right {
		bad := slices.Clone(right)
		bad[i] ^= 0x10
		if payload, err := verifySimple(ring, bad); err == nil && !bytes.Equal(payload, signed) {
			t.Errorf("byte %d changed, and accepted as saying %q", i, payload)
		}
	}
}

func TestSigstore(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	sign := func(payload []byte) Sigstore {
		sum := sha256.Sum256(payload)
		s, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return Sigstore{Payload: payload, Signature: s}
	}
	r := Requirement{Type: SigstoreSigned, KeyData: public, Identity: &Identity{Type: "matchRepository"}}
	decide := func(r Requirement, s ...Sigstore) error {
		return Decide([]Requirement{r}, "test", &signedName, manifest, Signatures{Sigstore: s}, noFiles)
	}
	right := sign(says(sigstoreType, manifest, "a.io/x"))
	if err := decide(r, right); err != nil {
		t.Error(err)
	}
	bad := right
	bad.Payload = says(sigstoreType, manifest, "a.io/x2")
	for _, s := range [][]Sigstore{nil, {bad}, {sign(says(sigstoreType, "sha256:2", "a.io/x"))}, {sign(says(simpleType, manifest, "a.io/x"))}, {{Payload: right.Payload}}} {
		if err := decide(r, s...); !errors.Is(err, ErrRejected) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	// What is not verified never accepts.
	for _, r := range []Requirement{
		{Type: SigstoreSigned, KeyData: public, RekorKeyPath: "/x"}, {Type: SigstoreSigned, KeyData: []byte("x")}, {Type: SignedBaseLayer, BaseLayerIdentity: &Identity{Type: "matchExact"}},
	} {
		if err := decide(r, right); !errors.Is(err, ErrRejected) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if err := Decide([]Requirement{r}, "test", nil, manifest, Signatures{Sigstore: []Sigstore{right}}, noFiles); !errors.Is(err, ErrRejected) {
		t.Errorf("without a name: %v", err)
	}
}
