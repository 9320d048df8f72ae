package layout

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// entries are n of an index, of the size that images' are.
func entries(n int) []v1.Descriptor {
	list := make([]v1.Descriptor, n)
	for i := range list {
		list[i] = v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1000,
			Annotations: map[string]string{v1.AnnotationRefName: fmt.Sprintf("registry.example/team/image-%d:latest", i)},
		}
	}
	return list
}

// fillDisk takes all space that there is, and keeps it.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "full"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if f == nil {
		return
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// mountTmpfs mounts a tmpfs until the test ends, for all threads: the layout has some.
func mountTmpfs(t *testing.T, options string) (dir string) {
	t.Helper()
	testutil.RequireRoot(t, "a small file system")
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount waits for nobody: a loop device lets go of its file later.
func unmount(t *testing.T, dir string) {
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

// mountSmall mounts a new file system.
func mountSmall(t *testing.T, kind string) (dir string) {
	t.Helper()
	if kind == "tmpfs" {
		return mountTmpfs(t, "size=2m")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skip(err)
	}
	dir = mountTmpfs(t, "size=150m")
	disk, on := filepath.Join(dir, "disk"), filepath.Join(dir, "on")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 130<<20), os.Mkdir(on, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{mkfs, "-q", disk}, {"mount", "-o", "loop", disk, on}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { unmount(t, on) })
	return on
}

// TestFullDisk makes an index smaller while somebody takes each byte that becomes free.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4", "btrfs", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := mountSmall(t, kind)
			root := filepath.Join(dir, "images")
			if err := os.Mkdir(root, 0o700); err != nil {
				t.Fatal(err)
			}
			open := func() *Layout {
				l, err := Open(root, slog.New(slog.NewTextHandler(t.Output(), nil)))
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			l := open()
			const all = 100
			for n := range all + 1 {
				setIndex(t, l, entries(n))
			}
			fillDisk(t, dir)
			if err := l.SetIndex(entries(2*all), func() {}); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a larger index: %v", err)
			}
			for n := all - 1; n > 0; n -= 2 {
				for left := range 2 { // the second does not wait for the first
					if err := l.SetIndex(entries(n-left), func() {}); err != nil {
						t.Fatalf("%d of %d entries: %v", n-left, all, err)
					}
					fillDisk(t, dir)
				}
				if n%10 == 1 { // at a restart it has to be smaller than before, too
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
					fillDisk(t, dir)
					l = open()
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			checkNoNext(t, l)
			if have, err := ReadIndex(root); err != nil || len(have) != 0 {
				t.Errorf("%d entries are left: %v", len(have), err)
			}
		})
	}
}

// TestOpenMakesNothingAgain: a start takes no place on a disk that is full, which a neighbour
// would have before what was removed is made again.
func TestOpenMakesNothingAgain(t *testing.T) {
	root := mountTmpfs(t, "size=64k") // where no inode's number is given twice
	ingest := filepath.Join(root, ingestDir)
	var was os.FileInfo
	for range 2 {
		l, err := Open(root, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(ingest); len(left) > 0 || err != nil {
			t.Errorf("of a daemon before: %v, %v", left, err)
		}
		now, err := os.Stat(ingest)
		if err != nil {
			t.Fatal(err)
		}
		if was != nil && !os.SameFile(was, now) {
			t.Error("the directory was removed, and made again")
		}
		was = now
		dir := filepath.Join(ingest, "dir-of-a-killed")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "blob"), nil, 0o600), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenOnAFullDisk opens the layout of an older version: there is no room set aside, and
// an index on its way cannot arrive.
func TestOpenOnAFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "size=64k")
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	setIndex(t, l, entries(1))
	data, err := sys.ReadFile(l.indexPath(), maxIndex)
	if err != nil {
		t.Fatal(err)
	}
	next := `{"bootID":"` + l.bootID + `","index":{"manifests":[]}}`
	err = errors.Join(os.Remove(l.indexPath()+spare), os.Remove(l.nextPath()+spare),
		os.WriteFile(l.nextPath(), []byte(next), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	fillDisk(t, dir)
	l, err = Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if have, err := l.Index(); err != nil || len(have) != 0 || l.Flushed() {
		t.Errorf("%v, %v, flushed %v", have, err, l.Flushed())
	}
	if now, err := os.ReadFile(l.indexPath()); err != nil || string(now) != string(data) {
		t.Errorf("index.json: %s, %v", now, err)
	}
	if err := os.Truncate(filepath.Join(dir, "full"), 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if have, err := ReadIndex(dir); err != nil || len(have) != 0 {
		t.Errorf("with space again: %v, %v", have, err)
	}
}
