package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Format of a saved image.
type Format string

// The formats of Save. An OCI directory is an unpacked OCI archive.
const (
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive"
)

// Save writes images as one tar. Nothing in it depends on when it is made. A
// docker archive has the layers' tars, bit for bit; an OCI archive the blobs as
// they were pulled, where they are kept, and the tars where they are not (then the
// manifest's digest is another one; the image's id never is).
func (s *Store) Save(ctx context.Context, to io.Writer, format Format, refs ...string) error {
	if format != DockerArchive && format != OCIArchive {
		return fmt.Errorf("save: %w: format %q is neither %s nor %s", ErrUnsupported, format, DockerArchive, OCIArchive)
	}
	a := &archive{out: tar.NewWriter(to), ctx: ctx, written: map[string]bool{}}
	for _, ref := range refs {
		c, err := s.open(ref)
		if err != nil {
			return err
		}
		if format == DockerArchive {
			err = a.docker(c)
		} else {
			err = a.oci(c)
		}
		c.release()
		if err != nil {
			return fmt.Errorf("save %s: %w", ref, classify(err))
		}
	}
	if err := a.end(format); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// archive is a tar of images on its way out.
type archive struct {
	ctx     context.Context
	out     *tar.Writer
	written map[string]bool // names in it
	index   v1.Index
	images  []dockerImage // manifest.json
}

// dockerImage is one entry of a docker archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// add writes a file, unless it is there; the caller closes in.
func (a *archive) add(name string, size int64, in io.Reader) error {
	if a.written[name] {
		return nil
	}
	if err := a.out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := io.Copy(a.out, untilDone{a.ctx, in})
	if err == nil && n != size {
		err = fmt.Errorf("%s: %w: %d bytes, not %d", name, ErrDigestMismatch, n, size)
	}
	a.written[name] = true
	return err
}

func (a *archive) addBytes(name string, data []byte) error {
	return a.add(name, int64(len(data)), bytes.NewReader(data))
}

// untilDone is a reader that a context ends.
type untilDone struct {
	ctx context.Context
	in  io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.in.Read(b)
}

// docker adds an image to a docker archive.
func (a *archive) docker(c *content) error {
	if c.image.Artifact {
		return fmt.Errorf("%w: an artifact in a %s: save it as an %s", ErrUnsupported, DockerArchive, OCIArchive)
	}
	img := dockerImage{Config: strings.TrimPrefix(c.image.ID, "sha256:") + ".json", RepoTags: []string{}, Layers: []string{}}
	if err := a.addBytes(img.Config, c.config); err != nil {
		return err
	}
	for _, l := range c.record.layers {
		name := l.diffID.Encoded() + ".tar"
		plain, size, err := c.tar(a.ctx, l)
		if err != nil {
			return err
		}
		err = a.add(name, size, plain)
		if err = errors.Join(err, plain.Close()); err != nil {
			return err
		}
		img.Layers = append(img.Layers, name)
	}
	if c.key != "" && !strings.Contains(c.key, "@") {
		img.RepoTags = append(img.RepoTags, c.key)
	}
	for i := range a.images { // the same image by another name
		if a.images[i].Config == img.Config {
			a.images[i].RepoTags = append(a.images[i].RepoTags, img.RepoTags...)
			return nil
		}
	}
	a.images = append(a.images, img)
	return nil
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// oci adds an image to an OCI archive.
func (a *archive) oci(c *content) error {
	layers := make([]v1.Descriptor, len(c.record.layers))
	same := true
	for i, l := range c.record.layers {
		layers[i] = l.blob
		blob, err := c.kept(l)
		if err == nil {
			in := &verified{in: blob, close: blob.Close, want: l.blob.Digest, hash: l.blob.Digest.Algorithm().Digester()}
			if err := errors.Join(a.add(blobName(l.blob.Digest), l.blob.Size, in), in.Close()); err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, ErrNotKept) {
			return err
		}
		plain, size, err := c.tar(a.ctx, l)
		if err != nil {
			return err
		}
		same = false
		layers[i] = v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: l.diffID, Size: size}
		if err := errors.Join(a.add(blobName(l.diffID), size, plain), plain.Close()); err != nil {
			return err
		}
	}
	body, mediaType := c.body, c.manifest.MediaType
	if !same {
		var err error
		if body, err = c.repacked(layers); err != nil {
			return err
		}
		mediaType = v1.MediaTypeImageManifest
	}
	if mediaType == "" {
		mediaType = v1.MediaTypeImageManifest
	}
	if err := a.addBytes(blobName(c.manifest.Config.Digest), c.config); err != nil {
		return err
	}
	d := c.name.manifest.Algorithm().FromBytes(body)
	if err := a.addBytes(blobName(d), body); err != nil {
		return err
	}
	entry := v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
	if c.key != "" && c.key[0] != '@' {
		entry.Annotations = map[string]string{v1.AnnotationRefName: c.key}
	}
	a.index.Manifests = append(a.index.Manifests, entry)
	return nil
}

// end writes what says what is in the archive.
func (a *archive) end(format Format) error {
	if format == DockerArchive {
		body, err := json.Marshal(a.images)
		if err != nil {
			return err
		}
		return errors.Join(a.addBytes("manifest.json", body), a.out.Close())
	}
	a.index.Versioned, a.index.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageIndex
	body, err := json.Marshal(a.index)
	if err != nil {
		return err
	}
	return errors.Join(a.addBytes(v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+v1.ImageLayoutVersion+`"}`)),
		a.addBytes(v1.ImageIndexFile, body), a.out.Close())
}
