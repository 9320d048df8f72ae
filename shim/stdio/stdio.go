// Package stdio carries what a container's processes read and write.
//
// Each stream goes where a URI says (see Config). Where it can, the package only
// opens the other end and hands it to the process: a FIFO, a file or a log
// binary's pipe costs the monitor nothing afterwards. It copies in three cases:
// a log, which the monitor writes itself and whose streams attached clients
// share; a terminal; and input, which somebody must be able to end.
//
// A process never gets EPIPE or EOF from a reader's death: FIFOs for output are
// opened for reading too on its behalf. It never waits for an attached client or
// a full disk; it does wait for whoever reads its FIFO, as in any pipeline.
//
// The order of a process's life: Open; the process is started with Files; Started
// (or Close, if it could not be); Finish, when it has ended; Close. Copying runs
// in goroutines parked in the network poller; nothing polls. An IO's methods may
// be called concurrently, except that order.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
)

// logPipeSize is asked for where the monitor writes the log: the container can
// be that far ahead of it.
const logPipeSize = 256 << 10

// Config says where a process's streams go.
//
//	""                none
//	/path             a FIFO that the caller made and reads or writes
//	file:///path      a file, appended to
//	binary:///path?k=v  a log binary, as containerd starts it
//	cri:///path       a CRI log that the monitor writes (stdout and stderr alike)
//	json-file: k8s-file: journald: none:
//	                  logs of a log driver, likewise; see internal/logdriver
//	attach:           stdin only: fed by attached clients
type Config struct {
	ContainerID, Namespace string
	Dir                    string // the bundle: own FIFOs and the attach socket are made here
	Terminal               bool
	Stdin, Stdout, Stderr  string
	StdinOnce              bool  // the first attached client that ends takes stdin along
	LogMaxBytes            int64 // of a CRI log; 0: no cap
	// UID and GID, on the host, are to own the streams, so that the process can
	// open /dev/stdout.
	UID, GID int
	// StartChild starts a log binary; see reap.Reaper.Start.
	StartChild func(*exec.Cmd) (collected func(), err error)
	// Adopt takes over the streams of a process that runs, whose monitor has been
	// killed: those that have a name. Files are nil then.
	Adopt bool
	// Named has somebody else, a foreign shim, open the process's ends by the names
	// that Names returns; Files are nil. Resize and InputEnded tell him.
	Named      bool
	Resize     func(width, height uint16) error
	InputEnded func()
}

// IO is the streams of one process.
type IO struct {
	files  [3]*os.File // the process's ends, closed here by Started
	log    driver
	hub    *hub
	input  *input
	binary *logBinary

	output func(p []byte) // where a terminal's output goes
	moveTo *os.File       // or the FIFO that it is moved into
	endLog func()

	outs     []stream // what the process writes; each is stopped before the next
	source   *reader  // what goes to input, if that is a FIFO
	begin    []func() // starts copying
	console  *os.File
	consoleM sync.Mutex
	names    [3]string // of the process's ends, if they are named
	remove   []string  // FIFOs that Close removes
	callers  []string  // FIFOs that the caller reads
	resize   func(width, height uint16) error
	finish   sync.Once
}

// stream is something that copies until it is stopped.
type stream interface {
	stop()                  // when all that is there is copied
	ended() <-chan struct{} // closed when it has
	close()                 // of one that never began
	drained(ctx context.Context)
}

// Open opens everything that cfg names. It waits, as long as ctx allows, for
// whoever reads a FIFO.
func Open(ctx context.Context, cfg Config) (_ *IO, err error) {
	io := &IO{resize: cfg.Resize}
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("close streams", io.Close)

	if cfg.Named {
		io.names = [3]string{cfg.Stdin, cfg.Stdout, cfg.Stderr}
	}
	if err := io.openInput(cfg); err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	if isLog(cfg.Stdout) {
		if cfg.Stderr != cfg.Stdout && !(cfg.Stderr == "" && cfg.Terminal) {
			return nil, fmt.Errorf("stderr %q: it must be the same log as stdout, %q", cfg.Stderr, cfg.Stdout)
		}
		if err := io.openLog(cfg); err != nil {
			return nil, err
		}
	} else if cfg.Named {
		undo.Release() // they are between the shim and the caller
		return io, nil
	} else if err := io.openOutputs(ctx, cfg); err != nil {
		return nil, err
	}
	undo.Release()
	return io, nil
}

// Capture makes streams that are kept in memory, at most limit bytes of each.
// Stdin is empty. Captured returns them once Finish has.
func Capture(limit int) (_ *IO, captured func() (stdout, stderr []byte), err error) {
	io := &IO{}
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("close streams", io.Close)
	var kept [2]capture
	for i := range kept {
		kept[i].limit = limit
		r, w, err := pipe()
		if err != nil {
			return nil, nil, err
		}
		io.files[1+i] = w
		if err := io.read(r, kept[i].write); err != nil {
			return nil, nil, err
		}
	}
	undo.Release()
	return io, func() ([]byte, []byte) { return kept[0].data, kept[1].data }, nil
}

// CaptureNamed is Capture for a process whose ends somebody else opens: FIFOs below
// dir whose names begin with prefix, until Close.
func CaptureNamed(dir, prefix string, limit int) (_ *IO, captured func() (stdout, stderr []byte), err error) {
	io := &IO{}
	var undo cleanup.Stack
	defer undo.Run(&err)
	undo.Push("close streams", io.Close)
	var kept [2]capture
	for i, name := range []string{"stdout", "stderr"} {
		kept[i].limit = limit
		path := filepath.Join(dir, prefix+name)
		if err := sys.MakeFIFO(path, 0o600); err != nil {
			return nil, nil, err
		}
		io.names[1+i] = path
		io.remove = append(io.remove, path)
		f, err := openFIFO(path, syscall.O_RDONLY)
		if err != nil {
			return nil, nil, err
		}
		if err := io.read(f, kept[i].write); err != nil {
			return nil, nil, err
		}
		io.outs[i].(*reader).awaitWriter = true
	}
	undo.Release()
	return io, func() ([]byte, []byte) { return kept[0].data, kept[1].data }, nil
}

// Names are those of a named process's ends; "" is none.
func (io *IO) Names() (stdin, stdout, stderr string) {
	return io.names[0], io.names[1], io.names[2]
}

// Files are stdin, stdout and stderr for the process; nil is /dev/null. With a
// terminal all are nil.
func (io *IO) Files() (stdin, stdout, stderr *os.File) {
	return io.files[0], io.files[1], io.files[2]
}

// Started says that the process runs (or waits for its start) and has its files,
// and begins to copy. Console is the master of its terminal, or nil; it is taken
// over.
func (io *IO) Started(console *os.File) error {
	io.closeFiles()
	if console != nil {
		if err := io.startConsole(console); err != nil {
			return err
		}
	}
	for _, begin := range io.begin {
		begin()
	}
	return nil
}

// startConsole makes the terminal's master the source of output and the way in.
func (io *IO) startConsole(console *os.File) error {
	defer func() { _ = console.Close() }() // duplicated below
	// Reading, writing and resizing have their own, so that each can end alone.
	out, err := sys.DupPollable(console)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if io.moveTo != nil {
		m := newMover(out, io.moveTo)
		io.moveTo = nil
		io.outs = append([]stream{m}, io.outs...)
		io.begin = append(io.begin, func() { go m.run() })
	} else {
		write := io.output
		if write == nil {
			write = func([]byte) {} // read all the same: the process must not block
		}
		if err := io.read(out, write); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	if io.input != nil {
		in, err := sys.DupPollable(console)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		io.input.setFile(in)
	}
	size, err := sys.DupPollable(console)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	io.consoleM.Lock()
	io.console = size
	io.consoleM.Unlock()
	return nil
}

// read makes f a stream that the process writes.
func (io *IO) read(f *os.File, write func([]byte)) error {
	r, err := newReader(f)
	if err != nil {
		_ = f.Close() // unused
		return err
	}
	io.outs = append(io.outs, r)
	io.begin = append(io.begin, func() { go r.copyTo(write) })
	return nil
}

// Resize sets the size of the terminal.
func (io *IO) Resize(width, height uint16) error {
	if io.resize != nil {
		return io.resize(width, height)
	}
	io.consoleM.Lock()
	defer io.consoleM.Unlock()
	if io.console == nil {
		return errors.New("the process has no terminal")
	}
	return sys.SetWinsize(io.console, width, height)
}

// CloseStdin ends the process's input, after what its source holds already.
func (io *IO) CloseStdin() {
	switch {
	case io.input == nil:
	case io.source != nil:
		io.source.stop() // and its end closes the input
	default:
		io.input.close()
	}
}

// ReopenLog opens the log's path again. It is an error without a log, and with one that
// is no file.
func (io *IO) ReopenLog() error {
	if io.log == nil {
		return errors.New("the process has no log that the monitor writes")
	}
	return io.log.reopen()
}

// LogLoss is how many bytes could not be written to the log, and the last
// reason.
func (io *IO) LogLoss() (uint64, error) {
	if io.log == nil {
		return 0, nil
	}
	return io.log.loss()
}

// Finish passes on all that the process had written when it ended and returns
// when that is done: the log is complete, attached clients are told the end.
func (io *IO) Finish() {
	io.finish.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if io.names != [3]string{} { // whoever copies is behind, and closes his ends when he is through
			for _, r := range io.outs {
				r.drained(ctx)
			}
		}
		for _, r := range io.outs {
			r.stop()
			<-r.ended()
		}
		for _, path := range io.callers {
			awaitTaken(ctx, path)
		}
		if io.endLog != nil {
			io.endLog()
		}
		if io.input != nil {
			io.input.release()
		}
	})
}

// Close releases everything. It is called after Finish, or where no process was
// started.
func (io *IO) Close() error {
	io.closeFiles()
	if io.source != nil {
		io.source.stop()
		_ = io.source.file.Close() // read from only
	}
	if io.input != nil {
		io.input.release()
	}
	for _, r := range io.outs {
		r.close()
	}
	if io.moveTo != nil {
		_ = io.moveTo.Close() // there was no terminal
	}
	io.consoleM.Lock()
	if io.console != nil {
		_ = io.console.Close() // a duplicate
		io.console = nil
	}
	io.consoleM.Unlock()
	if io.hub != nil {
		io.hub.close()
	}
	if io.log != nil {
		io.log.close()
	}
	if io.binary != nil {
		io.binary.close()
	}
	for _, path := range io.remove {
		_ = os.Remove(path) // or with the bundle
	}
	return nil
}

// drainTimeout is how long the output of a process that has ended is waited for
// where a foreign shim copies it: one that it started may hold the other end; and where
// the caller reads it: he need not.
const drainTimeout = 2 * time.Second

func (io *IO) closeFiles() {
	for i, f := range io.files {
		if f != nil {
			_ = f.Close() // the process has its own; stderr may be stdout
		}
		io.files[i] = nil
	}
}
