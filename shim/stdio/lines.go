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
// with P instead of F for a piece of a line that goes on.
type lineWriter struct {
	log    *Log
	cell   cell
	stream string // "stdout" or "stderr"
	piece  int    // the longest piece of a line; maxLine at most
}

// write writes the lines that p has, and pieces of one that is too long. It has
// each batch taken once it is written, and returns how much that was: what is left
// of p is the beginning of a line, which is to be a piece of its own if it is the
// last of the stream. All of p gets the same time stamp.
func (w *lineWriter) write(p []byte, last bool, take func(p, last []byte) error) (taken int, err error) {
	var head [64]byte
	prefix := appendPrefix(head[:0], w.stream)
	batch := batches.Get().(*[]byte)
	out := (*batch)[:0]
	defer func() { *batch = out[:0]; batches.Put(batch) }()

	at := 0 // what is formatted, of p
	flush := func() error {
		if at == taken {
			return nil
		}
		w.log.write(out, w.cell, at-taken, p[at-1])
		if err := take(p[taken:at], w.cell.got()); err != nil {
			return err
		}
		w.cell.end()
		taken, out = at, out[:0]
		return nil
	}
	emit := func(tag byte, piece []byte, n int) error {
		out = append(out, prefix...)
		out = append(out, tag, ' ')
		out = append(out, piece...)
		out = append(out, '\n')
		at += n
		if len(out) >= batchSize {
			return flush()
		}
		return nil
	}
	for at < len(p) {
		rest := p[at:]
		end := bytes.IndexByte(rest[:min(len(rest), w.piece+1)], '\n')
		switch {
		case end >= 0:
			err = emit('F', rest[:end], end+1)
		case len(rest) > w.piece:
			err = emit('P', rest[:w.piece], w.piece)
		case last: // a reader gives back exactly what was written
			err = emit('P', rest, len(rest))
		default:
			return taken, flush()
		}
		if err != nil {
			return taken, err
		}
	}
	return taken, flush()
}

func appendPrefix(b []byte, stream string) []byte {
	b = time.Now().UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, ' ')
	b = append(b, stream...)
	return append(b, ' ')
}
