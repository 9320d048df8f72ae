package stdio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// flowFile, in the bundle, is where a log's flow has its position.
const flowFile = "log.flow"

// flowSize is the size of the file: one page.
const flowSize = 4096

// flow is how far a container's output has got on its way from its FIFOs into its
// log, in memory that is a file's. It outlives a monitor that is killed between
// any two of its instructions, so that its replacement goes on with neither a
// lost nor a doubled byte.
//
// The order is: note what is to be written and where the log ends (cell.begin),
// write it, take it from the FIFO, note that (cell.end). A FIFO is peeked at, by
// tee(2), and what has not been written is never taken. The one difficulty is to
// know, afterwards, whether it was taken: the last byte of it is read into the
// cell, which held that byte's complement before.
type flow struct{ page []byte }

// openFlow opens or makes the flow of a container's log.
func openFlow(dir string) (flow, error) {
	f, err := os.OpenFile(filepath.Join(dir, flowFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return flow{}, fmt.Errorf("log flow: %w", err)
	}
	defer func() { _ = f.Close() }() // the mapping stays
	page, err := sys.MapShared(f, flowSize)
	if err != nil {
		return flow{}, fmt.Errorf("log flow: %s: %w", f.Name(), err)
	}
	return flow{page}, nil
}

func (f flow) close() {
	if f.page != nil {
		_ = sys.Unmap(f.page) // it is one
	}
}

// Where things are in the page: the log's counters, then a cell for each stream.
const (
	flowLost   = 0 // bytes that never reached the log
	flowUnsaid = 8 // of those, not yet said in it
	flowCells  = 64
	cellSize   = 64

	cellActive  = 0 // 1: begun and not ended; see also cutting
	cellWant    = 1 // the last byte to take
	cellGot     = 2 // its complement, until it is taken
	cellTake    = 8
	cellStart   = 16 // size of the log before; or what has been sent, see cell.sent
	cellEnd     = 24 // and after; the same if nothing is to be written
	cellInode   = 32
	cellDevice  = 40
	cellTaken   = 48 // in all, by now
	cellHighest = 56
)

func (f flow) counter(at int) uint64            { return binary.LittleEndian.Uint64(f.page[at:]) }
func (f flow) setCounter(at int, n uint64)      { binary.LittleEndian.PutUint64(f.page[at:], n) }
func (f flow) cell(stream int) cell             { return cell(f.page[flowCells+stream*cellSize:][:cellSize]) }
func (c cell) get(at int) uint64                { return binary.LittleEndian.Uint64(c[at:]) }
func (c cell) set(at int, n uint64)             { binary.LittleEndian.PutUint64(c[at:], n) }
func (c cell) active() bool                     { return c[cellActive] != 0 }
func (c cell) got() []byte                      { return c[cellGot : cellGot+1] }
func identity(st *syscall.Stat_t) (a, b uint64) { return st.Ino, st.Dev }

// cell is the flow of one stream.
type cell []byte

// begin notes that take bytes, of which last is the last, are to be taken once
// the log, which is st now, has grown by size.
//
// Begin and end are functions of their own for the compiler, too: it moves no
// store over a call, and the flag has to be the last one here and the first there.
//
//go:noinline
func (c cell) begin(take int, last byte, st *syscall.Stat_t, size int) {
	c[cellWant], c[cellGot] = last, ^last
	c.set(cellTake, uint64(take))
	c.set(cellStart, uint64(st.Size))
	c.set(cellEnd, uint64(st.Size)+uint64(size))
	inode, device := identity(st)
	c.set(cellInode, inode)
	c.set(cellDevice, device)
	c.set(cellHighest, c.get(cellTaken)+uint64(take))
	c.arm()
}

//go:noinline
func (c cell) arm() { c[cellActive] = 1 }

//go:noinline
func (c cell) disarm() { c[cellActive] = 0 }

// beginUnsized is begin for a log that is no file.
func (c cell) beginUnsized(take int, last byte) { c.begin(take, last, &syscall.Stat_t{}, 0) }

// sent notes that the first n bytes of what was begun, of which last is the last, are
// in the log, of one that is no file: it takes a record at a time, and nobody can ask
// it how many. It is one word, written at once.
func (c cell) sent(n int, last byte) { c.set(cellStart, uint64(n)|uint64(last)<<32) }

// end notes that they have been taken.
//
//go:noinline
func (c cell) end() {
	c.disarm()
	c.set(cellTaken, c.get(cellHighest))
}

// settled reports whether nothing that was begun is unknown, having finished what can
// be finished by the cell alone.
func (c cell) settled() bool {
	switch {
	case !c.active():
		if h := c.get(cellHighest); h > c.get(cellTaken) {
			c.set(cellTaken, h) // killed within end
		}
	case c[cellActive] == cutting || c[cellGot] != c[cellWant]:
		return false
	default:
		c.end()
	}
	return true
}

// undo forgets what was begun: the FIFO has it, and it will be read again.
func (c cell) undo() {
	c.disarm()
	c.set(cellHighest, c.get(cellTaken))
}

// recover finishes, or undoes, what a monitor that was killed had begun in the log
// at path. Fifo is the stream's.
func (c cell) recover(path string, fifo *os.File) error {
	if c.settled() {
		return nil
	}
	// Where nobody can tell, on a disk that is broken by now, it is written again.
	written, err := c.written(path)
	if err != nil || !written {
		c.undo()
		return nil //nolint:nilerr // it is twice in the log at worst, or lost, and then counted
	}
	if err := c.take(fifo); err != nil {
		return err
	}
	c.end()
	return nil
}

// cutting is the cell's activity while takeSent cuts what was begun down to what was
// sent, which whoever is killed meanwhile leaves to be done again.
const cutting = 2

// takeSent is recover for a log that is no file.
func (c cell) takeSent(fifo *os.File) error {
	word := c.get(cellStart)
	n, last := word&(1<<32-1), byte(word>>32)
	if n == 0 {
		c.undo()
		return nil
	}
	if c[cellActive] == cutting || n != c.get(cellTake) {
		c.cut(n, last)
	}
	if err := c.take(fifo); err != nil {
		return err
	}
	c.end()
	return nil
}

//go:noinline
func (c cell) cut(n uint64, last byte) {
	c[cellActive] = cutting
	c.become(n, last)
	c.arm()
}

//go:noinline
func (c cell) become(n uint64, last byte) {
	c[cellWant], c[cellGot] = last, ^last
	c.set(cellTake, n)
	c.set(cellHighest, c.get(cellTaken)+n)
}

// written reports whether the log has got what was begun; part of it is cut off.
func (c cell) written(path string) (bool, error) {
	file, err := c.find(path)
	if file == nil || err != nil {
		return err == nil, err // a log that has been removed had whatever it had
	}
	defer func() { _ = file.Close() }() // truncated at most
	st, err := file.Stat()
	if err != nil {
		return false, err
	}
	start, end := int64(c.get(cellStart)), int64(c.get(cellEnd))
	if st.Size() >= end && end > start {
		return true, nil
	}
	if st.Size() > start {
		return false, file.Truncate(start)
	}
	return false, nil
}

// find opens the log that was being written: the one at path, or one beside it
// that has been renamed since. Nil if there is none any more.
func (c cell) find(path string) (*os.File, error) {
	candidates := []string{path}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		candidates = append(candidates, filepath.Join(filepath.Dir(path), e.Name()))
	}
	for _, name := range candidates {
		var st syscall.Stat_t
		if syscall.Lstat(name, &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
			continue
		}
		if inode, device := identity(&st); inode == c.get(cellInode) && device == c.get(cellDevice) {
			file, err := os.OpenFile(name, os.O_WRONLY, 0)
			if errors.Is(err, syscall.EROFS) { // by now: it has what it had
				file, err = os.Open(name)
			}
			return file, err
		}
	}
	return nil, nil
}

// take reads away what was begun. It is all there, or the FIFO is another one:
// nobody has had it open meanwhile.
func (c cell) take(fifo *os.File) error {
	raw, err := fifo.SyscallConn()
	if err != nil {
		return err
	}
	n := int(min(c.get(cellTake), readSize))
	var readErr error
	err = raw.Control(func(fd uintptr) {
		var have int
		have, readErr = sys.Buffered(int(fd))
		switch {
		case readErr != nil || have < n:
		case n == 1:
			_, readErr = sys.ReadInto(int(fd), c.got())
		default: // into the cell, as a pump does: this may be killed, too
			_, readErr = sys.ReadInto(int(fd), make([]byte, n-1), c.got())
		}
	})
	return errors.Join(err, readErr)
}
