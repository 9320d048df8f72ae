package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
)

// contents are the names of an index and their images. Once made they do not change.
type contents struct {
	names  map[string]name    // by normalised name, or "@"+digest for an unnamed image
	images map[string]*record // by id: those with a name
}

// replaceContents makes names, of images, all that there is. What they leave out stays on
// the disk until the index there leaves it out, too: a power cut before that brings back
// what is whole. indexMu is held.
func (s *Store) replaceContents(names map[string]name, images map[string]*record) error {
	c := &contents{names, make(map[string]*record, len(images))}
	for _, n := range names {
		c.images[n.id] = images[n.id]
	}
	if err := s.writeIndex(names, func() { s.flushed(c) }); err != nil {
		return err
	}
	s.onDisk = append(s.onDisk, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contents = *c
	return nil
}

// flushed hears that the index on the device is of c.
func (s *Store) flushed(c *contents) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.onDisk = slices.Delete(s.onDisk, 0, slices.Index(s.onDisk, c))
	if err := s.collect(); err != nil {
		s.log.Warn("image garbage stays until the next change", "error", err)
	}
}

// publish writes an image's documents and puts keys in the index as its names.
func (s *Store) publish(keys []string, n name, add *newImage) (Image, error) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if add != nil {
		for d, body := range add.docs {
			if err := s.layout.Put(d, body); err != nil {
				return Image{}, err
			}
		}
	}
	s.mu.Lock()
	names, images := maps.Clone(s.names), s.images
	s.mu.Unlock()
	if add != nil && add.record != nil {
		images = maps.Clone(images)
		images[n.id] = add.record
	} else if images[n.id] == nil {
		return Image{}, fmt.Errorf("image %s: %w: removed meanwhile", n.id, ErrNotFound)
	}
	for _, key := range keys {
		names[key] = n
	}
	if err := s.replaceContents(names, images); err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describe(s.images[n.id]), nil
}

// Remove takes a name from an image, and the image away with its last name; an
// id takes all its names. An image that is not there is ErrNotFound. Its files go in the
// background, as soon as no power cut can bring the image back; layers that a container
// holds stay until the last Release.
func (s *Store) Remove(_ context.Context, ref string) error {
	q := s.ask(ref)
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	rec, key, err := s.find(q)
	names, images := maps.Clone(s.names), s.images
	s.mu.Unlock()
	if err != nil {
		return err
	}
	removeNames(names, rec.image.ID, key)
	return s.replaceContents(names, images)
}

// removeNames takes from names what removing key means; "" is all of the image.
// A repository's digest goes with its last tag, and its tags with the digest.
func removeNames(names map[string]name, id, key string) {
	repository, isDigest := repositoryOf(key)
	top := names[key].top.Digest
	delete(names, key)
	tagged := false
	for k, n := range names {
		r, d := repositoryOf(k)
		switch {
		case n.id != id:
		case key == "", isDigest && r == repository && n.top.Digest == top:
			delete(names, k)
		case r == repository && n.top.Digest == top && !d:
			tagged = true
		}
	}
	if key != "" && !tagged {
		delete(names, repository+"@"+top.String())
	}
}

// repositoryOf splits a normalised name.
func repositoryOf(key string) (repository string, isDigest bool) {
	if repository, _, isDigest = strings.Cut(key, "@"); isDigest {
		return repository, true
	}
	if i := strings.LastIndexByte(key, ':'); i >= 0 {
		return key[:i], false
	}
	return key, false
}

// collectGarbage is collect for who holds no lock.
func (s *Store) collectGarbage() error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	return s.collect()
}

// collect removes the layers and blobs that no image, here or in an index that may be on
// the device, no lease and no pull in flight needs. They vanish by name at once; their
// files are removed in the background. indexMu is held.
func (s *Store) collect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers, blobs := s.live(s.onDisk...)
	var errs []error
	for _, key := range s.layers.Keys() {
		if !layers[key] {
			errs = append(errs, s.layers.Remove(key))
		}
	}
	return errors.Join(append(errs, s.layout.Collect(blobs))...)
}

// live are the layers and blobs that some contents lead to, or a lease or a pull in
// flight. mu is held.
func (s *Store) live(of ...*contents) (layers map[layer.Key]bool, blobs map[digest.Digest]bool) {
	layers, blobs = map[layer.Key]bool{}, map[digest.Digest]bool{}
	for _, c := range of {
		for _, n := range c.names {
			blobs[n.top.Digest], blobs[n.manifest], blobs[digest.Digest(n.id)] = true, true, true
			blobs[n.signatures] = true
		}
		for _, rec := range c.images {
			layers[rec.root] = true
			blobs[rec.config], blobs[rec.image.Manifest] = true, true
			for _, l := range rec.layers {
				layers[l.key] = true
				if s.options.KeepLayerBlobs { // a config may be the same blob
					blobs[l.blob.Digest] = true
				}
			}
		}
	}
	for _, l := range s.leases {
		for _, key := range l.Layers {
			layers[key] = true
		}
	}
	for what := range s.busy {
		layers[layer.Key(what)] = true
		blobs[digest.Digest(what)] = true
	}
	return layers, blobs
}
