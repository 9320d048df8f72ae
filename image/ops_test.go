package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

func TestTagUntagPrune(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	shared := tarOf(t, "shared=s")
	add(t, reg, "a", "1", shared)
	add(t, reg, "b", "1", shared, tarOf(t, "own="+strings.Repeat("x", 10_000)))
	add(t, reg, "c", "1", tarOf(t, "c=c"))
	s := openStore(t, t.TempDir(), Options{Pinned: []string{reg.Addr + "/c:1"}})
	a, b, c := pullImage(t, s, reg.Addr+"/a:1"), pullImage(t, s, reg.Addr+"/b:1"), pullImage(t, s, reg.Addr+"/c:1")

	if err := s.Tag(a.ID[:20], "mine:2"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("mine:2"); err != nil || got.ID != a.ID || len(got.RepoTags) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Tag(reg.Addr+"/b:1", "mine:2"); err != nil { // it moves
		t.Fatal(err)
	}
	if got, err := s.Get("mine:2"); err != nil || got.ID != b.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for to, class := range map[string]error{"UPPER": ErrInvalidReference, "x@" + a.ID: ErrInvalidReference} {
		if err := s.Tag(a.ID, to); !errors.Is(err, class) {
			t.Errorf("tag as %q: %v", to, err)
		}
	}
	if err := s.Tag("nosuch", "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}

	usage := s.DiskUsage()
	for _, u := range usage {
		if u.Image.ID == b.ID && (u.Shared == 0 || u.Unique <= 0 || u.Shared+u.Unique != u.Image.Size) || u.Image.ID == c.ID && u.Shared != 0 {
			t.Errorf("%+v", u)
		}
	}
	// An untagged image stays, named or not; its digest keeps it known.
	if err := s.Untag(reg.Addr+"/a:1", a.RepoDigests[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(a.ID); err != nil || len(got.RepoTags)+len(got.RepoDigests) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Untag("nosuch:1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	s = checkNothingElse(t, s)

	// What a container holds, what is pinned, and what is too young stay.
	if _, err := s.Rootfs(a.ID, "c1"); err != nil {
		t.Fatal(err)
	}
	for _, o := range []PruneOptions{{}, {PulledBefore: time.Now().Add(-time.Hour), All: true}, {UsedBefore: time.Now().Add(-time.Hour), All: true}} {
		if removed, freed, err := s.Prune(o); err != nil || len(removed) != 0 || freed != 0 {
			t.Errorf("%+v: %v, %d, %v", o, removed, freed, err)
		}
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	removed, _, err := s.Prune(PruneOptions{})
	if err != nil || len(removed) != 1 || removed[0].ID != a.ID {
		t.Errorf("%v, %v", removed, err)
	}
	removed, freed, err := s.Prune(PruneOptions{All: true, UsedBefore: time.Now().Add(time.Hour)})
	if err != nil || len(removed) != 1 || removed[0].ID != b.ID || freed < 10_000 {
		t.Errorf("%v, %d, %v", removed, freed, err)
	}
	if list := checkNothingElse(t, s).List(); len(list) != 1 || list[0].ID != c.ID {
		t.Errorf("%+v", list)
	}
}

func TestPush(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	from, to := startRegistry(t), startRegistry(t)
	top := add(t, from, "a", "1", tarOf(t, "one=1"), tarOf(t, "two=2"), tarOf(t, "three="+strings.Repeat("3", 100_000)))
	kept := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	img := pullImage(t, kept, from.Addr+"/a:1")

	to.RequireLogin("u", "p")
	login := &Auth{Username: "u", Password: "p"}
	dest := to.Addr + "/x/y:2"
	if _, err := kept.Push(t.Context(), img.ID, PushOptions{To: dest}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("without a login: %v", err)
	}
	d, err := kept.Push(t.Context(), img.ID, PushOptions{To: dest, Auth: login})
	if err != nil || d != top.Digest {
		t.Fatalf("%s, want %s: %v", d, top.Digest, err)
	}
	want, _ := from.Manifest("a", "1")
	if got, ok := to.Manifest("x/y", "2"); !ok || !bytes.Equal(got, want) {
		t.Errorf("manifest %s", got)
	}
	if got, err := kept.Get(img.ID); err != nil || !slices.Contains(got.RepoDigests, to.Addr+"/x/y@"+d.String()) {
		t.Errorf("%v, %v", got.RepoDigests, err)
	}
	// Again: nothing is uploaded. Elsewhere in the same registry: mounted.
	to.Requests()
	if _, err := kept.Push(t.Context(), img.ID, PushOptions{To: dest, Auth: login}); err != nil {
		t.Fatal(err)
	}
	for _, q := range to.Requests() {
		if strings.HasPrefix(q, "PATCH") || strings.HasPrefix(q, "POST") {
			t.Errorf("again: %s", q)
		}
	}
	to.RequireLogin("", "")
	if _, err := kept.Push(t.Context(), img.ID, PushOptions{To: to.Addr + "/other:1"}); err != nil {
		t.Fatal(err)
	}
	patches := 0
	for _, q := range to.Requests() {
		if strings.HasPrefix(q, "PATCH") {
			patches++
		}
	}
	if patches != 1 { // the config, which is no layer
		t.Errorf("%d uploads where blobs could be mounted", patches)
	}
	// A connection that breaks is taken up again; a registry that has it wrong is an error.
	to.Misbehave(fake.Fault{Method: "PATCH", Status: 503, Times: 2})
	other := startRegistry(t)
	other.Misbehave(fake.Fault{Method: "PATCH", Status: 503, Times: 2})
	if d, err := kept.Push(t.Context(), img.ID, PushOptions{To: other.Addr + "/a:1"}); err != nil || d != top.Digest {
		t.Errorf("%s, %v", d, err)
	}

	// Without the blobs: named, unless the registry has them; repacked when asked.
	bare := openStore(t, t.TempDir(), Options{})
	pullImage(t, bare, from.Addr+"/a:1")
	third := startRegistry(t)
	_, err = bare.Push(t.Context(), from.Addr+"/a:1", PushOptions{To: third.Addr + "/a:1"})
	if !errors.Is(err, ErrNotKept) || !strings.Contains(err.Error(), "keep_layer_blobs") {
		t.Errorf("not kept: %v", err)
	}
	if d, err := bare.Push(t.Context(), from.Addr+"/a:1", PushOptions{To: from.Addr + "/b:1"}); err != nil || d != top.Digest {
		t.Errorf("the registry has all: %s, %v", d, err)
	}
	d, err = bare.Push(t.Context(), from.Addr+"/a:1", PushOptions{To: third.Addr + "/a:1", Repack: true})
	if err != nil {
		t.Fatal(err)
	}
	if again := pullImage(t, openStore(t, t.TempDir(), Options{}), third.Addr+"/a:1"); again.ID != img.ID || again.Manifest != d {
		t.Errorf("repacked: %+v", again)
	}
}

func save(t *testing.T, s *Store, format Format, refs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(t.Context(), &b, format, refs...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSaveLoad(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	base := tarOf(t, "d/", "d/f="+strings.Repeat("f", 5000))
	add(t, reg, "a", "1", base, tarOf(t, "d/implied=1"))
	add(t, reg, "b", "1", base, base)
	refs := []string{reg.Addr + "/a:1", reg.Addr + "/b:1"}
	for _, keep := range []bool{false, true} {
		s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
		a, b := pullImage(t, s, refs[0]), pullImage(t, s, refs[1])
		for _, format := range []Format{DockerArchive, OCIArchive} {
			data := save(t, s, format, refs...)
			if again := save(t, s, format, refs...); !bytes.Equal(data, again) {
				t.Errorf("%s: another archive the second time", format)
			}
			for _, compressed := range []bool{false, true} {
				in := data
				if compressed {
					in = compress(t, data)
				}
				other := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
				images, err := other.Load(t.Context(), bytes.NewReader(in), "")
				if err != nil {
					t.Fatal(err)
				}
				if len(images) != 2 || images[0].ID != a.ID || images[1].ID != b.ID || !slices.Equal(images[0].RepoTags, a.RepoTags) {
					t.Errorf("%s: %+v", format, images)
				}
				if format == OCIArchive && keep && (images[0].Manifest != a.Manifest || !slices.Equal(images[1].RepoDigests, b.RepoDigests)) {
					t.Errorf("%s: manifest %s, want %s", format, images[0].Manifest, a.Manifest)
				}
				if again := save(t, other, format, refs...); !bytes.Equal(data, again) {
					t.Errorf("%s, kept %v: another archive after loading it", format, keep)
				}
				other = checkNothingElse(t, other)
				if _, err := other.Rootfs(images[0].ID, "c"); err != nil {
					t.Error(err)
				}
			}
		}
		if err := s.Save(t.Context(), &bytes.Buffer{}, "zip", refs[0]); !errors.Is(err, ErrUnsupported) {
			t.Error(err)
		}
	}
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("gzip", "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSkopeo has Debian's skopeo read what is saved here, and loads what it saves.
func TestSkopeo(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("needs skopeo")
	}
	reg := startRegistry(t)
	top := add(t, reg, "a", "1", tarOf(t, "d/", "d/f=1"), tarOf(t, "g=2"))
	ref := reg.Addr + "/a:1"
	s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	img := pullImage(t, s, ref)
	dir := t.TempDir()
	skopeo := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...).Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("skopeo %v: %v\n%s", args, err, exit.Stderr)
		}
		return out
	}
	for _, format := range []Format{DockerArchive, OCIArchive} {
		file := filepath.Join(dir, string(format))
		if err := os.WriteFile(file, save(t, s, format, ref), 0o600); err != nil {
			t.Fatal(err)
		}
		var config v1.Image
		if err := json.Unmarshal(skopeo("inspect", "--config", string(format)+":"+file), &config); err != nil || config.Config.User != "1000" {
			t.Errorf("%s: %+v, %v", format, config, err)
		}
		// Through skopeo and back: the same image.
		back := filepath.Join(dir, "back-"+string(format))
		skopeo("copy", string(format)+":"+file, string(format)+":"+back+":"+ref)
		data, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		other := openStore(t, t.TempDir(), Options{})
		images, err := other.Load(t.Context(), bytes.NewReader(data), "")
		if err != nil || len(images) != 1 || images[0].ID != img.ID || !slices.Contains(images[0].RepoTags, ref) {
			t.Fatalf("%s: %+v, %v", format, images, err)
		}
		if format == OCIArchive && images[0].Manifest != top.Digest {
			t.Errorf("manifest %s, want %s", images[0].Manifest, top.Digest)
		}
	}
	// What is pushed from here, skopeo copies to a layout that is loaded again.
	if _, err := s.Push(t.Context(), ref, PushOptions{To: reg.Addr + "/pushed:1"}); err != nil {
		t.Fatal(err)
	}
	skopeo("copy", "--src-tls-verify=false", "docker://"+reg.Addr+"/pushed:1", "oci:"+filepath.Join(dir, "layout")+":"+ref)
	images, err := openStore(t, t.TempDir(), Options{}).LoadLayout(t.Context(), filepath.Join(dir, "layout"), "")
	if err != nil || images[0].ID != img.ID || images[0].Manifest != top.Digest {
		t.Errorf("%+v, %v", images, err)
	}
}

func TestLoadHostile(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	s := openStore(t, t.TempDir(), Options{})
	for name, data := range map[string][]byte{
		"empty": nil, "no archive": []byte("nothing of the kind"), "root file system": tarOf(t, "etc/", "etc/passwd=x"),
		"no image":  tarOf(t, "manifest.json=[]"),
		"no file":   tarOf(t, `manifest.json=[{"Config":"../../../etc/passwd","Layers":["/etc/shadow"]}]`),
		"no JSON":   tarOf(t, "manifest.json={"),
		"no digest": tarOf(t, `index.json={"schemaVersion":2,"manifests":[{"digest":"../../x","size":1}]}`),
		"truncated": tarOf(t, "manifest.json=[]")[:600],
	} {
		if _, err := s.Load(t.Context(), bytes.NewReader(data), ""); !errors.Is(err, ErrInvalidImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	holes := filepath.Join(t.TempDir(), "manifest.json")
	if err := errors.Join(os.WriteFile(holes, nil, 0o600), os.Truncate(holes, 1<<40)); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		data, err := exec.Command("tar", "--format", format, "--sparse", "-C", filepath.Dir(holes), "-c", "manifest.json").Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(t.Context(), bytes.NewReader(data), ""); !errors.Is(err, ErrInvalidImage) {
			t.Errorf("%s, with a hole of a terabyte: %v", format, err)
		}
	}
	small := openStore(t, t.TempDir(), Options{Limits: layer.Limits{Bytes: 1, Entries: 1}})
	if _, err := small.Load(t.Context(), bytes.NewReader(tarOf(t, "x="+strings.Repeat("x", 1026))), ""); !errors.Is(err, layer.ErrLimit) {
		t.Errorf("a file beyond the limit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Load(ctx, bytes.NewReader(tarOf(t, "x=1")), ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	checkNothingElse(t, s)
}

func TestImport(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	s, reg := openStore(t, t.TempDir(), Options{}), startRegistry(t)
	root := tarOf(t, "etc/", "etc/os=mine")
	for i, data := range [][]byte{root, compress(t, root)} {
		img, err := s.Import(t.Context(), bytes.NewReader(data), "mine:1", "by hand", v1.ImageConfig{Cmd: []string{"sh"}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(img.RepoTags, []string{"docker.io/library/mine:1"}) || img.DiffIDs[0] != digest.FromBytes(root).String() || img.Config.Cmd[0] != "sh" {
			t.Errorf("%d: %+v", i, img)
		}
		checkFiles(t, s, img, map[string]string{"etc/os": "mine"})
		if i > 0 {
			continue
		}
		// What was not packed is here as it came, without kept blobs.
		if d, err := s.Push(t.Context(), "mine:1", PushOptions{To: reg.Addr + "/mine:1"}); err != nil || d != img.Manifest {
			t.Errorf("pushed as %s, want %s: %v", d, img.Manifest, err)
		}
		again, err := openStore(t, t.TempDir(), Options{}).Load(t.Context(), bytes.NewReader(save(t, s, OCIArchive, "mine:1")), "")
		if err != nil || again[0].Manifest != img.Manifest {
			t.Errorf("saved and loaded it is %+v, %v", again, err)
		}
	}
	if _, err := s.Import(t.Context(), strings.NewReader("no tar"), "x:1", "", v1.ImageConfig{}); !errors.Is(err, ErrInvalidImage) {
		t.Error(err)
	}
	checkNothingElse(t, s)
}

// TestLackingImage: an image whose broken layer is gone and could not be fetched is not
// there for who would use it, and is whole again once it is pulled or loaded.
func TestLackingImage(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=right"))
	ref := reg.Addr + "/a:1"
	s := openStore(t, t.TempDir(), Options{})
	img := pullImage(t, s, ref)
	var archive bytes.Buffer
	if err := s.Tag(ref, "local/a:1"); err != nil {
		t.Fatal(err)
	}
	pack := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	pullImage(t, pack, ref)
	if err := errors.Join(pack.Save(t.Context(), &archive, OCIArchive, ref), pack.Close()); err != nil {
		t.Fatal(err)
	}
	again := map[string]func() error{
		"pull": func() error { _, err := s.Pull(t.Context(), ref, PullOptions{}); return err },
		"load": func() error { _, err := s.Load(t.Context(), &archive, ""); return err },
	}
	for _, how := range []string{"pull", "load"} {
		if err := s.layers.Remove(s.images[img.ID].layers[0].key); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{ref, "local/a:1", img.ID} {
			if _, err := s.Get(name); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "--repair") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if list := s.List(); len(list) != 1 {
			t.Errorf("listed: %v", list)
		}
		if err := again[how](); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		checkFiles(t, s, img, map[string]string{"f": "right"})
		if _, err := s.Get("local/a:1"); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// findings are what a check of the whole store finds.
func findings(t *testing.T, s *Store) (found []Finding) {
	t.Helper()
	if err := s.Verify(t.Context(), "", func(f Finding) {
		if f.Problem != nil || f.Unknown {
			found = append(found, f)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestVerifyRepair(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/f=right"), tarOf(t, "d/implied=too"))
	noAuth := func(string) *Auth { return nil }
	for _, keep := range []bool{false, true} {
		s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: keep})
		img := pullImage(t, s, reg.Addr+"/a:1")
		if found := findings(t, s); len(found) != 0 {
			t.Fatalf("%+v", found)
		}
		rec := s.images[img.ID]
		breakIt := func() {
			if err := os.WriteFile(filepath.Join(s.layers.Path(rec.layers[0].key), "d/f"), []byte("wrong"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.root, "blobs/sha256", digest.Digest(img.ID).Encoded()), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			if keep {
				if err := os.WriteFile(filepath.Join(s.root, "blobs/sha256", rec.layers[1].blob.Digest.Encoded()), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		breakIt()
		want := []string{"blob " + img.ID, "layer " + rec.layers[0].diffID.String()}
		if keep {
			want = append(want, "blob "+rec.layers[1].blob.Digest.String())
		}
		found := findings(t, s)
		if len(found) != len(want) {
			t.Fatalf("%+v", found)
		}
		for i, f := range found {
			if f.What != want[i] || !errors.Is(f.Problem, ErrDigestMismatch) {
				t.Errorf("%s: %v", f.What, f.Problem)
			}
		}
		if err := s.Repair(t.Context(), found, noAuth); err != nil {
			t.Fatal(err)
		}
		if found := findings(t, s); len(found) != 0 {
			t.Errorf("repaired: %+v", found)
		}
		checkFiles(t, s, img, map[string]string{"d/f": "right", "d/implied": "too"})
		// A layer in use stays.
		if _, err := s.Rootfs(img.ID, "c"); err != nil {
			t.Fatal(err)
		}
		breakIt()
		if err := s.Repair(t.Context(), []Finding{{Image: img, What: "layer " + rec.layers[0].diffID.String(), Problem: layer.ErrDigestMismatch}}, noAuth); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTwoManifests has one image by two names whose manifests have different blobs of the
// same layers: as it was made here, and as it was packed for a registry.
func TestTwoManifests(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	testutil.CheckLeaks(t)
	reg, away, third := startRegistry(t), startRegistry(t), startRegistry(t)
	s := openStore(t, t.TempDir(), Options{})
	made, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, "etc/", "etc/os=mine")), "mine:1", "", v1.ImageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := s.Push(t.Context(), "mine:1", PushOptions{To: reg.Addr + "/mine:1"})
	if err != nil || packed != made.Manifest {
		t.Fatal(packed, err)
	}
	packedName, lost := reg.Addr+"/packed:1", away.Addr+"/mine:1"
	add(t, reg, "packed", "1", tarOf(t, "etc/", "etc/os=mine"))
	// The same config with a packed layer, as push --repack makes it.
	m, err := registry.ParseManifest(manifestOf(t, reg, "mine"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := registry.ParseManifest(manifestOf(t, reg, "packed"))
	if err != nil {
		t.Fatal(err)
	}
	m.Layers = other.Layers
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	reg.Own(m.Config.Digest, "mine", "packed")
	packed = reg.AddManifest("packed", "1", v1.MediaTypeImageManifest, body)
	if _, err := s.Push(t.Context(), "mine:1", PushOptions{To: lost}); err != nil { // a registry that will be gone
		t.Fatal(err)
	}
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	if img := pullImage(t, s, packedName); img.ID != made.ID {
		t.Fatalf("%s, want %s", img.ID, made.ID)
	}

	// Each name is pushed and saved with its own blobs.
	if d, err := s.Push(t.Context(), "mine:1", PushOptions{To: third.Addr + "/mine:1"}); err != nil || d != made.Manifest {
		t.Errorf("%s, %v", d, err)
	}
	if _, err := s.Push(t.Context(), packedName, PushOptions{To: third.Addr + "/packed:1"}); !errors.Is(err, ErrNotKept) {
		t.Errorf("a packed layer that is not kept: %v", err)
	}
	for _, ref := range []string{"mine:1", packedName} {
		images, err := openStore(t, t.TempDir(), Options{}).Load(t.Context(), bytes.NewReader(save(t, s, OCIArchive, ref)), "")
		if err != nil || images[0].ID != made.ID {
			t.Errorf("%s: %v", ref, err)
		}
	}

	// The manifests of both are verified, and repaired from whichever registry has them.
	for _, d := range []digest.Digest{made.Manifest, packed} {
		if err := os.WriteFile(filepath.Join(s.root, "blobs/sha256", d.Encoded()), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	broken := func() (found []Finding) {
		t.Helper()
		err := s.Verify(t.Context(), "", func(f Finding) {
			if f.Problem != nil {
				found = append(found, f)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	found := broken()
	if len(found) != 2 {
		t.Errorf("found %+v", found)
	}
	if err := s.Repair(t.Context(), found, func(string) *Auth { return nil }); err != nil {
		t.Error(err)
	}
	if found := broken(); len(found) != 0 {
		t.Errorf("repaired: %+v", found)
	}

	// With either name gone the image is whole.
	for _, ref := range []string{"mine:1", reg.Addr + "/mine@" + made.Manifest.String(), away.Addr + "/mine@" + made.Manifest.String()} {
		if err := s.Remove(t.Context(), ref); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
	}
	s = checkNothingElse(t, s)
	if _, err := s.RawManifest(made.ID); err != nil {
		t.Error(err)
	}
}

// manifestOf is the manifest of a repository's tag 1.
func manifestOf(t *testing.T, reg *fake.Server, repository string) []byte {
	t.Helper()
	body, ok := reg.Manifest(repository, "1")
	if !ok {
		t.Fatalf("no image %s", repository)
	}
	return body
}
