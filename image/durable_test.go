package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/internal/testutil"
)

// TestNobodyWaitsForTheDisk changes a store while the disk is busy with a flush of
// somebody else's that does not end.
func TestNobodyWaitsForTheDisk(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	root := t.TempDir()
	device := newDisk(t, root, "data=ordered")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "own=1"))
	ref := reg.Addr + "/a:1"
	for _, keep := range []bool{false, true} {
		s := openStore(t, filepath.Join(root, "images"), Options{KeepLayerBlobs: keep})
		pullImage(t, s, ref)
		if err := s.Close(); err != nil { // all of it is on the disk
			t.Fatal(err)
		}
		s = openStore(t, filepath.Join(root, "images"), Options{KeepLayerBlobs: keep})

		waiting, other := device.hold(), make(chan error, 1)
		go func() {
			f, err := os.Create(filepath.Join(root, "another's"))
			if err == nil {
				_, err = f.WriteString("data")
				err = errors.Join(err, f.Sync(), f.Close())
			}
			other <- err
		}()
		<-waiting
		done := make(chan error, 1)
		go func() {
			_, err := s.Pull(t.Context(), ref, PullOptions{}) // it is present
			done <- errors.Join(err, s.Tag(ref, "local/a:1"), s.Remove(t.Context(), ref), s.Remove(t.Context(), "local/a:1"))
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("a pull, tag or removal waits for another's flush")
		}
		if list := s.List(); len(list) != 0 {
			t.Errorf("removed, there is %v", list)
		}
		device.release()
		if err := <-other; err != nil {
			t.Error(err)
		}
		if err := checkNothingElse(t, s).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnIndexUnderWayKeepsItsImages replaces an index while the one of before is on its way
// to the disk: that one may be what a power cut leaves, so that what it leads to stays.
func TestAnIndexUnderWayKeepsItsImages(t *testing.T) {
	testutil.RequireRoot(t, "layers have owners")
	reg := startRegistry(t)
	add(t, reg, "a", "1", tarOf(t, "own=1"))
	s := openStore(t, t.TempDir(), Options{KeepLayerBlobs: true})
	img := pullImage(t, s, reg.Addr+"/a:1")
	s = checkNothingElse(t, s)

	s.indexMu.Lock()           // so that the store does not hear what arrives
	s.onDisk = []*contents{{}} // as if the image were new
	names, images := s.names, s.images
	err := errors.Join(s.replaceContents(names, images), s.replaceContents(map[string]name{}, images), s.collect())
	if err != nil {
		t.Error(err)
	}
	for _, d := range []string{img.ID, img.Manifest.String(), layerDigest(t, reg, "a")} {
		if !s.layout.Has(digest.Digest(d)) {
			t.Errorf("the blob %s is gone", d)
		}
	}
	key := layer.DiffKey(digest.Digest(img.DiffIDs[0]))
	if _, ok := s.layers.Get(key); !ok {
		t.Error("the layer is gone")
	}
	s.indexMu.Unlock()
	s = checkNothingElse(t, s)
	if _, ok := s.layers.Get(key); ok {
		t.Error("the layer stays")
	}
}
