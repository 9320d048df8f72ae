package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression of a layer.
type Compression string

// The compressions that registries have.
const (
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Plain Compression = "plain"
)

// Layer of an image to build.
type Layer struct {
	Tar         []byte
	Compression Compression // "" is Gzip
}

// Image to build.
type Image struct {
	Layers []Layer // lowest first
	Config v1.ImageConfig
	// Architecture and Variant; "" is this machine's.
	Architecture, Variant string
	// Docker makes a schema 2 image with Docker's media types, not an OCI one.
	Docker bool
	// Created, if not zero, is in the config.
	Created time.Time
}

// Add builds an image and serves it as REPOSITORY:TAG.
func (r *Registry) Add(repository, tag string, img Image) (v1.Descriptor, error) {
	config := v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: img.architecture(), Variant: img.Variant},
		Config:   img.Config, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	if !img.Created.IsZero() {
		config.Created = &img.Created
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig},
	}
	if img.Docker {
		m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
		m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	}
	for _, l := range img.Layers {
		blob, mediaType, err := l.compress()
		if err != nil {
			return v1.Descriptor{}, err
		}
		if img.Docker {
			mediaType = strings.Replace(mediaType, "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar", 1)
			mediaType = strings.Replace(mediaType, "+", ".", 1)
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: mediaType, Digest: r.AddBlob(blob), Size: int64(len(blob))})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.Tar))
	}
	body, err := json.Marshal(config)
	if err != nil {
		return v1.Descriptor{}, err
	}
	m.Config.Digest, m.Config.Size = r.AddBlob(body), int64(len(body))
	if body, err = json.Marshal(m); err != nil {
		return v1.Descriptor{}, err
	}
	d := r.AddManifest(repository, tag, m.MediaType, body)
	return v1.Descriptor{
		MediaType: m.MediaType, Digest: d, Size: int64(len(body)),
		Platform: &v1.Platform{OS: "linux", Architecture: img.architecture(), Variant: img.Variant},
	}, nil
}

// AddIndex serves an index of images that Add returned.
func (r *Registry) AddIndex(repository, tag string, docker bool, entries ...v1.Descriptor) (digest.Digest, error) {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: entries}
	if docker {
		index.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
	}
	body, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	return r.AddManifest(repository, tag, index.MediaType, body), nil
}

func (img Image) architecture() string {
	if img.Architecture != "" {
		return img.Architecture
	}
	return runtime.GOARCH
}

func (l Layer) compress() (blob []byte, mediaType string, err error) {
	var buf bytes.Buffer
	var z io.WriteCloser
	switch l.Compression {
	case Plain:
		return l.Tar, v1.MediaTypeImageLayer, nil
	case Zstd:
		mediaType = v1.MediaTypeImageLayerZstd
		z, err = zstd.NewWriter(&buf)
	case Gzip, "":
		mediaType = v1.MediaTypeImageLayerGzip
		z = gzip.NewWriter(&buf)
	default:
		err = fmt.Errorf("compression %q", l.Compression)
	}
	if err != nil {
		return nil, "", err
	}
	if _, err := z.Write(l.Tar); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), mediaType, nil
}
