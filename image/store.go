package image

import (
	"context"
	"errors"
	"log/slog"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
)

// Options of a Store. The zero value is sound.
type Options struct {
	Registry registry.Config
	// Platform is what is pulled unless a pull says otherwise; zero: the host's.
	Platform Platform
	// KeepLayerBlobs keeps the compressed layers after unpacking, for push and
	// export and to unpack again after a power cut. Default: they are not even
	// written.
	KeepLayerBlobs bool
	// Parallel bounds the layers that are fetched at once, over all pulls;
	// 0 is 6.
	Parallel int
	// Limits bound what one layer may unpack to; zero fields have defaults.
	Limits layer.Limits
	// Pinned are the names of images that garbage collection must leave.
	Pinned []string
	Logger *slog.Logger // nil: slog.Default()
}

// Store is a directory of images. It is safe for concurrent use; one process
// has it open at a time.
type Store struct {
}

var errSoon = errors.New("image: being written")

func Open(root string, o Options) (*Store, error) { return nil, errSoon }

// Close waits for background work and gives the directory free.
func (s *Store) Close() error { return errSoon }

// Pull fetches an image. Callers of one name share one fetch; a caller whose
// context ends leaves it, and the last one to leave ends it.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	return Image{}, errSoon
}

// Get finds an image by id ("sha256:…", the hex digits or a unique prefix of at
// least four), by name, or by name and digest.
func (s *Store) Get(ref string) (Image, error) { return Image{}, errSoon }

// List returns all images, newest pull first.
func (s *Store) List() []Image { return nil }

// Remove takes a name from an image, and the image away with its last name; an
// id takes all its names. An image that is not there is ErrNotFound. Layers
// that a container holds stay until the last Release.
func (s *Store) Remove(ctx context.Context, ref string) error { return errSoon }

// Rootfs leases an image's layers to holder, until Release. A second lease of
// the same holder is the same lease if the image is the same.
func (s *Store) Rootfs(imageID, holder string) (Rootfs, error) { return Rootfs{}, errSoon }

// Release ends the lease of holder. Without one it does nothing.
func (s *Store) Release(holder string) error { return errSoon }

// Holders lists all leases.
func (s *Store) Holders() []Lease { return nil }

// Usage counts the bytes and inodes of layers and metadata. It walks nothing.
func (s *Store) Usage() (bytes, inodes uint64, err error) { return 0, 0, errSoon }

// Root is the directory of the store.
func (s *Store) Root() string { return "" }

// RawConfig returns the config blob of an image as it was pulled.
func (s *Store) RawConfig(ref string) ([]byte, error) { return nil, errSoon }

// LoadLayout adds the images of an OCI layout directory and returns them. Names
// come from the index's org.opencontainers.image.ref.name annotations; an entry
// without one gets name, if that is not "".
func (s *Store) LoadLayout(ctx context.Context, dir, name string) ([]Image, error) {
	return nil, errSoon
}
