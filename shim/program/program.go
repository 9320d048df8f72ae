// Package program drives containers by the command line of an OCI runtime that is
// a program of its own: runc, crun, runsc or any other that takes runc's verbs and
// flags. The monitor calls it for a pod whose handler is of type "oci".
//
// A container's init and its execs are the runtime's children, and this process's
// (a subreaper) once the runtime has exited: whoever calls Create and Exec watches
// them as its own. Nothing here waits for a container's end.
//
// The rootfs is mounted on the host, where such runtimes expect it, and taken away
// by Delete. Each call has a log of its own, in the runtime's JSON format, whose
// last error is what the caller is told; the command's own stderr is only a second
// best, since of Create and Exec it is the container's.
package program

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

const (
	maxLog    = 1 << 20 // bytes of a call's log that are looked at
	maxOutput = 1 << 20 // of what a call prints
)

// Runtime is an OCI runtime's program.
type Runtime struct {
	Path string
	Args []string // before the command, for all calls
	Root string   // --root: where it keeps its state
	// SystemdCgroup has it use systemd's cgroups: cgroupsPath is slice:prefix:name.
	SystemdCgroup bool
	// Start starts a child that the caller collects with Wait and then reports; see
	// reap.Reaper.Start.
	Start func(*exec.Cmd) (collected func(), err error)
}

// call is one call of the runtime.
type call struct {
	args                  []string
	bundle                string // for its log; its working directory
	stdin, stdout, stderr *os.File
	output                *bytes.Buffer // nil: stdout goes where stdout says
}

// run runs the program to its end.
func (r *Runtime) run(ctx context.Context, c call) error {
	log, err := os.CreateTemp(c.bundle, "runtime-log-")
	if err != nil {
		return err
	}
	defer func() {
		_ = log.Close()           // only read
		_ = os.Remove(log.Name()) // or with the bundle
	}()
	args := append([]string{"--root", r.Root, "--log", log.Name(), "--log-format", "json"}, r.Args...)
	if r.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	cmd := exec.CommandContext(ctx, r.Path, append(args, c.args...)...)
	cmd.Dir = c.bundle
	cmd.Env = environment()
	var stderr limited
	// Files, not streams, for what the container inherits: else its end would be
	// waited for.
	if c.output != nil {
		cmd.Stdout, cmd.Stderr = &limited{to: c.output}, &stderr
		cmd.WaitDelay = sys.AfterExit // for a hook's child that keeps them open
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = reader(c.stdin), writer(c.stdout), writer(c.stderr)
	}
	collected, err := r.Start(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Path, err)
	}
	err = sys.Ended(cmd.Wait())
	collected()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", r.Path, c.args[0], ctx.Err())
	}
	data, readErr := io.ReadAll(io.LimitReader(log, maxLog))
	if text := lastError(data); text != "" {
		return classify(fmt.Errorf("%s %s: %s", filepath.Base(r.Path), c.args[0], text), text)
	}
	text := strings.TrimSpace(stderr.buf.String())
	return classify(errors.Join(fmt.Errorf("%s %s: %w: %s", filepath.Base(r.Path), c.args[0], err, text), readErr), text)
}

// verb is run for a call that has no streams.
func (r *Runtime) verb(ctx context.Context, bundle string, args ...string) (output []byte, err error) {
	var out bytes.Buffer
	err = r.run(ctx, call{args: args, bundle: bundle, output: &out})
	return out.Bytes(), err
}

// reader and writer keep a nil *os.File from being a Reader or Writer that is not nil.
func reader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

func writer(f *os.File) io.Writer {
	if f == nil {
		return nil
	}
	return f
}

// limited keeps the beginning of what is written.
type limited struct {
	to  *bytes.Buffer // nil: buf
	buf bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	b := l.to
	if b == nil {
		b = &l.buf
	}
	b.Write(p[:min(len(p), maxOutput-min(b.Len(), maxOutput))])
	return len(p), nil
}

// environment is a small one: the monitor's own is not the runtime's business.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR")}
}

// lastError is the message of the last error in a runtime's log.
func lastError(log []byte) string {
	var last string
	for line := range bytes.Lines(log) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal" || entry.Level == "panic") {
			last = entry.Msg
		}
	}
	return last
}

// classify gives an error of a runtime the class that callers know. Runtimes have
// words for these, not codes.
func classify(err error, text string) error {
	for _, c := range []struct {
		words string
		class error
	}{
		{"does not exist", container.ErrNotExist},
		{"not running", container.ErrNotRunning},
		{"process already finished", container.ErrNotRunning},
		{"no such process", container.ErrNotRunning},
		{"container is stopped", container.ErrNotRunning},
	} {
		if strings.Contains(strings.ToLower(text), c.words) && !strings.Contains(text, "executable file") {
			return errors.Join(err, c.class)
		}
	}
	return err
}
