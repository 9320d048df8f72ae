package image

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/policy"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

// signWith signs as cli does with a sigstore key.
func (k sigstoreKey) signWith(payload []byte) ([]byte, error) {
	sum := sha256.Sum256(payload)
	return k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// trustIn is a policy that wants one requirement, and a registries.d.
func trustIn(t *testing.T, requirement, registries string) Trust {
	t.Helper()
	dir := t.TempDir()
	trust := Trust{Policy: filepath.Join(dir, "policy.json"), RegistriesD: filepath.Join(dir, "registries.d")}
	writeFile(t, trust.Policy, `{"default":[`+requirement+`]}`)
	writeFile(t, filepath.Join(trust.RegistriesD, "a.yaml"), registries)
	return trust
}

// incomingOf is what a pull of a name asks the policy about.
func incomingOf(t *testing.T, name string) incoming {
	t.Helper()
	ref, err := registry.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	return incoming{transport: transportDocker, ref: &ref}
}

// TestSignSkopeo signs what is in Debian's docker-registry; Debian's skopeo verifies
// our simple signing signatures as we do, and we its.
func TestSignSkopeo(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	g := newGPG(t)
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("needs docker-registry")
	}
	addr := startDockerRegistry(t)
	from := startRegistry(t)
	add(t, from, "a", "1", tarOf(t, "a=a"))
	source := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	img := pullImage(t, source, from.Addr+"/a:1")

	dir := t.TempDir()
	key := newSigstoreKey(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, text)
		return path
	}
	gpgFile, keyFile := file("gpg", g.public), file("key", key.public)
	lookaside := filepath.Join(dir, "lookaside")

	for _, c := range []struct {
		kind        policy.Kind
		requirement string
		signer      func([]byte) ([]byte, error)
		theirs      []string // how skopeo signs; Debian has taken sigstore out of it
	}{
		{policy.KindSimple, `{"type":"signedBy","keyType":"GPGKeys","keyPath":"` + gpgFile + `"}`,
			func(payload []byte) ([]byte, error) {
				return g.run(t, payload, "gpg", "--quiet", "--local-user", g.fingerprint, "--output", "-", "--sign"), nil
			}, []string{"--sign-by", g.fingerprint}},
		{policy.KindSigstore, `{"type":"sigstoreSigned","keyPath":"` + keyFile + `"}`,
			key.signWith, nil},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			repository := addr + "/" + string(c.kind)
			trust := trustIn(t, c.requirement, "default-docker:\n  lookaside: file://"+lookaside+"\n  use-sigstore-attachments: true\n")
			s := openStore(t, t.TempDir(), Options{Trust: trust})
			for _, tag := range []string{":1", ":2", ":more"} { // ours, and what skopeo may sign
				if _, err := source.Push(t.Context(), img.ID, PushOptions{To: repository + tag}); err != nil {
					t.Fatal(err)
				}
			}
			skopeo := func(args ...string) ([]byte, error) {
				cmd := exec.Command("skopeo", append([]string{"--registries.d", trust.RegistriesD, "--policy", trust.Policy}, args...)...)
				cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home)
				return cmd.CombinedOutput()
			}
			verify := func(tag string) error {
				t.Helper()
				_, ours := s.Pull(t.Context(), repository+tag, PullOptions{})
				if c.theirs == nil {
					return ours
				}
				out, theirs := skopeo("copy", "--src-tls-verify=false", "--remove-signatures", "docker://"+repository+tag, "oci:"+t.TempDir())
				if (ours == nil) != (theirs == nil) {
					t.Errorf("%s: we say %v, skopeo %v: %s", tag, ours, theirs, out)
				}
				return ours
			}
			if err := verify(":1"); !errors.Is(err, ErrSignature) {
				t.Errorf("before: %v", err)
			}
			o := SignOptions{Kind: c.kind, In: repository + ":1"}
			signed, err := source.Sign(t.Context(), img.ID, o, c.signer)
			if err == nil {
				t.Errorf("without registries.d: %v", signed)
			}
			source.trust.Store(&trust)
			defer func() { source.trust.Store(&Trust{}) }()
			for range 2 { // one more beside it
				signed, err = source.Sign(t.Context(), img.ID, o, c.signer)
				if err != nil || len(signed) != 1 || signed[0].Digest != img.Manifest {
					t.Fatalf("%+v %v", signed, err)
				}
			}
			if err := verify(":1"); err != nil {
				t.Errorf("signed: %v", err)
			}
			if err := verify(":2"); !errors.Is(err, ErrSignature) {
				t.Errorf("signed for another name: %v", err)
			}
			if c.theirs == nil {
				return
			}
			// Theirs, which goes beside ours.
			args := append([]string{"copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"}, c.theirs...)
			if out, err := skopeo(append(args, "docker://"+repository+":1", "docker://"+repository+":3")...); err != nil {
				t.Fatalf("skopeo: %v: %s", err, out)
			}
			for _, tag := range []string{":1", ":3"} {
				if err := verify(tag); err != nil {
					t.Errorf("%s: %v", tag, err)
				}
			}
		})
	}
}

// TestSign signs an index and its manifest, with a fake registry that keeps signatures
// itself, and refuses what nobody would find.
func TestSign(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	d, err := reg.Add("a", "", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	top, err := reg.AddIndex("a", "1", false, d)
	if err != nil {
		t.Fatal(err)
	}
	key := newSigstoreKey(t)
	requirement := `{"type":"sigstoreSigned","keyData":"` + base64.StdEncoding.EncodeToString([]byte(key.public)) + `"}`
	trust := trustIn(t, requirement, "default-docker:\n  use-sigstore-attachments: true\n")
	s := openStore(t, t.TempDir(), Options{})
	pullImage(t, s, reg.Addr+"/a:1")
	s.trust.Store(&trust)
	name := reg.Addr + "/a:1"
	digests := func(signed []Signed) (all []digest.Digest) {
		for _, one := range signed {
			all = append(all, one.Digest)
		}
		return all
	}
	sign := func(ref string, o SignOptions) ([]Signed, error) {
		return s.Sign(t.Context(), ref, o, key.signWith)
	}
	signed, err := sign(name, SignOptions{Kind: policy.KindSigstore})
	if got := digests(signed); err != nil || len(got) != 2 || got[0] != d.Digest || got[1] != top {
		t.Fatalf("%+v %v", signed, err)
	}
	if _, err := s.Pull(t.Context(), name, PullOptions{}); err != nil {
		t.Error(err)
	}
	// In a registry that keeps simple signatures itself; what is not OpenPGP's is no
	// signature, but it is where it should be.
	o := SignOptions{Kind: policy.KindSimple}
	if _, err := sign(name, o); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "lookaside") {
		t.Errorf("nowhere: %v", err)
	}
	reg.WithSignatures()
	if signed, err := sign(name, o); err != nil || len(signed) != 2 || signed[0].Where != reg.Addr {
		t.Errorf("%+v %v", signed, err)
	}
	// Attached ones of others stay.
	before, err := s.fetchSignatures(t.Context(), incomingOf(t, name), d.Digest)
	if err != nil || len(before.Simple) != 1 || len(before.Sigstore) != 1 {
		t.Errorf("%+v %v", before, err)
	}
	other := newSigstoreKey(t)
	if _, err := s.Sign(t.Context(), name, SignOptions{Kind: policy.KindSigstore, Identity: "example.org/b:1"}, other.signWith); err != nil {
		t.Fatal(err)
	}
	if after, err := s.fetchSignatures(t.Context(), incomingOf(t, name), d.Digest); err != nil || len(after.Sigstore) != 2 || string(after.Sigstore[0].Signature) != string(before.Sigstore[0].Signature) ||
		!strings.Contains(string(after.Sigstore[1].Payload), `"docker-reference":"example.org/b:1"`) {
		t.Errorf("%+v %v", after, err)
	}

	failed := errors.New("no key")
	for what, c := range map[string]struct {
		ref    string
		o      SignOptions
		signer func([]byte) ([]byte, error)
		class  error
	}{
		"an image that is not here": {"nosuch", o, key.signWith, ErrNotFound},
		"not in that repository":    {name, SignOptions{Kind: policy.KindSimple, In: reg.Addr + "/b:1"}, key.signWith, ErrNotFound},
		"an identity that is none":  {name, SignOptions{Kind: policy.KindSimple, Identity: "X"}, key.signWith, ErrInvalidReference},
		"no kind":                   {name, SignOptions{}, key.signWith, nil},
		"the signer fails":          {name, o, func([]byte) ([]byte, error) { return nil, failed }, failed},
		"an empty signature":        {name, o, func([]byte) ([]byte, error) { return nil, nil }, nil},
	} {
		if _, err := s.Sign(t.Context(), c.ref, c.o, c.signer); err == nil || c.class != nil && !errors.Is(err, c.class) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for text, want := range map[string]string{
		"default-docker:\n  lookaside: https://example.org/\n": "lookaside-staging",
		"default-docker:\n  lookaside: file://relative/path\n": "lookaside-staging",
		"default-docker:\n  use-sigstore-attachments: false\n": "use-sigstore-attachments",
	} {
		trust := trustIn(t, requirement, text)
		s.trust.Store(&trust)
		kind := policy.KindSimple
		if strings.Contains(text, "attachments") {
			kind = policy.KindSigstore
		}
		if _, err := sign(name, SignOptions{Kind: kind}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
