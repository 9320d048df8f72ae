// Straked is the daemon: pods, containers and images of one node, over CRI and
// strake.v1 on a unix socket. This package reads the command line and wires the
// concrete types together (daemon.go); what happens is in the packages it wires.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/config"
	"github.com/strake-containers/strake/internal/version"
)

const usage = `straked runs pods and containers on this node.

usage: straked [--config FILE] [--root DIR] [--state DIR] [--address SOCKET] [--log-level LEVEL]
       straked config default      print a commented configuration with every default
       straked config check FILE   name each wrong key of a configuration with its line
       straked version

  --config FILE       TOML configuration (default ` + config.DefaultPath + `, if it exists)
  --root DIR          what outlives a reboot (/var/lib/strake)
  --state DIR         what dies with the boot (/run/strake)
  --address SOCKET    unix socket to serve on (/run/strake/strake.sock)
  --log-level LEVEL   debug, info, warn or error

SIGTERM and SIGINT stop the daemon. Its pods go on; the next straked finds them.
SIGHUP reads the configuration again: log_level counts at once, and straked says
which other changes wait for a restart. What lies in files of its own (registries.conf,
policies, certs.d, CNI) is read whenever it is used.
`

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("straked", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var over overrides
	flags.StringVar(&over.file, "config", "", "")
	flags.StringVar(&over.root, "root", "", "")
	flags.StringVar(&over.state, "state", "", "")
	flags.StringVar(&over.address, "address", "", "")
	flags.StringVar(&over.logLevel, "log-level", "", "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exitOK
	} else if err != nil {
		fmt.Fprintf(stderr, "straked: %v; see straked --help\n", err)
		return exitUsage
	}
	switch args := flags.Args(); {
	case len(args) == 0:
		return serve(over, stderr)
	case args[0] == "version" && len(args) == 1:
		fmt.Fprintf(stdout, "straked %s\n", version.Version)
	case args[0] == "help" && len(args) == 1:
		fmt.Fprint(stdout, usage)
	case args[0] == "config" && len(args) == 2 && args[1] == "default":
		_, _ = stdout.Write(config.DefaultTOML()) // as with the other prints, a closed stdout is the reader's wish
	case args[0] == "config" && len(args) == 3 && args[1] == "check":
		if _, err := readConfig(args[2]); err != nil {
			fmt.Fprintln(stderr, err)
			return exitError
		}
		fmt.Fprintf(stdout, "%s: ok\n", args[2])
	case args[0] == "config" && len(args) == 2 && args[1] == "check":
		fmt.Fprintln(stderr, "straked: config check needs a FILE; see straked --help")
		return exitUsage
	default:
		fmt.Fprintf(stderr, "straked: no command %q; see straked --help\n", strings.Join(args, " "))
		return exitUsage
	}
	return exitOK
}

// overrides are the flags that win over the file.
type overrides struct{ file, root, state, address, logLevel string }

// load reads the configuration that the flags ask for.
func (o overrides) load() (config.Config, error) {
	c := config.Default()
	file := o.file
	if file == "" {
		file = config.DefaultPath
	}
	read, err := readConfig(file)
	switch {
	case err == nil:
		c = read
	case o.file == "" && errors.Is(err, fs.ErrNotExist):
	default:
		return c, err
	}
	for _, f := range []struct {
		flag string
		key  *string
	}{{o.root, &c.Root}, {o.state, &c.State}, {o.address, &c.Address}, {o.logLevel, &c.LogLevel}} {
		if f.flag != "" {
			*f.key = f.flag
		}
	}
	return c, c.Validate()
}

func readConfig(path string) (config.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return config.Config{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, config.MaxSize+1))
	if err != nil {
		return config.Config{}, err
	}
	return config.Parse(path, data)
}

// serve runs the daemon until a signal.
func serve(o overrides, stderr io.Writer) int {
	// Files are made with the modes they need, whatever the caller's shell had.
	syscall.Umask(0o022)
	c, err := o.load()
	if err != nil {
		fmt.Fprintf(stderr, "straked: %v\n", err)
		return exitError
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(stderr, "straked: it makes mounts, namespaces and cgroups: run it as root (sudo straked)")
		return exitError
	}
	log, level := newLogger(stderr, c)
	// The second signal is the system's own again: it ends what hangs.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	r := &reloader{load: o.load, running: c, level: level, log: log, asked: reloads}
	if err := daemon(ctx, c, o.file, log, r); err != nil {
		log.Error("straked failed", "error", err)
		return exitError
	}
	return exitOK
}
