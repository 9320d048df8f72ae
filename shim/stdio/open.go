package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/wire"
)

// openInput prepares stdin.
func (io *IO) openInput(cfg Config) error {
	if cfg.Stdin == "" {
		return nil
	}
	io.input = &input{terminal: cfg.Terminal, once: cfg.StdinOnce, ended: cfg.InputEnded}
	if cfg.Named {
		return io.openNamedInput(cfg)
	}
	if cfg.Adopt && !cfg.Terminal {
		return io.adoptInput(cfg)
	}
	if !cfg.Terminal {
		r, w, err := io.inputPipe(cfg)
		if err != nil {
			return err
		}
		io.files[0] = r
		io.input.setFile(w)
		own(r, cfg)
	}
	if cfg.Stdin == "attach:" {
		return nil
	}
	path, err := fifoPath(cfg.Stdin)
	if err != nil {
		return err
	}
	f, err := openFIFO(path, syscall.O_RDONLY)
	if err != nil {
		return err
	}
	if io.source, err = newReader(f); err != nil {
		_ = f.Close() // unused
		return err
	}
	io.source.awaitWriter = true
	in := io.input
	io.begin = append(io.begin, func() {
		go func() {
			io.source.copyTo(in.write)
			in.close()
		}()
	})
	return nil
}

// openNamedInput makes the FIFO that a foreign shim reads what attached clients
// write from.
func (io *IO) openNamedInput(cfg Config) error {
	if cfg.Stdin != "attach:" {
		io.input = nil // between the shim and the caller
		return nil
	}
	path := filepath.Join(cfg.Dir, "stdin")
	io.names[0] = path
	io.input.shutFile = filepath.Join(cfg.Dir, stdinShut)
	if err := sys.MakeFIFO(path, 0o600); err != nil {
		return err
	}
	if _, err := os.Lstat(io.input.shutFile); err == nil {
		return nil
	}
	w, err := openFIFO(path, syscall.O_RDWR) // its reader comes later
	if err != nil {
		return err
	}
	io.input.setFile(w)
	return nil
}

// adoptInput opens the way into a process that runs. Without one who reads there
// is none; nor for a FIFO's source, whose copy has ended with its monitor.
func (io *IO) adoptInput(cfg Config) error {
	if cfg.Stdin != "attach:" {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(cfg.Dir, stdinShut)); err == nil {
		return nil
	}
	w, err := openFIFO(filepath.Join(cfg.Dir, "stdin"), syscall.O_WRONLY)
	if errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	io.input.setFile(w)
	io.input.shutFile = filepath.Join(cfg.Dir, stdinShut)
	return nil
}

// stdinShut is the file that says that the input was ended on purpose.
const stdinShut = "stdin.shut"

// inputPipe makes the pipe behind stdin. An attached container's is a FIFO with
// a name, which a later monitor can open again.
func (io *IO) inputPipe(cfg Config) (r, w *os.File, err error) {
	if cfg.Stdin != "attach:" {
		w, r, err = reversedPipe()
		return r, w, err
	}
	path := filepath.Join(cfg.Dir, "stdin")
	io.input.shutFile = filepath.Join(cfg.Dir, stdinShut)
	if err := sys.MakeFIFO(path, 0o600); err != nil {
		return nil, nil, err
	}
	if r, err = openChildFIFO(path, syscall.O_RDONLY); err != nil {
		return nil, nil, err
	}
	if w, err = openFIFO(path, syscall.O_WRONLY); err != nil {
		_ = r.Close() // unused
		return nil, nil, err
	}
	return r, w, nil
}

// openLog prepares the log, the FIFOs that lead to it and the attach socket.
func (io *IO) openLog(cfg Config) error {
	flow, err := openFlow(cfg.Dir)
	if err != nil {
		return err
	}
	if io.log, err = openDriver(cfg.Stdout, cfg.LogMaxBytes, flow, cfg.Adopt); err != nil {
		flow.close()
		return err
	}
	if io.hub, err = newHub(filepath.Join(cfg.Dir, wire.AttachSocket), io.input, io.Resize); err != nil {
		return err
	}
	io.endLog = io.hub.end
	names := []string{"stdout", "stderr"}
	if cfg.Terminal {
		names = names[:1]
		io.names[2] = ""
	}
	for i, name := range names {
		if err := io.openLogFIFO(cfg, i, newLineWriter(io.log, flow.cell(i), name)); err != nil {
			return err
		}
	}
	return nil
}

// openLogFIFO prepares the way of one stream into the log.
func (io *IO) openLogFIFO(cfg Config, i int, w *lineWriter) error {
	fifo := filepath.Join(cfg.Dir, w.stream)
	if err := sys.MakeFIFO(fifo, 0o600); err != nil {
		return err
	}
	var err error
	switch {
	case cfg.Named:
		io.names[1+i] = fifo
	case cfg.Terminal:
		if io.moveTo, err = openFIFO(fifo, syscall.O_RDWR); err != nil {
			return err
		}
	case !cfg.Adopt:
		// The process's end is a reader too: without any monitor it still has one.
		if io.files[1+i], err = openChildFIFO(fifo, syscall.O_RDWR); err != nil {
			return err
		}
		own(io.files[1+i], cfg)
	}
	f, err := openFIFO(fifo, syscall.O_RDONLY)
	if err != nil {
		return err
	}
	_ = sys.SetPipeSize(f, logPipeSize) // the usual size will do
	if cfg.Adopt {
		err = io.log.recover(w.cell, f)
	}
	kind := byte(wire.AttachStdout + i)
	var p *pump
	if err == nil {
		p, err = newPump(f, w, func(b []byte) { io.hub.write(kind, b) })
	}
	if err == nil && cfg.Terminal && !cfg.Named {
		p.full, err = isFull(io.moveTo)
	}
	if err != nil {
		_ = f.Close() // unused
		return fmt.Errorf("log: %w", err)
	}
	io.outs = append(io.outs, p)
	io.begin = append(io.begin, func() { go p.run() })
	return nil
}

// openOutputs prepares FIFOs, files and log binaries for stdout and stderr.
func (io *IO) openOutputs(ctx context.Context, cfg Config) error {
	if strings.HasPrefix(cfg.Stdout, "binary://") {
		return io.openBinary(ctx, cfg)
	}
	for i, uri := range []string{cfg.Stdout, cfg.Stderr} {
		if uri == "" || i == 1 && cfg.Terminal {
			continue
		}
		if i == 1 && uri == cfg.Stdout && strings.HasPrefix(uri, "file://") {
			io.files[2] = io.files[1] // one descriptor, one position
			continue
		}
		f, err := openOutput(ctx, uri, cfg.Terminal)
		if err != nil {
			return fmt.Errorf("%s: %w", [...]string{"stdout", "stderr"}[i], err)
		}
		io.files[1+i] = f
		own(f, cfg)
		if isFIFO(uri) {
			io.callers = append(io.callers, f.Name())
		}
	}
	if cfg.Terminal && io.files[1] != nil {
		io.setOutput(io.files[1])
	}
	return nil
}

// setOutput makes f the place where a terminal's output goes.
func (io *IO) setOutput(f *os.File) {
	io.files[1] = nil
	io.output = func(p []byte) { _, _ = f.Write(p) } // nobody reads: dropped
	io.endLog = func() { _ = f.Close() }             // each write has been made
}

func openOutput(ctx context.Context, uri string, terminal bool) (*os.File, error) {
	if isFIFO(uri) {
		path, err := fifoPath(uri)
		if err != nil {
			return nil, err
		}
		return openOutputFIFO(ctx, path, terminal)
	}
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "file" {
		return nil, fmt.Errorf("%q: scheme %q is not supported: use a FIFO's path, file, binary, cri or a log driver", uri, u.Scheme)
	}
	if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(u.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
}

func isFIFO(uri string) bool {
	return !strings.Contains(uri, "://") || strings.HasPrefix(uri, "fifo://")
}

func fifoPath(uri string) (string, error) {
	path := strings.TrimPrefix(uri, "fifo://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is neither an absolute path nor a supported URI", uri)
	}
	return path, nil
}

// own gives a stream to the process's user, as far as the file system lets us:
// it is a convenience for programs that open /dev/stdout.
func own(f *os.File, cfg Config) { _ = f.Chown(cfg.UID, cfg.GID) }
