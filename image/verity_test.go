package image

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// verityDisk mounts an ext4 with fs-verity and returns its file and directory. The test is
// skipped where the kernel has none.
func verityDisk(t *testing.T) (file, dir string) {
	t.Helper()
	file, dir = filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 64<<20)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-b", "4096", "-O", "verity", file)
	if out, err := exec.Command("mount", "-o", "loop", file, dir).CombinedOutput(); err != nil {
		t.Skipf("no loop device with an ext4 here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	requireVerity(t, dir)
	return file, dir
}

func requireVerity(t *testing.T, dir string) {
	t.Helper()
	if err := sys.HasVerity(dir); errors.Is(err, sys.ErrNoVerity) {
		t.Skip("needs a kernel with fs-verity (CONFIG_FS_VERITY)")
	} else if err != nil {
		t.Fatal(err)
	}
}

// waitVerity waits until all layers of a store, and all blobs, have fs-verity.
func waitVerity(t *testing.T, s *Store) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; <-time.After(10 * time.Millisecond) {
		var without []string
		for _, key := range s.layers.Keys() {
			mark := filepath.Join(filepath.Dir(s.layers.Path(key)), "verity")
			if _, err := os.Stat(mark); err != nil && !strings.HasPrefix(string(key), "root-") {
				without = append(without, mark)
			}
		}
		blobs, err := s.layout.Blobs()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range blobs {
			if path := filepath.Join(s.root, "blobs/sha256", d.Encoded()); writable(t, path) {
				without = append(without, path)
			}
		}
		if len(without) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("without fs-verity: %v", without)
		}
	}
}

// writable reports whether a file is one without fs-verity: nobody can write to others. It
// does not open it for that, which would keep it without.
func writable(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_VERITY == 0
}

// rot changes what is on a disk where a file with this content is.
func rot(t *testing.T, disk string, content []byte) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	const block = 4096
	for at := 0; at < len(all); at += block {
		if !bytes.Equal(all[at:at+block], content[:block]) {
			continue
		}
		if _, err := f.WriteAt([]byte("rotten"), int64(at)+100); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no file on the disk has this content")
}

func random(seed uint64) []byte {
	data := make([]byte, 20_000)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(data) // never fails
	return data
}

// TestVerity has blobs and layers on a disk that changes them: the kernel refuses what is
// wrong, and a repair replaces it, though nobody can write to it.
func TestVerity(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	testutil.CheckLeaks(t)
	disk, dir := verityDisk(t)
	reg := startRegistry(t)
	content := random(1)
	add(t, reg, "a", "1", tarOf(t, "d/", "d/f="+string(content), "d/empty=", "l"), tarOf(t, "d/implied="+string(random(2))))
	root := filepath.Join(dir, "images")
	o := Options{KeepLayerBlobs: true, Verity: true}
	s := openStore(t, root, o)
	img := pullImage(t, s, reg.Addr+"/a:1")
	waitVerity(t, s)
	rec := s.images[img.ID]
	file := filepath.Join(s.layers.Path(rec.layers[0].key), "d/f")
	recipe := filepath.Join(filepath.Dir(s.layers.Path(rec.layers[0].key)), "recipe")
	for _, path := range []string{file, recipe} {
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("%s can be written to: %v, %v", path, f, err)
		}
	}

	blobPath := filepath.Join(root, "blobs/sha256", rec.layers[1].blob.Digest.Encoded())
	blob, err := os.ReadFile(blobPath)
	if err != nil {
		t.Fatal(err)
	}
	command(t, "sync", "-f", dir)
	rot(t, disk, content)
	rot(t, disk, blob)
	for _, path := range []string{file, blobPath} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		sys.DropCache(f)
		if _, err := f.Read(make([]byte, 10_000)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s has changed, and a read says %v", path, err)
		}
		_ = f.Close()
	}
	found := findings(t, s)
	var what []string
	for _, f := range found {
		what = append(what, f.What)
		if !errors.Is(f.Problem, syscall.EIO) {
			t.Errorf("%s: %v", f.What, f.Problem)
		}
	}
	if want := "layer " + img.DiffIDs[0] + " blob " + rec.layers[1].blob.Digest.String(); strings.Join(what, " ") != want {
		t.Errorf("found %v, want %s", what, want)
	}
	if err := s.Repair(t.Context(), found, func(string) *Auth { return nil }); err != nil {
		t.Fatal(err)
	}
	if found := findings(t, s); len(found) != 0 {
		t.Errorf("repaired: %+v", found)
	}
	checkFiles(t, s, img, map[string]string{"d/f": string(content)})
	waitVerity(t, s)

	// All of it can be removed, and a store that was without it gets it.
	if err := s.Remove(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	o.Verity = false
	s.options = o
	s = checkNothingElse(t, s)
	img = pullImage(t, s, reg.Addr+"/a:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, root, Options{KeepLayerBlobs: true})
	if file := filepath.Join(s.layers.Path(s.images[img.ID].layers[0].key), "d/f"); !writable(t, file) {
		t.Errorf("%s has fs-verity, which nobody asked for", file)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.Verity = true
	s = openStore(t, root, o)
	waitVerity(t, s)
	checkNothingElse(t, s)
}

// TestVerityContainer writes into the roots of containers whose image has fs-verity.
func TestVerityContainer(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	for _, driver := range []string{rootfs.Overlay, rootfs.Btrfs, rootfs.Copy} {
		t.Run(driver, func(t *testing.T) {
			var dir string
			if driver == rootfs.Btrfs {
				dir = testutil.Btrfs(t)
				requireVerity(t, dir)
			} else {
				_, dir = verityDisk(t)
			}
			d, err := rootfs.Open(driver, dir)
			if err != nil {
				t.Fatal(err)
			}
			reg := startRegistry(t)
			add(t, reg, "a", "1", tarOf(t, "d/", "d/f=old"))
			s := openStore(t, filepath.Join(dir, "images"), Options{Verity: true, Driver: d})
			img := pullImage(t, s, reg.Addr+"/a:1")
			waitVerity(t, s)
			r, err := s.Rootfs(img.ID, "c")
			if err != nil {
				t.Fatal(err)
			}
			own, on := filepath.Join(dir, "c"), t.TempDir()
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			m, err := s.PrepareRoot(r, own)
			if err != nil {
				t.Fatal(err)
			}
			kind := []string{"-t", m.Type, "-o", strings.Join(m.Options, ",")}
			if m.Type == "bind" {
				kind = []string{"--bind"}
			}
			command(t, "mount", append(kind, m.Source, on)...)
			defer func() { command(t, "umount", on) }()
			file := filepath.Join(on, "d/f")
			if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
				t.Error(err)
			}
			if body, err := os.ReadFile(file); string(body) != "new" {
				t.Errorf("%q, %v", body, err)
			}
			checkFiles(t, s, img, map[string]string{"d/f": "old"})
		})
	}
}

// TestVerityIsNotThere asks for it on a tmpfs, which has none: it is told once, and nothing
// fails.
func TestVerityIsNotThere(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { command(t, "umount", dir) }()
	var log bytes.Buffer
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "f=x"))
	s := openStore(t, filepath.Join(dir, "images"), Options{Verity: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	pullImage(t, s, reg.Addr+"/a:1")
	if on, err := s.Verity(); on || !errors.Is(err, sys.ErrNoVerity) {
		t.Errorf("%v, %v", on, err)
	}
	if err := checkNothingElse(t, s).Close(); err != nil {
		t.Fatal(err)
	}
	// The store was opened twice.
	if n := strings.Count(log.String(), "verity has no effect"); n != 2 || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}
