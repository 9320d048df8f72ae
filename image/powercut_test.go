package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

// cutCheck makes the test binary look at disks as they were when the power went:
// it is a powerCut in JSON.
const cutCheck = "STRAKE_TEST_IMAGE_POWER_CUT"

// powerCut is what one process checks.
type powerCut struct {
	Disks  []string
	Keep   bool
	Want   map[string]map[string]string // the files of images that must be whole, if they are there
	Always string                       // the id of one that was safe before, and must be there
}

const maxCutsAtOnce = 5

// TestPowerCut cuts the power at random moments while everything that changes a
// store is going on: afterwards every image is whole or absent, nothing else is
// there, and what had been on the disk before is there still.
//
// What was written since the last flush of the disk is lost in part, whichever part
// (disk.cutPower); before that the kernel may have written files in another order than
// they were made (writeBack), and with data=writeback their contents later than their names.
func TestPowerCut(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	testutil.CheckLeaks(t)
	cuts := 24
	if n, err := strconv.Atoi(os.Getenv(crashPoints)); err == nil {
		cuts = n
	}
	reg, want := crashImages(t)
	safe := reg.Addr + "/safe:1"
	add(t, reg, "safe", "1", tarOf(t, "own=safe"), tarOf(t, "d0/", "d0/f="+strings.Repeat("y", 20_000)))
	add(t, reg, "stuck", "1", tarOf(t, "never=comes"))
	want[safe] = map[string]string{"own": "safe", "d0/f": strings.Repeat("y", 20_000)}

	for _, kind := range []struct {
		keep bool
		mode string
	}{{false, "data=ordered"}, {true, "data=writeback"}} {
		t.Run(fmt.Sprintf("blobs kept %v, %s", kind.keep, kind.mode), func(t *testing.T) {
			cutPower(t, reg, safe, powerCut{Keep: kind.keep, Want: want}, kind.mode, cuts/2)
		})
	}
}

// cutPower is TestPowerCut with one kind of store on one kind of disk.
func cutPower(t *testing.T, reg *fake.Server, safe string, check powerCut, mode string, cuts int) {
	root, outer := t.TempDir(), t.TempDir()
	device := newDisk(t, root, mode)
	o := Options{KeepLayerBlobs: check.Keep, Logger: quiet(), Pinned: []string{safe}}
	s := openStore(t, root, o)
	check.Always = pullImage(t, s, safe).ID
	archive := save(t, s, OCIArchive, safe)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	syncDisk(t, root)
	s = openStore(t, root, o)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	stop := func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	defer stop()
	until := func(what string, ctx context.Context, f func(i int) error) {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := f(i); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	until("write back", ctx, func(int) error { writeBack(root); return nil })
	until("change", ctx, func(i int) error {
		_, err := s.Load(ctx, bytes.NewReader(archive), "") // what is safe there once more
		return errors.Join(err, s.changeAll(ctx, reg.Addr, i), s.Tag(safe, "local/safe:"+strconv.Itoa(i%2)))
	})
	// For the first half a layer of another pull is being written all the time,
	// which keeps the others from being flushed.
	reg.Misbehave(fake.Fault{Suffix: layerDigest(t, reg, "stuck"), Stall: true})
	stuck, unstick := context.WithCancel(ctx)
	defer unstick()
	until("the stuck pull", stuck, func(int) error {
		_, _ = s.Pull(stuck, reg.Addr+"/stuck:1", PullOptions{}) // never
		return nil
	})
	present := 0
	for left := cuts; left > 0; {
		if left <= cuts/2 {
			unstick()
		}
		check.Disks = nil
		for ; left > 0 && len(check.Disks) < maxCutsAtOnce; left-- {
			<-time.After(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			to := filepath.Join(outer, "cut-"+strconv.Itoa(left))
			device.cutPower(t, to)
			check.Disks = append(check.Disks, to)
		}
		present += checkCuts(t, check)
		for _, d := range check.Disks {
			if err := os.Remove(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d images after %d cuts", present, cuts)
}

// layerDigest is the blob of the first layer of an image, as the registry has it.
func layerDigest(t *testing.T, reg *fake.Server, repository string) string {
	t.Helper()
	body, ok := reg.Manifest(repository, "1")
	if !ok {
		t.Fatalf("no image %s", repository)
	}
	m, err := registry.ParseManifest(body)
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[0].Digest.String()
}

func syncDisk(t *testing.T, dir string) {
	t.Helper()
	fd, err := sys.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sys.SyncFS(fd), sys.CloseFd(fd)); err != nil {
		t.Fatal(err)
	}
}

// checkCuts has a process of its own, which believes in another boot of the
// machine, look at disks.
func checkCuts(t *testing.T, check powerCut) (images int) {
	t.Helper()
	text, err := json.Marshal(check)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPowerCutDisks$")
	cmd.Env = append(os.Environ(), cutCheck+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, text, _ := strings.Cut(string(out), "images: ")
		_, err = fmt.Sscan(text, &images)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return images
}

// writeBack does what a kernel may do at any time: it writes some files to the
// disk, what describes images first, and not others that were there before them.
func writeBack(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		describes := strings.Contains(path, "/blobs/") || strings.HasSuffix(path, "/layer.json")
		if err != nil || !d.Type().IsRegular() || !describes && rand.IntN(40) > 0 {
			return nil // what has vanished too
		}
		if f, err := os.Open(path); err == nil {
			_ = f.Sync()
			_ = f.Close()
		}
		return nil
	})
}

// TestPowerCutDisks is what checkCuts starts.
func TestPowerCutDisks(t *testing.T) {
	text := os.Getenv(cutCheck)
	if text == "" {
		t.Skip("TestPowerCut starts it")
	}
	var check powerCut
	if err := json.Unmarshal([]byte(text), &check); err != nil {
		t.Fatal(err)
	}
	boot, on := filepath.Join(t.TempDir(), "boot_id"), t.TempDir()
	if err := os.WriteFile(boot, []byte("another boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(boot, "/proc/sys/kernel/random/boot_id", "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	present := 0
	for _, disk := range check.Disks {
		if out, err := exec.Command("mount", "-o", "loop", disk, on).CombinedOutput(); err != nil {
			t.Fatalf("mount %s: %v: %s", disk, err, out)
		}
		s := openStore(t, on, Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), KeepLayerBlobs: check.Keep})
		if _, err := s.Get(check.Always); err != nil {
			t.Errorf("what was safe before the cut: %v", err)
		}
		present += len(s.List())
		checkWhole(t, s, check.Want)
		if err := checkNothingElse(t, s).Close(); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Unmount(on, 0); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("the cut %s left this", disk)
		}
	}
	fmt.Println("images:", present)
}
