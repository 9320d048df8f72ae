package stdio

import (
	"bytes"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// maxLine is the longest piece of a line that goes into one record of a log.
	maxLine = 16 << 10
	// batchSize is when a batch of records is written out; one read makes one batch
	// unless its lines are very short.
	batchSize = 128 << 10
	// maxRecord bounds a record: a piece of a line, of which each byte may be escaped
	// by six, and what is around it.
	maxRecord = 6*maxLine + 512
)

// batches are output buffers, shared like the readers'.
var batches = sync.Pool{New: func() any { b := make([]byte, 0, batchSize+2*maxLine); return &b }}

// lineWriter turns one stream into the records of a log.
type lineWriter struct {
	log    driver
	cell   cell
	stream string // "stdout" or "stderr"
	piece  int    // the longest piece of a line; maxLine at most
	batch  int    // when a batch is written out
}

func newLineWriter(log driver, c cell, stream string) *lineWriter {
	return &lineWriter{log: log, cell: c, stream: stream, piece: maxLine, batch: log.batchSize()}
}

// write writes the lines that p has, and pieces of one that is too long. It has
// each batch taken once it is written, and returns how much that was: what is left
// of p is the beginning of a line, which is to be a piece of its own if it is the
// last of the stream. All of p gets the same time stamp.
func (w *lineWriter) write(p []byte, last bool, take func(p, last []byte) error) (taken int, err error) {
	var head [96]byte
	stamp := w.log.stamp(head[:0], w.stream, time.Now())
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
	emit := func(piece []byte, whole bool) error {
		out = w.log.record(out, stamp, piece, whole)
		if at += len(piece); whole {
			at++
		}
		if len(out) >= w.batch {
			return flush()
		}
		return nil
	}
	for at < len(p) {
		rest := p[at:]
		end := bytes.IndexByte(rest[:min(len(rest), w.piece+1)], '\n')
		switch {
		case end >= 0:
			err = emit(rest[:end], true)
		case len(rest) > w.piece:
			err = emit(rest[:cutAt(rest, w.piece, w.log.textOnly())], false)
		case last: // a reader gives back exactly what was written
			err = emit(rest, false)
		default:
			return taken, flush()
		}
		if err != nil {
			return taken, err
		}
	}
	return taken, flush()
}

// cutAt is where a line is cut that is longer than n: in a log that can only have text,
// not within a character.
func cutAt(line []byte, n int, text bool) int {
	if !text || utf8.RuneStart(line[n]) {
		return n
	}
	for i := n - 1; i > 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(line[i]) {
			return i
		}
	}
	return n // it is no text
}
