package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types; the OCI ones are image-spec's.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"

	mediaTypeDockerLayerPlain = "application/vnd.docker.image.rootfs.diff.tar"
	mediaTypeDockerLayerZstd  = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	mediaTypeDockerForeign    = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeDockerForeignTar = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	mediaTypeSchema1          = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed    = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	mediaTypeOCIForeign       = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// maxLayers bounds a manifest: overlayfs takes 500 lower directories.
const maxLayers = 500

// Kind is what a body with a manifest's media type turned out to be.
type Kind int

// The kinds of body.
const (
	KindManifest Kind = iota
	KindIndex
)

// Detect tells manifest and index apart. The media type in the body counts over
// the one of the transport, which some registries make up; without any, the
// fields decide. Schema 1 is refused by name.
func Detect(body []byte, transportType string) (Kind, error) {
	var probe struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(body, &probe); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrInvalidManifest, err)
	}
	t := probe.MediaType
	if t == "" {
		t = transportType
	}
	if probe.SchemaVersion == 1 || probe.FSLayers != nil || t == mediaTypeSchema1 || t == mediaTypeSchema1Signed {
		return 0, fmt.Errorf("%w: Docker manifest schema 1: push the image again with a current tool", ErrUnsupported)
	}
	if probe.SchemaVersion != 2 {
		return 0, fmt.Errorf("%w: schemaVersion %d", ErrInvalidManifest, probe.SchemaVersion)
	}
	isIndex := t == v1.MediaTypeImageIndex || t == MediaTypeDockerList
	isManifest := t == v1.MediaTypeImageManifest || t == MediaTypeDockerManifest
	if !isIndex && !isManifest {
		isIndex, isManifest = probe.Manifests != nil, probe.Config != nil
	}
	// A body that can be read both ways means one thing to us and another to
	// whoever checked it (CVE-2021-41190).
	switch {
	case isIndex && (probe.Layers != nil || probe.Config != nil), isManifest && probe.Manifests != nil:
		return 0, fmt.Errorf("%w: fields of both a manifest and an index", ErrInvalidManifest)
	case isIndex:
		return KindIndex, nil
	case isManifest:
		return KindManifest, nil
	}
	return 0, fmt.Errorf("%w: media type %q", ErrUnsupported, t)
}

// IsArtifact says that a manifest is not one of a container image: what its config is
// tells.
func IsArtifact(m v1.Manifest) bool {
	return m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != MediaTypeDockerConfig
}

// ParseManifest decodes and checks the manifest of an image or of an artifact.
func ParseManifest(body []byte) (v1.Manifest, error) {
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrInvalidManifest, err)
	}
	if m.Config.MediaType == "" {
		return m, fmt.Errorf("%w: the config has no media type", ErrInvalidManifest)
	}
	if err := checkDescriptor("config", m.Config); err != nil {
		return m, err
	}
	if len(m.Layers) > maxLayers {
		return m, fmt.Errorf("%w: %d layers, at most %d can be mounted", ErrTooLarge, len(m.Layers), maxLayers)
	}
	for i, l := range m.Layers {
		if !IsArtifact(m) {
			if err := checkLayerType(i, l.MediaType); err != nil {
				return m, err
			}
		}
		if err := checkDescriptor(fmt.Sprintf("layers[%d]", i), l); err != nil {
			return m, err
		}
	}
	return m, nil
}

func checkDescriptor(field string, d v1.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: %s: digest %q: %w", ErrInvalidManifest, field, d.Digest, err)
	}
	if d.Digest.Algorithm() != digest.SHA256 && d.Digest.Algorithm() != digest.SHA512 {
		return fmt.Errorf("%w: %s: digest algorithm %q", ErrUnsupported, field, d.Digest.Algorithm())
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: %s: size %d", ErrInvalidManifest, field, d.Size)
	}
	return nil
}

func checkLayerType(i int, t string) error {
	switch t {
	case v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd,
		MediaTypeDockerLayer, mediaTypeDockerLayerPlain, mediaTypeDockerLayerZstd:
		return nil
	case mediaTypeDockerForeign, mediaTypeDockerForeignTar, mediaTypeOCIForeign,
		mediaTypeOCIForeign + "+gzip", mediaTypeOCIForeign + "+zstd":
		return fmt.Errorf("%w: layers[%d]: foreign layer (%s), which is not in the registry", ErrUnsupported, i, t)
	}
	return fmt.Errorf("%w: layers[%d]: media type %q", ErrUnsupported, i, t)
}

// HostPlatform is the machine's.
func HostPlatform() v1.Platform {
	p := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = "v7"
	}
	return p
}

// Select finds the manifest for a platform in an index: the same variant, else
// the nearest lower one that the machine can run. Equal ones: the first counts.
func Select(body []byte, want v1.Platform) (v1.Descriptor, error) {
	var index v1.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return v1.Descriptor{}, fmt.Errorf("%w: %w", ErrInvalidManifest, err)
	}
	have := make([]string, 0, len(index.Manifests))
	best, bestRank := -1, 0
	for i, m := range index.Manifests {
		if m.Platform == nil {
			// A list of one without a platform is that image.
			if len(index.Manifests) == 1 {
				best = 0
			}
			continue
		}
		have = append(have, platformString(*m.Platform))
		if m.Platform.OS != want.OS || m.Platform.Architecture != want.Architecture {
			continue
		}
		if rank := variantRank(want, m.Platform.Variant); rank > bestRank {
			best, bestRank = i, rank
		}
	}
	if best < 0 {
		return v1.Descriptor{}, fmt.Errorf("%w: no image for %s, only for %v", ErrUnsupported, platformString(want), have[:min(len(have), 20)])
	}
	d := index.Manifests[best]
	if err := checkDescriptor(fmt.Sprintf("manifests[%d]", best), d); err != nil {
		return v1.Descriptor{}, err
	}
	return d, nil
}

// variantRank is 0 for a variant the platform cannot run, higher for nearer.
func variantRank(want v1.Platform, variant string) int {
	level := func(v string) int {
		switch {
		case v == "" && want.Architecture == "arm":
			return 7
		case v == "" && want.Architecture == "arm64":
			return 8
		case v == "":
			return 1 // amd64
		case len(v) == 2 && v[0] == 'v' && v[1] >= '1' && v[1] <= '9':
			return int(v[1] - '0')
		}
		return 0
	}
	if variant == want.Variant {
		return 100
	}
	if v := level(variant); v > 0 && v <= level(want.Variant) {
		return v
	}
	return 0
}

func platformString(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// ParseAttachment reads the layers of a manifest that carries no file system, such
// as cosign's signatures.
func ParseAttachment(body []byte) ([]v1.Descriptor, error) {
	if kind, err := Detect(body, v1.MediaTypeImageManifest); err != nil || kind != KindManifest {
		return nil, errors.Join(err, fmt.Errorf("%w: no manifest of an attachment", ErrInvalidManifest))
	}
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidManifest, err)
	}
	for i, l := range m.Layers {
		if err := checkDescriptor(fmt.Sprintf("layers[%d]", i), l); err != nil {
			return nil, err
		}
	}
	return m.Layers, nil
}
