package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

const (
	// chunkSize is what one stage hands to the next: large enough that the
	// handing costs nothing, small enough that the data is still in the cache.
	chunkSize = 128 << 10
	// pipeDepth is how many chunks may wait between two stages.
	pipeDepth = 4
	// maxZstdWindow bounds the memory of a zstd stream: that of --long=27.
	maxZstdWindow = 128 << 20
	gzipBuffer    = 64 << 10
	// zstdBudget bounds what the windows of all streams at a time take: a window is
	// some MiB where gzip's is 32 KiB. A larger one has the budget to itself.
	zstdBudget = 16 << 20
)

// zstdMemory is zstdBudget in bytes of window. A stream takes its share once and
// nothing after, so that none waits for another that waits for it.
var zstdMemory = semaphore.NewWeighted(zstdBudget)

// zstdDecoders are those at rest, with the window that they have.
var zstdDecoders sync.Pool

// chunk is a buffer that up to two stages read; the last one frees it.
type chunk struct {
	data  []byte
	space [chunkSize]byte
	users atomic.Int32
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func newChunk(users int32) *chunk {
	c := chunks.Get().(*chunk)
	c.users.Store(users)
	return c
}

func (c *chunk) release() {
	if c.users.Add(-1) == 0 {
		c.data = nil
		chunks.Put(c)
	}
}

// pipe carries chunks from one stage to another. The sender closes it when all
// is sent; either end gives up when the context ends.
type pipe struct {
	ctx context.Context
	ch  chan *chunk
	cur *chunk // of the reader
	pos int
}

func newPipe(ctx context.Context) *pipe { return &pipe{ctx: ctx, ch: make(chan *chunk, pipeDepth)} }

func (p *pipe) send(c *chunk) error {
	select {
	case p.ch <- c:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// next gives the reader the chunk to read; it is io.EOF at the end.
func (p *pipe) next() error {
	if p.cur != nil {
		p.cur.release()
		p.cur = nil
	}
	select {
	case c, ok := <-p.ch:
		if !ok {
			return io.EOF
		}
		p.cur, p.pos = c, 0
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// Read implements io.Reader.
func (p *pipe) Read(b []byte) (int, error) {
	for p.cur == nil || p.pos == len(p.cur.data) {
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.cur.data[p.pos:])
	p.pos += n
	return n, nil
}

// fill reads into the chunk until it is full or r ends.
func (c *chunk) fill(r io.Reader) error {
	n, err := io.ReadFull(r, c.space[:])
	c.data = c.space[:n]
	if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
		// ReadFull's own word for a last, short chunk. A reader's own unexpected
		// end comes again with the next read.
		return nil
	}
	return err
}

// fetch is the first stage: the blob, hashed and measured.
func fetch(ctx context.Context, src Source, out *pipe) (err error) {
	if err := src.Digest.Validate(); err != nil {
		return fmt.Errorf("%w: digest %q: %w", ErrInvalid, src.Digest, err)
	}
	in, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	hash := src.Digest.Algorithm().Hash()
	for done := int64(0); ; {
		c := newChunk(1)
		n, err := in.Read(c.space[:])
		c.data = c.space[:n]
		if n > 0 {
			done += int64(n)
			hash.Write(c.data)
			if src.Copy != nil {
				if _, err := src.Copy.Write(c.data); err != nil {
					return err
				}
			}
			if src.Progress != nil {
				src.Progress(done)
			}
			if err := out.send(c); err != nil {
				return err
			}
		} else {
			c.release()
		}
		if errors.Is(err, io.EOF) {
			if done != src.Size {
				return fmt.Errorf("%w: %d bytes, its descriptor says %d", ErrDigestMismatch, done, src.Size)
			}
			break
		}
		if err != nil {
			return err
		}
	}
	if have := digest.NewDigest(src.Digest.Algorithm(), hash); have != src.Digest {
		return fmt.Errorf("%w: what came is %s", ErrDigestMismatch, have)
	}
	close(out.ch)
	return nil
}

// decompress is the second stage. What the bytes begin with decides, not the
// media type: registries are full of wrong ones.
func decompress(in *pipe, limits Limits, outs ...*pipe) error {
	// A bufio.Reader has a fast path in the inflater, and gives the head back.
	compressed := &countingReader{in: in}
	counter := bufio.NewReaderSize(compressed, gzipBuffer)
	plain, closePlain, err := plainReader(in.ctx, counter)
	if err != nil {
		return decompressError(in, err)
	}
	defer closePlain()
	for written := int64(0); ; {
		c := newChunk(int32(len(outs)))
		err := c.fill(plain)
		written += int64(len(c.data))
		if written > ratioFree && written > ratioFree+limits.Ratio*compressed.read {
			return fmt.Errorf("%w: %d bytes unpack to more than %d, a ratio above %d", ErrLimit, compressed.read, written, limits.Ratio)
		}
		if len(c.data) > 0 {
			for _, out := range outs {
				if err := out.send(c); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return decompressError(in, err)
		}
	}
	// What follows the compressed stream belongs to the blob's digest.
	if _, err := io.Copy(io.Discard, counter); err != nil {
		return err
	}
	for _, out := range outs {
		close(out.ch)
	}
	return nil
}

// pack is the second stage of a blob that is a file: it makes the tar of that file
// alone, of nobody's but root and for all to read.
func pack(in *pipe, name string, size int64, out *pipe) error {
	var head, tail bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("%w: file %q: %w", ErrInvalid, name, err)
	}
	const block = 512 // tar's, and two empty ones end it
	tail.Write(make([]byte, (block-size%block)%block+2*block))
	whole := io.MultiReader(&head, in, &tail)
	for {
		c := newChunk(1)
		err := c.fill(whole)
		if len(c.data) > 0 {
			if err := out.send(c); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	close(out.ch)
	return nil
}

// plainReader decompresses in. The context ends the wait for memory.
func plainReader(ctx context.Context, in *bufio.Reader) (plain io.Reader, closePlain func(), err error) {
	head, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: gzip: %w", ErrInvalid, err)
		}
		return z, func() {}, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18:
		// The second is a skippable frame, which zstd:chunked may begin with.
		share := zstdShare(head)
		if err := zstdMemory.Acquire(ctx, share); err != nil {
			return nil, nil, context.Cause(ctx)
		}
		z, _ := zstdDecoders.Get().(*zstd.Decoder)
		if z == nil {
			z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxZstdWindow))
		} else {
			err = z.Reset(in)
		}
		if err != nil {
			zstdMemory.Release(share)
			return nil, nil, fmt.Errorf("%w: zstd: %w", ErrInvalid, err)
		}
		return z, func() {
			if z.Reset(nil) == nil { // it lets go of in, and keeps its window for the next
				zstdDecoders.Put(z)
			}
			zstdMemory.Release(share)
		}, nil
	}
	return in, func() {}, nil
}

// zstdShare is what a stream takes of zstdBudget. Its first frame says: what
// writes layers gives all frames the same window.
func zstdShare(head []byte) int64 {
	var h zstd.Header
	if h.Decode(head) != nil || h.Skippable {
		return 8 << 20 // the window of klauspost's, and so buildkit's and containers', default
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	return int64(min(max(window, 1<<20), zstdBudget))
}

// Decompress reads a gzip, zstd or plain stream, as what it begins with says. Stop
// frees what it needs; the caller closes in.
func Decompress(ctx context.Context, in io.Reader) (plain io.Reader, stop func(), err error) {
	return plainReader(ctx, bufio.NewReaderSize(in, gzipBuffer))
}

// decompressError keeps the cause when another stage ended this one.
func decompressError(in *pipe, err error) error {
	if in.ctx.Err() != nil {
		return context.Cause(in.ctx)
	}
	return fmt.Errorf("%w: compressed data: %w", ErrInvalid, err)
}

// countingReader counts the compressed bytes.
type countingReader struct {
	in   *pipe
	read int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.in.Read(b)
	r.read += int64(n)
	return n, err
}

// hashTar is the stage that verifies the diffID.
func hashTar(in *pipe, want digest.Digest) error {
	if err := want.Validate(); err != nil {
		return fmt.Errorf("%w: diffID %q: %w", ErrInvalid, want, err)
	}
	hash := want.Algorithm().Hash()
	for {
		err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		hash.Write(in.cur.data)
	}
	if have := digest.NewDigest(want.Algorithm(), hash); have != want {
		return fmt.Errorf("%w: unpacked it is %s, the image's config says %s", ErrDigestMismatch, have, want)
	}
	return nil
}
