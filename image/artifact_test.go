package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	fake "github.com/strake-containers/strake/test/registry"
)

// addArtifact puts an artifact with these files, NAME=CONTENT, into a registry. A file
// without a name has no title.
func addArtifact(t testing.TB, s *fake.Server, repository, tag string, files ...string) digest.Digest {
	t.Helper()
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.thing", Config: v1.DescriptorEmptyJSON,
	}
	s.AddBlob([]byte("{}"))
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		d := v1.Descriptor{MediaType: "application/octet-stream", Digest: s.AddBlob([]byte(content)), Size: int64(len(content))}
		if name != "" {
			d.Annotations = map[string]string{v1.AnnotationTitle: name}
		}
		m.Layers = append(m.Layers, d)
	}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.AddManifest(repository, tag, m.MediaType, body)
}

// artifactFiles are the files that whoever mounts the image sees.
func artifactFiles(t testing.TB, s *Store, id string) map[string]string {
	t.Helper()
	r, err := s.Rootfs(id, "volume")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, dir := range r.Layers {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, _ := filepath.Rel(dir, path)
			content, err := os.ReadFile(path)
			files[name] = string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Release("volume"); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestArtifact(t *testing.T) {
	reg := startRegistry(t)
	// A blob that looks compressed stays as it is; one of a whole number of tar's
	// blocks, an empty one and a large one have their ends in the right places.
	large := strings.Repeat("0123456789abcdef", 20_000)
	d := addArtifact(t, reg, "model", "1", "weights/a.bin="+large, "config.json={}", "block="+strings.Repeat("x", 512), "empty=", "odd.gz=\x1f\x8b no gzip", "=nameless")
	addArtifact(t, reg, "other", "1", "config.json={}", "more=1")
	want := map[string]string{
		"weights/a.bin": large, "config.json": "{}", "block": strings.Repeat("x", 512), "empty": "", "odd.gz": "\x1f\x8b no gzip",
		strings.Replace(digest.FromString("nameless").String(), ":", "-", 1): "nameless",
	}
	s := openStore(t, t.TempDir(), Options{})
	ref := reg.Addr + "/model:1"
	img := pullImage(t, s, ref)
	if !img.Artifact || img.ID != d.String() || img.Manifest != d {
		t.Errorf("%+v", img)
	}
	if other := pullImage(t, s, reg.Addr+"/other:1"); other.ID == img.ID { // both have the empty config
		t.Error("two artifacts are one image")
	}
	check := func(s *Store) {
		t.Helper()
		if have := artifactFiles(t, s, img.ID); fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("files %.200q", have)
		}
		if err := s.Verify(t.Context(), img.ID, func(f Finding) {
			if f.Problem != nil || f.Unknown {
				t.Errorf("%+v", f)
			}
		}); err != nil {
			t.Error(err)
		}
	}
	check(s)

	// Again costs one question; a restart loses nothing.
	_ = reg.Requests() // forgets them
	pullImage(t, s, ref)
	if got := reg.Requests(); len(got) != 1 {
		t.Errorf("%q for what is there", got)
	}
	s = checkNothingElse(t, s)
	check(s)

	// It moves in an OCI archive and to another repository, bit for bit.
	var saved bytes.Buffer
	if err := s.Save(t.Context(), &saved, OCIArchive, ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), &bytes.Buffer{}, DockerArchive, ref); !errors.Is(err, ErrUnsupported) {
		t.Errorf("as a docker archive: %v", err)
	}
	elsewhere := openStore(t, t.TempDir(), Options{})
	if loaded, err := elsewhere.Load(t.Context(), &saved, ""); err != nil || len(loaded) != 1 || loaded[0].ID != img.ID {
		t.Fatalf("load: %v, %v", loaded, err)
	}
	check(elsewhere)
	if got, err := elsewhere.Push(t.Context(), img.ID, PushOptions{To: reg.Addr + "/copy:1"}); err != nil || got != d {
		t.Errorf("push: %s, %v", got, err)
	}

	// What is broken is found, and repaired.
	broken := filepath.Join(s.layers.Path(s.images[img.ID].layers[1].key), "config.json")
	if err := os.WriteFile(broken, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	var found []Finding
	if err := s.Verify(t.Context(), img.ID, func(f Finding) { found = append(found, f) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Repair(t.Context(), found, func(string) *Auth { return nil }); err != nil {
		t.Fatal(err)
	}
	check(s)
	if err := errors.Join(s.Remove(t.Context(), ref), s.Remove(t.Context(), reg.Addr+"/other:1")); err != nil {
		t.Fatal(err)
	}
	checkNothingElse(t, s)
}

func TestArtifactNames(t *testing.T) {
	reg := startRegistry(t)
	s := openStore(t, t.TempDir(), Options{})
	for i, files := range [][]string{
		{"../x=1"}, {"/etc/passwd=1"}, {"a/../../b=1"}, {"./a=1"}, {"a//b=1"}, {"a/=1"}, {".=1"}, {"..=1"},
		{"a\nb=1"}, {"a\x00b=1"}, {".wh.a=1"}, {"a/.wh..wh..opq=1"}, {strings.Repeat("a", 256) + "=1"}, {strings.Repeat("a/", 2000) + "b=1"},
		{"a=1", "a=2"}, {"a=1", "a/b=2"}, {"a/b=1", "a=2"},
	} {
		addArtifact(t, reg, "bad", fmt.Sprint(i), files...)
		if _, err := s.Pull(t.Context(), fmt.Sprintf("%s/bad:%d", reg.Addr, i), PullOptions{}); !errors.Is(err, ErrInvalidImage) {
			t.Errorf("%.40q: %v", files, err)
		}
	}
	checkNothingElse(t, s)
}
