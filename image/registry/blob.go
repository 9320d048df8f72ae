package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// minStallBytes in Config.StallTimeout is the slowest transfer we bear.
	minStallBytes = 16 << 10
	// maxBreaks is how often in a row a transfer may break without at least
	// resumeProgress bytes in between.
	maxBreaks      = 5
	resumeProgress = 64 << 10
)

// Blob opens a blob as a stream of at most desc.Size bytes. It survives broken
// connections by asking for the rest, from the next mirror if need be. It does
// not verify the digest: the reader does, as it must hash the bytes anyway.
func (r *Repository) Blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: blob %q: %w", ErrInvalidManifest, desc.Digest, err)
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("%w: blob %s: size %d", ErrInvalidManifest, desc.Digest, desc.Size)
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &blob{ctx: ctx, cancel: cancel, repo: r, desc: desc}
	if err := b.open(); err != nil {
		cancel()
		return nil, err
	}
	return b, nil
}

// blob is a stream over as many connections as it takes.
type blob struct {
	ctx    context.Context
	cancel context.CancelFunc
	repo   *Repository
	desc   v1.Descriptor

	body      *stallWatch // of the connection at hand
	offset    int64       // bytes given to the reader
	breaks    int         // in a row
	lastBreak int64       // offset at the last one
}

// open connects, from the offset on.
func (b *blob) open() error {
	return b.repo.eachHost("blob "+b.desc.Digest.String(), canPull, func(h *host) error {
		resp, err := b.repo.openBlob(b.ctx, h, b.desc.Digest, b.offset) //nolint:bodyclose // Close of b.body closes it
		if err != nil {
			return err
		}
		b.body = b.repo.watch(resp)
		return nil
	})
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.offset += int64(n)
		if b.offset > b.desc.Size {
			return 0, fmt.Errorf("%w: blob %s is longer than the %d bytes of its descriptor", ErrDigestMismatch, b.desc.Digest, b.desc.Size)
		}
		if err == nil || n > 0 {
			return n, nil // an error comes again with the next call
		}
		if errors.Is(err, io.EOF) && b.offset == b.desc.Size {
			return 0, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := b.resume(err); err != nil {
			return 0, err
		}
	}
}

// resume opens a new connection after cause broke the last one.
func (b *blob) resume(cause error) error {
	_ = b.body.Close() // it has failed already
	if err := context.Cause(b.ctx); err != nil {
		return err
	}
	if b.offset-b.lastBreak >= resumeProgress {
		b.breaks = 0
	}
	b.breaks++
	b.lastBreak = b.offset
	broken := fmt.Errorf("%w: blob %s broke off at byte %d of %d: %w", ErrUnavailable, b.desc.Digest, b.offset, b.desc.Size, cause)
	if b.breaks > maxBreaks {
		return broken
	}
	if !wait(b.ctx, b.repo.client.retryDelay<<(b.breaks-1)) {
		return context.Cause(b.ctx)
	}
	if err := b.open(); err != nil {
		return errors.Join(broken, err)
	}
	return nil
}

// Close implements io.Closer.
func (b *blob) Close() error {
	b.cancel()
	return b.body.Close()
}

// stallWatch is a response body that ends when too little comes.
type stallWatch struct {
	resp    *http.Response
	timeout time.Duration
	timer   *time.Timer
	seen    atomic.Int64
	waited  atomic.Int64 // nanoseconds that reads took since the last check
	since   atomic.Int64 // Unix nanoseconds when the read under way began; 0: none is
	stalled atomic.Bool
}

func (r *Repository) watch(resp *http.Response) *stallWatch {
	w := &stallWatch{resp: resp, timeout: r.client.config.StallTimeout}
	w.timer = time.AfterFunc(w.timeout, w.check)
	return w
}

// check runs once per timeout, not per read: a transfer costs no timer calls. A
// reader that is busy elsewhere, with the disk or waiting for memory, is no stall of
// the registry's.
func (w *stallWatch) check() {
	waited := time.Duration(w.waited.Swap(0))
	if since := w.since.Load(); since != 0 {
		waited += min(time.Since(time.Unix(0, since)), w.timeout)
	}
	if w.seen.Swap(0) >= minStallBytes || waited < w.timeout/2 {
		w.timer.Reset(w.timeout)
		return
	}
	w.stalled.Store(true)
	w.resp.Body.Close() // makes a Read that waits return
}

func (w *stallWatch) Read(p []byte) (int, error) {
	began := time.Now()
	w.since.Store(began.UnixNano())
	n, err := w.resp.Body.Read(p)
	w.since.Store(0)
	w.waited.Add(int64(time.Since(began)))
	w.seen.Add(int64(n))
	if err != nil && w.stalled.Load() {
		err = fmt.Errorf("%w: less than %d bytes in %v", ErrUnavailable, minStallBytes, w.timeout)
	}
	return n, err
}

func (w *stallWatch) stop() { w.timer.Stop() }

func (w *stallWatch) Close() error {
	w.stop()
	return w.resp.Body.Close()
}
