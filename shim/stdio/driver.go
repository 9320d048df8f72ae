package stdio

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
)

// driver keeps what a container writes: a log of some kind, which both streams write
// whole records to. None ever blocks a container for want of a place to write to:
// what cannot be kept is counted, and said in the log as soon as a write succeeds
// again. Its methods may be called concurrently, format's too.
type driver interface {
	format
	// batchSize is when a batch of records should be written.
	batchSize() int
	// write keeps a batch, made of take bytes of a stream, of which last is the last.
	// They are begun in the stream's cell, whatever becomes of them.
	write(batch []byte, c cell, take int, last byte)
	// recover finishes, or undoes, what a monitor that was killed had begun, and
	// takes what is kept from the stream's FIFO.
	recover(c cell, fifo *os.File) error
	// reopen is for a file that has been moved away.
	reopen() error
	// loss is how many bytes were not kept, and the last reason.
	loss() (uint64, error)
	close()
}

// isLog reports whether the monitor is to write the log itself.
func isLog(uri string) bool {
	scheme, _, ok := strings.Cut(uri, ":")
	if !ok {
		return false
	}
	switch scheme {
	case "cri", logdriver.K8sFile, logdriver.JSONFile, logdriver.Journald, logdriver.None:
		return true
	}
	return false
}

// openDriver opens the log that a URI names (see Config), to go on with it if adopt says so.
// It takes over the flow, unless it fails.
func openDriver(uri string, maxBytes int64, f flow, adopt bool) (driver, error) {
	if path, ok := strings.CutPrefix(uri, "cri://"); ok {
		return openFileLog(&fileLog{format: criFormat{}, path: path, max: maxBytes}, f, adopt)
	}
	scheme, _, _ := strings.Cut(uri, ":")
	switch scheme {
	case logdriver.None:
		return nowhere{f}, nil
	case logdriver.Journald:
		socket, fields, err := logdriver.ParseJournalURI(uri)
		if err != nil {
			return nil, err
		}
		return openJournal(socket, fields, f), nil
	}
	c, path, err := logdriver.ParseFileURI(uri)
	if err != nil {
		return nil, err
	}
	var look format = criFormat{}
	if c.Driver == logdriver.JSONFile {
		look = jsonFormat{}
	}
	return openFileLog(&fileLog{format: look, path: path, fileSize: c.MaxSize, files: c.MaxFiles}, f, adopt)
}

// losses count what was not kept, in the flow, which outlives a monitor that is
// killed. They are guarded by their driver's lock.
type losses struct {
	flow    flow
	lastErr error
}

func (l *losses) lose(n int, err error) {
	l.flow.setCounter(flowLost, l.flow.counter(flowLost)+uint64(n))
	l.flow.setCounter(flowUnsaid, l.flow.counter(flowUnsaid)+uint64(n))
	l.lastErr = err
}

// unsaid is how many bytes the log does not yet say that it has lost.
func (l *losses) unsaid() uint64 { return l.flow.counter(flowUnsaid) }

func (l *losses) said() { l.flow.setCounter(flowUnsaid, 0) }

// text is what is said.
func (l *losses) text() string {
	return fmt.Sprintf("strake: %d bytes of this container's log are lost here: %v", l.unsaid(), l.lastErr)
}

// note is a record of our own.
func note(f format, text string) []byte {
	return f.record(nil, f.stamp(nil, "stderr", time.Now()), []byte(text), true)
}

// nowhere is the driver of a container without a log. Attached clients see its output.
type nowhere struct{ flow flow }

func (nowhere) stamp(b []byte, _ string, _ time.Time) []byte { return b }
func (nowhere) record(b, _, _ []byte, _ bool) []byte         { return b }
func (nowhere) textOnly() bool                               { return false }
func (nowhere) batchSize() int                               { return batchSize }
func (nowhere) loss() (uint64, error)                        { return 0, nil }
func (n nowhere) close()                                     { n.flow.close() }

func (nowhere) write(_ []byte, c cell, take int, last byte) { c.beginUnsized(take, last) }

func (nowhere) recover(c cell, _ *os.File) error {
	if !c.settled() {
		c.undo() // it is taken again
	}
	return nil
}

func (nowhere) reopen() error {
	return fmt.Errorf("the container's log driver is %s: there is no file to open again", logdriver.None)
}
