package image

import (
	"bytes"
	"fmt"
	"io"
	"log" //nolint:depguard // what the peer takes
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layout"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/testutil"
)

// The registries of others: our client must not only understand our own.

// keptImage pulls a small image into a store that keeps blobs, which is a layout
// that others can read, and returns the closed store and the image.
func keptImage(t *testing.T) (*Store, Image) {
	t.Helper()
	reg := startRegistry(t)
	add(t, reg, "demo/a", "1", tarOf(t, "etc/", "etc/os=strake", "big="+strings.Repeat("x", 1<<20)), tarOf(t, "f"), tarOf(t, "g"))
	s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	img := pullImage(t, s, reg.Addr+"/demo/a:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s, img
}

func TestPullFromGoContainerRegistry(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	kept, want := keptImage(t)
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	put := func(method, path, mediaType string, body []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	blobs, err := kept.layout.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range blobs {
		body, err := layout.ReadBlob(kept.Root(), d, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		put(http.MethodPost, "/v2/demo/a/blobs/uploads/?digest="+d.String(), "application/octet-stream", body)
		if d == want.Manifest {
			put(http.MethodPut, "/v2/demo/a/manifests/1", v1.MediaTypeImageManifest, body)
		}
	}
	s := openStore(t, t.TempDir(), Options{})
	name := strings.TrimPrefix(server.URL, "http://") + "/demo/a:1"
	if img := pullImage(t, s, name); img.ID != want.ID || img.Manifest != want.Manifest {
		t.Errorf("%+v, want %+v", img, want)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Debian's docker-registry, filled by skopeo from our own directory.
func TestPullFromDockerRegistry(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	for _, program := range []string{"docker-registry", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs Debian's %s", program)
		}
	}
	kept, want := keptImage(t)
	addr := startDockerRegistry(t)
	skopeo := exec.Command("skopeo", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", "--insecure-policy",
		"oci:"+kept.Root()+":"+want.RepoTags[0], "docker://"+addr+"/demo/a:1")
	if out, err := skopeo.CombinedOutput(); err != nil {
		t.Fatalf("skopeo does not read our layout: %v: %s", err, out)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "strake.example"), 0o700); err != nil {
		t.Fatal(err)
	}
	hosts := fmt.Sprintf("server = \"https://strake.example\"\n[host.\"http://%s\"]\n", addr)
	if err := os.WriteFile(filepath.Join(dir, "strake.example", "hosts.toml"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{Registry: registry.Config{ConfigPath: dir}})
	for _, name := range []string{addr + "/demo/a:1", "strake.example/demo/a:1", "strake.example/demo/a@" + want.Manifest.String()} {
		if img := pullImage(t, s, name); img.ID != want.ID || img.Manifest != want.Manifest {
			t.Errorf("%s: %+v, want %+v", name, img, want)
		}
	}
	for _, d := range []digest.Digest{digest.FromString("nothing")} {
		if _, err := s.Pull(t.Context(), addr+"/demo/a@"+d.String(), PullOptions{}); err == nil {
			t.Errorf("%s was pulled", d)
		}
	}
}
