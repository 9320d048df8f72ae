// Package cli is the strake command: the verbs that hands know from docker, on
// straked's pods, containers and images.
//
// It talks to straked's socket and to nothing else, with one exception: it reads
// the log files that CRI names, on the same machine. A container that `strake
// run` makes is a pod of one container with the pod's name, so that crictl and
// the kubelet see it as one of theirs, and the verbs work on their containers
// as well.
//
// Exit codes: 0; 1 for a command that failed; for run and exec the exit code of
// the process, or as docker has it 125 when strake or straked failed, 126 when
// the command cannot be run and 127 when it does not exist.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/strake-containers/strake/internal/version"
)

// DefaultAddress is where straked listens unless it is told otherwise.
const DefaultAddress = "/run/strake/strake.sock"

const (
	exitFailed   = 1
	exitStrake   = 125
	exitCannot   = 126
	exitNotFound = 127
)

// exitError ends strake with a code. Without err it says nothing more: the
// process whose code it is has said it.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// app is one invocation of strake.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	address        string
}

// Main runs strake with the given arguments and returns its exit code.
func Main(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.exitCode(root.ExecuteContext(ctx))
}

// exitCode prints what went wrong and says which code it means.
func (a *app) exitCode(err error) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		err = exit.err
	}
	if err != nil {
		fmt.Fprintf(a.stderr, "strake: %s\n", message(err))
	}
	return code
}

func (a *app) command() *cobra.Command {
	address := os.Getenv("STRAKE_ADDRESS")
	if address == "" {
		address = DefaultAddress
	}
	root := &cobra.Command{
		Use:           "strake",
		Short:         "Run and look after containers",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	group(root)
	root.SetFlagErrorFunc(usageError)
	root.PersistentFlags().StringVar(&a.address, "address", address, "straked's socket ($STRAKE_ADDRESS)")
	root.AddGroup(
		&cobra.Group{ID: "container", Title: "Containers:"},
		&cobra.Group{ID: "image", Title: "Images:"},
		&cobra.Group{ID: "system", Title: "The machine:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			c.Flags().SortFlags = false
			root.AddCommand(c)
		}
	}
	add("container", a.runCommand(), a.psCommand(), a.execCommand(), a.attachCommand(), a.logsCommand(),
		a.stopCommand(), a.killCommand(), a.waitCommand(), a.rmCommand(), a.inspectCommand(), a.diffCommand(), a.exportCommand(), a.podCommand())
	add("image", a.pullCommand(), a.pushCommand(), a.imagesCommand(), a.rmiCommand(), a.tagCommand(), a.untagCommand(), a.historyCommand(),
		a.saveCommand(), a.loadCommand(), a.importCommand(), a.mountCommand(), a.umountCommand(), a.verifyCommand(), a.pruneCommand(), a.dfCommand(), a.imageCommand())
	add("system", a.versionCommand(), a.infoCommand(), a.systemCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			group(c)
		}
	}
	return root
}

// group has a command that is nothing without a subcommand show its help, and
// name a subcommand that does not exist. Cobra would show the help for that too,
// and end with 0.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("no command %q", args[0])
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			err = fmt.Errorf("%w (did you mean %s?)", err, strings.Join(similar, " or "))
		}
		return usageError(cmd, err)
	}
}

// connect wraps a command that needs the daemon.
func (a *app) connect(run func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		c, err := dial(cmd.Context(), a.address)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		return run(cmd.Context(), c, args)
	}
}

// usageError says where to look, and has run and exec end with the code that is
// never the process's own.
func usageError(cmd *cobra.Command, err error) error {
	code := exitFailed
	if cmd.Name() == "run" || cmd.Name() == "exec" {
		code = exitStrake
	}
	text := err.Error()
	var number *strconv.NumError
	if errors.As(err, &number) { // its text names a function of Go's
		text = strings.Replace(text, number.Error(), number.Err.Error(), 1)
	}
	return &exitError{code: code, err: fmt.Errorf("%s; see %s --help", text, cmd.CommandPath())}
}

// verb is a command as it is typed after "strake".
func verb(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// needs checks that a command has at least n arguments, which what names.
func needs(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError(cmd, fmt.Errorf("%s needs %s", verb(cmd), what))
		}
		return nil
	}
}

// between checks that a command has from least to most arguments.
func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError(cmd, fmt.Errorf("%s needs %s", verb(cmd), what))
		}
		return nil
	}
}

// only checks that a command has one argument and no more.
func only(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError(cmd, fmt.Errorf("%s needs one %s", verb(cmd), what))
		}
		return nil
	}
}

// none checks that a command has no arguments.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(cmd, fmt.Errorf("%s takes no arguments, not %q", verb(cmd), args[0]))
	}
	return nil
}
