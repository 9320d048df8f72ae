// Package layer turns a layer's stream into a directory that overlayfs takes as
// a lower one, and keeps such directories.
//
// Unpack is one pass over the bytes, in a goroutine per stage, with nothing read
// twice:
//
//	fetch+hash → decompress → hash (diffID)
//	                        ↘ tar → files
//
// A layer is written by itself, with nothing mounted: deletions become overlay's
// whiteouts (character device 0/0) and opaque directories (trusted.overlay.opaque, or
// user.overlay.opaque). Walk shows such directories over each other as overlayfs does,
// and Flatten copies what it shows, for who cannot have an overlay.
// Directories that a tar implies but does not list have, in an image, the owner
// and mode of the layer below; Inherit gives them those afterwards.
//
// The stream is hostile until its digest is verified, which is at the end: until
// then it writes below a handle of its own directory, which no name and no link
// leads out of, and nothing is published. Store publishes by rename. With a recipe
// (recipe.go) beside the directory, Store.Tar makes the tar again, bit for bit.
//
// Sources: OCI image-spec layer.md; overlayfs.rst of the kernel.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/strake-containers/strake/internal/sys"
)

// Error classes of Unpack.
var (
	ErrDigestMismatch = errors.New("digest mismatch")
	ErrInvalid        = errors.New("invalid layer")
	ErrLimit          = errors.New("layer exceeds a limit")
)

// Limits bound what one layer may cost. A zero field has a default.
type Limits struct {
	Bytes   int64 // unpacked file content; default 128 GiB
	Entries int64 // tar entries; default 4,000,000
	Ratio   int64 // unpacked over compressed bytes, beyond the first GiB; default 200
	Holes   int64 // bytes of sparse files that are not in the tar, and cost its author nothing; default 1 GiB
}

// ratioFree is what any layer may unpack to, whatever the ratio: a small layer
// of zeros is no attack.
const ratioFree = 1 << 30

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 128 << 30
	}
	if l.Entries == 0 {
		l.Entries = 4_000_000
	}
	if l.Ratio == 0 {
		l.Ratio = 200
	}
	if l.Holes == 0 {
		l.Holes = 1 << 30
	}
	return l
}

// MaxTar bounds a layer's tar: the content and a header for each entry.
func (l Limits) MaxTar() int64 {
	l = l.withDefaults()
	return l.Bytes + 1024*l.Entries
}

// Source is a layer's blob.
type Source struct {
	// Open starts the stream; the context ends it. Unpack closes it.
	Open   func(ctx context.Context) (io.ReadCloser, error)
	Digest digest.Digest // of the blob
	DiffID digest.Digest // of the tar in it
	Size   int64         // of the blob, in bytes
	// File, if not "", says that the blob is no tar but a file of this name, alone in
	// the layer; DiffID then is only what the layer is called by.
	File string
	// Copy, if not nil, gets the blob's bytes as they come.
	Copy io.Writer
	// Recipe, if not nil, gets how the tar is made again (recipe.go).
	Recipe io.Writer
	// Progress, if not nil, is told the bytes of the blob that have come.
	Progress func(done int64)
	// Form is what the layer is written for; "" is Trusted.
	Form Form
}

// Result is what Unpack made.
type Result struct {
	Bytes  int64 // on disk: contents in whole 4096-byte blocks, 4096 per directory
	Inodes int64
	// Implied lists directories that the tar does not, parents first; their
	// owner, mode and times are made up until Inherit.
	Implied []string
	// OpaqueRoot says that the layer hides all below it. Overlayfs has no mark
	// for that on a root: the layers below are left out instead.
	OpaqueRoot bool
	Devices    int64 // left out: in a user namespace nobody makes one
	Tar        int64 // bytes of the tar
	Recipe     bool  // Source.Recipe got a whole one
}

// Unpack writes a layer into the empty directory dir. On an error the directory
// holds rubbish for the caller to remove.
func Unpack(ctx context.Context, dir string, src Source, limits Limits) (Result, error) {
	root, err := sys.OpenDir(dir)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = sys.CloseFd(root) }()
	limits = limits.withDefaults()
	// Packing adds next to nothing, and the padding of a tar less than its content and headers.
	if most := limits.MaxTar(); src.Size > 2*most+1<<20 {
		return Result{}, fmt.Errorf("layer %s: %w: %d bytes packed, and no more than %d may be in it", src.Digest, ErrLimit, src.Size, most)
	}

	g, ctx := errgroup.WithContext(ctx)
	blob, plain, toHash := newPipe(ctx), newPipe(ctx), newPipe(ctx)
	var result Result
	g.Go(func() error { return fetch(ctx, src, blob) })
	if src.File != "" {
		g.Go(func() error { return pack(blob, src.File, src.Size, plain) })
	} else {
		g.Go(func() error { return decompress(blob, limits, plain, toHash) })
		g.Go(func() error { return hashTar(toHash, src.DiffID) })
	}
	g.Go(func() (err error) {
		result, err = writeTar(root, plain, src.Recipe, limits, src.Form)
		return err
	})
	if err := g.Wait(); err != nil {
		return Result{}, fmt.Errorf("layer %s: %w", src.Digest, err)
	}
	return result, nil
}
