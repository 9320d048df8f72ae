package stdio

import (
	"os"
	"sync"
)

// input is the way into a process: a FIFO, a pipe or a terminal's master, which
// several sources may share. A write blocks its source until the process reads,
// nobody else.
//
// Lock order: writing, mu.
type input struct {
	terminal bool   // the file is the terminal's, which also carries the output
	once     bool   // closed when the first source of input goes
	shutFile string // made when the input is ended, for a later monitor; "" is none

	ended func() // told when the input is ended; may be nil

	writing sync.Mutex // so that what is written stays in one piece

	mu   sync.Mutex
	file *os.File // non-blocking; owned; nil before a terminal is there
	shut bool
}

// setFile gives the input its file.
func (in *input) setFile(f *os.File) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.file = f
	if in.shut {
		_ = f.Close() // nothing was written
	}
}

// write passes p on. Input that nobody can read any more is dropped.
func (in *input) write(p []byte) {
	in.writing.Lock()
	defer in.writing.Unlock()
	in.mu.Lock()
	f := in.file
	in.mu.Unlock()
	if f != nil {
		_, _ = f.Write(p) // it fails once the process or its stdin is gone
	}
}

// close ends the process's input. A terminal has no end of input but the one
// that is typed, so there it does nothing.
func (in *input) close() {
	if !in.terminal {
		if in.shutFile != "" {
			_ = os.WriteFile(in.shutFile, nil, 0o600) // a full /run; it only matters if we are killed
		}
		in.release()
		if in.ended != nil {
			in.ended()
		}
	}
}

// release closes the file, even under a write that blocks, which that ends.
func (in *input) release() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.shut && in.file != nil {
		_ = in.file.Close() // whoever wrote has been told
	}
	in.shut = true
}

// detached says that a source of input has gone.
func (in *input) detached() {
	if in.once {
		in.close()
	}
}
