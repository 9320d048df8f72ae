// Package logfile reads a container's log as CRI prescribes it: a file of lines
// "TIME STREAM TAG TEXT", where STREAM is stdout or stderr and TAG is F for a
// text that ended in a newline and P for one that did not; or as Docker has it,
// {"log":"TEXT\n","stream":STREAM,"time":TIME}, which each line tells by how it begins.
// What was written is given back byte for byte (but for what is not UTF-8 in Docker's);
// between the two streams, in the order in which the monitor took it.
//
// A log that the monitor rotates is read with its older files (logdriver.Older). It
// follows a growing file with inotify, over rotation by rename, and asks for
// nothing in between.
package logfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/internal/sys"
)

// All is the Tail that skips nothing.
const All = -1

// Options say what to copy.
type Options struct {
	// Done ends a follower: when it is closed the log is complete, and Copy
	// returns once it has copied all of it. Nil: copy what is there.
	Done       <-chan struct{}
	Tail       int       // the last so many lines; All
	Since      time.Time // lines from then on
	Timestamps bool      // put its time before each line
}

// maxLine bounds what is kept of a line without an end, which no monitor writes.
const maxLine = 1 << 20

// Copy writes the log at path to stdout and stderr. A nil writer drops its part.
func Copy(path string, o Options, stdout, stderr io.Writer) (err error) {
	r := &reader{path: path, o: o, out: output{stdout: stdout, stderr: stderr}}
	defer func() { err = errors.Join(err, r.close()) }()
	if o.Done == nil {
		if err := r.open(); err != nil {
			return err
		}
		if err := r.copyAll(); err != nil {
			return err
		}
		return r.end()
	}
	return r.follow()
}

type reader struct {
	path string
	o    Options
	file *os.File
	// newer are those that come after it, the log itself last: at first only.
	newer  []*os.File
	opened bool
	// pending is the last line of what was read, not yet ended.
	pending []byte
	out     output
}

// open opens the log, and the older files where they are, and goes to the first line
// that is wanted.
func (r *reader) open() error {
	if r.opened { // a file that comes by rotation is wanted whole
		f, err := os.Open(r.path)
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		r.file = f
		return nil
	}
	files, err := openAll(r.path)
	if err != nil {
		return err
	}
	newer := slices.Clone(files[:len(files)-1])
	slices.Reverse(newer)
	r.opened, r.file, r.newer = true, files[len(files)-1], newer
	if r.o.Tail == All {
		return nil
	}
	wanted := r.o.Tail
	for i, f := range files {
		at, found, err := tailOffset(f, wanted)
		if err != nil {
			return err
		}
		if wanted -= found; wanted <= 0 || i == len(files)-1 {
			_, err := f.Seek(at, io.SeekStart)
			return errors.Join(err, r.skipTo(f))
		}
	}
	return nil
}

// openAll opens the log and its older files, the newest first. One that is rotated
// meanwhile may be met twice, and is left out then.
func openAll(path string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close() // read from only
			}
		}
	}()
	var last os.FileInfo
	for i := 0; ; i++ {
		f, err := os.Open(logdriver.Older(path, i))
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("log: %w", err)
		}
		files = append(files, f)
		st, err := f.Stat()
		if err != nil {
			return files, fmt.Errorf("log: %w", err)
		}
		if last != nil && os.SameFile(st, last) {
			files = files[:len(files)-1]
			_ = f.Close() // it is there already
		}
		last = st
	}
}

// skipTo leaves out the files before one.
func (r *reader) skipTo(f *os.File) error {
	var err error
	for r.file != f {
		err = errors.Join(err, r.file.Close())
		r.file, r.newer = r.newer[0], r.newer[1:]
	}
	return err
}

func (r *reader) close() error {
	var err error
	if r.file != nil {
		err = r.file.Close()
	}
	for _, f := range r.newer {
		err = errors.Join(err, f.Close())
	}
	return err
}

// follow copies until Done, waiting for changes in the log's directory: that
// hears of writes to the file and of a new file in its place.
func (r *reader) follow() error {
	watch, err := sys.NewInotify()
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	stopped := make(chan struct{})
	defer func() {
		_ = watch.Close() // it only reads
		<-stopped
	}()
	go func() {
		defer close(stopped)
		for watch.Wait() == nil {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	// Watch first, read then: what comes in between is in both.
	if err := watch.Add(filepath.Dir(r.path), sys.InModify|sys.InCreate|sys.InMovedTo); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	for {
		done := false
		select {
		case <-r.o.Done:
			done = true // read once more after this, to the end
		default:
		}
		if err := r.catchUp(); err != nil {
			return err
		}
		if done {
			return r.end()
		}
		select {
		case <-changed:
		case <-r.o.Done:
		}
	}
}

// catchUp copies what is there, over any number of rotations.
func (r *reader) catchUp() error {
	for {
		if r.file == nil {
			if err := r.open(); errors.Is(err, fs.ErrNotExist) {
				return nil // not made yet, or just moved away
			} else if err != nil {
				return err
			}
		}
		// Asked before the copy: after a rotation the old file gets no more, so
		// that what follows is all of it.
		rotated, err := r.rotated()
		if err != nil {
			return err
		}
		if err := r.copyAll(); err != nil {
			return err
		}
		if !rotated {
			return nil
		}
		if err := r.follower(); err != nil {
			return err
		}
	}
}

// copyAll copies to the present end of the log, from file to file.
func (r *reader) copyAll() error {
	for {
		if err := r.copy(); err != nil || len(r.newer) == 0 {
			return err
		}
		err := r.file.Close()
		r.file, r.newer, r.pending = r.newer[0], r.newer[1:], nil
		if err != nil {
			return err
		}
	}
}

// follower opens the file that came after the one that is read: not the log, if that
// was rotated more than once meanwhile. None is left open if that is not there.
func (r *reader) follower() error {
	was, err := r.file.Stat()
	if err = errors.Join(err, r.file.Close()); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	r.file, r.pending = nil, nil
	for i := 1; ; i++ {
		is, err := os.Stat(logdriver.Older(r.path, i))
		if err != nil {
			return nil //nolint:nilerr // it has been moved elsewhere: the log is the next
		}
		if !os.SameFile(is, was) {
			continue
		}
		f, err := os.Open(logdriver.Older(r.path, i-1))
		if err != nil {
			return nil //nolint:nilerr // being rotated: it comes, and is heard of
		}
		// Still? Else the file that was opened is not the one after it.
		if is, err = os.Stat(logdriver.Older(r.path, i)); err == nil && os.SameFile(is, was) {
			r.file = f
			return nil
		}
		_ = f.Close() // read from only
		i = 0
	}
}

// rotated reports whether another file has taken the log's place.
func (r *reader) rotated() (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // moved away, and the old file is still written to
	}
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	opened, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	return !os.SameFile(now, opened), nil
}

// copy copies to the present end of the file and flushes.
func (r *reader) copy() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.file.Read(buf)
		data := buf[:n]
		if len(r.pending) > 0 {
			data = append(r.pending, data...)
			r.pending = nil
		}
		for {
			line, rest, whole := bytes.Cut(data, []byte{'\n'})
			if !whole {
				break
			}
			if err := r.line(line); err != nil {
				return err
			}
			data = rest
		}
		if len(data) > maxLine {
			return fmt.Errorf("log: %s: a line of more than %d bytes: not a container's log", r.path, maxLine)
		}
		r.pending = bytes.Clone(data)
		if errors.Is(err, io.EOF) {
			return r.out.flush()
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
}

// end writes what is left of a line that a crash cut short.
func (r *reader) end() error {
	if len(r.pending) > 0 {
		if l, err := parse(r.pending); err == nil {
			l.full = false
			if err := r.emit(l); err != nil {
				return err
			}
		}
	}
	return r.out.flush()
}

func (r *reader) line(raw []byte) error {
	l, err := parse(raw)
	if err != nil {
		return fmt.Errorf("log: %s: %w", r.path, err)
	}
	return r.emit(l)
}

func (r *reader) emit(l line) error {
	if !r.o.Since.IsZero() {
		at, err := time.Parse(time.RFC3339Nano, string(l.time))
		if err != nil {
			return fmt.Errorf("log: %s: %w", r.path, err)
		}
		if at.Before(r.o.Since) {
			return nil
		}
	}
	return r.out.write(l, r.o.Timestamps)
}

// line is one line of the file; its slices belong to the reader's buffer.
type line struct {
	time   []byte
	stderr bool
	full   bool // ended in a newline
	text   []byte
}

var errNotCRI = errors.New("neither in CRI's log format nor in Docker's")

// parse reads a line of either format.
func parse(raw []byte) (line, error) {
	if bytes.HasPrefix(raw, []byte{'{'}) {
		return parseJSON(raw)
	}
	var l line
	var ok bool
	if l.time, raw, ok = bytes.Cut(raw, []byte{' '}); !ok {
		return l, errNotCRI
	}
	stream, raw, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return l, errNotCRI
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		l.stderr = true
	default:
		return l, errNotCRI
	}
	tags, text, ok := bytes.Cut(raw, []byte{' '})
	if !ok {
		return l, errNotCRI
	}
	// More tags may follow the first, after colons.
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	switch string(tag) {
	case "F":
		l.full = true
	case "P":
	default:
		return l, errNotCRI
	}
	l.text = text
	return l, nil
}

func parseJSON(raw []byte) (l line, err error) {
	var r struct{ Log, Stream, Time string }
	if err := json.Unmarshal(raw, &r); err != nil {
		return l, fmt.Errorf("%w: %w", errNotCRI, err)
	}
	switch r.Stream {
	case "stdout":
	case "stderr":
		l.stderr = true
	default:
		return l, errNotCRI
	}
	l.time = []byte(r.Time)
	l.text, l.full = bytes.CutSuffix([]byte(r.Log), []byte{'\n'})
	return l, nil
}

// output collects what goes to one stream and writes it when the other's turn
// comes: few writes, and the order is kept.
type output struct {
	stdout, stderr io.Writer
	buf            []byte
	toStderr       bool    // whose buf is
	midline        [2]bool // the last text to stdout, stderr had no newline yet
}

// maxBuffer is when a stream's text is written even if no other interrupts it.
const maxBuffer = 64 << 10

func (o *output) write(l line, timestamps bool) error {
	if l.stderr != o.toStderr || len(o.buf) > maxBuffer {
		if err := o.flush(); err != nil {
			return err
		}
		o.toStderr = l.stderr
	}
	mid := &o.midline[0]
	if l.stderr {
		mid = &o.midline[1]
	}
	if timestamps && !*mid {
		o.buf = append(append(o.buf, l.time...), ' ')
	}
	o.buf = append(o.buf, l.text...)
	if l.full {
		o.buf = append(o.buf, '\n')
	}
	*mid = !l.full
	return nil
}

func (o *output) flush() error {
	to := o.stdout
	if o.toStderr {
		to = o.stderr
	}
	var err error
	if to != nil && len(o.buf) > 0 {
		_, err = to.Write(o.buf)
	}
	o.buf = o.buf[:0]
	return err
}

// tailOffset finds where the last n lines of a file begin, or as many as it has, and
// how many those are. It looks at the end of the file, twice as much of it each time.
func tailOffset(f *os.File, n int) (at int64, found int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	size := info.Size()
	for window := int64(64 << 10); ; window *= 2 {
		from := max(size-window, 0)
		data := make([]byte, size-from)
		if _, err := f.ReadAt(data, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		if at, found, ok := lastLines(data, n, from == 0); ok {
			return from + int64(at), found, nil
		}
	}
}

// lastLines finds in data where its last n lines begin, or as many as there are. Whole
// says that data is all there is; otherwise it begins anywhere, and may be too little.
//
// The texts of a line are counted as one, in either stream. The line itself begins with
// the first that follows whatever ends the line before it: if the other stream's came
// between its texts, without what came before that.
func lastLines(data []byte, n int, whole bool) (at, found int, ok bool) {
	end := len(data) // of the text before which we look
	at = end
	var later [2]bool // a text of stdout, stderr has been met: a P before it is its line's
	for end > 0 {
		begin := bytes.LastIndexByte(data[:end-1], '\n') + 1
		if begin == 0 && !whole {
			return 0, 0, false
		}
		l, err := parse(bytes.TrimSuffix(data[begin:end], []byte{'\n'}))
		stream := 0
		if l.stderr {
			stream = 1
		}
		if err != nil || l.full || !later[stream] {
			if found == n {
				return at, found, true
			}
			found++
		}
		later[stream] = later[stream] || err == nil
		at, end = begin, begin
	}
	return at, found, whole
}
