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

	"github.com/strake-containers/strake/internal/sys"
)

// pump moves what comes out of a FIFO into a log, and shows it to attached
// clients on the way. It takes nothing from the FIFO that is not in the log: an
// unfinished line stays there until its end comes, it is as long as a piece, or
// the stream ends. See flow for why.
type pump struct {
	file  *os.File // the FIFO, non-blocking; owned
	raw   syscall.RawConn
	lines *lineWriter
	show  func([]byte) // to attached clients
	shown int          // bytes at the FIFO's head that have been
	// full says that the FIFO takes no more. Nil: it holds more than a piece then.
	full func() bool

	stopping atomic.Bool
	late     int           // bytes taken since
	done     chan struct{} // closed when run has returned
}

func newPump(fifo *os.File, lines *lineWriter, show func([]byte)) (*pump, error) {
	raw, err := fifo.SyscallConn()
	if err != nil {
		return nil, err
	}
	if size, err := sys.PipeSize(fifo); err == nil {
		// Less than the FIFO holds even where each byte of a line has come in a
		// write of its own, which fill its pages by half at worst.
		lines.piece = min(maxLine, size/4)
	}
	return &pump{file: fifo, raw: raw, lines: lines, show: show, done: make(chan struct{})}, nil
}

// isFull returns what says that a FIFO that is written to takes no more. Of one
// that has been closed it says no.
func isFull(fifo *os.File) (func() bool, error) {
	raw, err := fifo.SyscallConn()
	if err != nil {
		return nil, err
	}
	return func() bool {
		full := false
		err := raw.Control(func(fd uintptr) { full = !sys.Room(int(fd)) })
		return err == nil && full
	}, nil
}

// run pumps until it is stopped, and closes the FIFO.
func (p *pump) run() {
	defer close(p.done)
	defer func() { _ = p.file.Close() }() // what it has is nobody's any more
	for {
		if err := p.next(); err != nil {
			return
		}
	}
}

// stop makes the pump end once it has taken what is there now.
func (p *pump) stop() {
	if !p.stopping.Swap(true) {
		_ = p.file.SetReadDeadline(time.Unix(1, 0)) // pollable: it fails only if closed
	}
}

func (p *pump) ended() <-chan struct{} { return p.done }

// drained waits, as long as ctx allows, until nobody has the other end open.
func (p *pump) drained(ctx context.Context) { awaitHangup(ctx, p.file) }

// awaitHangup waits until nobody has the other end of a FIFO open, or ctx ends.
func awaitHangup(ctx context.Context, fifo *os.File) {
	f, err := sys.DupPollable(fifo) // the file itself is being read
	if err != nil {
		return // it is at its end, and closed
	}
	_ = sys.WaitHangup(ctx, f) // what is there by then is taken
	_ = f.Close()              // a duplicate
}

func (p *pump) close() { _ = p.file.Close() } // likewise

// next waits for data and moves it. io.EOF is the end.
func (p *pump) next() error {
	var have int
	var err error
	look := func(fd uintptr) bool {
		have, err = sys.Buffered(int(fd))
		return have > p.shown || err != nil
	}
	waitErr := p.raw.Read(look)
	last := errors.Is(waitErr, os.ErrDeadlineExceeded)
	if last { // stop's: take what is there
		if p.late >= maxLate {
			return io.EOF
		}
		waitErr = p.raw.Control(func(fd uintptr) { look(fd) })
		if have == 0 {
			return io.EOF
		}
	}
	if err = errors.Join(err, waitErr); err != nil {
		return err
	}
	return p.move(have, last)
}

// move moves at most readSize of the bytes that the FIFO has. Last says that no
// more than these is waited for.
func (p *pump) move(have int, last bool) error {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	n, err := p.peek(buf[:])
	if err != nil || n == 0 {
		return err
	}
	if n > p.shown {
		p.show(buf[p.shown:n])
	}
	taken, err := p.lines.write(buf[:n], last && n >= have, p.take)
	if err == nil && taken == 0 && (n < min(have, readSize) || p.full != nil && p.full()) {
		// A terminal's output comes in pieces of a byte, each of which takes a place
		// of its own: no more of this line can come, or be seen, before it is taken.
		taken, err = p.lines.write(buf[:n], true, p.take)
	}
	p.shown = n - taken
	if last {
		p.late += taken
	}
	return err
}

// take takes what is in the log from the FIFO, the last byte into the cell.
func (p *pump) take(taken []byte, last []byte) error {
	var n int
	var err error
	ctlErr := p.raw.Control(func(fd uintptr) {
		if n = len(taken) - 1; n == 0 {
			n, err = sys.ReadInto(int(fd), last)
		} else {
			n, err = sys.ReadInto(int(fd), taken[:n], last) // the same bytes again
		}
	})
	if err == nil && ctlErr == nil && n != len(taken) {
		err = io.ErrUnexpectedEOF // somebody else reads the FIFO
	}
	return errors.Join(err, ctlErr)
}

// peekPipe takes what is peeked at for a moment; it is empty whenever mu is free.
var peekPipe struct {
	mu   sync.Mutex
	ends [2]int
}

// peek reads what is at the FIFO's head without taking it away. No data is no
// error.
func (p *pump) peek(buf []byte) (n int, err error) {
	peekPipe.mu.Lock()
	defer peekPipe.mu.Unlock()
	if peekPipe.ends[1] == 0 {
		if err := syscall.Pipe2(peekPipe.ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
			return 0, os.NewSyscallError("pipe2", err)
		}
		_ = sys.Widen(peekPipe.ends[1], logPipeSize) // as a FIFO; else less is seen at once
	}
	r, w := peekPipe.ends[0], peekPipe.ends[1]
	var got int
	ctlErr := p.raw.Control(func(fd uintptr) { got, err = sys.Tee(int(fd), w, len(buf)) })
	if ctlErr != nil || err != nil || got == 0 {
		if errors.Is(err, syscall.EAGAIN) {
			err = nil
		}
		return 0, errors.Join(err, ctlErr)
	}
	for n < got {
		more, err := readFD(r, buf[n:got])
		if err != nil || more == 0 {
			return 0, errors.Join(io.ErrUnexpectedEOF, err)
		}
		n += more
	}
	return n, nil
}

// mover moves what comes out of a terminal's master into a FIFO, which a pump
// empties: from there on a terminal's output is like any other.
type mover struct {
	from, to *os.File // non-blocking; owned
	stopping atomic.Bool
	done     chan struct{}
}

func newMover(from, to *os.File) *mover { return &mover{from: from, to: to, done: make(chan struct{})} }

// run moves until the terminal's end, or until it is stopped and all is moved.
func (m *mover) run() {
	defer close(m.done)
	defer m.close()
	from, err := m.from.SyscallConn()
	if err != nil {
		return
	}
	to, err := m.to.SyscallConn()
	if err != nil {
		return
	}
	for {
		full := false
		var n int
		move := func(fd uintptr) bool {
			ctlErr := to.Control(func(pipe uintptr) {
				n, err = sys.Move(int(fd), int(pipe), readSize)
				full = errors.Is(err, syscall.EAGAIN) && !sys.Room(int(pipe))
			})
			err = errors.Join(err, ctlErr)
			return full || !errors.Is(err, syscall.EAGAIN)
		}
		if waitErr := from.Read(move); waitErr != nil {
			if !errors.Is(waitErr, os.ErrDeadlineExceeded) || from.Control(func(fd uintptr) { move(fd) }) != nil {
				return
			}
		}
		if full {
			if to.Write(func(fd uintptr) bool { return sys.Room(int(fd)) }) != nil {
				return
			}
			continue
		}
		if err != nil || n == 0 { // EIO: nobody has the terminal any more
			return
		}
	}
}

// stop makes the mover end once it has moved what is there now.
func (m *mover) stop() {
	if !m.stopping.Swap(true) {
		_ = m.from.SetReadDeadline(time.Unix(1, 0)) // pollable: it fails only if closed
	}
}

func (m *mover) ended() <-chan struct{} { return m.done }

func (m *mover) drained(context.Context) {}

func (m *mover) close() {
	_ = m.from.Close() // read from only
	_ = m.to.Close()   // what was moved is in the FIFO
}
