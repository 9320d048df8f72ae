package image

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/testutil"
	fake "github.com/strake-containers/strake/test/registry"
)

const (
	crashRoot     = "STRAKE_TEST_IMAGE_ROOT" // makes the test binary the process to kill
	crashRegistry = "STRAKE_TEST_IMAGE_REGISTRY"
	crashKeep     = "STRAKE_TEST_IMAGE_KEEP"
	crashPoints   = "STRAKE_CRASH_POINTS" // how many; make test-crash has 1000
)

func TestMain(m *testing.M) {
	if root := os.Getenv(crashRoot); root != "" {
		fmt.Println("victim:", crashVictim(root, os.Getenv(crashRegistry)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashVictim does all that changes a store, over and over, until it is killed.
func crashVictim(root, reg string) error {
	s, err := Open(root, Options{KeepLayerBlobs: os.Getenv(crashKeep) != "", Logger: quiet()})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for i := 0; ; i++ {
		if err := s.changeAll(context.Background(), reg, i); err != nil {
			return err
		}
	}
}

// changeAll does once, differently for each i, all that changes a store.
func (s *Store) changeAll(ctx context.Context, reg string, i int) error {
	for _, tag := range []string{"1", "2", "3"} {
		img, err := s.Pull(ctx, reg+"/a:"+tag, PullOptions{})
		if err != nil {
			return err
		}
		holder := "c" + strconv.Itoa(i%3)
		if err := s.Release(holder); err != nil {
			return err
		}
		if _, err := s.Rootfs(img.ID, holder); err != nil {
			return err
		}
	}
	return s.changeNames(ctx, reg+"/a:"+strconv.Itoa(1+i%3))
}

// changeNames does with one image what else changes a store.
func (s *Store) changeNames(ctx context.Context, ref string) error {
	if err := s.Tag(ref, "local/tagged:1"); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := s.Save(ctx, &archive, OCIArchive, "local/tagged:1"); err != nil {
		return err
	}
	if err := s.Untag("local/tagged:1"); err != nil {
		return err
	}
	if err := s.Remove(ctx, ref); err != nil {
		return err
	}
	if _, err := s.Load(ctx, &archive, ""); err != nil {
		return err
	}
	_, _, err := s.Prune(PruneOptions{All: true, UsedBefore: time.Now()})
	return err
}

// TestCrash kills the process at random points: afterwards every image is whole
// or absent, and nothing else is there.
func TestCrash(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	points := 150
	if n, err := strconv.Atoi(os.Getenv(crashPoints)); err == nil {
		points = n
	}
	reg, want := crashImages(t)
	roots := []string{t.TempDir(), t.TempDir()} // without layer blobs, and with
	for i := range points {
		root, keep := roots[i%2], i%2 == 1
		crash(t, root, reg, keep, time.Duration(rand.IntN(60_000))*time.Microsecond)
		s, err := Open(root, Options{KeepLayerBlobs: keep, Logger: quiet()})
		if err != nil {
			t.Fatalf("after crash %d: %v", i, err)
		}
		checkWhole(t, s, want)
		if err := checkNothingElse(t, s).Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("crash %d left this", i)
		}
	}
}

// crashImages are the images that the victim pulls, a:1 to a:3, and what files they
// have, by their name.
func crashImages(t *testing.T) (*fake.Server, map[string]map[string]string) {
	t.Helper()
	reg := startRegistry(t)
	files := make([]string, 200)
	for i := range files {
		files[i] = fmt.Sprintf("d%d/f%d=%s", i%7, i, strings.Repeat("x", i*50))
	}
	base := tarOf(t, append([]string{"d0/"}, files...)...)
	want := map[string]map[string]string{}
	for _, tag := range []string{"1", "2", "3"} {
		add(t, reg, "a", tag, base, tarOf(t, "own="+tag), tarOf(t, "d0/implied="+tag))
		want[reg.Addr+"/a:"+tag] = map[string]string{"own": tag, "d0/implied": tag, "d3/f199": strings.Repeat("x", 199*50)}
	}
	return reg, want
}

// checkWhole reads every image of a store, by its files and by its digests.
func checkWhole(t *testing.T, s *Store, want map[string]map[string]string) {
	t.Helper()
	for _, img := range s.List() {
		for _, tag := range img.RepoTags {
			checkFiles(t, s, img, want[tag])
		}
		if err := s.Verify(t.Context(), img.ID, func(f Finding) {
			if f.Problem != nil {
				t.Errorf("%v: %v", img.RepoTags, f.Problem)
			}
		}); err != nil {
			t.Error(err)
		}
	}
}

// crash runs the victim and kills it some time after it has opened the store.
func crash(t *testing.T, root string, reg *fake.Server, keep bool, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashRoot+"="+root, crashRegistry+"="+reg.Addr)
	if keep {
		cmd.Env = append(cmd.Env, crashKeep+"=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "open\n" {
		t.Fatalf("victim says %q, %v", line, err)
	}
	<-time.After(after)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if line, _ := lines.ReadString('\n'); line != "" {
		t.Errorf("victim says %q", line)
	}
	_ = cmd.Wait() // "signal: killed"
}

// checkFiles reads files of an image through its layers, topmost first.
func checkFiles(t *testing.T, s *Store, img Image, want map[string]string) {
	t.Helper()
	rec := s.images[img.ID]
	dirs := s.lowerDirs(keysOf(rec.layers))
	for name, content := range want {
		found := false
		for _, dir := range dirs {
			if body, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				found = true
				if string(body) != content {
					t.Errorf("%v: %s has %d bytes, want %d", img.RepoTags, name, len(body), len(content))
				}
			}
		}
		if !found {
			t.Errorf("%v: %s is missing", img.RepoTags, name)
		}
	}
}
