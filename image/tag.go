package image

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
)

// Tag gives an image one more name. A tag that another image has moves.
func (s *Store) Tag(ref, to string) error {
	parsed, err := registry.ParseReference(to)
	if err != nil {
		return err
	}
	if parsed.Digest != "" {
		return fmt.Errorf("tag %s: %w: a name with a digest says what an image is, and cannot be given", to, ErrInvalidReference)
	}
	q := s.ask(ref)
	s.mu.Lock()
	_, _, n, err := s.nameOf(q)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = s.publish([]string{parsed.String()}, n, nil)
	return err
}

// nameOf is find with one of the image's names: the one that was asked for, if it is
// one. mu is held.
func (s *Store) nameOf(q question) (rec *record, key string, n name, err error) {
	rec, key, err = s.find(q)
	if err != nil {
		return nil, "", name{}, err
	}
	if n, ok := s.names[key]; ok {
		return rec, key, n, nil
	}
	for _, other := range slices.Sorted(maps.Keys(s.names)) {
		if s.names[other].id == rec.image.ID {
			return rec, key, s.names[other], nil
		}
	}
	return nil, "", name{}, fmt.Errorf("image %q: %w here", q.ref, ErrNotFound)
}

// Untag takes names away and leaves the images, if need be without a name.
func (s *Store) Untag(refs ...string) error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	names, images := maps.Clone(s.names), s.images
	s.mu.Unlock()
	for _, ref := range refs {
		parsed, err := registry.ParseReference(ref)
		if err != nil {
			return err
		}
		key := parsed.String()
		n, ok := names[key]
		if !ok {
			return fmt.Errorf("image %q: %w here", ref, ErrNotFound)
		}
		delete(names, key)
		named := false
		for _, other := range names {
			named = named || other.id == n.id
		}
		if !named {
			names["@"+n.top.Digest.String()] = n
		}
	}
	return s.replaceContents(names, images)
}

// PruneOptions says what Prune removes. Images that a container holds and pinned
// ones always stay.
type PruneOptions struct {
	All          bool      // also those with a tag
	PulledBefore time.Time // zero: whenever
	UsedBefore   time.Time // last held by a container, or made; zero: whenever
}

// Prune removes images and returns them, and how many bytes that frees (as Remove does,
// in the background).
func (s *Store) Prune(o PruneOptions) (removed []Image, freed int64, err error) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	held := map[string]bool{}
	for _, l := range s.leases {
		held[l.Image] = true
	}
	before := s.contents
	names := maps.Clone(s.names)
	for id, rec := range s.images {
		img := s.describe(rec)
		if held[id] || img.Pinned || len(img.RepoTags) > 0 && !o.All || !o.PulledBefore.IsZero() && !img.PulledAt.Before(o.PulledBefore) {
			continue
		}
		if !o.UsedBefore.IsZero() {
			used, err := s.layout.Touched(digest.Digest(id))
			if err != nil || !used.Before(o.UsedBefore) {
				continue // what cannot be known is no reason to remove
			}
		}
		removed = append(removed, img)
		maps.DeleteFunc(names, func(_ string, n name) bool { return n.id == id })
	}
	s.mu.Unlock()
	if len(removed) == 0 {
		return nil, 0, nil
	}
	slices.SortFunc(removed, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	if err := s.replaceContents(names, before.images); err != nil {
		return nil, 0, err
	}
	return removed, s.freed(before), nil
}

// freed is what the contents of before led to and nothing does now, in bytes.
func (s *Store) freed(before contents) (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldLayers, oldBlobs := s.live(&before)
	layers, blobs := s.live(&s.contents)
	for key := range oldLayers {
		if !layers[key] {
			i := s.layerInfo(key)
			bytes += i.Bytes + i.Recipe
		}
	}
	for d := range oldBlobs {
		if !blobs[d] {
			bytes += s.layout.Size(d)
		}
	}
	return bytes
}

// ImageUsage is what one image takes.
type ImageUsage struct {
	Image    Image
	Shared   int64 // bytes of layers that other images have too
	Unique   int64 // bytes that its removal frees
	Holders  int   // containers, and whoever else has a lease
	LastUsed time.Time
}

// DiskUsage says what each image takes, largest first.
func (s *Store) DiskUsage() []ImageUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := map[layer.Key]int{}
	for _, rec := range s.images {
		for _, key := range distinct(rec) {
			users[key]++
		}
	}
	holders := map[string]int{}
	for _, l := range s.leases {
		holders[l.Image]++
	}
	list := make([]ImageUsage, 0, len(s.images))
	for id, rec := range s.images {
		u := ImageUsage{Image: s.describe(rec), Holders: holders[id]}
		for _, key := range distinct(rec) {
			if users[key] > 1 {
				i := s.layerInfo(key)
				u.Shared += i.Bytes + i.Recipe
			}
		}
		u.Unique = u.Image.Size - u.Shared
		u.LastUsed, _ = s.layout.Touched(digest.Digest(id)) // zero: not known
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b ImageUsage) int {
		return cmp.Or(cmp.Compare(b.Image.Size, a.Image.Size), strings.Compare(a.Image.ID, b.Image.ID))
	})
	return list
}

// distinct are the directories of an image, each once.
func distinct(rec *record) []layer.Key {
	keys := keysOf(rec.layers)
	if rec.root != "" {
		keys = append(keys, rec.root)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
