package image

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
)

// Annotations of the entries of index.json; docs/format/images.md has them all.
const (
	annotationManifest = "containers.strake.image.manifest"
	annotationPulledAt = "containers.strake.image.pulled-at"
	annotationOrigin   = "containers.strake.image.origin"
	annotationSigned   = "containers.strake.image.signatures"
)

// name is one entry of index.json: why an image is kept.
type name struct {
	top      v1.Descriptor // what the name resolved to: a manifest or an index
	manifest digest.Digest // of the platform; top's own unless that is an index
	id       string        // of the image
	pulledAt time.Time

	// What the policy is asked again, when a container is made; origin.go.
	origin     string
	signatures digest.Digest // of a blob; "" is none
}

// record is an image that is whole: all its layers are there.
type record struct {
	image  Image // without what the names say
	config digest.Digest
	layers []imageLayer
	root   layer.Key // of the whole image in one directory; "" unless the driver wants it
}

type imageLayer struct {
	diffID digest.Digest
	key    layer.Key
	blob   v1.Descriptor
}

// newRecord makes a record of checked parts.
func newRecord(manifest v1.Descriptor, m v1.Manifest, config v1.Image, layers []imageLayer, root layer.Key, info func(layer.Key) layer.Info) *record {
	rec := &record{layers: layers, root: root, config: m.Config.Digest, image: Image{
		ID: identity(manifest.Digest, m), Artifact: registry.IsArtifact(m), Config: config.Config, Labels: config.Config.Labels,
		OS: config.OS, Arch: config.Architecture, Manifest: manifest.Digest,
		Size: manifest.Size + m.Config.Size,
	}}
	if config.Created != nil {
		rec.image.Created = *config.Created
	}
	for _, l := range layers {
		rec.image.DiffIDs = append(rec.image.DiffIDs, l.diffID.String())
		rec.image.LayerSizes = append(rec.image.LayerSizes, info(l.key).Bytes)
	}
	for _, key := range distinct(rec) {
		i := info(key)
		rec.image.Size += i.Bytes + i.Recipe
	}
	return rec
}

// parseConfig decodes an image config and checks it against its manifest.
func parseConfig(body []byte, m v1.Manifest) (v1.Image, error) {
	if registry.IsArtifact(m) {
		return artifactConfig(m)
	}
	var config v1.Image
	if err := json.Unmarshal(body, &config); err != nil {
		return config, fmt.Errorf("%w: config: %w", registry.ErrInvalidManifest, err)
	}
	if len(config.RootFS.DiffIDs) != len(m.Layers) {
		return config, fmt.Errorf("%w: %d layers in the manifest, %d in the config", registry.ErrInvalidManifest, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	for i, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return config, fmt.Errorf("%w: config: rootfs.diff_ids[%d]: %w", registry.ErrInvalidManifest, i, err)
		}
	}
	return config, nil
}

// chainIDs gives for each layer the identity of the stack up to it, as the OCI
// image specification defines it.
func chainIDs(diffIDs []digest.Digest) []digest.Digest {
	chains := slices.Clone(diffIDs)
	for i := 1; i < len(chains); i++ {
		chains[i] = digest.FromString(chains[i-1].String() + " " + diffIDs[i].String())
	}
	return chains
}

// restore makes an entry of index.json into a name and its image again. Layers
// that are missing are unpacked from their blobs, where those are kept.
func (s *Store) restore(ctx context.Context, e v1.Descriptor) (key string, n name, rec *record, err error) {
	key = e.Annotations[v1.AnnotationRefName]
	if key == "" {
		key = "@" + e.Digest.String()
	}
	n = name{top: e, manifest: e.Digest}
	n.top.Annotations = nil
	if m := e.Annotations[annotationManifest]; m != "" {
		n.manifest = digest.Digest(m)
	}
	// A missing time sorts last; nothing else hangs on it.
	n.pulledAt, _ = time.Parse(time.RFC3339Nano, e.Annotations[annotationPulledAt])
	n.origin = e.Annotations[annotationOrigin]
	n.signatures = digest.Digest(e.Annotations[annotationSigned])
	if _, err := s.keptSignatures(n); err != nil { // what needs them is refused
		s.log.Warn("kept signatures are lost: pull the image again if the policy asks for them", "image", key, "error", err)
		n.signatures = ""
	}
	if n.manifest != e.Digest {
		if _, err := s.layout.Get(e.Digest, registry.MaxManifest); err != nil {
			return key, n, nil, err
		}
	}
	body, err := s.layout.Get(n.manifest, registry.MaxManifest)
	if err != nil {
		return key, n, nil, err
	}
	m, err := registry.ParseManifest(body)
	if err != nil {
		return key, n, nil, err
	}
	configBody, err := s.layout.Get(m.Config.Digest, registry.MaxConfig)
	if err != nil {
		return key, n, nil, err
	}
	config, err := parseConfig(configBody, m)
	if err != nil {
		return key, n, nil, err
	}
	p := &pull{store: s, from: layoutSource{s.root}, files: registry.IsArtifact(m), progress: func(Progress) {}}
	defer p.release()
	layers, err := p.ensureLayers(ctx, config.RootFS.DiffIDs, m.Layers)
	if err != nil {
		return key, n, nil, fmt.Errorf("a layer is missing and its blob was not kept or is broken: %w", err)
	}
	root, err := p.ensureRoot(ctx, layers)
	if err != nil {
		return key, n, nil, err
	}
	n.id = identity(n.manifest, m)
	desc := v1.Descriptor{MediaType: m.MediaType, Digest: n.manifest, Size: int64(len(body))}
	return key, n, newRecord(desc, m, config, layers, root, s.layerInfo), nil
}

func (s *Store) layerInfo(key layer.Key) layer.Info {
	info, _ := s.layers.Get(key) // present: the caller holds it
	return info
}

// writeIndex replaces the index; flushed is as layout.SetIndex says. indexMu is held.
func (s *Store) writeIndex(names map[string]name, flushed func()) error {
	entries := make([]v1.Descriptor, 0, len(names))
	for _, key := range slices.Sorted(maps.Keys(names)) {
		n := names[key]
		e := n.top
		e.Annotations = map[string]string{annotationPulledAt: n.pulledAt.UTC().Format(time.RFC3339Nano)}
		if key[0] != '@' {
			e.Annotations[v1.AnnotationRefName] = key
		}
		if n.origin != "" {
			e.Annotations[annotationOrigin] = n.origin
		}
		if n.signatures != "" {
			e.Annotations[annotationSigned] = n.signatures.String()
		}
		if n.manifest != e.Digest {
			e.Annotations[annotationManifest] = n.manifest.String()
		}
		entries = append(entries, e)
	}
	return s.layout.SetIndex(entries, flushed)
}

func cloneConfig(c v1.ImageConfig) v1.ImageConfig {
	c.Env = slices.Clone(c.Env)
	c.Entrypoint = slices.Clone(c.Entrypoint)
	c.Cmd = slices.Clone(c.Cmd)
	c.Volumes = maps.Clone(c.Volumes)
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Labels = maps.Clone(c.Labels)
	return c
}
