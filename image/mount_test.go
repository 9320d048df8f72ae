package image

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

func TestMount(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	testutil.CheckLeaks(t)
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/f=1", "gone=1"), tarOf(t, ".wh.gone", "d/g=2"))
	add(t, reg, "none", "1")
	dir := filepath.Join(t.TempDir(), "mounts")
	o := Options{MountDir: dir}
	s := openStore(t, t.TempDir(), o)
	img, none := pullImage(t, s, reg.Addr+"/a:1"), pullImage(t, s, reg.Addr+"/none:1")
	at, err := s.Mount(reg.Addr + "/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Mount(img.ID); err != nil || again != at || filepath.Dir(at) != dir {
		t.Errorf("again %s, %v", again, err)
	}
	if empty, err := s.Mount(none.ID); err != nil {
		t.Error(err)
	} else if list, err := os.ReadDir(empty); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	looks := func() {
		t.Helper()
		if body, err := os.ReadFile(at + "/d/g"); string(body) != "2" {
			t.Errorf("%q, %v", body, err)
		}
		if _, err := os.Stat(at + "/gone"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := os.WriteFile(at+"/x", nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Error(err)
		}
	}
	looks()

	// Removed, and through a restart: what is mounted stays.
	if err := s.Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	s = checkNothingElse(t, s)
	looks()
	if list := s.Mounts(); len(list) != 2 {
		t.Errorf("%+v", list)
	}
	// After a boot nothing is mounted, and nothing is held.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Mounts() {
		if m.ImageID == none.ID {
			if err := sys.Unmount(m.Dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = openStore(t, s.root, o)
	if list := s.Mounts(); len(list) != 1 || list[0].ImageID != img.ID {
		t.Errorf("%+v", list)
	}
	for _, ref := range []string{"nosuch:1", none.ID, "sha256:", ""} {
		if err := s.Unmount(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("unmount %q: %v", ref, err)
		}
	}
	if err := s.Unmount(img.ID[7:20]); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	s = checkNothingElse(t, s)
	if len(s.leases) != 0 {
		t.Errorf("%+v", s.leases)
	}
	if _, err := openStore(t, t.TempDir(), Options{}).Mount("x:1"); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}
