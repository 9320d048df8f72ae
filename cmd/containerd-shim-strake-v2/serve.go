package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/strake-containers/strake/shim/task"
	"github.com/strake-containers/strake/shim/wire"
)

// lastAnswers is how long answers in flight may take at the end.
const lastAnswers = 5 * time.Second

// gcPercent keeps the heap, which is a few hundred kilobytes, from growing to Go's
// usual four megabytes before it is looked at.
const gcPercent = 25

// serve is the monitor: it serves the socket that start made until it is told to
// shut down.
func serve(p parameters) error {
	debug.SetGCPercent(gcPercent)
	syscall.CloseOnExec(listenerFD)
	file := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("take the socket: %w", err)
	}
	address := l.Addr().String()

	// The monitor ends when it is told to by its caller, not with a terminal, a
	// session or a service. Not ignored but caught, and dropped: an ignored signal
	// would stay ignored in the containers.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)

	server := wire.NewServer()
	ended := make(chan error, 1)
	service, err := task.New(task.Options{
		Namespace:     p.namespace,
		StateRoot:     stateRoot(p),
		EventsAddress: eventsAddress(p),
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
	if err := server.Serve(l); err != nil {
		return err
	}
	err = <-ended
	// The socket stays out of reach of a successor's: it is ours by its path only
	// as long as we listen, and we have only just stopped.
	if filepath.IsAbs(address) {
		if err := os.Remove(address); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return err
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
