package stdio

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
)

// logPerm is what the kubelet and log collectors expect of a container's log.
const logPerm = 0o640

// errLogFull is the reason for what is lost beyond the size cap.
var errLogFull = errors.New("the log has reached its maximum size")

// Log is a container's log file, to which both streams write whole lines.
//
// It never blocks the container for want of space: what cannot be written is
// counted, and said in the log as soon as a write succeeds again. After any
// write the file ends with a complete line.
type Log struct {
	path string
	max  int64 // 0: no cap

	mu   sync.Mutex
	file *os.File
	size int64 // of the file, as far as we wrote it
	torn bool  // the file ends with part of a line that could not be cut off

	lost     uint64 // bytes in all
	unsaid   uint64 // of those, not yet said in the log
	lastErr  error
	capNoted bool
}

// openLog opens the log at path for appending. Max is its greatest size.
func openLog(path string, maxSize int64) (*Log, error) {
	l := &Log{path: path, max: maxSize}
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
	l.file, l.size, l.torn, l.capNoted = f, st.Size(), false, false
	l.mu.Unlock()
	if old != nil {
		_ = old.Close() // its writes have been checked one by one
	}
	return nil
}

// write appends whole lines.
func (l *Log) write(lines []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		l.lose(lines, os.ErrClosed)
		return
	}
	if l.unsaid > 0 && l.sayLoss() != nil {
		l.lose(lines, l.lastErr)
		return
	}
	if l.max > 0 && l.size+int64(len(lines)) > l.max {
		l.writeCapped(lines)
		return
	}
	if n, err := l.append(lines); err != nil {
		l.lose(lines[n:], err)
	}
}

// writeCapped writes the lines that still fit and, once, why there is no more.
func (l *Log) writeCapped(lines []byte) {
	if !l.capNoted {
		room := max(l.max-l.size, 0)
		fit := bytes.LastIndexByte(lines[:room], '\n') + 1
		n, err := l.append(lines[:fit])
		lines = lines[n:]
		if err == nil {
			_, err = l.append(note("strake: the rest of this container's log is dropped: %v (%d bytes)", errLogFull, l.max))
		}
		l.capNoted = err == nil
	}
	l.lost += uint64(len(lines))
	l.lastErr = errLogFull
}

// sayLoss puts into the log what is missing at this point of it.
func (l *Log) sayLoss() error {
	_, err := l.append(note("strake: %d bytes of this container's log are lost here: %v", l.unsaid, l.lastErr))
	if err != nil {
		l.lastErr = err
		return err
	}
	l.unsaid = 0
	return nil
}

func note(format string, args ...any) []byte {
	b := appendPrefix(nil, "stderr")
	b = append(b, "F "...)
	b = fmt.Appendf(b, format, args...)
	return append(b, '\n')
}

func (l *Log) lose(lines []byte, err error) {
	l.lost += uint64(len(lines))
	l.unsaid += uint64(len(lines))
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
		l.size++
		l.torn = false
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
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
	l.size -= n
	return l.file.Truncate(st.Size() - n)
}

// loss is how many bytes never reached the file, and the last reason.
func (l *Log) loss() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost, l.lastErr
}

// close says what is still unsaid and closes the file; later lines are lost.
func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if l.unsaid > 0 {
		_ = l.sayLoss() // the last try; loss tells it too
	}
	_ = l.file.Close() // its writes have been checked one by one
	l.file = nil
}
