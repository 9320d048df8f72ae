package layer

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/boot"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	infoFile    = "layer.json"
	formFile    = "form"
	durableFile = "durable"
	verityFile  = "verity"
	fsDir       = "fs"
	tmpDir      = "tmp"
	emptyDir    = "empty"
	infoVersion = 1

	// flushLatest is how long a layer may stay unflushed because others are
	// being written. A flush among the writing costs both: the file system's
	// journal has one writer.
	flushLatest = 30 * time.Second
)

// Key names a layer's directory: "sha256-HEX" for a layer that is the same on
// whatever it lies, "chain-sha256-HEX" for one that took the attributes of
// implied directories from the layers below.
type Key string

// DiffKey is the key of a layer by its diffID.
func DiffKey(d digest.Digest) Key { return Key(strings.Replace(d.String(), ":", "-", 1)) }

// ChainKey is the key of a layer by the chain of diffIDs up to it.
func ChainKey(d digest.Digest) Key { return "chain-" + DiffKey(d) }

// RootKey is the key of a whole image as one directory, by the chain of all its
// diffIDs.
func RootKey(d digest.Digest) Key { return rootPrefix + DiffKey(d) }

const rootPrefix = "root-"

// Info is layer.json.
type Info struct {
	Version    int           `json:"version"`
	DiffID     digest.Digest `json:"diffID"`
	Bytes      int64         `json:"bytes"`
	Inodes     int64         `json:"inodes"`
	OpaqueRoot bool          `json:"opaqueRoot,omitempty"`
	Tar        int64         `json:"tar,omitempty"`    // bytes of the tar
	Recipe     int64         `json:"recipe,omitempty"` // bytes of the recipe on disk; 0 = there is none
	// BootID is the boot during which it was written. Until the durable mark is
	// there, the layer is good during that boot only.
	BootID string `json:"bootID"`
}

// Store is the directory of unpacked layers. Methods may run concurrently. It
// decides nothing about what is kept: its user removes.
//
//	ROOT/KEY/fs/         the layer
//	ROOT/KEY/layer.json  Info
//	ROOT/KEY/recipe      how the layer's tar is made again
//	ROOT/KEY/durable     present once all of it is known to be on the device
//	ROOT/KEY/verity      present once its files have fs-verity (verity.go)
//	ROOT/form            the Form of all of them; without it Trusted
//	ROOT/tmp/            drafts and rubbish; emptied at start
//	ROOT/empty/          an empty layer, for images without any
//
// Lock order: mu only, never held over I/O on layer contents.
type Store struct {
	root   string
	fd     int
	form   Form
	bootID string
	log    *slog.Logger
	rest   func()         // called when everything is on the device
	work   sync.WaitGroup // the flusher and the rubbish removers

	mu      sync.Mutex
	layers  map[Key]Info
	bytes   int64
	inodes  int64
	unsafe  []Key       // published, not yet durable
	drafts  int         // being written, and images around them
	dirty   bool        // something else than layers waits for a flush
	late    *time.Timer // starts the flush at flushLatest, whatever is being written
	flusher bool        // one runs
}

// FormOf is the form of the layers in a store's directory.
func FormOf(root string) (Form, error) {
	data, err := os.ReadFile(filepath.Join(root, formFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Trusted, nil
	}
	return Form(data), err
}

// OpenStore opens the directory, which the caller has locked, and repairs it:
// drafts go, and so do layers of another form and those that a power cut may have
// harmed. Whenever nothing waits for the device, rest is called; it must not wait.
func OpenStore(root string, form Form, log *slog.Logger, rest func()) (*Store, error) {
	for _, dir := range []string{root, filepath.Join(root, tmpDir), filepath.Join(root, emptyDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	// Containers' users walk through the lower directories, not through these:
	// overlayfs looks at a layer's root only. That one is open.
	if err := os.Chmod(filepath.Join(root, emptyDir), 0o755); err != nil {
		return nil, err
	}
	if err := shareLabel(root, log); err != nil {
		return nil, err
	}
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	fd, err := sys.OpenDir(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, fd: fd, form: form, bootID: bootID, log: log, rest: rest, layers: map[Key]Info{}}
	if err := s.recover(); err != nil {
		_ = sys.CloseFd(fd)
		return nil, err
	}
	return s, nil
}

func (s *Store) recover() error {
	rubbish, err := os.ReadDir(filepath.Join(s.root, tmpDir))
	if err != nil {
		return err
	}
	for _, e := range rubbish {
		s.trash(filepath.Join(s.root, tmpDir, e.Name()))
	}
	have, err := FormOf(s.root)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == tmpDir || e.Name() == emptyDir {
			continue
		}
		key := Key(e.Name())
		info, durable, err := s.read(key)
		if err == nil && have != s.form {
			err = fmt.Errorf("it has the attributes of %s, not %s", have, s.form)
		}
		if err == nil && !durable && info.BootID != s.bootID {
			err = errors.New("not flushed before the machine went down")
		}
		if err != nil {
			s.log.Warn("image layer dropped", "layer", key, "reason", err)
			if err := s.discard(key); err != nil {
				return err
			}
			continue
		}
		s.add(key, info)
		if !durable {
			s.unsafe = append(s.unsafe, key)
		}
	}
	if have != s.form { // after the last layer of the other form: it would be taken for ours
		if err := atomicfile.Write(filepath.Join(s.root, formFile), []byte(s.form), 0o600); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushSoon()
	return nil
}

func (s *Store) read(key Key) (info Info, durable bool, err error) {
	data, err := os.ReadFile(filepath.Join(s.root, string(key), infoFile))
	if err != nil {
		return info, false, err
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return info, false, err
	}
	if info.Version != infoVersion {
		return info, false, fmt.Errorf("version %d of %s is not %d", info.Version, infoFile, infoVersion)
	}
	_, err = os.Lstat(filepath.Join(s.root, string(key), durableFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return info, false, err
	}
	return info, err == nil, nil
}

// Close finishes the flush and the removals that are under way. Nobody may call
// anything else by then.
func (s *Store) Close() error {
	s.mu.Lock()
	s.startFlusher()
	s.mu.Unlock()
	s.work.Wait()
	return sys.CloseFd(s.fd)
}

// Get finds a published layer.
func (s *Store) Get(key Key) (Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.layers[key]
	return info, ok
}

// Keys lists the published layers.
func (s *Store) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]Key, 0, len(s.layers))
	for k := range s.layers {
		keys = append(keys, k)
	}
	return keys
}

// Path is the directory of a layer for overlayfs.
func (s *Store) Path(key Key) string { return filepath.Join(s.root, string(key), fsDir) }

// EmptyPath is the directory of an empty layer.
func (s *Store) EmptyPath() string { return filepath.Join(s.root, emptyDir) }

// Usage counts all published layers.
func (s *Store) Usage() (bytes, inodes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.inodes
}

func (s *Store) add(key Key, info Info) {
	s.layers[key] = info
	s.account(info, 1)
}

// account adds or, with sign -1, takes off what a layer uses.
func (s *Store) account(info Info, sign int64) {
	s.bytes += sign * (info.Bytes + info.Recipe)
	s.inodes += sign * info.Inodes
	if info.Recipe > 0 {
		s.inodes += sign
	}
}

// Draft is a layer that is being written. Publish ends it, or Discard after
// Publish failed or instead of it.
type Draft struct {
	store  *Store
	dir    string
	recipe *os.File
}

// Form is that of all layers.
func (s *Store) Form() Form { return s.form }

// NewDraft makes an empty one, whose directory mkdir makes; nil is os.Mkdir's.
func (s *Store) NewDraft(mkdir func(path string) error) (*Draft, error) {
	if mkdir == nil {
		mkdir = func(path string) error { return os.Mkdir(path, 0o755) }
	}
	dir := filepath.Join(s.root, tmpDir, "draft-"+rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.drafts++
	s.mu.Unlock()
	d := &Draft{store: s, dir: dir}
	if err := mkdir(d.Path()); err != nil {
		d.Discard()
		return nil, err
	}
	// Whatever the umask: this may stay the mode of the container's "/".
	if err := os.Chmod(d.Path(), 0o755); err != nil {
		d.Discard()
		return nil, err
	}
	var err error
	if d.recipe, err = os.OpenFile(filepath.Join(dir, recipeFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		d.Discard()
		return nil, err
	}
	return d, nil
}

// Writing says that an image is being written: until done, its layers wait for
// the flush, which then is one for them and for what describes the image.
func (s *Store) Writing() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drafts++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drafts--
		s.dirty = true
		s.flushSoon()
	}
}

// Recipe is where the layer's recipe goes.
func (d *Draft) Recipe() io.Writer { return d.recipe }

// endRecipe closes the recipe and returns what it takes on disk; without a whole
// one it goes.
func (d *Draft) endRecipe(whole bool) (int64, error) {
	info, err := d.recipe.Stat()
	if err = errors.Join(err, d.recipe.Close()); err != nil {
		return 0, err
	}
	d.recipe = nil
	if !whole {
		return 0, os.Remove(filepath.Join(d.dir, recipeFile))
	}
	return onDisk(info.Size()), nil
}

// Path is where the layer's files go.
func (d *Draft) Path() string { return filepath.Join(d.dir, fsDir) }

// Publish gives the finished layer its name, in one rename. It is usable at
// once; the flush follows in the background. If the key is there already, the
// published one stays and the draft goes.
func (d *Draft) Publish(key Key, diffID digest.Digest, r Result) error {
	s := d.store
	recipe, err := d.endRecipe(r.Recipe)
	if err != nil {
		return err
	}
	info := Info{
		Version: infoVersion, DiffID: diffID, Bytes: r.Bytes, Inodes: r.Inodes, OpaqueRoot: r.OpaqueRoot,
		Tar: r.Tar, Recipe: recipe, BootID: s.bootID,
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, infoFile), data, 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.layers[key]; ok {
		s.trash(d.dir)
	} else {
		if err := os.Rename(d.dir, filepath.Join(s.root, string(key))); err != nil {
			return err
		}
		s.add(key, info)
		s.unsafe = append(s.unsafe, key)
	}
	s.drafts--
	s.flushSoon()
	return nil
}

// Discard removes the draft, in the background.
func (d *Draft) Discard() {
	s := d.store
	if d.recipe != nil {
		_ = d.recipe.Close() // it goes
		d.recipe = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trash(d.dir)
	s.drafts--
	s.flushSoon()
}

// Remove takes a layer away: at once by name, its files in the background.
// Nobody may have it mounted.
func (s *Store) Remove(key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, ok := s.layers[key]
	if !ok {
		return nil
	}
	if err := s.discardLocked(key); err != nil {
		return err
	}
	delete(s.layers, key)
	s.account(info, -1)
	return nil
}

func (s *Store) discard(key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.discardLocked(key)
}

func (s *Store) discardLocked(key Key) error {
	to := filepath.Join(s.root, tmpDir, "trash-"+rand.Text())
	if err := os.Rename(filepath.Join(s.root, string(key)), to); err != nil {
		return err
	}
	s.trash(to)
	return nil
}

// trash removes a directory of tmp in the background.
func (s *Store) trash(dir string) {
	s.work.Go(func() { s.removeRubbish(dir) })
}

// removeRubbish tries; what stays is the next start's.
func (s *Store) removeRubbish(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		s.log.Warn("image layer rubbish stays until the next start", "dir", dir, "error", err)
	}
}

// flushSoon starts the flusher when nothing is being written, else it sees to it
// that it starts in time; mu is held.
func (s *Store) flushSoon() {
	if s.drafts == 0 {
		s.startFlusher()
	} else if s.late == nil && len(s.unsafe) > 0 {
		s.late = time.AfterFunc(flushLatest, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.startFlusher()
		})
	}
}

// startFlusher runs one flusher if there is something for it; mu is held.
func (s *Store) startFlusher() {
	if s.late != nil {
		s.late.Stop()
		s.late = nil
	}
	if s.flusher || len(s.unsafe) == 0 && !s.dirty {
		return
	}
	s.flusher = true
	s.work.Go(s.flush)
}

// flush writes the file system out and then marks the layers that were
// published before it began, until there are none.
func (s *Store) flush() {
	for {
		s.mu.Lock()
		keys := s.unsafe
		if len(keys) == 0 && !s.dirty {
			s.flusher = false
			s.mu.Unlock()
			s.rest()
			return
		}
		s.unsafe, s.dirty = nil, false
		s.mu.Unlock()
		if err := sys.SyncFS(s.fd); err != nil {
			// The mark stays off: after a reboot these layers are pulled again.
			s.log.Warn("image layers not flushed", "layers", len(keys), "error", err)
			continue
		}
		for _, key := range keys {
			// The mark itself needs no flush: without it the layer is merely made again.
			if err := s.note(key, durableFile); err != nil {
				s.log.Warn("image layer not marked durable", "layer", key, "error", err)
			}
		}
	}
}

// note makes one of the empty files beside a layer that say what has been done to it.
func (s *Store) note(key Key, file string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.layers[key]; !ok {
		return nil // removed meanwhile
	}
	return os.WriteFile(filepath.Join(s.root, string(key), file), nil, 0o600)
}
