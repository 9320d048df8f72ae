package stdio

import (
	"bytes"
	"sync"
	"time"
)

const (
	// maxLine is the longest piece of a line that goes into one log line.
	maxLine = 16 << 10
	// batchSize is when a batch of formatted lines is written out; one read
	// makes one batch unless its lines are very short.
	batchSize = 128 << 10
)

// batches are output buffers, shared like the readers'.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, batchSize+2*maxLine); return &b }}

// lineWriter turns one stream into lines of the CRI log format (the kubelet's
// design "CRI: Log Management"):
//
//	2016-10-06T00:17:09.669794202Z stdout F the line
//
// with P instead of F for a piece of a line that goes on. A line without its end
// is kept until the end comes, the piece is full, or the stream ends.
type lineWriter struct {
	log    *Log
	stream string // "stdout" or "stderr"
	rest   []byte // of an unfinished line, shorter than maxLine
}

// write takes what was read at once: all of it gets the same time stamp, and
// goes to the file in one write.
func (w *lineWriter) write(p []byte) {
	var head [64]byte
	prefix := appendPrefix(head[:0], w.stream)
	batch := batches.Get().(*[]byte)
	out := (*batch)[:0]
	emit := func(tag byte, piece []byte) {
		out = append(out, prefix...)
		out = append(out, tag, ' ')
		out = append(out, w.rest...)
		out = append(out, piece...)
		out = append(out, '\n')
		w.rest = w.rest[:0]
		if len(out) >= batchSize {
			w.log.write(out)
			out = out[:0]
		}
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		for len(w.rest)+len(line) > maxLine {
			n := maxLine - len(w.rest)
			emit('P', line[:n])
			line = line[n:]
		}
		if end < 0 {
			w.rest = append(w.rest, line...)
			break
		}
		emit('F', line)
		p = p[end+1:]
	}
	if len(out) > 0 {
		w.log.write(out)
	}
	*batch = out[:0]
	batches.Put(batch)
	if len(w.rest) == 0 {
		w.rest = nil // an idle stream keeps no buffer
	}
}

// end writes a last line that has no end of its own, as a piece: a reader then
// gives back exactly what was written.
func (w *lineWriter) end() {
	if len(w.rest) == 0 {
		return
	}
	out := append(appendPrefix(nil, w.stream), "P "...)
	w.log.write(append(append(out, w.rest...), '\n'))
	w.rest = nil
}

func appendPrefix(b []byte, stream string) []byte {
	b = time.Now().UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, stream...)
	return append(b, ' ')
}
