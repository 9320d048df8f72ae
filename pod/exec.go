package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

const (
	// maxExecOutput caps what ExecSync brings back of each stream.
	maxExecOutput = 16 << 20
	// drainTimeout is how long after its end a process's output is waited for: a
	// background process of its own may hold the pipe for ever.
	drainTimeout = 2 * time.Second
)

// ExecSync runs cmd in a container to its end and returns what it wrote, at most
// 16 MiB of each stream. After timeout (0: none) it is killed, with all that it
// started, and the error is ErrTimeout.
func (m *Manager) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (ExecResult, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return ExecResult{}, err
	}
	monitor, err := c.running()
	if err != nil {
		return ExecResult{}, err
	}
	process, err := m.containerProcess(c)
	if err != nil {
		return ExecResult{}, err
	}
	if process, err = bundle.Exec(bundle.ExecInput{Container: process, Args: cmd, Host: &m.host}); err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", c.what, err)
	}
	_, leave := m.tracker.call("exec in container "+c.what, "run")
	defer leave()
	r, err := monitor.ExecSync(ctx, c.id, process, timeout, maxExecOutput)
	out := ExecResult{Stdout: r.Stdout, Stderr: r.Stderr, ExitCode: int32(r.ExitCode)}
	if err != nil {
		return out, fmt.Errorf("exec in container %s: %w", c.what, m.class(c, err))
	}
	return out, nil
}

// Exec runs a process in a container with the caller's streams and returns its
// exit code. When ctx ends, the process is killed.
func (m *Manager) Exec(ctx context.Context, id string, config ExecConfig, s Streams) (int, error) {
	c, err := m.findContainer(id)
	if err != nil {
		return 0, err
	}
	monitor, err := c.running()
	if err != nil {
		return 0, err
	}
	w, leave := m.tracker.call("exec in container "+c.what, "prepare")
	defer leave()
	code, err := m.exec(ctx, w, c, monitor, config, s)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", c.what, m.class(c, err))
	}
	return code, nil
}

func (m *Manager) exec(ctx context.Context, w *work, c *container, monitor Monitor, config ExecConfig, s Streams) (code int, err error) {
	process, err := m.containerProcess(c)
	if err != nil {
		return 0, err
	}
	in := bundle.ExecInput{
		Container: process, Args: config.Cmd, Env: config.Env, WorkingDir: config.WorkingDir,
		User: config.User, TTY: config.TTY, Privileged: config.Privileged, Host: &m.host,
	}
	if config.User != "" {
		if in.Accounts, err = m.containerAccounts(c); err != nil {
			return 0, err
		}
	}
	if process, err = bundle.Exec(in); err != nil {
		return 0, err
	}
	select { // a size that is known by now is the terminal's from its first moment
	case z, ok := <-s.Resize:
		if ok {
			process.ConsoleSize = &specs.Box{Width: uint(z.Width), Height: uint(z.Height)}
		}
	default:
	}

	// 1. Its FIFOs, ours opened first: so the monitor never waits for us, and
	// what a short process wrote is there when we come to read.
	execID := execID()
	o := client.ExecOptions{ExecID: execID, Process: process, Terminal: config.TTY}
	pipes, err := m.openPipes(c, &o, s)
	defer pipes.close()
	if err != nil {
		return 0, err
	}

	// 2. The process.
	w.enter("start process")
	if err := monitor.Exec(ctx, c.id, o); err != nil {
		return 0, err
	}
	defer func() {
		ctx, cancel := undoContext(ctx)
		defer cancel()
		w.enter("end process")
		failed := err != nil
		e := m.onMonitor(ctx, c.pod, func(monitor Monitor) error {
			if failed { // it may run
				_ = monitor.Kill(ctx, c.id, execID, syscall.SIGKILL, false)
				_, _ = monitor.Wait(ctx, c.id, execID)
			}
			_, err := monitor.Delete(ctx, c.id, execID)
			return err
		})
		if e != nil && !ended(e) {
			err = errors.Join(err, e)
		}
	}()
	if _, err := monitor.StartExec(ctx, c.id, execID); err != nil {
		return 0, err
	}

	// 3. Its streams, until it ends.
	w.enter("runs")
	resized := make(chan struct{})
	defer close(resized)
	go resize(ctx, s.Resize, resized, func(z Size) {
		if monitor, err := c.pod.live(); err == nil {
			_ = monitor.ResizePty(ctx, c.id, execID, uint32(z.Width), uint32(z.Height)) // gone: its end shows
		}
	})
	drained := pipes.copy(s, func() {
		if monitor, err := c.pod.live(); err == nil {
			_ = monitor.CloseStdin(ctx, c.id, execID) // likewise
		}
	})
	var exit client.Exit
	err = m.onMonitor(ctx, c.pod, func(monitor Monitor) (err error) {
		exit, err = monitor.Wait(ctx, c.id, execID)
		return err
	})
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	return exit.Status, nil
}

func execID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return "exec-" + hex.EncodeToString(b[:])
}

// resize hands sizes on until there are no more or done is closed.
func resize(ctx context.Context, sizes <-chan Size, done <-chan struct{}, set func(Size)) {
	for {
		select {
		case z, ok := <-sizes:
			if !ok {
				return
			}
			set(z)
		case <-done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pipes are our ends of a process's FIFOs.
type pipes struct {
	paths                 []string
	stdin, stdout, stderr *os.File
}

// openPipes makes a FIFO for each stream that the caller has, opens our end and
// names it to the monitor.
func (m *Manager) openPipes(c *container, o *client.ExecOptions, s Streams) (*pipes, error) {
	p := &pipes{}
	open := func(name string, flags int) (*os.File, string, error) {
		path := filepath.Join(m.containerState(c.pod.id, c.id), o.ExecID+"-"+name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			return nil, "", &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		p.paths = append(p.paths, path)
		// Not blocking, so that the runtime's poller waits for data and Close
		// ends a Read.
		f, err := os.OpenFile(path, flags|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		return f, path, err
	}
	var err error
	if s.Stdin != nil {
		// For reading too: else it could not be opened before the monitor's end.
		if p.stdin, o.Stdin, err = open("stdin", os.O_RDWR); err != nil {
			return p, err
		}
	}
	if s.Stdout != nil {
		if p.stdout, o.Stdout, err = open("stdout", os.O_RDONLY); err != nil {
			return p, err
		}
	}
	if s.Stderr != nil && !o.Terminal { // a terminal has one output
		if p.stderr, o.Stderr, err = open("stderr", os.O_RDONLY); err != nil {
			return p, err
		}
	}
	return p, nil
}

// copy moves data until the outputs end, which closes the channel it returns.
// The input ends with the caller's; endStdin tells the monitor.
func (p *pipes) copy(s Streams, endStdin func()) <-chan struct{} {
	drained := make(chan struct{})
	outputs := make(chan struct{}, 2)
	n := 0
	for _, o := range []struct {
		from *os.File
		to   io.Writer
	}{{p.stdout, s.Stdout}, {p.stderr, s.Stderr}} {
		if o.from == nil {
			continue
		}
		n++
		go func() {
			_, _ = io.Copy(writerOnly{o.to}, o.from) // the caller's own failure to read is his
			_, _ = io.Copy(io.Discard, o.from)       // and must not block the process
			outputs <- struct{}{}
		}()
	}
	go func() {
		for range n {
			<-outputs
		}
		close(drained)
	}()
	if p.stdin != nil {
		go func() {
			_, _ = io.Copy(p.stdin, readerOnly{s.Stdin})
			_ = p.stdin.Close()
			endStdin()
		}()
	}
	return drained
}

// readerOnly and writerOnly hide methods that would make io.Copy splice from or
// to descriptors of the caller's behind its back.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

func (p *pipes) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close() // the input's may be closed already
		}
	}
	for _, path := range p.paths {
		_ = os.Remove(path) // else with the bundle
	}
}
