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
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/config"
	"github.com/strake-containers/strake/internal/version"
)

const usage = `straked runs pods and containers on this node.

usage: straked [--config FILE] [--root DIR] [--state DIR] [--address SOCKET] [--log-level LEVEL]
       straked config default      print a commented configuration with every default
       straked config check FILE   name each wrong key of a configuration with its file and line
       straked config show [FILE]  print the whole configuration that counts, drop-ins applied
       straked version

  --config FILE       TOML configuration (default ` + config.DefaultPath + `, if it exists);
                      what is in FILE.d/*.toml goes over it, in the order of the names
  --root DIR          what outlives a reboot (/var/lib/strake)
  --state DIR         what dies with the boot (/run/strake)
  --address SOCKET    unix socket to serve on (/run/strake/strake.sock)
  --log-level LEVEL   debug, info, warn or error

SIGTERM and SIGINT stop the daemon. Its pods go on; the next straked finds them.
SIGHUP reads the configuration again. What it says of logging, registries, signature
policies, CNI, CDI, hooks, workloads, monitors and runtimes counts from then on; other
keys are refused by name until a restart. What lies in files of its own (registries.conf,
policies, certs.d, CNI configurations) is read whenever it is used.
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
		_, files, err := readConfig(args[2], true)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return exitError
		}
		for _, f := range files {
			fmt.Fprintf(stdout, "%s: ok\n", f)
		}
	case args[0] == "config" && len(args) <= 3 && len(args) > 1 && args[1] == "show":
		return show(over, args[2:], stdout, stderr)
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

// load reads the configuration that the flags ask for, and names the files it is from.
func (o overrides) load() (config.Config, []string, error) {
	file := o.file
	if file == "" {
		file = config.DefaultPath
	}
	c, files, err := readConfig(file, o.file != "")
	if err != nil {
		return c, nil, err
	}
	for _, f := range []struct {
		flag string
		key  *string
	}{{o.root, &c.Root}, {o.state, &c.State}, {o.address, &c.Address}, {o.logLevel, &c.LogLevel}} {
		if f.flag != "" {
			*f.key = f.flag
		}
	}
	return c, files, c.Validate()
}

// maxDropIns bounds the files that go over a configuration.
const maxDropIns = 1000

// readConfig reads the file at path, which may be missing unless it is required, and
// over it PATH.d/*.toml in the order of their names. It names what it has read.
func readConfig(path string, required bool) (config.Config, []string, error) {
	entries, err := os.ReadDir(path + ".d") // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, nil, err
	}
	var paths []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") { // an editor's are hidden
			paths = append(paths, filepath.Join(path+".d", e.Name()))
		}
	}
	if len(paths) > maxDropIns {
		return config.Config{}, nil, fmt.Errorf("%s.d: %d files; at most %d are read", path, len(paths), maxDropIns)
	}
	if _, err := os.Stat(path); required || !errors.Is(err, fs.ErrNotExist) {
		paths = slices.Insert(paths, 0, path)
	}
	var files []config.File
	for _, path := range paths {
		data, err := readFile(path)
		if err != nil {
			return config.Config{}, nil, err
		}
		files = append(files, config.File{Name: path, Data: data})
	}
	c, err := config.Parse(files...)
	return c, paths, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, config.MaxSize+1))
}

// show prints the configuration that straked would run with: of the file, if one is
// named, and the flags.
func show(o overrides, file []string, stdout, stderr io.Writer) int {
	if len(file) > 0 {
		o.file = file[0]
	}
	c, files, err := o.load()
	var text []byte
	if err == nil {
		text, err = c.TOML()
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitError
	}
	for _, f := range files {
		fmt.Fprintf(stdout, "# %s\n", f)
	}
	_, _ = stdout.Write(text) // a closed stdout is the reader's wish
	return exitOK
}

// serve runs the daemon until a signal.
func serve(o overrides, stderr io.Writer) int {
	// Files are made with the modes they need, whatever the caller's shell had.
	syscall.Umask(0o022)
	c, files, err := o.load()
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
	// Whoever reads the log may go, and a line that nobody reads is no reason to end. Not
	// ignored but caught, and dropped: an ignored signal would stay ignored in plugins and hooks.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	r := &reloader{load: o.load, level: level, log: log, asked: reloads}
	r.running.Store(&c)
	if err := daemon(ctx, c, strings.Join(files, ", "), log, r); err != nil {
		log.Error("straked failed", "error", err)
		return exitError
	}
	return exitOK
}
