package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

func startRegistry(t testing.TB) *fake.Server {
	t.Helper()
	s, err := fake.New().Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openStore(t testing.TB, root string, o Options) *Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	s, err := Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// tarOf makes a layer: "dir/" is a directory, "name=content" a file, anything
// else a file without content.
func tarOf(t testing.TB, entries ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		name, body, _ := strings.Cut(e, "=")
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if name == "tmp/" {
			h.Mode = 0o1777
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func add(t testing.TB, s *fake.Server, repository, tag string, layers ...[]byte) v1.Descriptor {
	t.Helper()
	var img fake.Image
	for i, l := range layers {
		img.Layers = append(img.Layers, fake.Layer{Tar: l, Compression: []fake.Compression{fake.Gzip, fake.Zstd, fake.Plain}[i%3]})
	}
	img.Config = v1.ImageConfig{User: "1000", Labels: map[string]string{"a": "b"}, Cmd: []string{"sh"}}
	d, err := s.Add(repository, tag, img)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func pullImage(t testing.TB, s *Store, ref string) Image {
	t.Helper()
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// checkNothingElse closes the store and compares its directory with what its
// images and leases account for; it opens the store again.
func checkNothingElse(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantLayers, wantBlobs := map[string]bool{"tmp": true, "empty": true}, map[string]bool{}
	for _, rec := range s.images {
		wantBlobs[rec.image.Manifest.Encoded()] = true
		if rec.root != "" {
			wantLayers[string(rec.root)] = true
		}
		for _, l := range rec.layers {
			wantLayers[string(l.key)] = true
			if s.options.KeepLayerBlobs {
				wantBlobs[l.blob.Digest.Encoded()] = true
			}
		}
	}
	for _, l := range s.leases {
		for _, k := range l.Layers {
			wantLayers[string(k)] = true
		}
	}
	for _, n := range s.names {
		for _, d := range []digest.Digest{n.top.Digest, n.manifest, s.images[n.id].config} {
			wantBlobs[d.Encoded()] = true
		}
		if n.signatures != "" {
			wantBlobs[n.signatures.Encoded()] = true
		}
	}
	for dir, want := range map[string]map[string]bool{
		"layers": wantLayers, "blobs/sha256": wantBlobs, "layers/tmp": {}, "ingest": {}, "layers/empty": {},
	} {
		entries, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, e := range entries {
			have[e.Name()] = true
			if !want[e.Name()] && e.Name() != "form" {
				t.Errorf("%s/%s is left over", dir, e.Name())
			}
		}
		for name := range want {
			if !have[name] {
				t.Errorf("%s/%s is missing", dir, name)
			}
		}
	}
	return openStore(t, s.root, s.options)
}

func TestPullNames(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	base := tarOf(t, "etc/", "etc/os=strake")
	a := add(t, reg, "x/a", "1", base)
	for _, tag := range []string{"2", "3"} {
		add(t, reg, "x/a", tag, base)
	}
	b := add(t, reg, "x/b", "1", base, tarOf(t, "b=b"))
	s := openStore(t, t.TempDir(), Options{Pinned: []string{reg.Addr + "/x/b:1"}})
	repo := reg.Addr + "/x/a"

	img := pullImage(t, s, repo+"@"+a.Digest.String())
	if len(img.RepoTags) != 0 || !slices.Equal(img.RepoDigests, []string{repo + "@" + a.Digest.String()}) {
		t.Errorf("by digest: tags %v, digests %v", img.RepoTags, img.RepoDigests)
	}
	for _, tag := range []string{"1", "2", "3"} {
		img = pullImage(t, s, repo+":"+tag)
	}
	if !slices.Equal(img.RepoTags, []string{repo + ":1", repo + ":2", repo + ":3"}) || len(img.RepoDigests) != 1 {
		t.Errorf("by tags: tags %v, digests %v", img.RepoTags, img.RepoDigests)
	}
	if img.Config.User != "1000" || img.Labels["a"] != "b" || img.Config.Cmd[0] != "sh" || img.Pinned || len(img.DiffIDs) != 1 || img.Size < 4096 {
		t.Errorf("%+v", img)
	}
	other := pullImage(t, s, reg.Addr+"/x/b:1")
	if !other.Pinned || other.Manifest != b.Digest || other.ID == img.ID {
		t.Errorf("%+v", other)
	}
	if list := s.List(); len(list) != 2 || list[0].ID != other.ID {
		t.Errorf("list %+v", list)
	}
	for _, ref := range []string{img.ID, strings.TrimPrefix(img.ID, "sha256:"), img.ID[7:20], img.ID[:20], repo + ":1", repo + "@" + a.Digest.String()} {
		if got, err := s.Get(ref); err != nil || got.ID != img.ID {
			t.Errorf("get %s: %v, %v", ref, got.ID, err)
		}
	}
	for ref, class := range map[string]error{
		"nope": ErrNotFound, repo + ":9": ErrNotFound, "sha256:0000": ErrNotFound, strings.Repeat("0", 64): ErrNotFound,
		"": ErrInvalidReference, "UPPER": ErrInvalidReference,
	} {
		if _, err := s.Get(ref); !errors.Is(err, class) {
			t.Errorf("get %q: %v, want %v", ref, err, class)
		}
	}

	// All of it is there again after a restart.
	want := fmt.Sprint(s.List())
	s = checkNothingElse(t, s)
	for i, l := range s.List() {
		if fmt.Sprint(l.PulledAt.UnixNano(), l.RepoTags, l.RepoDigests, l.Size, l.Pinned) == "" || !strings.Contains(want, l.ID) || len(l.RepoTags) != []int{1, 3}[i] {
			t.Errorf("after a restart %+v, before %s", l, want)
		}
	}

	// A name goes alone; the last tag takes the digest along, and the image.
	for _, tag := range []string{"1", "2"} {
		if err := s.Remove(t.Context(), repo+":"+tag); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Get(img.ID); err != nil || !slices.Equal(got.RepoTags, []string{repo + ":3"}) || len(got.RepoDigests) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Remove(t.Context(), repo+":3"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(img.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its last name: %v", err)
	}
	if err := s.Remove(t.Context(), repo+":3"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	s = checkNothingElse(t, s)
	if err := s.Remove(t.Context(), other.ID[:19]); err != nil {
		t.Fatal(err)
	}
	checkNothingElse(t, s)
	if bytes, inodes, err := s.Usage(); bytes != 0 || inodes != 0 || err != nil || len(s.List()) != 0 {
		t.Errorf("empty, it used %d bytes, %d inodes, %v", bytes, inodes, err)
	}
}

func TestPullMovedTag(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "latest", tarOf(t, "old"))
	s := openStore(t, t.TempDir(), Options{})
	before := pullImage(t, s, reg.Addr+"/a")
	add(t, reg, "a", "latest", tarOf(t, "new"))
	after := pullImage(t, s, reg.Addr+"/a")
	// The old one stays, for who knows its digest, until someone removes it.
	old, err := s.Get(before.ID)
	if err != nil || len(old.RepoTags) != 0 || len(old.RepoDigests) != 1 || len(after.RepoTags) != 1 {
		t.Errorf("old %+v, %v; new %+v", old, err, after)
	}
	if err := s.Remove(t.Context(), old.RepoDigests[0]); err != nil {
		t.Fatal(err)
	}
	if list := checkNothingElse(t, s).List(); len(list) != 1 || list[0].ID != after.ID {
		t.Errorf("%+v", list)
	}
}

func TestPullCost(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	shared := tarOf(t, "shared="+strings.Repeat("s", 100_000))
	add(t, reg, "a", "1", shared)
	add(t, reg, "a", "2", shared, tarOf(t, "more"))
	s := openStore(t, t.TempDir(), Options{})

	// Ten callers, one fetch.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	blobs := map[string]int{}
	for _, q := range reg.Requests() {
		if strings.Contains(q, "/blobs/") {
			blobs[q]++
		}
	}
	if len(blobs) != 2 {
		t.Errorf("blob requests %v", blobs)
	}
	for q, n := range blobs {
		if n != 1 {
			t.Errorf("%s: %d times", q, n)
		}
	}
	// A present image: one HEAD, and a new time, which is still there after a restart.
	before := time.Now()
	pullImage(t, s, reg.Addr+"/a:1")
	if q := reg.Requests(); len(q) != 1 || !strings.HasPrefix(q[0], "HEAD ") {
		t.Errorf("requests for a present image: %v", q)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.Root(), Options{})
	if img, err := s.Get(reg.Addr + "/a:1"); err != nil || img.PulledAt.Before(before) {
		t.Errorf("pulled again after %v, known %v, %v", before, img.PulledAt, err)
	}
	// An image that shares a layer: the other one.
	var phases []Phase
	var mu sync.Mutex
	_, err := s.Pull(t.Context(), reg.Addr+"/a:2", PullOptions{Progress: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		phases = append(phases, p.Phase)
	}})
	if q := reg.Requests(); err != nil || len(q) != 4 { // HEAD, manifest, config, layer
		t.Errorf("requests for a second image: %v, %v", q, err)
	}
	for _, want := range []Phase{PhaseResolving, PhaseExists, PhasePulling, PhaseDone} {
		if !slices.Contains(phases, want) {
			t.Errorf("no %s in %v", want, phases)
		}
	}
}

func TestPullCancel(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=x"))
	s := openStore(t, t.TempDir(), Options{})
	reg.Misbehave(fake.Fault{Stall: true})
	started := make(chan struct{}, 10)
	progress := func(p Progress) { started <- struct{}{} }
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, reg.Addr+"/a:1", PullOptions{Progress: progress})
		first <- err
	}()
	<-started
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	reg.Behave()
	// The last caller's going ended the fetch; the next one starts afresh.
	if _, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{}); err != nil {
		t.Error(err)
	}
	checkNothingElse(t, s)
}

// A caller with patience comes back to the pull that it has left, and one that nobody
// comes back to ends.
func TestPullPatience(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	l := tarOf(t, "f=x")
	add(t, reg, "a", "1", l)
	s := openStore(t, t.TempDir(), Options{Registry: registry.Config{StallTimeout: time.Hour}})
	flights := func() (all []*flight, waiters int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.pulls {
			waiters += f.waiters
		}
		return slices.Collect(maps.Values(s.pulls)), waiters
	}
	leave := func(patience time.Duration) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.Pull(ctx, reg.Addr+"/a:1", PullOptions{Patience: patience})
			left <- err
		}()
		for waiters := 0; waiters == 0; _, waiters = flights() {
			runtime.Gosched()
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}

	reg.Misbehave(fake.Fault{Stall: true})
	leave(time.Hour)
	first, _ := flights()
	if len(first) != 1 {
		t.Fatalf("%d pulls go on", len(first))
	}
	leave(time.Hour)
	if second, _ := flights(); len(second) != 1 || second[0] != first[0] {
		t.Error("the second caller has not joined the pull that goes on")
	}
	leave(time.Nanosecond)
	<-first[0].done // nobody has come back
	if err := first[0].err; !errors.Is(err, context.Canceled) {
		t.Errorf("the pull that nobody waits for: %v", err)
	}

	leave(time.Hour)
	last, _ := flights()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range last {
		select {
		case <-f.done:
		default:
			t.Error("a pull goes on in a store that is closed")
		}
	}
}

func TestPullCancelledCallerLeavesOthers(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	l := tarOf(t, "f=x")
	add(t, reg, "a", "1", tarOf(t), tarOf(t), l) // the third is plain: its digest is known
	reg.Misbehave(fake.Fault{Suffix: digest.FromBytes(l).String(), Stall: true, Times: 1})
	s := openStore(t, t.TempDir(), Options{Registry: registry.Config{StallTimeout: time.Second}})
	ctx, cancel := context.WithCancel(t.Context())
	pulling := make(chan struct{}, 1000)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, reg.Addr+"/a:1", PullOptions{Progress: func(p Progress) {
			if p.Phase == PhaseWaiting {
				pulling <- struct{}{}
			}
		}})
		first <- err
	}()
	<-pulling
	go func() {
		_, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{})
		second <- err
	}()
	for joined := false; !joined; {
		s.mu.Lock()
		for _, f := range s.pulls {
			joined = f.waiters == 2
		}
		s.mu.Unlock()
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled one: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// Whatever the registry does: a class, a text that names the image, and nothing
// left behind.
func TestPullFaults(t *testing.T) {
	whole := t
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	// The last layer is plain, so that its blob is the tar.
	last := tarOf(t, "f="+strings.Repeat("x", 300_000))
	d := add(t, reg, "a", "1", tarOf(t, "one"), tarOf(t, "two"), last)
	blob := digest.FromBytes(last).String()
	bad, err := reg.Add("bad", "1", fake.Image{Architecture: "s390x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.AddIndex("bad", "index", true, bad); err != nil {
		t.Fatal(err)
	}
	reg.AddManifest("bad", "schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1,"fsLayers":[]}`))
	reg.AddManifest("bad", "huge", v1.MediaTypeImageManifest, bytes.Repeat([]byte(" "), registry.MaxManifest+1))
	reg.AddManifest("bad", "text", "text/html", []byte("<html>"))
	if _, err := reg.Add("bad", "escape", fake.Image{Layers: []fake.Layer{{Tar: tarOf(t, "../../escape")}}}); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{})
	other := bytes.Clone(last)
	other[len(other)-1200]++
	for _, c := range []struct {
		name, ref string
		fault     *fake.Fault
		class     error
	}{
		{"a wrong range after a break", "a:1", &fake.Fault{Suffix: blob, WrongRange: true}, ErrDigestMismatch},
		{"wrong digest", "a:1", &fake.Fault{Suffix: blob, Replace: other}, ErrDigestMismatch},
		{"truncated", "a:1", &fake.Fault{Suffix: blob, Replace: last[:len(last)/2]}, ErrUnavailable},
		{"always closes half-way", "a:1", &fake.Fault{Suffix: blob, CutAfter: 1000}, ErrUnavailable},
		{"endless", "a:1", &fake.Fault{Suffix: blob, Endless: true}, ErrDigestMismatch},
		{"blob missing", "a:1", &fake.Fault{Suffix: blob, Status: 404}, ErrNotFound},
		{"forbidden", "a:1", &fake.Fault{Status: 403}, ErrUnauthorized},
		{"manifest changes", "a:1", &fake.Fault{Suffix: d.Digest.String(), Replace: []byte("{}")}, ErrDigestMismatch},
		{"no such tag", "a:2", nil, ErrNotFound},
		{"no such repository", "nope:2", nil, ErrNotFound},
		{"bad name", "A:1", nil, ErrInvalidReference},
		{"another machine's", "bad:1", nil, ErrUnsupported},
		{"no such platform", "bad:index", nil, ErrUnsupported},
		{"schema 1", "bad:schema1", nil, ErrUnsupported},
		{"huge manifest", "bad:huge", nil, ErrInvalidImage},
		{"no manifest", "bad:text", nil, ErrInvalidImage},
		{"hostile layer", "bad:escape", nil, ErrInvalidImage},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer reg.Behave()
			if c.fault != nil {
				if c.fault.WrongRange {
					reg.Misbehave(fake.Fault{Suffix: blob, CutAfter: 100_000, Times: 1})
				}
				reg.Misbehave(*c.fault)
			}
			_, err := s.Pull(t.Context(), reg.Addr+"/"+c.ref, PullOptions{})
			if !errors.Is(err, c.class) || err != nil && !strings.Contains(err.Error(), reg.Addr) {
				t.Errorf("error %v, want %v", err, c.class)
			}
			if len(s.List()) != 0 {
				t.Errorf("images %v", s.List())
			}
			s = checkNothingElse(whole, s)
		})
	}
	pullImage(t, s, reg.Addr+"/a:1")
}

func TestPlatforms(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	var entries []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64", "riscv64"} {
		d, err := reg.Add("multi", "", fake.Image{Architecture: arch, Docker: arch == "arm64", Config: v1.ImageConfig{User: arch}})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, d)
	}
	for _, docker := range []bool{false, true} {
		top, err := reg.AddIndex("multi", "latest", docker, entries...)
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []string{"amd64", "arm64", "riscv64"} {
			s := openStore(t, t.TempDir(), Options{Platform: Platform{Architecture: arch}})
			img := pullImage(t, s, reg.Addr+"/multi")
			if img.Config.User != arch || img.Arch != arch || img.RepoDigests[0] != reg.Addr+"/multi@"+top.String() {
				t.Errorf("%s: %+v", arch, img)
			}
			img = pullImage(t, checkNothingElse(t, s), reg.Addr+"/multi")
			if img.Config.User != arch {
				t.Errorf("%s: again %+v", arch, img)
			}
		}
	}
}

func TestLeases(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	l := tarOf(t, "f=x")
	add(t, reg, "a", "1", l, tarOf(t, "g"), l) // one layer twice: overlayfs takes it once
	add(t, reg, "none", "1")
	s := openStore(t, t.TempDir(), Options{})
	img := pullImage(t, s, reg.Addr+"/a:1")
	r, err := s.Rootfs(img.ID, "c1")
	if err != nil || len(r.Layers) != 2 || !strings.Contains(r.Layers[0], strings.TrimPrefix(img.DiffIDs[2], "sha256:")) {
		t.Fatalf("%+v, %v", r, err)
	}
	if again, err := s.Rootfs(img.ID, "c1"); err != nil || !slices.Equal(again.Layers, r.Layers) {
		t.Errorf("again: %+v, %v", again, err)
	}
	if body, err := os.ReadFile(r.Layers[0] + "/f"); string(body) != "x" {
		t.Errorf("f: %q, %v", body, err)
	}
	none := pullImage(t, s, reg.Addr+"/none:1")
	if r, err := s.Rootfs(none.ID, "c2"); err != nil || len(r.Layers) != 1 {
		t.Errorf("an image without layers: %+v, %v", r, err)
	}
	if _, err := s.Rootfs(none.ID, "c1"); err == nil {
		t.Error("c1 may hold another image")
	}
	for _, holder := range []string{"", "a/b", "..", strings.Repeat("x", 300)} {
		if _, err := s.Rootfs(img.ID, holder); err == nil {
			t.Errorf("holder %q is accepted", holder)
		}
	}
	if _, err := s.Rootfs(strings.Repeat("0", 64), "c3"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown image: %v", err)
	}

	// Removed while held, and through a restart: the layers stay until Release.
	if err := s.Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	s = checkNothingElse(t, s)
	if _, err := os.Stat(r.Layers[0] + "/f"); err != nil || len(s.List()) != 1 || len(s.Holders()) != 2 {
		t.Errorf("held layers: %v; images %v; holders %v", err, s.List(), s.Holders())
	}
	if again, err := s.Rootfs(img.ID, "c1"); err != nil || !slices.Equal(again.Layers, r.Layers) {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	for _, holder := range []string{"c1", "c1", "c2", "never"} {
		if err := s.Release(holder); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(r.Layers[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after release: %v", err)
	}
	checkNothingElse(t, s)
}

// A lease that the disk does not give may be a running container's: nothing that it may hold
// goes until it is released.
func TestUnreadableLease(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=x"))
	s := openStore(t, t.TempDir(), Options{})
	img := pullImage(t, s, reg.Addr+"/a:1")
	r, err := s.Rootfs(img.ID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	lease := s.leasePath("c1")
	if err := errors.Join(s.Close(), os.Remove(lease), os.Mkdir(lease, 0o700)); err != nil { // it cannot be read
		t.Fatal(err)
	}
	s = openStore(t, s.root, Options{})
	if err := s.Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.Layers[0] + "/f"); err != nil || len(s.Holders()) != 1 {
		t.Errorf("%v; holders %v", err, s.Holders())
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	checkNothingElse(t, s)
}

func TestOpenRepairs(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=x"), tarOf(t, "g=y"))
	edit := func(path, text string) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			files, err := filepath.Glob(filepath.Join(root, path))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: %v %v", path, files, err)
			}
			if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	powerCut := func(t *testing.T, root string) {
		files, err := filepath.Glob(filepath.Join(root, "layers/sha256-*/layer.json"))
		if err != nil || len(files) != 2 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			i := bytes.Index(data, []byte(`"bootID":"`)) + len(`"bootID":"`)
			copy(data[i:], "another-")
			if err := errors.Join(os.WriteFile(f, data, 0o600), os.Remove(filepath.Join(filepath.Dir(f), "durable"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		harm  func(*testing.T, string)
		whole bool // without kept blobs
		kept  bool // with
	}{
		{"nothing", func(*testing.T, string) {}, true, true},
		{"a blob is empty", edit("blobs/sha256/*", ""), false, false},
		{"layer.json is torn", edit("layers/sha256-*/layer.json", "{"), false, true},
		{"power cut before the flush", powerCut, false, true},
		{"a layer is gone", func(t *testing.T, root string) {
			dirs, _ := filepath.Glob(filepath.Join(root, "layers/sha256-*"))
			if err := os.RemoveAll(dirs[0]); err != nil {
				t.Fatal(err)
			}
		}, false, true},
		{"the index is torn", edit("index.json", "{"), false, false},
		{"a lease is torn", edit("leases/held", "x"), true, true},
		{"leftovers", func(t *testing.T, root string) {
			for _, d := range []string{"layers/tmp/draft-x/fs", "layers/sha256-unknown/fs", "ingest/x"} {
				if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range []string{"blobs/sha256/" + strings.Repeat("0", 64), ".strake-tmp-index", "leases/.strake-tmp-x"} {
				if err := os.WriteFile(filepath.Join(root, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, true, true},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, blobs kept %v", c.name, keep), func(t *testing.T) {
				root := t.TempDir()
				s := openStore(t, root, Options{KeepLayerBlobs: keep})
				img := pullImage(t, s, reg.Addr+"/a:1")
				if _, err := s.Rootfs(img.ID, "held"); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if durable, _ := filepath.Glob(filepath.Join(root, "layers/sha256-*/durable")); len(durable) != 2 {
					t.Fatalf("durable layers after Close: %v", durable)
				}
				c.harm(t, root)
				s = openStore(t, root, Options{KeepLayerBlobs: keep})
				want := c.whole
				if keep {
					want = c.kept && c.name != "a blob is empty" || c.whole
				}
				got, err := s.Get(img.ID)
				// With kept blobs the harmed one may be a layer's, which matters to nobody now.
				if (err == nil) != want && !(keep && c.name == "a blob is empty") {
					t.Errorf("after repair: %+v, %v", got, err)
				}
				// Pulled again it is whole, and nothing else is there.
				again := pullImage(t, s, reg.Addr+"/a:1")
				r, err := s.Rootfs(again.ID, "check")
				if err != nil || again.ID != img.ID {
					t.Fatal(again, err)
				}
				if body, err := os.ReadFile(r.Layers[0] + "/g"); string(body) != "y" {
					t.Errorf("g: %q, %v", body, err)
				}
				checkNothingElse(t, s)
			})
		}
	}
}

func TestOpenIsExclusive(t *testing.T) {
	root := t.TempDir()
	openStore(t, root, Options{})
	if _, err := Open(root, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second Open: %v", err)
	}
}

// Directories that a layer does not list keep the attributes of the layer below,
// and a layer that needs them is not shared with another base.
func TestImpliedDirectories(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	sticky, plain, implies := tarOf(t, "tmp/"), tarOf(t, "tmp=", "x"), tarOf(t, "tmp/f=1")
	add(t, reg, "a", "sticky", sticky, implies)
	add(t, reg, "a", "plain", plain, implies)
	s := openStore(t, t.TempDir(), Options{})
	for tag, want := range map[string]fs.FileMode{"sticky": fs.ModeSticky | 0o777, "plain": 0o755} {
		img := pullImage(t, s, reg.Addr+"/a:"+tag)
		r, err := s.Rootfs(img.ID, tag)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(r.Layers[0] + "/tmp"); err != nil || info.Mode()&^fs.ModeDir != want {
			t.Errorf("%s: /tmp has mode %v, %v; want %v", tag, info.Mode(), err, want)
		}
	}
	checkNothingElse(t, s)
}

// What overlayfs shows of a pulled image is what its layers say.
func TestOverlayShowsImage(t *testing.T) {
	testutil.RequireRoot(t, "mounts an overlay")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1",
		tarOf(t, "keep=1", "gone=1", "dir/", "dir/lower=1", "opaque/", "opaque/lower=1", "was/", "was/lower=1"),
		tarOf(t, ".wh.gone", "dir/", "dir/upper=2", "opaque/", "opaque/.wh..wh..opq", "opaque/upper=2", ".wh.was", "was/", "was/upper=2"))
	add(t, reg, "a", "2", tarOf(t, "old"), tarOf(t, ".wh..wh..opq", "new"), tarOf(t, "newer"))
	s := openStore(t, t.TempDir(), Options{})
	for tag, want := range map[string]string{
		"1": "dir dir/lower dir/upper keep opaque opaque/upper was was/upper",
		"2": "new newer",
	} {
		r, err := s.Rootfs(pullImage(t, s, reg.Addr+"/a:"+tag).ID, "overlay-"+tag)
		if err != nil {
			t.Fatal(err)
		}
		target := t.TempDir()
		// One lower directory alone is no overlay: an empty one goes below.
		lower := strings.Join(append(slices.Clone(r.Layers), s.layers.EmptyPath()), ":")
		if err := syscall.Mount("overlay", target, "overlay", syscall.MS_RDONLY, "lowerdir="+lower); err != nil {
			t.Fatal(err)
		}
		var have []string
		err = filepath.WalkDir(target, func(path string, _ fs.DirEntry, err error) error {
			if rel, _ := filepath.Rel(target, path); rel != "." {
				have = append(have, rel)
			}
			return err
		})
		if e := syscall.Unmount(target, 0); e != nil {
			t.Error(e)
		}
		if err != nil || strings.Join(have, " ") != want {
			t.Errorf("%s: %v, %v; want %s", tag, have, err, want)
		}
	}
}

func TestUsageIsExact(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/f="+strings.Repeat("x", 5000)), tarOf(t, "g=y"))
	for _, keep := range []bool{false, true} {
		s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
		pullImage(t, s, reg.Addr+"/a:1")
		bytes, inodes, err := s.Usage()
		if err != nil {
			t.Fatal(err)
		}
		s = checkNothingElse(t, s)
		if b, i, err := s.Usage(); b != bytes || i != inodes || err != nil {
			t.Errorf("after a restart %d bytes, %d inodes; before %d, %d", b, i, bytes, inodes)
		}
		blobs, err := os.ReadDir(filepath.Join(s.root, "blobs/sha256"))
		if err != nil {
			t.Fatal(err)
		}
		// d, d/f, g, the recipes of the two layers, and the blobs.
		if inodes != uint64(5+len(blobs)) {
			t.Errorf("%d inodes, %d blobs", inodes, len(blobs))
		}
	}
}

func TestLoadLayout(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=x"), tarOf(t, "g=y"))
	// Our own store, with blobs, is a layout.
	first := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	want := pullImage(t, first, reg.Addr+"/a:1")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{})
	images, err := s.LoadLayout(t.Context(), first.Root(), "")
	if err != nil || len(images) != 2 { // by tag and by digest
		t.Fatal(images, err)
	}
	if got, err := s.Get(reg.Addr + "/a:1"); err != nil || got.ID != want.ID || !slices.Equal(got.RepoTags, want.RepoTags) || !slices.Equal(got.RepoDigests, want.RepoDigests) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	s = checkNothingElse(t, s)
	if _, err := s.LoadLayout(t.Context(), t.TempDir(), ""); !errors.Is(err, ErrInvalidImage) {
		t.Errorf("an empty directory: %v", err)
	}
	// A layout without its layers cannot be loaded, and leaves nothing.
	if err := s.Remove(t.Context(), want.ID); err != nil {
		t.Fatal(err)
	}
	s = checkNothingElse(t, s)
	if _, err := s.LoadLayout(t.Context(), s.Root(), ""); err == nil {
		t.Error("loaded from nothing")
	}
	checkNothingElse(t, s)
}

// A full disk is an error that says so, and nothing is left of the attempt.
func TestDiskFull(t *testing.T) {
	testutil.RequireRoot(t, "mounts a small file system")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "small", tarOf(t, "f=x"))
	add(t, reg, "a", "large", tarOf(t, "f=x"), tarOf(t, "g="+strings.Repeat("x", 4<<20)))
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, root, Options{})
	want := pullImage(t, s, reg.Addr+"/a:small")
	for range 3 { // each attempt finds the space that the last one gave back
		if _, err := s.Pull(t.Context(), reg.Addr+"/a:large", PullOptions{}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error %v", err)
		}
		s = checkNothingElse(t, s)
	}
	if list := s.List(); len(list) != 1 || list[0].ID != want.ID {
		t.Errorf("images %v", list)
	}
}

// TestRemoveFromAFullDisk removes images while somebody takes all space that becomes free.
func TestRemoveFromAFullDisk(t *testing.T) {
	testutil.RequireRoot(t, "mounts a small file system")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, filepath.Join(root, "images"), Options{})
	var refs []string
	for i := range 6 {
		add(t, reg, "a", strconv.Itoa(i), tarOf(t, "f="+strings.Repeat(strconv.Itoa(i), 300_000)))
		refs = append(refs, reg.Addr+"/a:"+strconv.Itoa(i))
		pullImage(t, s, refs[i])
	}
	taken := 0
	fill := func() {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(root, "full"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for n := 0; err == nil; taken += n {
			n, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	fill()
	for i, ref := range refs {
		if err := s.Remove(t.Context(), ref); err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
		if i%2 == 0 {
			fill()
			continue
		}
		before := taken
		s = checkNothingElse(t, s)
		fill()
		if taken-before < 300_000 {
			t.Errorf("image %d: its removal freed %d bytes", i, taken-before)
		}
	}
	if list := s.List(); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
}

func TestLimitsReachThePull(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=xyz"))
	s := openStore(t, t.TempDir(), Options{Limits: layer.Limits{Bytes: 2}})
	if _, err := s.Pull(t.Context(), reg.Addr+"/a:1", PullOptions{}); !errors.Is(err, ErrInvalidImage) || !errors.Is(err, layer.ErrLimit) {
		t.Errorf("error %v", err)
	}
}

// A container's root file system from 60 layers: its lease and their names.
func BenchmarkRootfs60(b *testing.B) {
	testutil.RequireRoot(b, "layers have owners")
	reg := startRegistry(b)
	var layers [][]byte
	for i := range 60 {
		layers = append(layers, tarOf(b, fmt.Sprintf("f%d", i)))
	}
	add(b, reg, "a", "1", layers...)
	s := openStore(b, b.TempDir(), Options{})
	img, err := s.Pull(b.Context(), reg.Addr+"/a:1", PullOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Rootfs(img.ID, "c"); err != nil {
			b.Fatal(err)
		}
		if err := s.Release("c"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestShortNames reads registries.conf for short names alone: what is no name, or a
// whole one, can be found whatever is in it.
func TestShortNames(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "a=a"))
	conf := filepath.Join(t.TempDir(), "registries.conf")
	s := openStore(t, t.TempDir(), Options{Registry: registry.Config{RegistriesConf: conf}})
	writeFile(t, conf, "unqualified-search-registries = [\""+reg.Addr+"\"]\n")
	img := pullImage(t, s, "a:1")
	for _, ref := range []string{"a:1", "a@" + img.Manifest.String()} {
		if got, err := s.Get(ref); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v %v", ref, got.ID, err)
		}
	}
	writeFile(t, conf, "[")
	hex := strings.TrimPrefix(img.ID, "sha256:")
	for _, ref := range []string{reg.Addr + "/a:1", img.ID, hex, img.ID[:20], hex[:12]} {
		if got, err := s.Get(ref); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v %v", ref, got.ID, err)
		}
	}
	none := strings.Repeat("0", 64)
	for _, ref := range []string{reg.Addr + "/a:2", "sha256:" + none, none} {
		if _, err := s.Get(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Get("a:1"); err == nil || !strings.Contains(err.Error(), conf) {
		t.Errorf("a short name, with a broken file: %v", err)
	}
}
