package stdio

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// logPerm is what the kubelet and log collectors expect of a container's log.
const logPerm = 0o640

// errLogFull is the reason for what is lost beyond the size cap.
var errLogFull = errors.New("the log has reached its maximum size")

// errMonitorDied stands for a reason that died with the monitor that knew it.
var errMonitorDied = errors.New("its monitor, which was killed, could not write them")

// Log is a container's log file, to which both streams write whole lines.
//
// It never blocks the container for want of space: what cannot be written is
// counted, and said in the log as soon as a write succeeds again. After any
// write the file ends with a complete line. The counters are the flow's, so that
// they outlive a monitor that is killed.
type Log struct {
	path string
	max  int64 // 0: no cap
	flow flow

	mu       sync.Mutex
	file     *os.File
	torn     bool // the file ends with part of a line that could not be cut off
	lastErr  error
	capNoted bool
}

// openLog opens the log at path for appending. Max is its greatest size. It takes
// over the flow.
func openLog(path string, maxSize int64, f flow) (*Log, error) {
	l := &Log{path: path, max: maxSize, flow: f}
	if l.flow.counter(flowUnsaid) > 0 {
		l.lastErr = errMonitorDied
	}
	if err := l.reopen(); err != nil {
		return nil, err
	}
	return l, nil
}

// reopen opens the path again, after somebody has moved the file away. Every
// line is wholly in the old file or in the new. On error the old one stays.
func (l *Log) reopen() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, logPerm)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", l.path)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return fmt.Errorf("open log: %w", err)
	}
	l.mu.Lock()
	old := l.file
	l.file, l.torn, l.capNoted = f, false, false
	l.mu.Unlock()
	if old != nil {
		_ = old.Close() // its writes have been checked one by one
	}
	return nil
}

// write appends whole lines, which are take bytes of a stream, of which last is
// the last. They are begun in the stream's cell, whatever becomes of them.
func (l *Log) write(lines []byte, c cell, take int, last byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		c.begin(take, last, &syscall.Stat_t{}, 0)
		l.lose(lines, os.ErrClosed)
		return
	}
	if l.flow.counter(flowUnsaid) > 0 && l.sayLoss() != nil {
		c.begin(take, last, l.stat(), 0)
		l.lose(lines, l.lastErr)
		return
	}
	st := l.stat()
	fit := lines
	if l.max > 0 && st.Size+int64(len(lines)) > l.max {
		room := max(min(l.max-st.Size, int64(len(lines))), 0)
		fit = lines[:bytes.LastIndexByte(lines[:room], '\n')+1]
		if l.capNoted {
			fit = nil
		}
	}
	c.begin(take, last, st, len(fit))
	n, err := 0, error(nil)
	if len(fit) > 0 {
		n, err = l.append(fit)
	}
	switch {
	case err != nil:
		l.lose(lines[n:], err)
	case len(fit) < len(lines):
		l.dropped(lines[n:])
	}
}

// dropped counts lines beyond the cap and says, once, why there is no more.
func (l *Log) dropped(lines []byte) {
	if !l.capNoted {
		_, err := l.append(note("strake: the rest of this container's log is dropped: %v (%d bytes)", errLogFull, l.max))
		l.capNoted = err == nil
	}
	l.flow.setCounter(flowLost, l.flow.counter(flowLost)+uint64(len(lines)))
	l.lastErr = errLogFull
}

// stat is the file's. Its size may have been changed by others: by a rotation
// that copies and truncates.
func (l *Log) stat() *syscall.Stat_t {
	st, err := l.file.Stat()
	if err != nil {
		return &syscall.Stat_t{} // an open file has one
	}
	return st.Sys().(*syscall.Stat_t)
}

// sayLoss puts into the log what is missing at this point of it.
func (l *Log) sayLoss() error {
	_, err := l.append(note("strake: %d bytes of this container's log are lost here: %v", l.flow.counter(flowUnsaid), l.lastErr))
	if err != nil {
		l.lastErr = err
		return err
	}
	l.flow.setCounter(flowUnsaid, 0)
	return nil
}

func note(format string, args ...any) []byte {
	b := appendPrefix(nil, "stderr")
	b = append(b, "F "...)
	b = fmt.Appendf(b, format, args...)
	return append(b, '\n')
}

func (l *Log) lose(lines []byte, err error) {
	l.flow.setCounter(flowLost, l.flow.counter(flowLost)+uint64(len(lines)))
	l.flow.setCounter(flowUnsaid, l.flow.counter(flowUnsaid)+uint64(len(lines)))
	l.lastErr = err
}

// append writes p, which consists of whole lines, and returns how many bytes of
// whole lines are in the file. Part of a line, from a disk that has become full
// in the middle, is cut off again.
func (l *Log) append(p []byte) (int, error) {
	if l.torn {
		if _, err := l.file.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		l.torn = false
	}
	n, err := l.file.Write(p)
	if err == nil {
		return n, nil
	}
	if pathErr := (*os.PathError)(nil); errors.As(err, &pathErr) {
		err = pathErr.Err // the path is known, and its length varies
	}
	whole := bytes.LastIndexByte(p[:n], '\n') + 1
	if cut := int64(n - whole); cut > 0 {
		l.torn = l.cutOff(cut) != nil
	}
	return whole, err
}

// cutOff removes the last n bytes. The size comes from the file: a rotation by
// copy and truncate may have changed it.
func (l *Log) cutOff(n int64) error {
	st, err := l.file.Stat()
	if err != nil {
		return err
	}
	return l.file.Truncate(st.Size() - n)
}

// loss is how many bytes never reached the file, and the last reason.
func (l *Log) loss() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flow.counter(flowLost), l.lastErr
}

// close says what is still unsaid and closes the file; later lines are lost.
func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if l.flow.counter(flowUnsaid) > 0 {
		_ = l.sayLoss() // the last try; loss tells it too
	}
	_ = l.file.Close() // its writes have been checked one by one
	l.file = nil
	kept := flow{bytes.Clone(l.flow.page)} // loss is asked for later, too
	l.flow.close()
	l.flow = kept
}
