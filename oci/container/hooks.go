package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/plan"
)

// hookRunner runs the hooks that belong to the runtime's namespaces during
// create, and prepares what those in the container's get to read.
type hookRunner struct {
	ctx    context.Context
	spec   *specs.Spec
	id     string
	bundle string

	// Standard inputs of the hooks that the child runs; nil if it has none.
	creating *os.File // of createContainer hooks
	created  *os.File // of startContainer hooks
}

// beforePivot runs prestart and createRuntime hooks, while init waits.
func (h *hookRunner) beforePivot(pid int) error {
	state := specs.State{Version: specs.Version, ID: h.id, Status: specs.StateCreating, Pid: pid, Bundle: h.bundle,
		Annotations: h.spec.Annotations}
	hooks := h.spec.Hooks
	if err := runHooks(h.ctx, "prestart", hooks.Prestart, state); err != nil { //nolint:staticcheck // deprecated, but used
		return err
	}
	if err := runHooks(h.ctx, "createRuntime", hooks.CreateRuntime, state); err != nil {
		return err
	}
	return h.tellChild(pid, state)
}

// tellChild writes the states for the hooks that the child runs, which see the pid
// that it has in its own PID namespace (runtime.md, "State").
func (h *hookRunner) tellChild(pid int, state specs.State) (err error) {
	if h.creating == nil && h.created == nil {
		return nil
	}
	if state.Pid, err = pidInside(pid); err != nil {
		return err
	}
	for _, to := range []struct {
		status specs.ContainerState
		file   *os.File
	}{{specs.StateCreating, h.creating}, {specs.StateCreated, h.created}} {
		if to.file == nil {
			continue
		}
		state.Status = to.status
		data, err := json.Marshal(state)
		if err != nil {
			return err
		}
		if _, err := to.file.WriteAt(data, 0); err != nil {
			return err
		}
	}
	return nil
}

// maxProcStatus bounds /proc/PID/status, which has a few hundred bytes and the groups.
const maxProcStatus = 1 << 20

// pidInside is the pid that a process has in its own PID namespace, the last of
// those that its status shows.
func pidInside(pid int) (int, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/status"
	data, err := sys.ReadFile(name, maxProcStatus)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(pids)
			return strconv.Atoi(fields[len(fields)-1])
		}
	}
	return 0, fmt.Errorf("%s: it shows no NSpid", name)
}

// runHooks runs hooks one after the other, each with the state on its standard
// input and, as with other runtimes, in the bundle. The first that fails ends it, but
// once the container is stopped: those hooks run where we do.
func runHooks(ctx context.Context, name string, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	dir := state.Bundle
	if state.Status == specs.StateStopped { // it may be gone
		dir = ""
	}
	var errs []error
	for i, h := range hooks {
		if err := runHook(ctx, h, dir, data); err != nil {
			errs = append(errs, fmt.Errorf("hooks.%s[%d] (%s): error running %s hook #%d: %w", name, i, h.Path, name, i, err))
			if state.Status != specs.StateStopped {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// maxHookOutput is how much of a failing hook's output its error shows.
const maxHookOutput = 2048

func runHook(ctx context.Context, h specs.Hook, dir string, state []byte) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Dir = dir
	cmd.Env = h.Env // a hook that has none gets ours, as with other runtimes
	cmd.Stdin = bytes.NewReader(state)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = sys.AfterExit // for a grandchild that keeps the output open
	sys.Concurrent()
	err := sys.StartProgram(cmd.Start)
	if err == nil {
		err = sys.Ended(cmd.Wait())
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("killed: %w", context.Cause(ctx))
	case err == nil:
		return nil
	case len(out) > 0:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return err
}

// hookError adds to the error of a hook that the child has run what the hooks have written
// last; output may be nil.
func hookError(err error, output *os.File) error {
	var e *launch.Error
	if !errors.As(err, &e) || e.Op.Do != plan.OpHook || output == nil {
		return err
	}
	var end [maxHookOutput]byte
	st, statErr := output.Stat()
	if statErr != nil {
		return err
	}
	n, _ := output.ReadAt(end[:], max(0, st.Size()-maxHookOutput)) // EOF, or what there is
	if said := bytes.TrimSpace(end[:n]); len(said) > 0 {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if n := len(*t); n > maxHookOutput {
		*t = append((*t)[:0], (*t)[n-maxHookOutput:]...)
	}
	return len(p), nil
}

// runHooks runs the hooks of a status that was reached after create: poststart
// when running, the first of which to fail ends it, poststop when stopped, which
// all run, whichever fails.
func (c *Container) runHooks(ctx context.Context, r *record, status specs.ContainerState) error {
	if !r.Hooks {
		return nil
	}
	s, err := c.Spec()
	if errors.Is(err, os.ErrNotExist) && status == specs.StateStopped {
		return nil // they have run: a removal that was cut off is repeated
	}
	if err != nil || s.Hooks == nil { // by now it is another container's
		return err
	}
	state := specs.State{Version: specs.Version, ID: c.id, Status: status, Bundle: r.Bundle, Annotations: r.Annotations}
	if status == specs.StateRunning {
		state.Pid = r.Pid
		return runHooks(ctx, "poststart", s.Hooks.Poststart, state)
	}
	return runHooks(ctx, "poststop", s.Hooks.Poststop, state)
}
