package stdio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/internal/sys"
)

// journalPatience is how long a journal that takes nothing is waited for, once. After
// that what it does not take at once is lost, until it takes something again.
const journalPatience = time.Second

// Priorities of syslog(3): what Docker and conmon give to the two streams.
const (
	priorityOut = "PRIORITY=6\n" // informational
	priorityErr = "PRIORITY=3\n" // error
)

// journal sends each piece of output to journald as an entry of its own, in the native
// protocol (systemd's "Native Journal Protocol"): a datagram of fields; one that is
// too large for the socket goes in a sealed file of memory.
//
// journald says nothing back, so an entry that was being sent when the monitor was
// killed may be there twice; none is lost by that.
type journal struct {
	socket string
	fields []byte // that all entries have, encoded

	mu sync.Mutex
	losses
	conn  *net.UnixConn // nil: to be made
	stuck bool
}

// openJournal makes a log of a journal, which need not be there yet. It takes over the
// flow.
func openJournal(socket string, fields map[string]string, f flow) *journal {
	j := &journal{socket: socket, losses: losses{flow: f}}
	if j.unsaid() > 0 {
		j.lastErr = errMonitorDied
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		j.fields = appendField(j.fields, name, []byte(fields[name]))
	}
	return j
}

// appendField appends a field: NAME=value, or with its length in front if the value
// could be mistaken for more fields.
func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	if bytes.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

func (j *journal) batchSize() int { return batchSize }

func (j *journal) stamp(b []byte, stream string, _ time.Time) []byte {
	b = append(b, j.fields...)
	if stream == "stderr" {
		return append(b, priorityErr...)
	}
	return append(b, priorityOut...)
}

// entryHeader is before each entry of a batch: its length, how many bytes of output it
// is, and the last of those.
const entryHeader = 4 + 4 + 1

func (j *journal) record(b, stamp, piece []byte, whole bool) []byte {
	head := len(b)
	b = append(b, make([]byte, entryHeader)...)
	b = append(b, stamp...)
	if !whole {
		b = append(b, "CONTAINER_PARTIAL_MESSAGE=true\n"...)
	}
	b = appendField(b, "MESSAGE", piece)
	n, last := len(piece), byte('\n')
	if whole {
		n++
	} else {
		last = piece[n-1]
	}
	binary.LittleEndian.PutUint32(b[head:], uint32(len(b)-head-entryHeader))
	binary.LittleEndian.PutUint32(b[head+4:], uint32(n))
	b[head+8] = last
	return b
}

func (j *journal) textOnly() bool { return false }

func (j *journal) write(batch []byte, c cell, take int, last byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c.beginUnsized(take, last)
	for done := 0; len(batch) > 0; {
		size, n := int(binary.LittleEndian.Uint32(batch)), int(binary.LittleEndian.Uint32(batch[4:]))
		lastByte, entry := batch[8], batch[entryHeader:][:size]
		batch = batch[entryHeader+size:]
		err := j.sayLoss()
		if err == nil {
			err = j.send(entry)
		}
		if err != nil {
			j.lose(n, err)
		}
		done += n
		c.sent(done, lastByte)
	}
}

// sayLoss puts into the journal what is missing at this point of it.
func (j *journal) sayLoss() error {
	if j.unsaid() == 0 {
		return nil
	}
	if err := j.send(note(j, j.text())[entryHeader:]); err != nil {
		return err
	}
	j.said()
	return nil
}

// send sends one entry. A connection that has broken, because journald was started
// again, is made anew.
func (j *journal) send(entry []byte) error {
	for fresh := false; ; fresh = true {
		if j.conn == nil {
			conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: j.socket})
			if err != nil {
				return fmt.Errorf("journal: %w", plain(err))
			}
			j.conn = conn
		}
		err := j.try(entry)
		if err == nil {
			j.stuck = false
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EAGAIN) {
			j.stuck = true
			return fmt.Errorf("journal: it takes nothing")
		}
		_ = j.conn.Close() // a datagram is sent or not
		j.conn = nil
		if fresh {
			return fmt.Errorf("journal: %w", plain(err))
		}
	}
}

// try sends an entry by the connection that there is.
func (j *journal) try(entry []byte) error {
	var deadline time.Time // none is needed: nothing is waited for
	if !j.stuck {
		deadline = time.Now().Add(journalPatience)
	}
	if err := j.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	raw, err := j.conn.SyscallConn()
	if err != nil {
		return err
	}
	var rights []byte
	for {
		var sendErr error
		err = raw.Write(func(fd uintptr) bool {
			sendErr = sys.Send(int(fd), entry, rights)
			return j.stuck || !errors.Is(sendErr, syscall.EAGAIN)
		})
		if err = errors.Join(err, sendErr); rights != nil || !errors.Is(err, syscall.EMSGSIZE) {
			return err
		}
		f, err := sys.SealedMemFile("journal-entry", entry)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // journald has its own
		entry, rights = nil, syscall.UnixRights(sys.Fd(f))
	}
}

// plain is an error without what the path and the operation, which are known, make of it.
func plain(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func (j *journal) recover(c cell, fifo *os.File) error {
	if c.settled() {
		return nil
	}
	return c.takeSent(fifo)
}

func (j *journal) reopen() error {
	return fmt.Errorf("the container's log driver is %s: there is no file to open again", logdriver.Journald)
}

func (j *journal) loss() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flow.counter(flowLost), j.lastErr
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.sayLoss() // the last try; loss tells it too
	if j.conn != nil {
		_ = j.conn.Close() // each datagram was sent or not
		j.conn = nil
	}
	j.losses.close()
}
