package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/atomicfile"
)

const (
	leaseVersion = 1
	maxHolder    = 200
)

// lease is ROOT/leases/HOLDER. It needs no fsync: after a power cut no container
// runs that could hold a layer.
type lease struct {
	Version int         `json:"version"`
	Image   string      `json:"image"`
	Layers  []layer.Key `json:"layers"` // lowest first
}

// Rootfs leases an image's layers to holder, until Release. A second lease of
// the same holder is the same lease if the image is the same. A holder is a
// file name: a container's id, or a word, a dash and an id.
func (s *Store) Rootfs(imageID, holder string) (Rootfs, error) {
	if holder == "" || len(holder) > maxHolder || holder[0] == '.' || strings.ContainsAny(holder, "/\x00") {
		return Rootfs{}, fmt.Errorf("image lease: holder %q is not a file name", holder)
	}
	q := s.ask(imageID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.leases[holder]; ok {
		if l.Image == imageID {
			return s.rootfs(l), nil
		}
		return Rootfs{}, fmt.Errorf("image lease: %s holds image %s already", holder, l.Image)
	}
	rec, _, err := s.find(q)
	if err != nil {
		return Rootfs{}, err
	}
	l := lease{Version: leaseVersion, Image: rec.image.ID, Layers: keysOf(rec.layers)}
	if rec.root != "" {
		l.Layers = []layer.Key{rec.root}
	}
	data, err := json.Marshal(l)
	if err != nil {
		return Rootfs{}, err
	}
	// Before anybody mounts a layer, so that no crash leaves one unleased. Under
	// mu, against a collection; a volatile write costs no disk.
	if err := atomicfile.WriteVolatile(s.leasePath(holder), data, 0o600); err != nil {
		return Rootfs{}, fmt.Errorf("image lease: %w", err)
	}
	s.leases[holder] = l
	// For Prune by use; nothing else hangs on it.
	if err := s.layout.Touch(digest.Digest(rec.image.ID)); err != nil {
		s.log.Warn("the use of an image is not noted", "image", rec.image.ID, "error", err)
	}
	return s.rootfs(l), nil
}

func (s *Store) leasePath(holder string) string { return filepath.Join(s.root, leasesDir, holder) }

func (s *Store) rootfs(l lease) Rootfs {
	return Rootfs{ImageID: l.Image, Layers: s.lowerDirs(l.Layers), form: s.layers.Form(), limits: s.options.Limits}
}

// PrepareRoot makes in dir, a directory of the container's own, the root of a
// container that holds the lease r, and says how it is mounted. Removing dir undoes
// it, also after an error.
func (s *Store) PrepareRoot(r Rootfs, dir string) (rootfs.Mount, error) {
	m, err := s.options.Driver.Prepare(r.Layers, dir)
	if err != nil {
		return m, fmt.Errorf("root of a container of image %s: driver %s: %w", r.ImageID, s.options.Driver.Name(), err)
	}
	return m, nil
}

// ApplyChanges writes a layer's tar into the new root that PrepareRoot has made in dir.
// The file is read from its beginning; after an error the root is to be thrown away.
func (r Rootfs) ApplyChanges(ctx context.Context, dir string, changes *os.File) error {
	if rootfs.Whole(dir) {
		return fmt.Errorf("%w: changes are not applied to a whole root, as this driver makes", ErrUnsupported)
	}
	if _, err := changes.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := digest.SHA256.Digester()
	size, err := io.Copy(h.Hash(), untilDone{ctx, changes})
	if err != nil {
		return err
	}
	into := rootfs.Written(dir)
	result, err := layer.Unpack(ctx, into, layer.Source{
		Digest: h.Digest(), DiffID: h.Digest(), Size: size, Form: r.form,
		Open: func(context.Context) (io.ReadCloser, error) {
			_, err := changes.Seek(0, io.SeekStart)
			return io.NopCloser(changes), err
		},
	}, r.limits)
	if err == nil && result.OpaqueRoot {
		err = fmt.Errorf("%w: it deletes the whole root", layer.ErrInvalid)
	}
	if err == nil {
		err = layer.Inherit(into, result.Implied, r.Layers, r.form)
	}
	if err != nil {
		return fmt.Errorf("changes of a root: %w", classify(err))
	}
	return nil
}

// Release ends the lease of holder. Without one it does nothing.
func (s *Store) Release(holder string) error {
	s.mu.Lock()
	l, ok := s.leases[holder]
	if !ok {
		s.mu.Unlock()
		return nil
	}
	if err := os.Remove(s.leasePath(holder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.mu.Unlock()
		return fmt.Errorf("image lease: %w", err)
	}
	delete(s.leases, holder)
	_, present := s.images[l.Image]
	s.mu.Unlock()
	if present {
		return nil // nothing became garbage
	}
	return s.collectGarbage()
}

// Holders lists all leases, by holder.
func (s *Store) Holders() []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Lease, 0, len(s.leases))
	for holder, l := range s.leases {
		list = append(list, Lease{Holder: holder, ImageID: l.Image})
	}
	slices.SortFunc(list, func(a, b Lease) int { return strings.Compare(a.Holder, b.Holder) })
	return list
}

// readLeases takes over the leases of before. One that is broken or whose layer is gone is
// dropped: a power cut has done that, and ended its container. One that the disk does not give
// may be a container's that runs: it holds all that is there.
func (s *Store) readLeases() error {
	entries, err := os.ReadDir(filepath.Join(s.root, leasesDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		l, err := s.readLease(e.Name())
		var disk *fs.PathError
		if errors.As(err, &disk) {
			s.log.Error("image lease cannot be read: no layer is removed while its holder is there", "holder", e.Name(), "reason", err)
			l, err = lease{Layers: s.layers.Keys()}, nil
		}
		if err != nil {
			s.log.Warn("image lease dropped", "holder", e.Name(), "reason", err)
			if err := os.Remove(s.leasePath(e.Name())); err != nil {
				return err
			}
			continue
		}
		s.leases[e.Name()] = l
	}
	return nil
}

func (s *Store) readLease(holder string) (lease, error) {
	var l lease
	data, err := os.ReadFile(s.leasePath(holder))
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, err
	}
	if l.Version != leaseVersion {
		return l, fmt.Errorf("version %d, not %d", l.Version, leaseVersion)
	}
	for _, key := range l.Layers {
		if _, ok := s.layers.Get(key); !ok {
			return l, fmt.Errorf("layer %s is gone", key)
		}
	}
	return l, nil
}
