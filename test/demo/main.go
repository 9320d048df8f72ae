// Demo is `make demo`: the whole line once, on this machine, in a minute. It
// builds an image from examples/, serves it from a registry of its own, starts a
// private straked, pulls, runs a pod of two containers on the built-in bridge,
// kills the daemon in the middle, removes everything, and looks whether anything
// stayed.
//
// It uses nothing but the four programs and CRI, and touches nothing of a straked
// that runs here already: directories, socket, bridge, subnet and cgroups are its
// own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the built programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("run it as root: it makes namespaces, mounts and cgroups")
	}
	d, err := newDemo(ctx, bin)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.abandon())
		}
	}()
	for _, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"An image, a registry, a daemon", d.prepare},
		{"A pod of two containers", d.runPod},
		{"What they do", d.look},
		{"The daemon is killed", d.kill},
		{"Everything is removed", d.remove},
		{"What stayed behind", d.prove},
	} {
		d.title(chapter.title)
		// A step is not interrupted in its middle: what it made is then known.
		if err := chapter.tell(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	d.end()
	return nil
}
