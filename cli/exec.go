package cli

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/strake-containers/strake/cli/stream"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

type execOptions struct {
	interactive, tty bool
	env              []string
	workdir, user    string
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run one more command in a running container",
		Long: `Run one more command in a running container, and end with its exit code, or
with 125 if strake or straked failed, 126 if the command cannot be run, 127 if it
does not exist. With -it, Ctrl-P Ctrl-Q leaves the terminal.`,
		Args:              needs(2, "a container and a command"),
		ValidArgsFunction: a.completeRunning,
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable: NAME=VALUE, or NAME to pass yours on")
	f.StringVarP(&o.workdir, "workdir", "w", "", "its working directory")
	f.StringVarP(&o.user, "user", "u", "", "run it as NAME or UID[:GID]")
	run := a.connect(func(ctx context.Context, c *client, args []string) error {
		return a.exec(ctx, c, &o, args[0], args[1:])
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return processError(run(cmd, args)) }
	return cmd
}

func (a *app) exec(ctx context.Context, c *client, o *execOptions, ref string, command []string) error {
	if err := checkWorkdir(o.workdir); err != nil {
		return err
	}
	start := &strakev1.ExecStart{Command: command, WorkingDir: o.workdir, User: o.user, Tty: o.tty}
	if o.tty {
		if err := a.checkTerminal(o.interactive); err != nil {
			return err
		}
		start.Env = append(start.Env, "TERM=xterm")
	}
	for _, s := range o.env {
		kv, ok, err := parseEnv(s, os.LookupEnv)
		if err != nil {
			return err
		}
		if ok {
			start.Env = append(start.Env, kv.Key+"="+string(kv.Value))
		}
	}
	in, err := c.container(ctx, ref)
	if err != nil {
		return err
	}
	if err := in.running(); err != nil {
		return err
	}
	start.ContainerId = in.Id

	// A signal ends the connection, and so the command; above all it must not
	// leave the terminal raw.
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	streams := stream.Streams{Stdout: a.stdout, Stderr: a.stderr}
	if o.interactive {
		streams.Stdin = a.stdin
	}
	if o.tty {
		if size, ok := a.terminalSize(); ok {
			start.Size = &strakev1.Size{Width: uint32(size.Width), Height: uint32(size.Height)}
		}
		restore, err := a.rawTerminal()
		if err != nil {
			return err
		}
		defer restore()
		streams.Resize = a.terminalSizes(ctx)
		streams.DetachKeys = o.interactive
	}
	code, err := stream.Exec(ctx, c.strake, start, streams)
	if errors.Is(err, stream.ErrDetached) {
		return a.detached()
	}
	if err != nil {
		return cause(ctx, err)
	}
	return exitWith(code)
}

func (a *app) attachCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "attach CONTAINER",
		Short: "Connect to a running container's input and output",
		Long: `Connect to a running container that strake run made, as run does without -d,
and show its output from now on. Ctrl-P Ctrl-Q leaves it running.`,
		Args:              only("container"),
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			return processError(a.connect(a.attach)(cmd, args))
		},
	}
}

func (a *app) attach(ctx context.Context, c *client, args []string) error {
	to, err := c.container(ctx, args[0])
	if err != nil {
		return err
	}
	if err := to.running(); err != nil {
		return err
	}
	stdio := to.Annotations[annotationStdio]
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	s := session{
		app: a, client: c, signals: signals, id: to.Id,
		tty: strings.Contains(stdio, "t"), interactive: strings.Contains(stdio, "i"),
		running: true, fromNow: true,
	}
	code, err := s.run(ctx)
	if errors.Is(err, stream.ErrDetached) {
		return a.detached()
	}
	if err != nil {
		return err
	}
	return exitWith(code)
}

// processError gives an error of run, exec or attach the exit code that it has
// in a shell.
func processError(err error) error {
	var has *exitError
	var stopped interrupted
	switch {
	case err == nil || errors.As(err, &has):
		return err
	case errors.As(err, &stopped):
		return &exitError{code: stopped.exitCode()}
	case errors.Is(err, syscall.EPIPE): // as if the signal had come
		return &exitError{code: interrupted{syscall.SIGPIPE}.exitCode()}
	}
	// The runtime says of a command that it cannot execute: exec "NAME": why. CRI
	// has no other way to tell that from the daemon's own failures.
	_, why, found := strings.Cut(message(err), `exec "`)
	if !found {
		return &exitError{code: exitStrake, err: err}
	}
	code := exitCannot
	if strings.Contains(why, "no such file or directory") || strings.Contains(why, "not found") {
		code = exitNotFound
	}
	return &exitError{code: code, err: errors.New(`exec "` + why)}
}
