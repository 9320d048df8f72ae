// Package image keeps container images: it pulls them from registries, unpacks
// their layers for overlayfs and hands out leases on the layer directories.
//
// On disk a Store is an OCI image layout (package layout) plus one directory per
// layer (package layer); docs/format/images.md describes every file. A pull is
// one pass: fetch, verify, decompress, verify, write; an atomic rename publishes
// each layer and one atomic write of the index the image, so that an image is
// whole or absent whatever dies when. Opening a store is its recovery. No verb waits for
// the device: what it has done holds whoever is killed, and a power cut soon after may
// undo it, whole (ADR 35).
//
// It names directories and mounts (package rootfs), which the pod's monitor mounts;
// itself it only shows images to people (Mount).
//
// Lock order: Store.mountMu, Store.indexMu, Store.mu, then those inside layout and layer.
// Neither indexMu nor mu is held over an fsync, nor mu over the network or the writing of
// a layer. A process holds the whole store by a lock on ROOT/lock.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/image/rootfs"
)

// Error classes; errors.Is tells them apart. The texts name the image.
var (
	ErrNotFound         = registry.ErrNotFound         // no such image here, or in the registry
	ErrInvalidReference = registry.ErrInvalidReference // the name cannot be an image's
	ErrUnauthorized     = registry.ErrUnauthorized     // credentials missing or refused
	ErrDigestMismatch   = registry.ErrDigestMismatch   // content is not what its digest says
	ErrUnsupported      = registry.ErrUnsupported      // schema 1, foreign layers, no such platform
	ErrBlocked          = registry.ErrBlocked          // registries.conf forbids the registry
	ErrUnavailable      = registry.ErrUnavailable      // the registry does not answer, or breaks off
	ErrInvalidImage     = errors.New("invalid image")  // its contents break the rules, or exceed a limit
	ErrAmbiguous        = errors.New("ambiguous image id")
	ErrLocked           = errors.New("in use by another process")
	ErrInUse            = errors.New("in use")
)

// Auth are a registry's credentials, as CRI's AuthConfig gives them.
type Auth = registry.Auth

// Platform selects a manifest from an index. Empty fields are the host's.
type Platform struct {
	OS, Architecture, Variant string
}

// Image is what a Store knows of an image. It is a copy: the caller may keep it.
type Image struct {
	ID          string         // digest of the config: "sha256:…"; of an artifact, of the manifest
	RepoTags    []string       // "docker.io/library/busybox:latest", sorted
	RepoDigests []string       // "docker.io/library/busybox@sha256:…", sorted
	Size        int64          // bytes of the unpacked layers and the metadata
	Pinned      bool           // garbage collection must leave it
	Config      v1.ImageConfig // user, environment, entry point, volumes …
	Created     time.Time      // zero if the image does not say
	Labels      map[string]string
	OS          string
	Arch        string
	DiffIDs     []string      // layers, lowest first
	LayerSizes  []int64       // of each of DiffIDs, in bytes, unpacked
	Manifest    digest.Digest // of the image manifest (not of an index above it)
	PulledAt    time.Time
	Artifact    bool // files, not a container's root: it can be mounted, and nothing run in it
}

// PullOptions of one Pull.
type PullOptions struct {
	Auth     *Auth    // nil: anonymous
	Platform Platform // zero: the store's
	// Namespace is the Kubernetes namespace that the image is for, whose signature
	// policy counts if it has one.
	Namespace string
	// Progress, if not nil, is called from several goroutines, one at a time and
	// often, and must not block; never after Pull has returned. A caller that
	// joins a pull in flight hears of it from then on.
	Progress func(Progress)
	// Patience is how long the pull goes on for a caller who has left and may come
	// back; 0: one who leaves last ends it.
	Patience time.Duration
}

// Phase is what is happening to a layer, or to the image when Layer is "".
type Phase string

// The phases of a pull, in order.
const (
	PhaseResolving Phase = "resolving" // of the image
	PhaseWaiting   Phase = "waiting"   // of a layer: for its turn
	PhasePulling   Phase = "pulling"   // of a layer: fetched and unpacked at once
	PhasePushing   Phase = "pushing"   // of a layer: sent
	PhaseExists    Phase = "exists"    // of a layer: was there already
	PhaseDone      Phase = "done"      // of a layer, or of the image
)

// Progress is one step of a pull. Done and Total count bytes as transferred.
type Progress struct {
	Ref         string // the normalised name
	Layer       digest.Digest
	Phase       Phase
	Done, Total int64
}

// Rootfs are the directories of an image for one container.
type Rootfs struct {
	ImageID string
	// Layers are overlayfs lower directories, topmost first; never empty. They
	// are read-only by agreement: several containers share them. With a driver that
	// is flat it is one, with the whole image.
	Layers []string

	form   layer.Form
	limits layer.Limits // of what is written into a root
}

// Change is one difference between a container's root and its image.
type Change = layer.Change

// Owner gives a container's view of an owner on the disk, of what it has written
// itself.
type Owner func(uid, gid uint32) (uint32, uint32)

// Export writes the tar of a container's root, which PrepareRoot made in dir, to out;
// the container may be running. A nil owner changes nothing.
func (r Rootfs) Export(ctx context.Context, dir string, owner Owner, out io.Writer) error {
	return r.tree(dir, owner).Export(ctx, out)
}

// Diff tells what a container has changed in its root, by name.
func (r Rootfs) Diff(ctx context.Context, dir string, owner Owner) ([]Change, error) {
	shared := len(r.Layers)
	if rootfs.Whole(dir) {
		shared = 0
	}
	return r.tree(dir, owner).Diff(ctx, layer.Tree{Dirs: r.Layers, Form: r.form}, shared)
}

// ExportChanges writes the tar of what a container has written into its root, and
// returns the paths of what it has deleted of its image, from "/".
// Nothing may write to the root meanwhile.
func (r Rootfs) ExportChanges(ctx context.Context, dir string, out io.Writer) (deleted []string, err error) {
	if rootfs.Whole(dir) {
		return nil, fmt.Errorf("%w: what a container has written is among its whole root with this driver", ErrUnsupported)
	}
	changes, err := r.Diff(ctx, dir, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		if c.Kind == 'D' {
			deleted = append(deleted, path.Join("/", c.Path))
		}
	}
	return deleted, layer.Tree{Dirs: []string{rootfs.Written(dir)}, Form: r.form}.Export(ctx, out)
}

func (r Rootfs) tree(dir string, owner Owner) layer.Tree {
	t := layer.Tree{Dirs: rootfs.Dirs(r.Layers, dir), Form: r.form}
	if owner != nil && !rootfs.Whole(dir) { // a whole root is idmapped like the image
		t.Owner = func(e layer.Entry) (uint32, uint32) {
			if e.Layer == 0 {
				return owner(e.Stat.UID, e.Stat.GID)
			}
			return e.Stat.UID, e.Stat.GID
		}
	}
	return t
}

// Lease says who holds which image's layers.
type Lease struct {
	Holder  string
	ImageID string
}
