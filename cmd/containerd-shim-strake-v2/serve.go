package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/task"
	"github.com/strake-containers/strake/shim/wire"
)

// lastAnswers is how long answers in flight may take at the end.
const lastAnswers = 5 * time.Second

// gcPercent lets the heap, of which some hundred kilobytes live, grow to 2.4 MB
// before it is collected. Fewer would be no smaller: every collection adds to
// the collector's own tables, and an idle monitor gives memory back anyway
// (shim/task). Measured with one container: 1.5 MB private, 2.2 MB after 20 execs.
const gcPercent = 60

// serve is the monitor: it serves the socket that start made until it is told to
// shut down.
func serve(p parameters) error {
	debug.SetGCPercent(gcPercent)
	syscall.CloseOnExec(listenerFD)
	syscall.CloseOnExec(programFD)
	file := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}

	// The monitor ends when it is told to by its caller, not with a terminal, a
	// session or a service. Not ignored but caught, and dropped: an ignored signal
	// would stay ignored in the containers.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)

	// Started by a path in /proc, it would be called 7 in ps and top.
	if err := os.WriteFile("/proc/self/comm", []byte("containerd-shim"), 0); err != nil {
		return fmt.Errorf("take a name: %w", err)
	}

	server := wire.NewServer()
	ended := make(chan error, 1)
	service, err := task.New(task.Options{
		Namespace:     p.namespace,
		StateRoot:     stateRoot(p),
		EventsAddress: eventsAddress(p),
		Pins:          os.Getenv(wire.PinsVariable),
		Dir:           p.bundle,
		Publisher:     ownPath(),
		Debug:         p.debug,
		Shutdown: func() {
			ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
			defer cancel()
			ended <- server.Shutdown(ctx)
		},
	})
	if err != nil {
		return err
	}
	service.Register(server)
	if p.address == "" {
		if err := abandonWithout(p.socket, service); err != nil {
			return err
		}
		kept, err := listenKept(p)
		if err != nil {
			return err
		}
		go service.ServeKept(kept)
		server.WhenAlone(service.Alone)
	}
	if err := server.Serve(l); err != nil {
		return err
	}
	err = <-ended
	// A start that comes now finds a socket that nobody serves, and replaces it;
	// between its doing so and this removal lies no time that matters, since
	// nobody starts a monitor for a pod that is being shut down.
	if rmErr := os.Remove(p.socket); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// ownPath is where this program is found, for foreign shims to call; it was started by
// that, though it is executed by another (sealed).
func ownPath() string {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return os.Args[0]
	}
	return path
}

// listenKept makes the socket over which straked keeps descriptors for us.
func listenKept(p parameters) (*net.UnixListener, error) {
	path := filepath.Join(filepath.Dir(p.socket), wire.KeepSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a dead monitor's
		return nil, err
	}
	return wire.Listen(path)
}

// abandonWithout ends the service once its socket is removed. That is how a
// straked that finds a half-made pod gets rid of a monitor that its predecessor,
// killed in that moment, was still starting: perhaps after the look for it.
//
// Not by inotify: a host has 128 instances of it by default, and would have no
// more pods.
func abandonWithout(socket string, service *task.Service) error {
	gone := func() bool {
		_, err := os.Lstat(socket)
		return errors.Is(err, fs.ErrNotExist)
	}
	removals := make(chan os.Signal, 1)
	signal.Notify(removals, syscall.SIGIO)
	dir, err := os.Open(filepath.Dir(socket))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		removals <- syscall.SIGIO // gone already
	case err != nil:
		return err
	default:
		if err := sys.NotifyDelete(dir); err != nil {
			return errors.Join(err, dir.Close())
		}
		removals <- syscall.SIGIO // the first look
	}
	go func() {
		for range removals {
			if gone() {
				service.Abandon()
				return
			}
		}
		runtime.KeepAlive(dir) // closing it would end the watch
	}()
	return nil
}

// stateRoot is where containers' state is unless their options say otherwise.
func stateRoot(p parameters) string {
	if p.address == "" {
		return filepath.Join(p.bundle, "runtime")
	}
	return filepath.Join("/run/containerd/strake", p.namespace)
}

// eventsAddress is containerd's ttrpc socket.
func eventsAddress(p parameters) string {
	if p.address == "" {
		return ""
	}
	if a := os.Getenv("TTRPC_ADDRESS"); a != "" {
		return a
	}
	return p.address + ".ttrpc"
}
