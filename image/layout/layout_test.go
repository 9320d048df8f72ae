package layout

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/boot"
)

func TestBlobs(t *testing.T) {
	root := t.TempDir()
	l, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("content")
	d, wide := digest.FromBytes(body), digest.SHA512.FromBytes(body)
	for _, d := range []digest.Digest{d, wide, d} { // twice is once
		if err := l.Put(d, body); err != nil {
			t.Fatal(err)
		}
	}
	if b, n := l.Usage(); b != 14 || n != 2 {
		t.Errorf("%d bytes in %d blobs", b, n)
	}
	for _, d := range []digest.Digest{d, wide} {
		if have, err := l.Get(d, 7); err != nil || string(have) != "content" || !l.Has(d) {
			t.Errorf("%s: %q, %v", d, have, err)
		}
	}
	if _, err := l.Get(d, 6); err == nil {
		t.Error("a blob beyond the limit was read")
	}
	if _, err := l.Get(digest.FromString("other"), 7); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing blob: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:xyz"} {
		if err := l.Put(bad, body); err == nil || l.Has(bad) || l.Delete(bad) == nil {
			t.Errorf("digest %q: %v", bad, err)
		}
		if _, err := l.Get(bad, 7); err == nil {
			t.Errorf("digest %q was read", bad)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, ingestDir)); err != nil || len(left) != 0 {
		t.Errorf("ingest has %v, %v", left, err)
	}

	// A torn blob is noticed when it is read, and mended by the next Put.
	if err := os.WriteFile(l.path(d), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Get(d, 7); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a torn blob: %v", err)
	}
	if l, err = Open(root, slog.Default()); err != nil {
		t.Fatal(err)
	}
	if err := l.Put(d, body); err != nil {
		t.Fatal(err)
	}
	if b, n := l.Usage(); b != 14 || n != 2 {
		t.Errorf("mended: %d bytes in %d blobs", b, n)
	}
	if err := l.Collect(map[digest.Digest]bool{d: true}); err != nil || l.Has(wide) || !l.Has(d) {
		t.Errorf("collect: %v", err)
	}
	if b, n := l.Usage(); b != 7 || n != 1 {
		t.Errorf("collected: %d bytes in %d blobs", b, n)
	}
	if err := errors.Join(l.Delete(d), l.Delete(d)); err != nil || l.Has(d) {
		t.Errorf("delete: %v", err)
	}
}

// setIndex waits until index.json is what it is set to.
func setIndex(t *testing.T, l *Layout, entries []v1.Descriptor) {
	t.Helper()
	flushed := make(chan struct{})
	if err := l.SetIndex(entries, func() { close(flushed) }); err != nil {
		t.Fatal(err)
	}
	<-flushed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	checkNoNext(t, l)
}

// checkNoNext sees to it that index.next.json counts no more.
func checkNoNext(t *testing.T, l *Layout) {
	t.Helper()
	data, err := os.ReadFile(l.nextPath())
	var next nextIndex
	if err != nil || json.Unmarshal(data, &next) == nil && next.BootID == l.bootID {
		t.Errorf("%s is %s, %v", nextFile, data, err)
	}
}

// TestIndexOnItsWay opens a layout whose process was killed before index.json was written.
func TestIndexOnItsWay(t *testing.T) {
	id, err := boot.ID()
	if err != nil {
		t.Fatal(err)
	}
	next := func(bootID string) string {
		return `{"bootID":"` + bootID + `","index":{"schemaVersion":2,"manifests":[{"digest":"sha256:new"}]}}`
	}
	for _, c := range []struct {
		name, next string
		want       digest.Digest
	}{
		{"in this boot", next(id), "sha256:new"},
		{"in another boot", next("another"), "sha256:old"},
		{"torn", next(id)[:50], "sha256:old"},
		{"empty", "", "sha256:old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range map[string]string{
				"index.json": `{"schemaVersion":2,"manifests":[{"digest":"sha256:old"}]}`, nextFile: c.next,
			} {
				if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l, err := Open(root, slog.Default())
			if err != nil {
				t.Fatal(err)
			}
			have, err := l.Index()
			if err != nil || len(have) != 1 || have[0].Digest != c.want {
				t.Errorf("%v, %v", have, err)
			}
			have, err = ReadIndex(root)
			if err != nil || len(have) != 1 || have[0].Digest != c.want {
				t.Errorf("index.json: %v, %v", have, err)
			}
			checkNoNext(t, l)
		})
	}
}

func TestIndex(t *testing.T) {
	root := t.TempDir()
	l, err := Open(root, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := l.Index(); err != nil || len(entries) != 0 {
		t.Errorf("a new layout has %v, %v", entries, err)
	}
	setIndex(t, l, nil)
	if data, err := os.ReadFile(filepath.Join(root, "index.json")); err != nil || !strings.Contains(string(data), `"manifests":[]`) {
		t.Errorf("empty: %s, %v", data, err)
	}
	want := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1, Annotations: map[string]string{"a": "b"}}
	setIndex(t, l, []v1.Descriptor{want})
	entries, err := ReadIndex(root)
	if err != nil || len(entries) != 1 || entries[0].Digest != want.Digest || entries[0].Annotations["a"] != "b" {
		t.Errorf("%+v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(root, "index.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Index(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "index.json") {
		t.Errorf("a broken index: %v", err)
	}
	if aside, err := l.SetIndexAside(); err != nil || filepath.Dir(aside) != root {
		t.Errorf("%s, %v", aside, err)
	}
	if entries, err := l.Index(); err != nil || len(entries) != 0 {
		t.Errorf("set aside, there is %v, %v", entries, err)
	}
}
