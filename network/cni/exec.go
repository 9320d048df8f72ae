package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/internal/sys"
)

const (
	maxOutput = 1 << 20 // a result; beyond that the plugin has failed
	maxStderr = 4 << 10 // of the diagnostics, the beginning
)

// runner runs plugins for libcni.
type runner struct{ version.PluginDecoder }

var _ invoke.Exec = (*runner)(nil)

// FindInPath finds a plugin's binary.
func (*runner) FindInPath(plugin string, dirs []string) (string, error) {
	return invoke.FindInPath(plugin, dirs)
}

// ExecPlugin runs one plugin and returns its standard output. The error names
// the plugin and carries what it said; it is a *types.Error where the plugin
// wrote one, and ctx's where the time was up.
func (*runner) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (_ []byte, err error) {
	name := filepath.Base(path)
	ctx, running := span.Start(ctx, "plugin "+name+" "+command(env))
	defer func() { running.End(err) }()
	stdout, stderr := &limited{max: maxOutput}, &limited{max: maxStderr}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// Plugins run other programs (iptables, other plugins): the group goes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = sys.AfterExit // for its children
	if lock, ok := ctx.Value(lockKey{}).(*os.File); ok {
		cmd.ExtraFiles = []*os.File{lock}
	}

	err = sys.Ended(cmd.Run())
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, &failure{fmt.Errorf("plugin %s was killed: %w%s", name, context.Cause(ctx), quoted(stderr))}
	case err != nil:
		return nil, &failure{fmt.Errorf("plugin %s: %w", name, pluginError(err, stdout, stderr))}
	case stdout.over:
		return nil, &failure{fmt.Errorf("plugin %s: its result has more than %d bytes", name, maxOutput)}
	}
	return stdout.data, nil
}

// command is what a plugin is asked to do: ADD, DEL and so on.
func command(env []string) string {
	for _, v := range env {
		if verb, ok := strings.CutPrefix(v, "CNI_COMMAND="); ok {
			return verb
		}
	}
	return ""
}

// failure is the error of one plugin, which it names. libcni says so once more.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// plain is an error of libcni without what it adds to a plugin's.
func plain(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return err
}

// pluginError is the error that a failed plugin wrote to its standard output,
// or else what is known of its end.
func pluginError(exit error, stdout, stderr *limited) error {
	var said types.Error
	if json.Unmarshal(stdout.data, &said) == nil && (said.Msg != "" || said.Code != 0) {
		return &said
	}
	if len(stderr.data) == 0 {
		return fmt.Errorf("%w%s", exit, quoted(&limited{data: stdout.data[:min(len(stdout.data), maxStderr)]}))
	}
	return fmt.Errorf("%w%s", exit, quoted(stderr))
}

func quoted(output *limited) string {
	text := strings.TrimSpace(string(output.data))
	if text == "" {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}

// limited keeps the first max bytes that are written to it.
type limited struct {
	data []byte
	max  int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := min(len(p), l.max-len(l.data))
	l.data = append(l.data, p[:room]...)
	l.over = l.over || room < len(p)
	return len(p), nil // the plugin must not block or see an error
}
