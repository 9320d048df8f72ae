package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

func start(t *testing.T, r *fake.Registry) *fake.Server {
	t.Helper()
	s, err := r.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, c Config, name string, auth *Auth) *Repository {
	t.Helper()
	if c.StallTimeout == 0 {
		c.StallTimeout = 10 * time.Second
	}
	client := New(c)
	client.retryDelay = time.Millisecond
	ref, err := ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Repository(ref, auth)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); client.Close() })
	return r
}

func randomBlob(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func descriptor(b []byte) v1.Descriptor {
	return v1.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func readBlob(ctx context.Context, r *Repository, d v1.Descriptor) ([]byte, error) {
	b, err := r.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func TestResolveAndManifest(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	want, err := s.Add("a/b", "1", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, Config{}, s.Addr+"/a/b:1", nil)
	d, err := r.Resolve(t.Context())
	if err != nil || d.Digest != want.Digest || d.Size != want.Size || d.MediaType != want.MediaType {
		t.Fatalf("%+v, %v; want %+v", d, err, want)
	}
	body, got, err := r.Manifest(t.Context(), d)
	if err != nil || got.Digest != want.Digest || int64(len(body)) != want.Size {
		t.Fatalf("%+v, %v", got, err)
	}
	if have := strings.Join(s.Requests(), "\n"); have != "HEAD /v2/a/b/manifests/1\nGET /v2/a/b/manifests/"+want.Digest.String() {
		t.Errorf("requests:\n%s", have)
	}
	for _, name := range []string{"/a/b:2", "/none:1", "/a/b@" + digest.FromString("x").String()} {
		if _, err := open(t, Config{}, s.Addr+name, nil).Resolve(t.Context()); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Misbehave(fake.Fault{Suffix: want.Digest.String(), Replace: []byte(`{"schemaVersion":2}`)})
	if _, _, err := r.Manifest(t.Context(), d); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("a wrong manifest: %v", err)
	}
	s.Behave()
	s.Misbehave(fake.Fault{Suffix: want.Digest.String(), Endless: true})
	if _, _, err := r.Manifest(t.Context(), d); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an endless manifest: %v", err)
	}
}

func TestAuthentication(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	if _, err := s.Add("private", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	s.RequireLogin("me", "secret")
	for _, c := range []struct {
		name string
		auth *Auth
		ok   bool
	}{
		{"anonymous", nil, false},
		{"password", &Auth{Username: "me", Password: "secret"}, true},
		{"wrong password", &Auth{Username: "me", Password: "guess"}, false},
		{"base64", &Auth{Auth: base64.StdEncoding.EncodeToString([]byte("me:secret"))}, true},
		{"not base64", &Auth{Auth: "%"}, false},
		{"identity token", &Auth{IdentityToken: "secret"}, true},
		{"registry token", &Auth{RegistryToken: "token-for-repository:private:pull"}, true},
		{"this server", &Auth{Username: "me", Password: "secret", ServerAddress: "https://" + s.Addr + "/v1/"}, true},
		{"another server", &Auth{Username: "me", Password: "secret", ServerAddress: "other.example"}, false},
	} {
		_, err := open(t, Config{}, s.Addr+"/private:1", c.auth).Resolve(t.Context())
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", c.name, err)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	got := parseChallenges([]string{`Basic realm="a, b", Bearer realm="https://x/t?a=b",service=s,scope="r:\"q\":pull"`, `Negotiate`, `"`})
	if len(got) != 3 || got[0].scheme != "basic" || got[0].params["realm"] != "a, b" || got[1].params["realm"] != "https://x/t?a=b" ||
		got[1].params["service"] != "s" || got[1].params["scope"] != `r:"q":pull` || got[2].scheme != "negotiate" {
		t.Errorf("%+v", got)
	}
}

// Credentials and configured headers go to the registry, and neither to a mirror
// nor where a redirect leads.
func TestCredentialsStay(t *testing.T) {
	testutil.CheckLeaks(t)
	var leaked []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" || req.Header.Get("X-Secret") != "" {
			leaked = append(leaked, req.URL.String())
		}
		if req.URL.Path == "/blob" {
			_, _ = w.Write([]byte("content"))
			return
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer elsewhere.Close()
	s := start(t, fake.New())
	if _, err := s.Add("private", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	blob := descriptor([]byte("content"))
	s.AddBlob([]byte("content"))
	s.RequireLogin("me", "secret")
	s.Misbehave(fake.Fault{Suffix: blob.Digest.String(), Location: elsewhere.URL + "/blob"})
	dir := t.TempDir()
	write(t, dir, s.Addr+"/hosts.toml", `server = "http://`+s.Addr+`"
[header]
x-secret = "s"
[host."`+elsewhere.URL+`"]
`)
	r := open(t, Config{ConfigPath: dir}, s.Addr+"/private:1", &Auth{Username: "me", Password: "secret"})
	if _, err := r.Resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	if body, err := readBlob(t.Context(), r, blob); err != nil || string(body) != "content" {
		t.Errorf("%q, %v", body, err)
	}
	if leaked != nil {
		t.Errorf("credentials went to %v", leaked)
	}
}

// A token service that sends the client elsewhere does not get its refresh token
// there: 307 asks for the same request, body and all.
func TestRefreshTokenStays(t *testing.T) {
	testutil.CheckLeaks(t)
	reached := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer elsewhere.Close()
	var service *httptest.Server
	service = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			http.Redirect(w, req, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+service.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer service.Close()
	r := open(t, Config{}, strings.TrimPrefix(service.URL, "http://")+"/a:1", &Auth{IdentityToken: "secret"})
	if _, err := r.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), "token request") {
		t.Errorf("error %v", err)
	}
	if reached {
		t.Error("the refresh token was sent to another host")
	}
}

func TestMirrors(t *testing.T) {
	testutil.CheckLeaks(t)
	mirror, origin := start(t, fake.New()), start(t, fake.New())
	img, err := origin.Add("a", "1", fake.Image{})
	if err != nil {
		t.Fatal(err)
	}
	blob := randomBlob(t, 300_000)
	origin.AddBlob(blob)
	mirror.AddBlob(blob)
	dir := t.TempDir()
	write(t, dir, "r.example/hosts.toml", `server = "http://`+origin.Addr+`"
[host."http://127.0.0.1:1"]
[host."http://`+mirror.Addr+`"]
`)
	r := open(t, Config{ConfigPath: dir}, "r.example/a:1", nil)
	d, err := r.Resolve(t.Context())
	if err != nil || d.Digest != img.Digest {
		t.Fatalf("%+v, %v", d, err)
	}
	if q := mirror.Requests(); len(q) != 1 {
		t.Errorf("the mirror was asked %v", q)
	}
	// A host that breaks in the middle is helped out by another one.
	origin.Misbehave(fake.Fault{Suffix: descriptor(blob).Digest.String(), CutAfter: 100_000, Times: 1})
	origin.Misbehave(fake.Fault{Suffix: descriptor(blob).Digest.String(), Status: 404})
	if body, err := readBlob(t.Context(), r, descriptor(blob)); err != nil || !bytes.Equal(body, blob) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	// A mirror that may only pull does not say what a tag means.
	write(t, dir, "r.example/hosts.toml", `server = "http://`+origin.Addr+`"
[host."http://`+mirror.Addr+`"]
capabilities = ["pull"]
`)
	mirror.Requests()
	if _, err := open(t, Config{ConfigPath: dir}, "r.example/a:1", nil).Resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q := mirror.Requests(); len(q) != 0 {
		t.Errorf("the mirror was asked %v", q)
	}
}

func TestBlobFaults(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	blob := randomBlob(t, 1<<20)
	s.AddBlob(blob)
	for _, c := range []struct {
		name   string
		faults []fake.Fault
		class  error // nil: the right bytes come
	}{
		{"none", nil, nil},
		{"broken three times", []fake.Fault{{CutAfter: 200_000, Times: 3}}, nil},
		{"broken at a crawl, then whole", []fake.Fault{{CutAfter: 10, Times: 3}}, nil},
		{"broken, and no ranges", []fake.Fault{{CutAfter: 200_000, Times: 1}, {NoRange: true}}, nil},
		{"always broken", []fake.Fault{{CutAfter: 10}}, ErrUnavailable},
		{"busy", []fake.Fault{{Status: 503, Times: 2}}, nil},
		{"too many requests", []fake.Fault{{Status: 429, RetryAfter: "0", Times: 2}}, nil},
		{"always busy", []fake.Fault{{Status: 429, RetryAfter: "0"}}, ErrUnavailable},
		{"endless", []fake.Fault{{Endless: true}}, ErrDigestMismatch},
		{"longer", []fake.Fault{{Replace: append(bytes.Clone(blob), 1)}}, ErrDigestMismatch},
		{"stalls", []fake.Fault{{Stall: true}}, ErrUnavailable},
		{"drips", []fake.Fault{{Drip: true}}, ErrUnavailable},
		{"redirect loop", []fake.Fault{{Location: "/v2/a/blobs/" + descriptor(blob).Digest.String()}}, ErrUnavailable},
		{"server error", []fake.Fault{{Status: 500}}, ErrUnavailable},
		{"forbidden", []fake.Fault{{Status: 403}}, ErrUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer s.Behave()
			for _, f := range c.faults {
				f.Suffix = descriptor(blob).Digest.String()
				s.Misbehave(f)
			}
			r := open(t, Config{StallTimeout: 500 * time.Millisecond}, s.Addr+"/a:1", nil)
			body, err := readBlob(t.Context(), r, descriptor(blob))
			if !errors.Is(err, c.class) {
				t.Errorf("error %v, want %v", err, c.class)
			}
			if c.class == nil && !bytes.Equal(body, blob) {
				t.Errorf("%d bytes, not the right ones", len(body))
			}
		})
	}
	// A wrong range looks right to us: the reader's digest must catch it.
	defer s.Behave()
	s.Misbehave(fake.Fault{Suffix: descriptor(blob).Digest.String(), CutAfter: 300_000, Times: 1})
	s.Misbehave(fake.Fault{Suffix: descriptor(blob).Digest.String(), WrongRange: true})
	r := open(t, Config{}, s.Addr+"/a:1", nil)
	body, err := readBlob(t.Context(), r, descriptor(blob))
	if err != nil || len(body) != len(blob) || bytes.Equal(body, blob) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if _, err := r.Bytes(t.Context(), descriptor(blob), 2<<20); err != nil {
		t.Error(err)
	}
}

// What explains an error comes as slowly as the registry likes: nobody waits for it for
// long.
func TestErrorThatStalls(t *testing.T) {
	testutil.CheckLeaks(t)
	for _, status := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusServiceUnavailable} {
		ended := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			for {
				_, _ = w.Write([]byte{' '})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(10 * time.Millisecond):
				case <-r.Context().Done():
					return
				case <-ended:
					return
				}
			}
		}))
		repository := open(t, Config{StallTimeout: 50 * time.Millisecond}, s.Listener.Addr().String()+"/a:1", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, _, err := repository.Manifest(ctx, v1.Descriptor{})
		if err == nil || ctx.Err() != nil {
			t.Errorf("%d: %v", status, err)
		}
		cancel()
		close(ended)
		repository.Close()
		repository.client.Close()
		s.Close()
	}
}

// A reader that is busy with something else for long is no stall.
func TestBusyReader(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	content := randomBlob(t, 16<<20) // more than the sockets hold
	s.AddBlob(content)
	r := open(t, Config{StallTimeout: time.Hour}, s.Addr+"/a:1", nil)
	in, err := r.Blob(t.Context(), descriptor(content))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for range 3 { // three times that time pass
		in.(*blob).body.check()
	}
	if body, err := io.ReadAll(in); err != nil || !bytes.Equal(body, content) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if q := s.Requests(); len(q) != 1 {
		t.Errorf("asked again: %v", q)
	}
}

func TestCancelledRead(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	blob := randomBlob(t, 1<<20)
	s.AddBlob(blob)
	s.Misbehave(fake.Fault{Stall: true})
	r := open(t, Config{}, s.Addr+"/a:1", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := readBlob(ctx, r, descriptor(blob)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestTLS(t *testing.T) {
	testutil.CheckLeaks(t)
	r := fake.New()
	if _, err := r.Add("a", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(r)
	defer s.Close()
	s.Config.ErrorLog = nil
	addr := strings.TrimPrefix(s.URL, "https://")
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	resolve := func(dir string) error {
		_, err := open(t, Config{ConfigPath: dir}, addr+"/a:1", nil).Resolve(t.Context())
		return err
	}
	docker, toml, skip, wrong := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	write(t, docker, addr+"/ca.crt", ca)
	write(t, toml, addr+"/hosts.toml", "server = \""+s.URL+"\"\nca = \"my.pem\"\n")
	write(t, toml, addr+"/my.pem", ca)
	write(t, skip, addr+"/hosts.toml", "server = \""+s.URL+"\"\nskip_verify = true\n")
	write(t, wrong, addr+"/hosts.toml", "server = \""+s.URL+"\"\n")
	for name, dir := range map[string]string{"docker": docker, "hosts.toml": toml, "skip_verify": skip, "loopback": filepath.Join(wrong, "none")} {
		if err := resolve(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := resolve(wrong); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

// TestTLSClient is let in by a client's certificate, in each form that one is configured in.
func TestTLSClient(t *testing.T) {
	testutil.CheckLeaks(t)
	registry := fake.New()
	if _, err := registry.Add("a", "1", fake.Image{}); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	known, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))

	s := httptest.NewUnstartedServer(registry)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	s.TLS.ClientCAs.AddCert(known)
	s.StartTLS()
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "https://")
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	for name, files := range map[string]map[string]string{
		"docker":            {"client.cert": cert, "client.key": private},
		"hosts.toml, pairs": {"hosts.toml": `client = [["c.pem", "k.pem"]]`, "c.pem": cert, "k.pem": private},
		"hosts.toml, files": {"hosts.toml": `client = ["both.pem"]`, "both.pem": cert + private},
		"hosts.toml, file":  {"hosts.toml": `client = "both.pem"`, "both.pem": cert + private},
		"none":              {"hosts.toml": ""},
	} {
		dir := t.TempDir()
		write(t, dir, addr+"/ca.crt", ca)
		for file, text := range files {
			if file == "hosts.toml" {
				text = "server = \"" + s.URL + "\"\nca = \"ca.crt\"\n" + text
			}
			write(t, dir, addr+"/"+file, text)
		}
		err := pullAndPush(t.Context(), open(t, Config{ConfigPath: dir}, addr+"/a:1", nil))
		if name == "none" && (!errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate")) || name != "none" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDetect(t *testing.T) {
	for body, want := range map[string]error{
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{}}`: nil,
		`{"schemaVersion":2,"config":{}}`:                nil,
		`{"schemaVersion":1,"fsLayers":[]}`:              ErrUnsupported,
		`{"schemaVersion":2,"config":{},"manifests":[]}`: ErrInvalidManifest,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"layers":[]}`:    ErrInvalidManifest,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"manifests":[]}`: ErrInvalidManifest,
		`{"schemaVersion":2,"mediaType":"text/html"}`:                                                             ErrUnsupported,
		`<html>`:              ErrInvalidManifest,
		`{"schemaVersion":3}`: ErrInvalidManifest,
	} {
		if _, err := Detect([]byte(body), ""); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", body, err, want)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	d := `"digest":"` + digest.FromString("").String() + `","size":0`
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json",` + d + `}`
	layer := func(t string) string { return `"layers":[{"mediaType":"` + t + `",` + d + `}]` }
	for body, want := range map[string]error{
		`{` + config + `,` + layer(v1.MediaTypeImageLayerZstd) + `}`:                                  nil,
		`{` + config + `,` + layer(mediaTypeDockerForeign) + `}`:                                      ErrUnsupported,
		`{` + config + `,` + layer(mediaTypeOCIForeign+"+zstd") + `}`:                                 ErrUnsupported,
		`{` + config + `,` + layer("application/x") + `}`:                                             ErrUnsupported,
		`{"config":{"mediaType":"application/vnd.example",` + d + `},` + layer("application/x") + `}`: nil, // an artifact
		`{"config":{` + d + `}}`: ErrInvalidManifest,
		`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"x"}}`:     ErrInvalidManifest,
		`{` + config + `,"layers":[{"mediaType":"` + v1.MediaTypeImageLayer + `","size":-1}]}`: ErrInvalidManifest,
		`{` + config + `,"layers":[` + strings.Repeat(`{},`, maxLayers) + `{}]}`:               ErrTooLarge,
		`[]`: ErrInvalidManifest,
	} {
		if _, err := ParseManifest([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%.200s: %v, want %v", body, err, want)
		}
	}
}

func TestSelect(t *testing.T) {
	index := func(platforms ...string) []byte {
		var entries []string
		for i, p := range platforms {
			f := strings.Split(p+"//", "/")
			entries = append(entries, `{"size":`+string(rune('0'+i))+`,"digest":"`+digest.FromString(p).String()+
				`","platform":{"os":"`+f[0]+`","architecture":"`+f[1]+`","variant":"`+f[2]+`"}}`)
		}
		return []byte(`{"manifests":[` + strings.Join(entries, ",") + `]}`)
	}
	for _, c := range []struct {
		want string
		have []string
		size int64
	}{
		{"linux/amd64", []string{"linux/arm64", "windows/amd64", "linux/amd64", "linux/amd64"}, 2},
		{"linux/amd64", []string{"linux/amd64/v3", "linux/amd64"}, 1},
		{"linux/amd64/v3", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v4"}, 1},
		{"linux/arm64", []string{"linux/arm64/v8"}, 0},
		{"linux/arm/v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm64"}, 1},
		{"linux/arm/v6", []string{"linux/arm/v7"}, -1},
		{"linux/s390x", []string{"linux/amd64", "unknown/unknown"}, -1},
		{"linux/amd64", []string{"linux/amd64/v2"}, -1},
	} {
		f := strings.Split(c.want+"//", "/")
		d, err := Select(index(c.have...), v1.Platform{OS: f[0], Architecture: f[1], Variant: f[2]})
		if c.size < 0 && !errors.Is(err, ErrUnsupported) || c.size >= 0 && (err != nil || d.Size != c.size) {
			t.Errorf("%s of %v: %d, %v; want %d", c.want, c.have, d.Size, err, c.size)
		}
	}
}

// TestCredentialHelpers has registries.conf's helpers asked where the caller gave no
// credentials, and only once the registry wants some.
func TestCredentialHelpers(t *testing.T) {
	testutil.CheckLeaks(t)
	s := start(t, fake.New())
	for _, name := range []string{"private", "open"} {
		if _, err := s.Add(name, "1", fake.Image{}); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write("docker-credential-ours", "#!/bin/sh\nread -r server || true\necho \"$server\" >>"+dir+"/asked\n"+
		"[ \"$server\" = "+s.Addr+" ] && echo '{\"Username\":\"me\",\"Secret\":\"secret\"}' || { echo credentials not found in native keychain; exit 1; }\n")
	write("docker-credential-broken", "#!/bin/sh\necho no keyring; exit 1\n")
	config := Config{RegistriesConf: filepath.Join(dir, "registries.conf")}
	resolve := func(helpers string, auth *Auth) error {
		write("registries.conf", "credential-helpers = "+helpers+"\n")
		_, err := open(t, config, s.Addr+"/private:1", auth).Resolve(t.Context())
		return err
	}
	if err := resolve(`["ours"]`, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "asked")); err == nil {
		t.Error("the helper was asked for a registry that wants no credentials")
	}
	s.RequireLogin("me", "secret")
	for helpers, ok := range map[string]bool{`["ours"]`: true, `["broken", "ours"]`: true, `["containers-auth.json"]`: false} {
		if err := resolve(helpers, nil); ok && err != nil || !ok && !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: %v", helpers, err)
		}
	}
	if err := resolve(`["broken"]`, nil); !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "docker-credential-broken") {
		t.Errorf("broken: %v", err)
	}
	if err := resolve(`["ours"]`, &Auth{Username: "me", Password: "guess"}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("the caller's credentials count: %v", err)
	}
}
