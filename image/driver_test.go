package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/testutil"
)

func openDriver(t *testing.T, name, dir string) rootfs.Driver {
	t.Helper()
	d, err := rootfs.Open(name, dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDrivers: an image is pulled, given to containers, checked, repaired and
// removed whatever makes their roots.
func TestDrivers(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/f=1", "gone=1"), tarOf(t, ".wh.gone", "d/implied=2"))
	add(t, reg, "none", "1")
	for _, c := range []struct {
		name string
		dir  func(testing.TB) string
	}{{rootfs.Overlay, testing.TB.TempDir}, {rootfs.OverlayUserXattr, testing.TB.TempDir}, {rootfs.Copy, testing.TB.TempDir}, {rootfs.Btrfs, testutil.Btrfs}} {
		t.Run(c.name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			dir := c.dir(t)
			d := openDriver(t, c.name, dir)
			s := openStore(t, filepath.Join(dir, "images"), Options{Driver: d})
			t.Cleanup(func() { _ = s.Close() })
			img := pullImage(t, s, reg.Addr+"/a:1")
			lease, err := s.Rootfs(img.ID, "c1")
			if err != nil || d.Flat() != (len(lease.Layers) == 1) {
				t.Fatalf("%+v, %v", lease, err)
			}
			own := filepath.Join(dir, "c1")
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := s.PrepareRoot(lease, own); err != nil {
				t.Fatal(err)
			}
			none := pullImage(t, s, reg.Addr+"/none:1")
			if r, err := s.Rootfs(none.ID, "c2"); err != nil || len(r.Layers) != 1 {
				t.Errorf("an image without layers: %+v, %v", r, err)
			}
			s = checkNothingElse(t, s)

			// The root of all layers is checked, repaired, and made again at a start.
			if d.Flat() {
				root := s.images[img.ID].root
				if err := os.WriteFile(filepath.Join(s.layers.Path(root), "d/f"), []byte("2"), 0o644); err != nil {
					t.Fatal(err)
				}
				var found []Finding
				if err := s.Verify(t.Context(), "", func(f Finding) {
					if f.Problem != nil {
						found = append(found, f)
					}
				}); err != nil || len(found) != 1 || found[0].What != string(root) || !strings.Contains(found[0].Problem.Error(), `"d/f"`) {
					t.Fatalf("%v, %v", found, err)
				}
				noAuth := func(string) *Auth { return nil }
				if err := s.Repair(t.Context(), found, noAuth); !errors.Is(err, ErrInUse) {
					t.Error(err)
				}
				if err := s.Release("c1"); err != nil {
					t.Fatal(err)
				}
				if err := s.Repair(t.Context(), found, noAuth); err != nil {
					t.Fatal(err)
				}
				if body, err := os.ReadFile(filepath.Join(s.layers.Path(root), "d/f")); string(body) != "1" {
					t.Errorf("repaired: %q, %v", body, err)
				}
				if err := os.RemoveAll(s.layers.Path(root)); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(filepath.Join(s.root, "layers", string(root), "layer.json")); err != nil {
					t.Fatal(err)
				}
				s = checkNothingElse(t, s)
			}
			for _, holder := range []string{"c1", "c2"} {
				if err := s.Release(holder); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{img.ID, none.ID} {
				if err := s.Remove(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			checked := checkNothingElse(t, s)
			if bytes, inodes, _ := s.Usage(); bytes != 0 || inodes != 0 {
				t.Errorf("empty, it uses %d bytes, %d inodes", bytes, inodes)
			}
			s = checked
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDriverChanges: layers are unpacked again for a driver that wants other
// attributes, but not under a container.
func TestDriverChanges(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/.wh..wh..opq", "d/f=1"))
	root := t.TempDir()
	trusted, user := openDriver(t, rootfs.Overlay, root), openDriver(t, rootfs.OverlayUserXattr, root)
	s := openStore(t, root, Options{Driver: trusted, KeepLayerBlobs: true})
	img := pullImage(t, s, reg.Addr+"/a:1")
	if _, err := s.Rootfs(img.ID, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root, Options{Driver: user, KeepLayerBlobs: true, Logger: quiet()}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "1 containers") {
		t.Errorf("with a container: %v", err)
	}
	s = openStore(t, root, Options{Driver: trusted, KeepLayerBlobs: true})
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []rootfs.Driver{user, trusted, openDriver(t, rootfs.Copy, root)} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, root, Options{Driver: d, KeepLayerBlobs: true})
		if _, err := s.Get(img.ID); err != nil {
			t.Errorf("%s: %v", d.Name(), err)
		}
		s = checkNothingElse(t, s)
	}
}
