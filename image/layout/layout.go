// Package layout is an OCI image layout on disk: blobs by digest, and index.json
// which says what of them is there for a reason. It knows neither images nor
// registries.
//
// Durability: nobody waits for the device. A new index is written beside index.json,
// where it counts for this boot whoever is killed, and fsynced into its place in the
// background: a power cut before that leaves the index of before, whole. Blobs are not
// fsynced but verified whenever they are read, so that a power cut costs at most a blob,
// which is then absent. What the index does not lead to is garbage.
//
// Sources: OCI image-spec image-layout.md.
package layout

import (
	"bytes"
	"crypto/rand"
	_ "crypto/sha256" // digests name their algorithm, the program must have it
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/boot"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	blobsDir  = "blobs"
	ingestDir = "ingest" // blobs on their way in or out; emptied at start
)

// ErrCorrupt marks a blob whose content is not its digest's, or an index that is
// no JSON.
var ErrCorrupt = errors.New("corrupt")

// Layout is an open image layout. Methods may run concurrently.
type Layout struct {
	root   string
	bootID string
	log    *slog.Logger
	work   sync.WaitGroup // flushIndex, and blobs that are being removed

	indexMu   sync.Mutex // held over no fsync
	next      *change    // what index.json is to be; nil: it is that
	flushing  bool       // flushIndex runs
	indexSize int64      // bytes of the newest index.next.json, for which all files of the index have room

	mu    sync.Mutex
	bytes int64 // of all blobs
	count int64
}

// Open makes or opens a layout and empties its ingest directory: the caller has
// locked it, and closes it.
func Open(root string, log *slog.Logger) (*Layout, error) {
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	l := &Layout{root: root, bootID: bootID, log: log}
	for _, dir := range []string{filepath.Join(blobsDir, digest.SHA256.String()), ingestDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, err
		}
	}
	if err := empty(filepath.Join(root, ingestDir)); err != nil {
		return nil, err
	}
	if err := atomicfile.RemoveLeftovers(root); err != nil {
		return nil, err
	}
	marker := filepath.Join(root, v1.ImageLayoutFile)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.Write(marker, []byte(`{"imageLayoutVersion":"`+v1.ImageLayoutVersion+`"}`), 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	all, err := l.Blobs()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if info, err := os.Stat(l.path(d)); err == nil {
			l.bytes += info.Size()
			l.count++
		}
	}
	return l, l.openIndex()
}

// empty removes what is in a directory, and not the directory: on a full disk somebody
// else may have its place before it is made again.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close finishes what is under way in the background: index.json is on the device then.
// Nobody may call anything else by then.
func (l *Layout) Close() error {
	l.work.Wait()
	err := l.closeIndex()
	l.work.Wait() // what became garbage with it
	return err
}

// Size of a blob; 0 if it is not there.
func (l *Layout) Size(d digest.Digest) int64 {
	if d.Validate() != nil {
		return 0
	}
	info, err := os.Stat(l.path(d))
	if err != nil {
		return 0
	}
	return info.Size()
}

// Usage counts the blobs.
func (l *Layout) Usage() (bytes, inodes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes, l.count
}

func blobPath(root string, d digest.Digest) string {
	return filepath.Join(root, blobsDir, d.Algorithm().String(), d.Encoded())
}

// path of a blob; the digest has been validated.
func (l *Layout) path(d digest.Digest) string { return blobPath(l.root, d) }

// Has reports whether a blob is there, without verifying it.
func (l *Layout) Has(d digest.Digest) bool {
	if d.Validate() != nil {
		return false
	}
	_, err := os.Stat(l.path(d))
	return err == nil
}

// Get reads and verifies a blob of at most limit bytes.
func (l *Layout) Get(d digest.Digest, limit int64) ([]byte, error) {
	return ReadBlob(l.root, d, limit)
}

// ReadBlob is Get on any layout directory, which need not be ours.
func ReadBlob(root string, d digest.Digest, limit int64) ([]byte, error) {
	f, err := OpenBlob(root, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("blob %s: more than %d bytes", d, limit)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("blob %s: %w", d, ErrCorrupt)
	}
	return data, nil
}

// OpenBlob opens a blob of a layout directory; the reader verifies it.
func OpenBlob(root string, d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", d, err)
	}
	return os.Open(blobPath(root, d))
}

// Open opens a blob; the reader verifies it.
func (l *Layout) Open(d digest.Digest) (*os.File, error) { return OpenBlob(l.root, d) }

// Touch notes that a blob is used now; Touched is when it last was, or when it was
// made. It outlives a restart, and a power cut loses it.
func (l *Layout) Touch(d digest.Digest) error {
	now := time.Now()
	return os.Chtimes(l.path(d), now, now)
}

// Touched is described at Touch.
func (l *Layout) Touched(d digest.Digest) (time.Time, error) {
	info, err := os.Stat(l.path(d))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// TempDir makes a directory for something on its way. The caller removes it; what
// stays after a crash is emptied at the next start.
func (l *Layout) TempDir() (string, error) {
	return os.MkdirTemp(filepath.Join(l.root, ingestDir), "dir-")
}

// Put stores a small blob whose digest the caller has verified. One that is there
// and whole stays: it may be on the device already, where a new one is not.
func (l *Layout) Put(d digest.Digest, data []byte) error {
	if have, err := l.Get(d, int64(len(data))); err == nil && bytes.Equal(have, data) {
		return nil
	}
	w, err := l.NewBlob()
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		w.Discard()
		return err
	}
	return w.Publish(d)
}

// BlobWriter is a blob on its way. Publish or Discard ends it.
type BlobWriter struct {
	layout *Layout
	file   *os.File
	size   int64
}

// NewBlob starts a blob.
func (l *Layout) NewBlob() (*BlobWriter, error) {
	f, err := os.OpenFile(filepath.Join(l.root, ingestDir, rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &BlobWriter{layout: l, file: f}, nil
}

// Write implements io.Writer.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	return n, err
}

// Publish gives the blob its name. The caller has verified the digest.
func (w *BlobWriter) Publish(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		w.Discard()
		return err
	}
	if err := w.file.Close(); err != nil {
		w.Discard()
		return err
	}
	l := w.layout
	l.mu.Lock()
	defer l.mu.Unlock()
	old, statErr := os.Stat(l.path(d))
	if err := os.MkdirAll(filepath.Dir(l.path(d)), 0o700); err != nil {
		w.Discard()
		return err
	}
	// Over one that is there, which may be the corrupt one it repairs.
	if err := os.Rename(w.file.Name(), l.path(d)); err != nil {
		w.Discard()
		return err
	}
	if statErr == nil {
		l.bytes -= old.Size()
		l.count--
	}
	l.bytes += w.size
	l.count++
	return nil
}

// Discard removes it; what stays after a failure is emptied at the next start.
func (w *BlobWriter) Discard() {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
}

// Delete removes a blob, if it is there: at once by name, its content in the background.
func (l *Layout) Delete(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rubbish := filepath.Join(l.root, ingestDir, rand.Text())
	if err := os.Rename(l.path(d), rubbish); err != nil {
		return err
	}
	l.bytes -= info.Size()
	l.count--
	l.work.Go(func() {
		if err := os.Remove(rubbish); err != nil {
			l.log.Warn("a removed blob stays on the disk until the next start", "file", rubbish, "error", err)
		}
	})
	return nil
}

// HasVerity is nil if blobs can have fs-verity here, sys.ErrNoVerity if not.
func (l *Layout) HasVerity() error { return sys.HasVerity(filepath.Join(l.root, ingestDir)) }

// EnableVerity has the kernel check what is read of the blobs that are there, from now on.
// Before each more is asked whether to go on.
func (l *Layout) EnableVerity(more func() bool) error {
	all, err := l.Blobs()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range all {
		if !more() {
			break
		}
		if err := sys.EnableVerity(l.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Blobs lists all blobs.
func (l *Layout) Blobs() ([]digest.Digest, error) {
	algorithms, err := os.ReadDir(filepath.Join(l.root, blobsDir))
	if err != nil {
		return nil, err
	}
	var all []digest.Digest
	for _, a := range algorithms {
		names, err := os.ReadDir(filepath.Join(l.root, blobsDir, a.Name()))
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			d := digest.Digest(a.Name() + ":" + n.Name())
			if d.Validate() == nil {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// Collect deletes every blob that live does not name.
func (l *Layout) Collect(live map[digest.Digest]bool) error {
	all, err := l.Blobs()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range all {
		if !live[d] {
			errs = append(errs, l.Delete(d))
		}
	}
	return errors.Join(errs...)
}
