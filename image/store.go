package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/layout"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	lockFile        = "lock"
	layersDir       = "layers"
	leasesDir       = "leases"
	defaultParallel = 6
	minIDPrefix     = 4
	idDigits        = 64
)

// Options of a Store. The zero value is sound.
type Options struct {
	Registry registry.Config
	// Platform is what is pulled unless a pull says otherwise; zero: the host's.
	Platform Platform
	// KeepLayerBlobs keeps the compressed layers after unpacking, for push and
	// export and to unpack again after a power cut. Default: they are not even
	// written.
	KeepLayerBlobs bool
	// Parallel bounds the layers that are fetched at once, over all pulls;
	// 0 is 6.
	Parallel int
	// Driver makes the roots of containers; nil is rootfs.Default.
	Driver rootfs.Driver
	// MountDir is where Mount mounts images: it dies with the boot. "" is nowhere.
	MountDir string
	// Limits bound what one layer may unpack to; zero fields have defaults.
	Limits layer.Limits
	// Verity has the kernel check what is read of blobs and layers, where the file system
	// can (fs-verity). It comes behind the flush, in nobody's way.
	Verity bool
	// Pinned are the names of images that garbage collection must leave.
	Pinned []string
	// Trust names the signature policy.
	Trust  Trust
	Logger *slog.Logger // nil: slog.Default()
}

// Store is a directory of images. It is safe for concurrent use; one process
// has it open at a time.
type Store struct {
	root     string
	options  Options // but for Trust
	trust    atomic.Pointer[Trust]
	pinned   map[string]bool // normalised names
	log      *slog.Logger
	lock     *os.File // holds the flock for the life of the Store
	client   *registry.Client
	layout   *layout.Layout
	layers   *layer.Store
	parallel chan struct{} // a token for each layer that may be fetched
	verity   verity
	closed   atomic.Bool

	// mountMu serialises what Mount and Unmount do. It is taken before all others.
	mountMu sync.Mutex

	// indexMu serialises changes of the index and the collection of what it no
	// longer leads to. It is taken before mu.
	indexMu sync.Mutex
	// onDisk are the contents that a power cut may leave: those of index.json on the
	// device, and those that have replaced them since, of which the newest are those
	// of now. Each may be on its way to the device. Under indexMu.
	onDisk []*contents

	mu sync.Mutex
	contents
	leases map[string]lease // by holder
	busy   map[string]int   // layer keys and blob digests that pulls in flight need
	pulls  map[string]*flight
	flying sync.WaitGroup           // of them
	unpack map[string]chan struct{} // layers and roots being made, for turn
}

// Open opens the store in root, made if need be, and repairs it: what an index
// entry cannot be made whole of is absent afterwards, what no entry and no lease
// leads to is removed.
func Open(root string, o Options) (_ *Store, err error) {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Driver == nil {
		o.Driver = rootfs.Default()
	}
	s := &Store{
		root: root, options: o, log: o.Logger, pinned: map[string]bool{}, parallel: make(chan struct{}, o.Parallel),
		leases: map[string]lease{}, busy: map[string]int{}, pulls: map[string]*flight{}, unpack: map[string]chan struct{}{},
	}
	for _, p := range o.Pinned {
		ref, err := registry.ParseReference(p)
		if err != nil {
			return nil, fmt.Errorf("pinned image: %w", err)
		}
		s.pinned[ref.String()] = true
	}
	if err := os.MkdirAll(filepath.Join(root, leasesDir), 0o700); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if s.lock, err = takeLock(filepath.Join(root, lockFile)); err != nil {
		return nil, fmt.Errorf("image store %s: %w", root, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("image store %s: %w", root, err), s.Close())
		}
	}()
	if s.layout, err = layout.Open(root, s.log); err != nil {
		return nil, err
	}
	if err := s.checkForm(); err != nil {
		return nil, err
	}
	if s.layers, err = layer.OpenStore(filepath.Join(root, layersDir), o.Driver.Form(), s.log, s.enableVerity); err != nil {
		return nil, err
	}
	s.client = registry.New(o.Registry)
	s.trust.Store(&o.Trust)
	if err := s.recover(); err != nil {
		return nil, err
	}
	if err := s.startVerity(); err != nil {
		return nil, err
	}
	return s, nil
}

// Change makes other files say how registries are reached, as in registry.Config, and
// what is trusted, from the next pull, load or container on.
func (s *Store) Change(configPath, registriesConf string, t Trust) {
	s.client.Change(configPath, registriesConf)
	s.trust.Store(&t)
}

// checkForm keeps layers that containers have mounted from being dropped because
// the driver wants them in another form.
func (s *Store) checkForm() error {
	have, err := layer.FormOf(filepath.Join(s.root, layersDir))
	if err != nil || have == s.options.Driver.Form() {
		return err
	}
	held, err := os.ReadDir(filepath.Join(s.root, leasesDir))
	if err == nil && len(held) > 0 {
		err = fmt.Errorf("%w: driver %q needs the layers unpacked again, and %d containers use them: remove those first, with the driver of before",
			ErrInUse, s.options.Driver.Name(), len(held))
	}
	return err
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken, err := sys.Lock(f)
	if err == nil && !taken {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// recover reads the index and the leases, and collects the rest.
func (s *Store) recover() error {
	if err := atomicfile.RemoveLeftovers(filepath.Join(s.root, leasesDir)); err != nil {
		return err
	}
	if err := s.readLeases(); err != nil {
		return err
	}
	if err := s.forgetMounts(); err != nil {
		return err
	}
	entries, err := s.layout.Index()
	if errors.Is(err, layout.ErrCorrupt) {
		// Only a broken disk or a person makes this. The images can be pulled
		// again; a daemon that does not start helps nobody.
		aside, e := s.layout.SetIndexAside()
		if e != nil {
			return errors.Join(err, e)
		}
		s.log.Error("image index set aside, all images are dropped: pull them again", "kept", aside, "reason", err)
	} else if err != nil {
		return err
	}
	now := s.restoreAll(entries)
	onDisk := []*contents{now}
	if !s.layout.Flushed() { // index.json could not be written
		old, err := layout.ReadIndex(s.root)
		if err != nil && !errors.Is(err, layout.ErrCorrupt) {
			return err
		}
		onDisk = []*contents{s.restoreAll(old), now}
	}
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.contents, s.onDisk = *now, onDisk
	if len(now.names) < len(entries) {
		if err := s.replaceContents(now.names, now.images); err != nil { // the next start drops them again
			s.log.Warn("the image index still names what was dropped", "error", err)
		}
	}
	return s.collect()
}

// restoreAll makes contents of the entries of an index that can be made whole.
func (s *Store) restoreAll(entries []v1.Descriptor) *contents {
	c := &contents{map[string]name{}, map[string]*record{}}
	for _, e := range entries {
		key, n, rec, err := s.restore(context.Background(), e)
		if err != nil {
			s.log.Warn("image dropped: pull it again", "image", key, "reason", err)
			continue
		}
		c.names[key] = n
		c.images[n.id] = rec
	}
	return c
}

// Close ends pulls that nobody waits for, waits for background work and gives the
// directory free. Other pulls must have ended: cancel their contexts first. A second Close
// does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.mu.Lock()
	for _, f := range s.pulls {
		f.cancel()
	}
	s.mu.Unlock()
	s.flying.Wait()
	s.stopVerity()
	var err error
	if s.layout != nil {
		err = s.layout.Close()
	}
	if s.layers != nil {
		err = errors.Join(err, s.layers.Close())
	}
	if s.client != nil {
		s.client.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Root is the directory of the store.
func (s *Store) Root() string { return s.root }

// Get finds an image by id ("sha256:…", the hex digits or a unique prefix of at
// least four), by name, or by name and digest. One that lacks a layer, since a broken one
// could not be fetched again, is ErrNotFound: whoever wants it pulls it.
func (s *Store) Get(ref string) (Image, error) {
	q := s.ask(ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, _, err := s.find(q)
	if err != nil {
		return Image{}, err
	}
	if key := s.lacks(rec); key != "" {
		return Image{}, fmt.Errorf("%w: %s lacks its %s, which was broken: pull it again, or strake system check --repair", ErrNotFound, ref, key)
	}
	return s.describe(rec), nil
}

// lacks is a layer of an image that is not there, or "". mu is held.
func (s *Store) lacks(rec *record) layer.Key {
	for _, l := range rec.layers {
		if _, ok := s.layers.Get(l.key); !ok {
			return l.key
		}
	}
	if _, ok := s.layers.Get(rec.root); rec.root != "" && !ok {
		return rec.root
	}
	return ""
}

// question is what somebody calls an image, read as a name and as an id.
type question struct {
	ref  string
	hex  string // the digits, if it is an id
	isID bool   // it can be nothing else
	key  string // the normalised name; "" if it is none
	err  error  // why not
}

// ask reads ref. A short name makes it read registries.conf, so mu is not held.
func (s *Store) ask(ref string) question {
	q := question{ref: ref}
	q.hex, q.isID = strings.CutPrefix(ref, "sha256:")
	if q.isID || len(q.hex) == idDigits && isHex(q.hex) {
		q.isID = true
		return q
	}
	parsed, err := s.parse(ref)
	if q.err = err; err == nil {
		q.key = parsed.String()
	}
	return q
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// find answers; key is the name that it matched, "" for an id. mu is held.
func (s *Store) find(q question) (rec *record, key string, err error) {
	if n, ok := s.names[q.key]; ok {
		return s.images[n.id], q.key, nil
	}
	if rec, ok := s.images["sha256:"+q.hex]; ok {
		return rec, "", nil
	}
	if len(q.hex) >= minIDPrefix && isHex(q.hex) {
		for id, candidate := range s.images {
			if !strings.HasPrefix(id, "sha256:"+q.hex) {
				continue
			}
			if rec != nil {
				return nil, "", fmt.Errorf("image %q: %w: give more digits", q.ref, ErrAmbiguous)
			}
			rec = candidate
		}
		if rec != nil {
			return rec, "", nil
		}
	}
	if q.err != nil {
		return nil, "", q.err
	}
	return nil, "", fmt.Errorf("image %q: %w here", q.ref, ErrNotFound)
}

// describe makes the copy of an image for a caller. mu is held.
func (s *Store) describe(rec *record) Image {
	var keys []string
	for key, n := range s.names {
		if n.id == rec.image.ID {
			keys = append(keys, key)
		}
	}
	return s.describeNamed(rec, keys)
}

// describeNamed is describe for who knows the image's names. mu is held.
func (s *Store) describeNamed(rec *record, keys []string) Image {
	img := rec.image
	for _, key := range keys {
		if s.pinned[key] {
			img.Pinned = true
		}
		if at := s.names[key].pulledAt; at.After(img.PulledAt) {
			img.PulledAt = at
		}
		switch {
		case strings.HasPrefix(key, "@"):
		case strings.Contains(key, "@"):
			img.RepoDigests = append(img.RepoDigests, key)
		default:
			img.RepoTags = append(img.RepoTags, key)
		}
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
	img.Labels = maps.Clone(img.Labels)
	img.DiffIDs = slices.Clone(img.DiffIDs)
	img.LayerSizes = slices.Clone(img.LayerSizes)
	img.Config = cloneConfig(img.Config)
	return img
}

// List returns all images, newest pull first.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := map[string][]string{} // by image: one walk over the names, not one per image
	for key, n := range s.names {
		keys[n.id] = append(keys[n.id], key)
	}
	list := make([]Image, 0, len(s.images))
	for id, rec := range s.images {
		list = append(list, s.describeNamed(rec, keys[id]))
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(b.PulledAt.Compare(a.PulledAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Usage counts the bytes and inodes of layers and metadata. It walks nothing.
func (s *Store) Usage() (bytes, inodes uint64, err error) {
	layerBytes, layerInodes := s.layers.Usage()
	blobBytes, blobCount := s.layout.Usage()
	return uint64(layerBytes + blobBytes), uint64(layerInodes + blobCount), nil
}

// RawConfig returns the config blob of an image as it was pulled.
func (s *Store) RawConfig(ref string) ([]byte, error) {
	return s.rawBlob(ref, func(r *record) digest.Digest { return r.config }, registry.MaxConfig)
}

// RawManifest returns the manifest of an image as it was pulled.
func (s *Store) RawManifest(ref string) ([]byte, error) {
	return s.rawBlob(ref, func(r *record) digest.Digest { return r.image.Manifest }, registry.MaxManifest)
}

func (s *Store) rawBlob(ref string, which func(*record) digest.Digest, limit int64) ([]byte, error) {
	q := s.ask(ref)
	s.mu.Lock()
	rec, _, err := s.find(q)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	data, err := s.layout.Get(which(rec), limit)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return data, nil
}
