package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// binaryStart is how long a log binary may take to say that it is ready.
const binaryStart = 10 * time.Second

// logBinary is a program that consumes a container's output, by containerd's
// contract: stdout and stderr to read are its descriptors 3 and 4, descriptor 5
// is closed by it when it is ready, CONTAINER_ID and CONTAINER_NAMESPACE are in
// its environment, and it ends when both streams have.
type logBinary struct {
	cmd       *exec.Cmd
	collected func()
	once      sync.Once
}

// openBinary starts a log binary and makes its pipes the process's output.
func (s *IO) openBinary(ctx context.Context, cfg Config) (err error) {
	u, err := url.Parse(cfg.Stdout)
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if u.Path == "" {
		return fmt.Errorf("stdout %q names no program: write binary:///path/of/program", cfg.Stdout)
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close() // the program has its own
		}
	}()
	var ours [2]*os.File
	for i := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		theirs, ours[i] = append(theirs, r), w
		s.files[1+i] = w // closed by Close, whatever comes
		if !cfg.Terminal {
			if err := sys.SetBlocking(w); err != nil {
				return err
			}
		}
	}
	ready, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }() // read from only
	theirs = append(theirs, readyW)

	b := &logBinary{}
	b.cmd = exec.Command(u.Path)
	for key, values := range u.Query() {
		b.cmd.Args = append(b.cmd.Args, key)
		if values[0] != "" {
			b.cmd.Args = append(b.cmd.Args, values[0])
		}
	}
	b.cmd.Env = append(os.Environ(), "CONTAINER_ID="+cfg.ContainerID, "CONTAINER_NAMESPACE="+cfg.Namespace)
	b.cmd.ExtraFiles = theirs
	if b.collected, err = cfg.StartChild(b.cmd); err != nil {
		return fmt.Errorf("log binary: %w", err)
	}
	s.binary = b
	_ = readyW.Close() // or its end would never come
	if err := awaitReady(ctx, ready); err != nil {
		_ = b.cmd.Process.Kill() // close collects it
		return fmt.Errorf("log binary %s: %w", u.Path, err)
	}
	if cfg.Terminal {
		s.setOutput(ours[0])
	}
	return nil
}

// awaitReady waits for the other end's close, or a byte.
func awaitReady(ctx context.Context, ready *os.File) error {
	deadline := time.Now().Add(binaryStart)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("it did not become ready: %w", err)
	}
	return nil
}

// close collects the program, in its own time: it ends when the streams do.
func (b *logBinary) close() {
	b.once.Do(func() {
		go func() {
			_ = b.cmd.Wait() // how it ends is its own affair
			b.collected()
		}()
	})
}
