package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/image/layer"
)

// publish writes an image's documents and puts keys in the index as its names,
// then drops what the index no longer leads to.
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
	made := add != nil && add.record != nil
	if _, ok := s.images[n.id]; !made && !ok {
		s.mu.Unlock()
		return Image{}, fmt.Errorf("image %s: %w: removed meanwhile", n.id, ErrNotFound)
	}
	names := maps.Clone(s.names)
	s.mu.Unlock()
	known := !made
	for _, key := range keys {
		have, ok := names[key]
		known = known && ok && have.same(n)
		names[key] = n
	}
	if known {
		s.writeIndexLater() // it was pulled again: nobody waits for the disk to note when
	} else if err := s.writeIndex(names); err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	s.names = names
	if made {
		s.images[n.id] = add.record
	}
	img := s.describe(s.images[n.id])
	s.mu.Unlock()
	// A moved tag may have been the last name of another image. The new one is
	// there whatever becomes of that.
	if err := s.collect(); err != nil {
		s.log.Warn("image garbage stays", "error", err)
	}
	return img, nil
}

// Remove takes a name from an image, and the image away with its last name; an
// id takes all its names. An image that is not there is ErrNotFound. Layers
// that a container holds stay until the last Release.
func (s *Store) Remove(_ context.Context, ref string) error {
	q := s.ask(ref)
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.mu.Lock()
	rec, key, err := s.find(q)
	names := maps.Clone(s.names)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	removeNames(names, rec.image.ID, key)
	if err := s.writeIndex(names); err != nil {
		return err
	}
	s.mu.Lock()
	s.names = names
	s.mu.Unlock()
	return s.collect()
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

// collectGarbage is collect for those who hold no lock.
func (s *Store) collectGarbage() error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	return s.collect()
}

// collect removes the images without a name, and then layers and blobs that no
// image, lease or pull in flight needs. Layers vanish by name at once; their
// files are removed in the background. indexMu is held.
func (s *Store) collect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	named := map[string]bool{}
	blobs := map[digest.Digest]bool{}
	for _, n := range s.names {
		named[n.id] = true
		blobs[n.top.Digest], blobs[n.manifest], blobs[digest.Digest(n.id)] = true, true, true
		blobs[n.signatures] = true
	}
	layers := map[layer.Key]bool{}
	for id, rec := range s.images {
		if !named[id] {
			delete(s.images, id)
			continue
		}
		layers[rec.root] = true
		blobs[rec.config] = true
		for _, l := range rec.layers {
			layers[l.key] = true
			if s.options.KeepLayerBlobs { // a config may be the same blob
				blobs[l.blob.Digest] = true
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
	var errs []error
	for _, key := range s.layers.Keys() {
		if !layers[key] {
			errs = append(errs, s.layers.Remove(key))
		}
	}
	return errors.Join(append(errs, s.layout.Collect(blobs))...)
}
