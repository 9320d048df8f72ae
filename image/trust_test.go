package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
	"github.com/strake-containers/strake/test/sigstore"
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

// gpg is a home for gpg with one key.
type gpg struct {
	home, fingerprint string
	public            string // armored
}

func newGPG(t *testing.T) gpg {
	t.Helper()
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
	g := gpg{home: home}
	g.run(t, nil, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", "k@example.org", "rsa2048", "sign", "never")
	for line := range strings.Lines(string(g.run(t, nil, "gpg", "--with-colons", "--list-keys"))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			g.fingerprint = fields[9]
		}
	}
	g.public = string(g.run(t, nil, "gpg", "--export", "--armor", "k@example.org"))
	return g
}

// run runs a program with this home.
func (g gpg) run(t *testing.T, in []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("%s %v: %v\n%s", program, args, err, exit.Stderr)
	}
	return out
}

// TestTrustSkopeo verifies what Debian's skopeo and gpg have signed.
func TestTrustSkopeo(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	g := newGPG(t)
	reg := startRegistry(t)
	top := add(t, reg, "x/a", "1", tarOf(t, "a=a"))
	add(t, reg, "x/unsigned", "1", tarOf(t, "b=b"))
	dir := t.TempDir()
	key, manifest := filepath.Join(dir, "key"), filepath.Join(dir, "manifest")
	writeFile(t, key, g.public)
	body, _ := reg.Manifest("x/a", "1")
	writeFile(t, manifest, string(body))
	lookaside := filepath.Join(dir, "sigs")
	signature := filepath.Join(lookaside, "x/a@sha256="+top.Digest.Encoded(), "signature-1")
	writeFile(t, signature, "")
	g.run(t, nil, "skopeo", "standalone-sign", "--output", signature, manifest, reg.Addr+"/x/a:1", g.fingerprint)
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

// sigstoreKey attaches signatures for a manifest of a repository as cosign does.
type sigstoreKey struct {
	private *ecdsa.PrivateKey
	public  string // PEM
}

func newSigstoreKey(t *testing.T) sigstoreKey {
	t.Helper()
	key, public := sigstore.NewKey(t)
	return sigstoreKey{key, string(public)}
}

func (k sigstoreKey) attach(t *testing.T, reg *fake.Server, repository string, d digest.Digest, tamper bool) {
	t.Helper()
	s := sigstore.Sign(t, k.private, sigstore.Payload(d.String(), reg.Addr+"/"+repository))
	if tamper {
		s.Signature[len(s.Signature)-1] ^= 1
	}
	attach(t, reg, repository, d, s)
}

func attach(t *testing.T, reg *fake.Server, repository string, d digest.Digest, s sigstore.Signature) {
	t.Helper()
	annotations := map[string]string{sigstoreValue: base64.StdEncoding.EncodeToString(s.Signature)}
	for name, value := range map[string][]byte{sigstoreCertificate: s.Certificate, sigstoreChain: s.Chain, sigstoreBundle: s.Bundle} {
		if value != nil {
			annotations[name] = string(value)
		}
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: reg.AddBlob([]byte("{}")), Size: 2},
		Layers: []v1.Descriptor{{MediaType: sigstoreLayer, Digest: reg.AddBlob(s.Payload), Size: int64(len(s.Payload)), Annotations: annotations}},
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	reg.AddManifest(repository, strings.Replace(d.String(), ":", "-", 1)+sigstoreTagTail, m.MediaType, body)
}

// TestTrustSigstore verifies cosign's form, which lies in the registry.
func TestTrustSigstore(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	top := add(t, reg, "a", "1", tarOf(t, "a=a"))
	key := newSigstoreKey(t)
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d")}
	writeFile(t, filepath.Join(dir, "key"), key.public)
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
	key.attach(t, reg, "a", top.Digest, false)
	if err := pull(); err != nil {
		t.Error(err)
	}
	key.attach(t, reg, "a", top.Digest, true)
	if err := pull(); !errors.Is(err, ErrSignature) {
		t.Errorf("tampered: %v", err)
	}
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), "docker: [\n")
	if err := pull(); !errors.Is(err, ErrSignature) {
		t.Errorf("broken registries.d: %v", err)
	}
}

// TestTrustCertificates verifies certificates and a log's entry as cosign attaches them,
// at a pull, and again when a container is made.
func TestTrustCertificates(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	top := add(t, reg, "a", "1", tarOf(t, "a=a"))
	ca, log := sigstore.NewAuthority(t), sigstore.NewLog(t)
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d")}
	writeFile(t, filepath.Join(dir, "ca"), string(ca.Root))
	writeFile(t, filepath.Join(dir, "log"), string(log.Public))
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), "default-docker:\n  use-sigstore-attachments: true\n")
	s := openStore(t, t.TempDir(), Options{Trust: trust})
	sign := func(from time.Time) sigstore.Signature {
		key, leaf := ca.Issue(t, from, func(c *x509.Certificate) {
			c.EmailAddresses = []string{"me@example.org"}
			c.ExtraExtensions = []pkix.Extension{sigstore.Issuer(t, 2, "https://id/")}
		})
		signed := sigstore.Sign(t, key, sigstore.Payload(top.Digest.String(), reg.Addr+"/a"))
		signed.Certificate, signed.Chain = leaf, ca.Intermediate
		signed.Bundle = log.Promise(t, signed, leaf, from.Add(time.Minute))
		return signed
	}
	for what, c := range map[string]struct {
		requirement string
		from        time.Time
	}{
		"fulcio": {`"fulcio":{"caPath":"` + dir + `/ca","oidcIssuer":"https://id/","subjectEmail":"me@example.org"},"rekorPublicKeyPath":"` + dir + `/log"`, time.Now().AddDate(0, -1, 0)},
		"pki":    {`"pki":{"caRootsPath":"` + dir + `/ca","subjectEmail":"me@example.org"}`, time.Now().Add(-time.Minute)},
	} {
		writeFile(t, trust.Policy, `{"default":[{"type":"sigstoreSigned","signedIdentity":{"type":"matchRepository"},`+c.requirement+`}]}`)
		signed := sign(c.from)
		attach(t, reg, "a", top.Digest, signed)
		img, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := s.Permit(img.ID, reg.Addr+"/a:1", ""); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		signed.Signature[len(signed.Signature)-1] ^= 1
		attach(t, reg, "a", top.Digest, signed)
		if _, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{}); !errors.Is(err, ErrSignature) {
			t.Errorf("%s, tampered: %v", what, err)
		}
	}
}

// TestPermit asks about what is here again, when a container is made: the policy has
// changed, the registry is gone, the daemon has been restarted.
func TestPermit(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg, err := fake.New().Start("127.0.0.1:0") // closed below
	if err != nil {
		t.Fatal(err)
	}
	top := add(t, reg, "a", "1", tarOf(t, "a=a"))
	reg.AddManifest("other", "1", top.MediaType, func() []byte { body, _ := reg.Manifest("a", "1"); return body }())
	add(t, reg, "plain", "1", tarOf(t, "b=b"))
	key := newSigstoreKey(t)
	key.attach(t, reg, "a", top.Digest, false)
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d"), NamespaceDir: filepath.Join(dir, "namespaces")}
	keyFile := filepath.Join(dir, "key")
	writeFile(t, keyFile, key.public)
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), "default-docker:\n  use-sigstore-attachments: true\n")
	const anything, reject = `{"type":"insecureAcceptAnything"}`, `{"type":"reject"}`
	signed := `{"type":"sigstoreSigned","keyPath":"` + keyFile + `","signedIdentity":{"type":"matchRepository"}}`
	root := t.TempDir()
	s := openStore(t, root, Options{Trust: trust})
	check := func(what string, id, asked, namespace string, class error) {
		t.Helper()
		if err := s.Permit(id, asked, namespace); !errors.Is(err, class) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// Pulled while nothing was asked.
	plain := pullImage(t, s, reg.Addr+"/plain:1")
	check("no policy", plain.ID, plain.ID, "", nil)
	var archive bytes.Buffer
	if err := s.Save(t.Context(), &archive, DockerArchive, plain.ID); err != nil {
		t.Fatal(err)
	}
	made, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "c=c")), "made:1", "", v1.ImageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, trust.Policy, `{"default":[`+reject+`],"transports":{"docker":{"`+reg.Addr+`/plain":[`+anything+`]}}}`)
	check("its scope accepts", plain.ID, plain.ID, "", nil)
	check("what was made here", made.ID, "made:1", "", nil)
	writeFile(t, trust.Policy, `{"default":[`+reject+`]}`)
	check("rejected today", plain.ID, plain.ID, "", ErrSignature)
	if err := s.Permit(plain.ID, reg.Addr+"/plain:1", ""); !strings.Contains(err.Error(), reg.Addr+"/plain:1 is here") || !strings.Contains(err.Error(), trust.Policy+": default[0] (reject)") {
		t.Errorf("says %v", err)
	}
	writeFile(t, filepath.Join(trust.NamespaceDir, "open.json"), `{"default":[`+anything+`]}`)
	check("the namespace's policy", plain.ID, plain.ID, "open", nil)
	check("no namespace", plain.ID, plain.ID, "../policy", ErrSignature)
	writeFile(t, trust.Policy, `{"default":[`+signed+`]}`)
	if err := s.Permit(plain.ID, plain.ID, ""); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "pull it again") {
		t.Errorf("unsigned: %v", err)
	}
	writeFile(t, trust.Policy, "{")
	check("a policy that is not understood", plain.ID, plain.ID, "open", nil)
	check("a policy that is not understood", plain.ID, plain.ID, "", ErrSignature)

	writeFile(t, trust.Policy, `{"default":[`+reject+`],"transports":{"docker":{"`+reg.Addr+`/plain":[`+signed+`],"":[`+anything+`]}}}`)
	if file, scopes, d, err := s.ShowTrust(plain.ID, ""); err != nil || file != trust.Policy || len(scopes) != 3 || scopes[1].Transport != "docker" || scopes[1].Scope != "" ||
		d.Origin != "docker:"+reg.Addr+"/plain:1" || d.Scope != fmt.Sprintf("transports.docker[%q]", reg.Addr+"/plain") || !errors.Is(d.Refused, ErrSignature) {
		t.Errorf("%s %+v %+v %v", file, scopes, d, err)
	}
	if file, scopes, d, err := s.ShowTrust("made:1", "open"); err != nil || file == trust.Policy || len(scopes) != 1 || d.Origin != "import:" || d.Refused != nil {
		t.Errorf("%s %+v %+v %v", file, scopes, d, err)
	}
	if _, _, d, err := s.ShowTrust("", ""); err != nil || d != nil {
		t.Errorf("%+v %v", d, err)
	}

	// An archive is one, under whatever name, until it is pulled.
	writeFile(t, trust.Policy, `{"default":[`+reject+`],"transports":{"docker-archive":{"":[`+anything+`]}}}`)
	if err := s.Remove(t.Context(), plain.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), bytes.NewReader(archive.Bytes()), reg.Addr+"/plain:1"); err != nil {
		t.Fatal(err)
	}
	check("loaded", plain.ID, reg.Addr+"/plain:1", "", nil)
	writeFile(t, trust.Policy, `{"default":[`+reject+`],"transports":{"docker":{"":[`+anything+`]}}}`)
	check("loaded, not pulled", plain.ID, reg.Addr+"/plain:1", "", ErrSignature)
	pullImage(t, s, reg.Addr+"/plain:1")
	check("pulled", plain.ID, reg.Addr+"/plain:1", "", nil)

	// A signed one; then for a namespace that asks for none, which loses nothing.
	writeFile(t, trust.Policy, `{"default":[`+signed+`]}`)
	img := pullImage(t, s, reg.Addr+"/a:1")
	if _, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{Namespace: "open"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(reg.Addr+"/a:1", "local/name:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), reg.Addr+"/other:1", PullOptions{Namespace: "open"}); err != nil {
		t.Fatal(err)
	}
	if err := reg.Close(); err != nil {
		t.Fatal(err)
	}
	s = checkNothingElse(t, s)
	for _, asked := range []string{img.ID, reg.Addr + "/a:1", reg.Addr + "/a@" + top.Digest.String(), "local/name:1"} {
		check("signed", img.ID, asked, "", nil)
	}
	check("signed, under a name that it was not signed for", img.ID, reg.Addr+"/other:1", "", ErrSignature)
	writeFile(t, keyFile, newSigstoreKey(t).public)
	check("the key is no longer trusted", img.ID, img.ID, "", ErrSignature)
	writeFile(t, keyFile, key.public)
	check("it is again", img.ID, img.ID, "", nil)

	// Signatures that are torn, and an index of before.
	kept := s.names[reg.Addr+"/a:1"].signatures
	writeFile(t, filepath.Join(root, "blobs/sha256", kept.Encoded()), "{}")
	check("torn", img.ID, img.ID, "", ErrSignature)
	s = checkNothingElse(t, s)
	check("torn, after a restart", img.ID, img.ID, "", ErrSignature)
	if _, err := s.Get(img.ID); err != nil {
		t.Errorf("the image went with its signatures: %v", err)
	}
	for key, n := range s.names {
		n.origin = ""
		s.names[key] = n
	}
	writeFile(t, trust.Policy, `{"default":[`+reject+`],"transports":{"docker":{"`+reg.Addr+`/a":[`+anything+`]}}}`)
	check("without an origin", img.ID, img.ID, "", nil)
	check("without an origin", img.ID, reg.Addr+"/other:1", "", ErrSignature)
}
