package stdio

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// readSize is how much one read takes: a whole pipe of the default size.
const readSize = 64 << 10

// maxLate is the most that a pipe can hold when its writer ends (fs.pipe-max-size
// is 1 MiB unless changed, and nobody asks for more here). A descendant that goes
// on writing for ever does not keep a stopped reader busy beyond it.
const maxLate = 1 << 20

// buffers are shared by all readers and held only while there is data, so that a
// thousand idle streams hold none.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// reader reads a pipe, a FIFO or a terminal's master to its end, or until it is
// told that nothing more matters than what is there already.
type reader struct {
	file *os.File // non-blocking; owned
	raw  syscall.RawConn
	// awaitWriter: the first read finding no writer is not the end.
	awaitWriter bool
	stopping    atomic.Bool
	late        int           // bytes read since
	done        chan struct{} // closed when copyTo has returned
}

func newReader(f *os.File) (*reader, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &reader{file: f, raw: raw, done: make(chan struct{})}, nil
}

// copyTo passes everything to write, in the order in which it comes, and closes
// the file. A slice is valid until write returns.
func (r *reader) copyTo(write func([]byte)) {
	defer close(r.done)
	defer func() { _ = r.file.Close() }() // read from only
	for {
		buf, n, err := r.next()
		if n > 0 {
			write(buf[:n])
		}
		if buf != nil {
			buffers.Put(buf)
		}
		if err != nil {
			return
		}
	}
}

// next waits for data. It returns io.EOF at the end, and EIO at that of a
// terminal.
func (r *reader) next() (buf *[readSize]byte, n int, err error) {
	calls := 0
	var readErr error
	fill := func(fd uintptr) bool {
		calls++
		buf = buffers.Get().(*[readSize]byte)
		n, readErr = readFD(int(fd), buf[:])
		if errors.Is(readErr, syscall.EAGAIN) ||
			r.awaitWriter && calls == 1 && n == 0 && readErr == nil {
			buffers.Put(buf)
			buf = nil
			return false
		}
		return true
	}
	if err := r.raw.Read(fill); err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, 0, err
		}
		// stop's deadline: take what is there, without waiting. awaitWriter no
		// longer matters.
		if r.late >= maxLate {
			return nil, 0, io.EOF
		}
		var ready bool
		if err := r.raw.Control(func(fd uintptr) { calls = 1; ready = fill(fd) }); err != nil {
			return nil, 0, err
		}
		if !ready {
			return nil, 0, io.EOF
		}
		r.late += n
	}
	r.awaitWriter = false
	if readErr == nil && n == 0 {
		readErr = io.EOF
	}
	return buf, max(n, 0), readErr
}

// stop makes the reader end once it has read what is there now. It returns at
// once; done tells when.
func (r *reader) stop() {
	if !r.stopping.Swap(true) {
		// The file is pollable, so this cannot fail unless it is closed already.
		_ = r.file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (r *reader) drained(ctx context.Context) { awaitHangup(ctx, r.file) }

func (r *reader) ended() <-chan struct{} { return r.done }

func (r *reader) close() { _ = r.file.Close() } // read from only; closed already if it was copied

func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
