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

// fileLog is a container's log file.
//
// After any write the file ends with a complete record. Either it has a greatest size,
// beyond which nothing is kept (max), or another file takes its place at some size
// (rotate.go). The counters are the flow's, so that they outlive a monitor that is
// killed.
type fileLog struct {
	format
	path     string
	max      int64 // 0: no cap
	fileSize int64 // 0: only one file
	files    int   // at most, path included

	mu sync.Mutex
	losses
	file     *os.File // nil: it could not be opened when the log was taken over, and is tried again
	closed   bool
	torn     bool // the file ends with part of a line that could not be cut off
	capNoted bool
}

// openFileLog opens the log at its path for appending. It takes over the flow, unless
// it fails. One that is taken over, of a container that runs, is there without its file
// too: that may be on a disk that is broken by now.
func openFileLog(l *fileLog, f flow, adopt bool) (driver, error) {
	l.flow = f
	if l.unsaid() > 0 {
		l.lastErr = errMonitorDied
	}
	if err := l.reopen(); err != nil && !adopt {
		return nil, err
	}
	return l, nil
}

func (l *fileLog) batchSize() int {
	if l.fileSize > 0 {
		return int(min(l.fileSize-maxRecord, batchSize)) // a batch goes into one file
	}
	return batchSize
}

// reopen opens the path again, after somebody has moved the file away. Every
// line is wholly in the old file or in the new, and the old one has all it will have
// before the new one is there: who follows a log (the kubelet) leaves the old one then.
// On error the old one stays.
func (l *fileLog) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open()
}

// open is reopen, with mu held.
func (l *fileLog) open() error {
	// Without O_NONBLOCK a FIFO would hold up the container's output.
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, logPerm)
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
	l.replace(f)
	return nil
}

// replace makes f the file that is written to.
func (l *fileLog) replace(f *os.File) {
	if l.file != nil {
		_ = l.file.Close() // its writes have been checked one by one
	}
	l.file, l.torn, l.capNoted = f, false, false
}

// write appends whole records.
func (l *fileLog) write(lines []byte, c cell, take int, last byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	switch {
	case l.closed:
		err = os.ErrClosed
	case l.file == nil:
		err = l.open()
	}
	if err != nil {
		c.beginUnsized(take, last)
		l.lose(len(lines), err)
		return
	}
	err = l.makeRoom(len(lines))
	if err == nil && l.unsaid() > 0 {
		err = l.sayLoss()
	}
	st := l.stat()
	if err != nil {
		c.begin(take, last, st, 0)
		l.lose(len(lines), err)
		return
	}
	fit := lines
	if l.max > 0 && st.Size+int64(len(lines)) > l.max {
		room := max(min(l.max-st.Size, int64(len(lines))), 0)
		fit = lines[:bytes.LastIndexByte(lines[:room], '\n')+1]
		if l.capNoted {
			fit = nil
		}
	}
	c.begin(take, last, st, len(fit))
	n := 0
	if len(fit) > 0 {
		n, err = l.append(fit)
	}
	switch {
	case err != nil:
		l.lose(len(lines)-n, err)
	case len(fit) < len(lines):
		l.dropped(len(lines) - n)
	}
}

func (l *fileLog) recover(c cell, fifo *os.File) error { return c.recover(l.path, fifo) }

// dropped counts bytes beyond the cap and says, once, why there is no more.
func (l *fileLog) dropped(n int) {
	if !l.capNoted {
		_, err := l.append(note(l, fmt.Sprintf("strake: the rest of this container's log is dropped: %v (%d bytes)", errLogFull, l.max)))
		l.capNoted = err == nil
	}
	l.flow.setCounter(flowLost, l.flow.counter(flowLost)+uint64(n))
	l.lastErr = errLogFull
}

// stat is the file's. Its size may have been changed by others: by a rotation
// that copies and truncates.
func (l *fileLog) stat() *syscall.Stat_t {
	st, err := l.file.Stat()
	if err != nil {
		return &syscall.Stat_t{} // an open file has one
	}
	return st.Sys().(*syscall.Stat_t)
}

// sayLoss puts into the log what is missing at this point of it.
func (l *fileLog) sayLoss() error {
	_, err := l.append(note(l, l.text()))
	if err != nil {
		l.lastErr = err
		return err
	}
	l.said()
	return nil
}

// append writes p, which consists of whole lines, and returns how many bytes of
// whole lines are in the file. Part of a line, from a disk that has become full
// in the middle, is cut off again.
func (l *fileLog) append(p []byte) (int, error) {
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
func (l *fileLog) cutOff(n int64) error {
	st, err := l.file.Stat()
	if err != nil {
		return err
	}
	return l.file.Truncate(st.Size() - n)
}

// loss is how many bytes never reached the file, and the last reason.
func (l *fileLog) loss() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flow.counter(flowLost), l.lastErr
}

// close says what is still unsaid and closes the file; later lines are lost.
func (l *fileLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	if l.file != nil {
		if l.unsaid() > 0 {
			_ = l.sayLoss() // the last try; loss tells it too
		}
		_ = l.file.Close() // its writes have been checked one by one
		l.file = nil
	}
	l.losses.close()
}

// close ends the mapping. What was lost is asked for later, too.
func (l *losses) close() {
	kept := flow{bytes.Clone(l.flow.page)}
	l.flow.close()
	l.flow = kept
}
