package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTrust(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "a=a"))
	d, err := reg.Add("index", "", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.AddIndex("index", "1", false, d); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d"), NamespaceDir: filepath.Join(dir, "namespaces")}
	s := openStore(t, t.TempDir(), Options{Trust: trust})
	pull := func(name, namespace string) error {
		_, err := s.Pull(t.Context(), reg.Addr+"/"+name, PullOptions{Namespace: namespace})
		return err
	}
	img := pullImage(t, s, reg.Addr+"/a:1") // no file lets everything in

	// The most specific scope counts, for what is here already too.
	writeFile(t, trust.Policy, `{"default":[{"type":"reject"}],"transports":{"docker":{"`+reg.Addr+`/index":[{"type":"insecureAcceptAnything"}]}}}`)
	if err := pull("a:1", ""); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), trust.Policy+": default[0]") {
		t.Errorf("rejected: %v", err)
	}
	if err := pull("index:1", ""); err != nil {
		t.Error(err)
	}
	var archive bytes.Buffer
	if err := s.Save(t.Context(), &archive, DockerArchive, img.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), bytes.NewReader(archive.Bytes()), ""); !errors.Is(err, ErrSignature) {
		t.Errorf("loaded: %v", err)
	}
	// A namespace has its own policy, in both directions.
	writeFile(t, filepath.Join(trust.NamespaceDir, "open.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`)
	writeFile(t, filepath.Join(trust.NamespaceDir, "shut.json"), `{"default":[{"type":"reject"}]}`)
	for namespace, class := range map[string]error{"open": nil, "shut": ErrSignature, "other": ErrSignature, "../policy": ErrSignature} {
		if err := pull("a:1", namespace); !errors.Is(err, class) {
			t.Errorf("namespace %s: %v", namespace, err)
		}
	}
	// A policy that is not understood lets nothing in.
	writeFile(t, trust.Policy, `{"default":[]}`)
	if err := pull("index:1", ""); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	checkNothingElse(t, s)
}

// TestTrustSkopeo verifies what Debian's skopeo and gpg have signed.
func TestTrustSkopeo(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	for _, program := range []string{"gpg", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	home, err := os.MkdirTemp("", "gpg") // short: its agent's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // it may have none
		_ = os.RemoveAll(home)
	})
	run := func(program string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("%s %v: %v\n%s", program, args, err, exit.Stderr)
		}
		return out
	}
	run("gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", "k@example.org", "rsa2048", "sign", "never")
	reg := startRegistry(t)
	top := add(t, reg, "x/a", "1", tarOf(t, "a=a"))
	add(t, reg, "x/unsigned", "1", tarOf(t, "b=b"))
	dir := t.TempDir()
	key, manifest := filepath.Join(dir, "key"), filepath.Join(dir, "manifest")
	writeFile(t, key, string(run("gpg", "--export", "--armor", "k@example.org")))
	body, _ := reg.Manifest("x/a", "1")
	writeFile(t, manifest, string(body))
	lookaside := filepath.Join(dir, "sigs")
	signature := filepath.Join(lookaside, "x/a@sha256="+top.Digest.Encoded(), "signature-1")
	writeFile(t, signature, "")
	fingerprint := ""
	for line := range strings.Lines(string(run("gpg", "--with-colons", "--list-keys"))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			fingerprint = fields[9]
		}
	}
	run("skopeo", "standalone-sign", "--output", signature, manifest, reg.Addr+"/x/a:1", fingerprint)
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d")}
	writeFile(t, trust.Policy, `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"`+key+`"}]}`)
	writeFile(t, filepath.Join(trust.RegistriesD, "default.yaml"), "default-docker:\n  lookaside: file:///nonexistent\n")
	writeFile(t, filepath.Join(trust.RegistriesD, "local.yaml"), "docker:\n  "+reg.Addr+"/x:\n    lookaside: file://"+lookaside+"\n")
	s := openStore(t, t.TempDir(), Options{Trust: trust})
	pull := func(name string) error {
		_, err := s.Pull(t.Context(), reg.Addr+"/"+name, PullOptions{})
		return err
	}
	if err := pull("x/a:1"); err != nil {
		t.Error(err)
	}
	if err := pull("x/a@" + top.Digest.String()); err != nil {
		t.Error(err)
	}
	if err := pull("x/unsigned:1"); !errors.Is(err, ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
	good, err := os.ReadFile(signature)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	writeFile(t, signature, string(bad))
	if err := pull("x/a:1"); !errors.Is(err, ErrSignature) {
		t.Errorf("tampered: %v", err)
	}
}

// TestTrustSigstore verifies cosign's form, which lies in the registry.
func TestTrustSigstore(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	top := add(t, reg, "a", "1", tarOf(t, "a=a"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"%s/a"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, reg.Addr, top.Digest)
	sum := sha256.Sum256(payload)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	attach := func(signature []byte) {
		m := v1.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
			Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: reg.AddBlob([]byte("{}")), Size: 2},
			Layers: []v1.Descriptor{{MediaType: sigstoreLayer, Digest: reg.AddBlob(payload), Size: int64(len(payload)),
				Annotations: map[string]string{sigstoreValue: base64.StdEncoding.EncodeToString(signature)}}},
		}
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		reg.AddManifest("a", strings.Replace(top.Digest.String(), ":", "-", 1)+sigstoreTagTail, m.MediaType, body)
	}
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d")}
	writeFile(t, filepath.Join(dir, "key"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	writeFile(t, trust.Policy, `{"default":[{"type":"sigstoreSigned","keyPath":"`+filepath.Join(dir, "key")+`","signedIdentity":{"type":"matchRepository"}}]}`)
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), "default-docker:\n  use-sigstore-attachments: true\n")
	s := openStore(t, t.TempDir(), Options{Trust: trust})
	pull := func() error {
		_, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{})
		return err
	}
	if err := pull(); !errors.Is(err, ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
	attach(signature)
	if err := pull(); err != nil {
		t.Error(err)
	}
	signature[len(signature)-1] ^= 1
	attach(signature)
	if err := pull(); !errors.Is(err, ErrSignature) {
		t.Errorf("tampered: %v", err)
	}
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), "docker: [\n")
	if err := pull(); !errors.Is(err, ErrSignature) {
		t.Errorf("broken registries.d: %v", err)
	}
}
