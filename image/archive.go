package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
)

const (
	maxArchiveFiles = 10_000 // in an archive: blobs of a few images
	maxArchiveName  = 1024
	// annotationName is where docker and containerd put the whole name of an image;
	// the OCI annotation then has the tag alone.
	annotationName = "io.containerd.image.name"
)

// Load adds the images of a docker archive or an OCI archive, which may be
// compressed as a whole, and returns them. An OCI archive's image without a name
// gets nameless, if that is not "".
func (s *Store) Load(ctx context.Context, in io.Reader, nameless string) (images []Image, err error) {
	dir, err := s.layout.TempDir()
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plain, stop, err := layer.Decompress(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("load: %w", classify(err))
	}
	defer stop()
	files, err := spool(ctx, plain, dir, s.options.Limits.MaxTar())
	if err != nil {
		return nil, fmt.Errorf("load: %w", classify(err))
	}
	if _, ok := files.names[v1.ImageIndexFile]; ok {
		return s.loadFiles(ctx, files, nameless)
	}
	if _, ok := files.names["manifest.json"]; ok {
		return s.loadDocker(ctx, files)
	}
	return nil, fmt.Errorf("load: %w: neither a docker archive (manifest.json) nor an OCI one (index.json); strake import takes a root file system", ErrInvalidImage)
}

// spooled are the files of an archive, by their names in it. They lie in a
// directory under numbers: no name of the archive becomes one of ours.
type spooled struct {
	dir   string
	names map[string]string // to the number, or for a link to the other name
	links map[string]string
}

// spool writes an archive's files to dir. None is to have more than limit bytes, or holes,
// which cost its author nothing.
func spool(ctx context.Context, in io.Reader, dir string, limit int64) (*spooled, error) {
	f := &spooled{dir: dir, names: map[string]string{}, links: map[string]string{}}
	r := tar.NewReader(untilDone{ctx, in})
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil && n == 0 {
			return nil, fmt.Errorf("%w: it is no tar: %w", ErrInvalidImage, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: tar, after %d files: %w", ErrInvalidImage, n, err)
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		if n > maxArchiveFiles || len(name) > maxArchiveName {
			return nil, fmt.Errorf("%w: more than %d files, or a name of more than %d bytes", layer.ErrLimit, maxArchiveFiles, maxArchiveName)
		}
		if layer.IsSparse(h) {
			return nil, fmt.Errorf("%w: %q is sparse", layer.ErrInvalid, name)
		}
		if h.Size > limit {
			return nil, fmt.Errorf("%w: %q has %d bytes, and a layer at most %d", layer.ErrLimit, name, h.Size, limit)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err := f.write(name, strconv.Itoa(n), r)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("%w: it ends in the middle of %s", ErrInvalidImage, name)
			}
			if err != nil {
				return nil, err
			}
		case tar.TypeSymlink: // docker save, for layers that are there twice
			f.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			f.links[name] = path.Clean(strings.TrimLeft(h.Linkname, "/"))
		case tar.TypeDir:
		default:
			return nil, fmt.Errorf("%w: %q is of type %q", layer.ErrInvalid, name, h.Typeflag)
		}
	}
}

func (f *spooled) write(name, number string, in io.Reader) error {
	out, err := os.OpenFile(filepath.Join(f.dir, number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	f.names[name] = number
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// open opens a file of the archive.
func (f *spooled) open(name string) (*os.File, error) {
	for range 8 { // a link to a link, not a ring of them
		if number, ok := f.names[name]; ok {
			return os.Open(filepath.Join(f.dir, number))
		}
		name = f.links[name]
	}
	return nil, fmt.Errorf("%w: the archive has no %q", ErrInvalidImage, name)
}

func (f *spooled) read(name string, limit int64) ([]byte, error) {
	in, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read from
	body, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrInvalidImage, name, limit)
	}
	return body, err
}

// archiveSource is an archive, or what is made here, as a source of an image.
type archiveSource struct {
	files *spooled
	names map[digest.Digest]string // of blobs that have another name than OCI's
	made  map[digest.Digest][]byte
}

func (a archiveSource) body(d digest.Digest, limit int64) ([]byte, error) {
	if body, ok := a.made[d]; ok {
		return body, nil
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", ErrInvalidImage, d, err)
	}
	body, err := a.files.read(blobName(d), limit)
	if err == nil && d.Algorithm().FromBytes(body) != d {
		err = fmt.Errorf("blob %s: %w", d, ErrDigestMismatch)
	}
	return body, err
}

// Manifest implements source.
func (a archiveSource) Manifest(_ context.Context, d v1.Descriptor) ([]byte, v1.Descriptor, error) {
	body, err := a.body(d.Digest, registry.MaxManifest)
	return body, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(body))}, err
}

// Bytes implements source.
func (a archiveSource) Bytes(_ context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	return a.body(d.Digest, limit)
}

// Blob implements source.
func (a archiveSource) Blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	name, ok := a.names[d.Digest]
	if !ok {
		name = blobName(d.Digest)
	}
	f, err := a.files.open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// installFrom adds one image of an archive. Transport is what a policy calls that
// kind; "" asks none.
func (s *Store) installFrom(ctx context.Context, from source, transport string, top v1.Descriptor, keys func(digest.Digest) []string) (Image, error) {
	p := &pull{store: s, platform: s.platform(Platform{}), from: from, keep: s.options.KeepLayerBlobs, progress: func(Progress) {}}
	if transport != "" {
		p.policy = &incoming{transport: transport}
	}
	img, err := p.install(ctx, top, keys)
	p.release()
	if err != nil {
		return img, errors.Join(classify(err), s.collectGarbage())
	}
	return img, nil
}

// loadFiles adds the images of an OCI archive.
func (s *Store) loadFiles(ctx context.Context, files *spooled, nameless string) (images []Image, err error) {
	body, err := files.read(v1.ImageIndexFile, registry.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	var index v1.Index
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, fmt.Errorf("load: %w: index.json: %w", ErrInvalidImage, err)
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("load: %w: index.json has no image", ErrInvalidImage)
	}
	for _, e := range index.Manifests {
		keys, err := entryNames(e, nameless)
		if err != nil {
			return images, fmt.Errorf("load: %w", err)
		}
		e.Annotations = nil
		img, err := s.installFrom(ctx, archiveSource{files: files}, "oci-archive", e, keys)
		if err != nil {
			return images, fmt.Errorf("load %s: %w", e.Digest, err)
		}
		images = append(images, img)
	}
	return images, nil
}

// entryNames are the names of an entry of an index.json, once its digest is known.
func entryNames(e v1.Descriptor, nameless string) (func(digest.Digest) []string, error) {
	name := e.Annotations[annotationName]
	if name == "" {
		name = e.Annotations[v1.AnnotationRefName]
	}
	if name == "" {
		name = nameless
	}
	if name == "" {
		return func(top digest.Digest) []string { return []string{"@" + top.String()} }, nil
	}
	ref, err := registry.ParseReference(name)
	if err != nil {
		return nil, err
	}
	return func(top digest.Digest) []string {
		if ref.Digest != "" {
			return []string{ref.WithDigest(top).String()}
		}
		return []string{ref.String(), ref.WithDigest(top).String()}
	}, nil
}

// loadDocker adds the images of a docker archive. It has no manifests: they are
// made here, and so the same archive makes the same.
func (s *Store) loadDocker(ctx context.Context, files *spooled) (images []Image, err error) {
	body, err := files.read("manifest.json", registry.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	var entries []dockerImage
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, fmt.Errorf("load: %w: manifest.json: %w", ErrInvalidImage, err)
	}
	for _, e := range entries {
		img, err := s.loadDockerImage(ctx, files, e)
		if err != nil {
			return images, fmt.Errorf("load %v: %w", e.RepoTags, err)
		}
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("load: %w: manifest.json has no image", ErrInvalidImage)
	}
	return images, nil
}

func (s *Store) loadDockerImage(ctx context.Context, files *spooled, e dockerImage) (Image, error) {
	config, err := files.read(path.Clean(e.Config), registry.MaxConfig)
	if err != nil {
		return Image{}, err
	}
	from := archiveSource{files: files, names: map[digest.Digest]string{}, made: map[digest.Digest][]byte{}}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: registry.MediaTypeDockerManifest,
		Config: v1.Descriptor{MediaType: registry.MediaTypeDockerConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []v1.Descriptor{},
	}
	from.made[m.Config.Digest] = config
	for _, name := range e.Layers {
		name = path.Clean(name)
		d, size, err := files.hash(name)
		if err != nil {
			return Image{}, err
		}
		from.names[d] = name
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: registry.MediaTypeDockerLayer, Digest: d, Size: size})
	}
	body, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	top := v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	from.made[top.Digest] = body
	var names []string
	for _, tag := range e.RepoTags {
		ref, err := registry.ParseReference(tag)
		if err != nil {
			return Image{}, err
		}
		names = append(names, ref.String())
	}
	if len(names) == 0 {
		names = []string{"@" + top.Digest.String()}
	}
	return s.installFrom(ctx, from, "docker-archive", top, func(digest.Digest) []string { return names })
}

func (f *spooled) hash(name string) (digest.Digest, int64, error) {
	in, err := f.open(name)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = in.Close() }() // only read from
	h := digest.SHA256.Digester()
	n, err := io.Copy(h.Hash(), in)
	return h.Digest(), n, err
}

// Import makes an image of one layer of a root file system's tar, which may be
// compressed. Config is what its containers run with.
func (s *Store) Import(ctx context.Context, in io.Reader, to, comment string, config v1.ImageConfig) (img Image, err error) {
	ref, err := registry.ParseReference(to)
	if err == nil && ref.Digest != "" {
		err = fmt.Errorf("import %s: %w: an image's digest is known when it is made", to, ErrInvalidReference)
	}
	if err != nil {
		return img, err
	}
	dir, err := s.layout.TempDir()
	if err != nil {
		return img, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files := &spooled{dir: dir, names: map[string]string{}}
	if err := files.write("layer", "0", untilDone{ctx, in}); err != nil {
		return img, fmt.Errorf("import: %w", err)
	}
	blob, size, err := files.hash("layer")
	if err != nil {
		return img, fmt.Errorf("import: %w", err)
	}
	diffID, err := files.hashPlain(ctx, "layer", s.options.Limits)
	if err != nil {
		return img, fmt.Errorf("import: %w", classify(err))
	}
	p, now := s.platform(Platform{}), time.Now().UTC()
	body, err := json.Marshal(v1.Image{
		Created: &now, Platform: p, Config: config,
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History: []v1.History{{Created: &now, CreatedBy: "strake import", Comment: comment}},
	})
	if err != nil {
		return img, err
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(body), Size: int64(len(body))},
		Layers: []v1.Descriptor{{MediaType: mediaTypeOf(blob, diffID), Digest: blob, Size: size}},
	}
	from := archiveSource{files: files, names: map[digest.Digest]string{blob: "layer"}, made: map[digest.Digest][]byte{m.Config.Digest: body}}
	if body, err = json.Marshal(m); err != nil {
		return img, err
	}
	top := v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	from.made[top.Digest] = body
	img, err = s.installFrom(ctx, from, "", top, func(digest.Digest) []string { return []string{ref.String()} })
	if err != nil {
		return img, fmt.Errorf("import %s: %w", ref, err)
	}
	return img, nil
}

// mediaTypeOf says gzip of whatever is compressed: who unpacks looks at the bytes.
func mediaTypeOf(blob, diffID digest.Digest) string {
	if blob == diffID {
		return v1.MediaTypeImageLayer
	}
	return v1.MediaTypeImageLayerGzip
}

// hashPlain is the digest of a file decompressed, which may not be more than a
// layer may.
func (f *spooled) hashPlain(ctx context.Context, name string, limits layer.Limits) (digest.Digest, error) {
	in, err := f.open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // only read from
	plain, stop, err := layer.Decompress(ctx, in)
	if err != nil {
		return "", err
	}
	defer stop()
	h := digest.SHA256.Digester()
	limit := limits.MaxTar()
	n, err := io.Copy(h.Hash(), io.LimitReader(plain, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%w: more than %d bytes", layer.ErrLimit, limit)
	}
	if err != nil && !errors.Is(err, layer.ErrLimit) {
		err = fmt.Errorf("%w: %w", layer.ErrInvalid, err)
	}
	return h.Digest(), err
}
