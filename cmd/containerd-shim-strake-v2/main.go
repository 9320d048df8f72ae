// Containerd-shim-strake-v2 is the monitor of a pod: a small process that is the
// parent of the pod's containers, writes their logs, knows how they end, and
// outlives the daemon. It is a containerd shim (runtime v2): containerd and
// straked start it with the same command line, described in usage.
//
// "start" makes the socket, so that it is listening before anybody is told of it,
// and hands it to a copy of this program in a session of its own, which serves
// it (serve.go); then it prints the address. "delete" cleans up after a monitor
// that has died (delete.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/shim/task"
)

const usage = `containerd-shim-strake-v2 is the monitor of a pod; containerd and straked start it.

usage: containerd-shim-strake-v2 -namespace NS -id ID [-address SOCKET] [-bundle DIR] start
       containerd-shim-strake-v2 -namespace NS -id ID [-address SOCKET] [-bundle DIR] delete
       containerd-shim-strake-v2 -address SOCKET publish -topic TOPIC -namespace NS < EVENT
       containerd-shim-strake-v2 -v | -info

  -namespace NS        containerd's namespace, or the daemon's name for its own
  -id ID               of the container, or of the sandbox
  -address SOCKET      containerd's main socket; empty for straked: no events are published
  -publish-binary BIN  accepted for containerd; events go over ttrpc
  -bundle DIR          the bundle; the working directory by default
  -debug               keep what the monitor has to say in a log
`

// parameters are the command line.
type parameters struct {
	namespace, id, address, bundle string
	socket                         string // of serve: the path of the listening socket
	debug                          bool
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "containerd-shim-strake-v2:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var p parameters
	var showVersion, showInfo bool
	flags := flag.NewFlagSet("containerd-shim-strake-v2", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&p.namespace, "namespace", "", "")
	flags.StringVar(&p.id, "id", "", "")
	flags.StringVar(&p.address, "address", "", "")
	flags.StringVar(&p.bundle, "bundle", "", "")
	flags.BoolVar(&p.debug, "debug", false, "")
	flags.String("publish-binary", "", "")
	flags.StringVar(&p.socket, "socket", "", "")
	flags.BoolVar(&showVersion, "v", false, "")
	flags.BoolVar(&showInfo, "info", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Print(usage)
		return err
	} else if err != nil {
		return fmt.Errorf("%w; see -help", err)
	}
	switch {
	case showVersion:
		_, err := fmt.Printf("containerd-shim-strake-v2:\n  Version:  %s\n", version.Version)
		return err
	case showInfo:
		return printInfo()
	case flags.Arg(0) == "publish":
		return publish(p.address, flags.Args()[1:])
	case p.id == "" || p.namespace == "":
		return errors.New("-namespace and -id are needed; see -help")
	}
	if p.bundle == "" {
		dir, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("find the bundle: %w", err)
		}
		p.bundle = dir
	}
	switch action := flags.Arg(0); action {
	case "start":
		return start(p)
	case "delete":
		return remove(p)
	case serveAction:
		return serve(p)
	default:
		return fmt.Errorf("action %q: there are start and delete; see -help", action)
	}
}

// publish forwards an event of a foreign shim that calls its publish binary. The
// arguments are containerd's.
func publish(address string, args []string) error {
	var topic, namespace string
	flags := flag.NewFlagSet("publish", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&topic, "topic", "", "")
	flags.StringVar(&namespace, "namespace", "", "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("publish: %w; see -help", err)
	}
	if address == "" || topic == "" {
		return errors.New("publish: -address and -topic are needed; see -help")
	}
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	if err := task.Publish(ctx, address, namespace, topic, os.Stdin); err != nil {
		return fmt.Errorf("publish %s: %w", topic, err)
	}
	return nil
}

// publishTimeout is how long a monitor may take to take an event.
const publishTimeout = 5 * time.Second
