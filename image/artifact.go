package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/registry"
)

// An artifact is a manifest whose config is no image's (image-spec, manifest.md,
// "Guidelines for Artifact Usage"): a model, a policy, a chart. Each of its blobs is
// a file, and here a layer with that file alone: so an artifact is pulled, leased,
// mounted, saved and collected like an image. Nothing can run in it; pods mount it as
// a volume.
//
// Its id is the manifest's digest, for all artifacts without a config have the same
// one. What a layer of it has for a diffID is made of the file's name and the blob's
// digest: there is no tar that it could be of.

// annotationFilePath is the model-spec's name for what others call the title.
const annotationFilePath = "org.cncf.model.filepath"

// maxFileName and maxFilePart are the kernel's limits, with room for a prefix.
const (
	maxFileName = 3000
	maxFilePart = 255
)

// fileName is the path of an artifact's blob below where the artifact is mounted: its
// title, or else its digest.
func fileName(blob v1.Descriptor) (string, error) {
	for _, key := range []string{v1.AnnotationTitle, annotationFilePath} {
		name, ok := blob.Annotations[key]
		if !ok {
			continue
		}
		if err := checkFileName(name); err != nil {
			return "", fmt.Errorf("%w: blob %s: %s %q: %w", registry.ErrInvalidManifest, blob.Digest, key, name, err)
		}
		return name, nil
	}
	return strings.Replace(blob.Digest.String(), ":", "-", 1), nil
}

// checkFileName refuses a name that leads elsewhere than below the mount, that a
// layer means something else by, or that nobody can type.
func checkFileName(name string) error {
	switch {
	case name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".":
		return errors.New("is not the path of a file below a directory")
	case len(name) > maxFileName:
		return fmt.Errorf("is longer than %d bytes", maxFileName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("has control characters")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return errors.New(`has ".." in it`)
		case len(part) > maxFilePart:
			return fmt.Errorf("has a part longer than %d bytes", maxFilePart)
		case strings.HasPrefix(part, ".wh."):
			return errors.New(`has ".wh." in it, with which a layer deletes`)
		}
	}
	return nil
}

// artifactConfig stands in for the config that an artifact has not.
func artifactConfig(m v1.Manifest) (v1.Image, error) {
	config := v1.Image{RootFS: v1.RootFS{Type: "layers"}}
	taken := map[string]bool{} // files true, their directories false
	for _, blob := range m.Layers {
		name, err := fileName(blob)
		if err != nil {
			return config, err
		}
		if _, ok := taken[name]; ok {
			return config, fmt.Errorf("%w: two blobs with the name %q, or one below it", registry.ErrInvalidManifest, name)
		}
		taken[name] = true
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if taken[dir] {
				return config, fmt.Errorf("%w: a blob %q below the blob %q", registry.ErrInvalidManifest, name, dir)
			}
			taken[dir] = false
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromString("artifact file\n"+name+"\n"+blob.Digest.String()))
	}
	return config, nil
}

// identity is the id of what a manifest, whose own digest is given, describes.
func identity(manifest digest.Digest, m v1.Manifest) string {
	if registry.IsArtifact(m) {
		return manifest.String()
	}
	return m.Config.Digest.String()
}

// openFile opens the file of an artifact's layer; who reads it verifies it.
func (s *Store) openFile(l imageLayer) (io.ReadCloser, error) {
	name, err := fileName(l.blob)
	if err != nil {
		return nil, err
	}
	return os.OpenInRoot(s.layers.Path(l.key), name)
}

// verifyFile reads it and compares.
func (s *Store) verifyFile(l imageLayer) error {
	f, err := s.openFile(l)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDigestMismatch, err)
	}
	v := l.blob.Digest.Verifier()
	_, err = io.Copy(v, f)
	if err = errors.Join(err, f.Close()); err == nil && !v.Verified() {
		err = ErrDigestMismatch
	}
	return err
}
