package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/strake-containers/strake/internal/sdnotify"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

// notifier passes on to the service manager that a container's program is ready: a
// service is not, before its program says so. The zero value has nobody to tell.
type notifier struct{ from *container.Notifications }

// listen begins to listen to a container that is about to be started.
func (n *notifier) listen(c *container.Container) error {
	name, err := sdnotify.Socket()
	if err != nil || name == "" {
		return err
	}
	n.from, err = c.ListenNotify()
	return err
}

// pass waits until the container is ready and tells so; mainPid is the process that
// the service manager is to watch, init if 0. Then nobody listens any more. A container
// that ends without having been ready is left to who waits for it.
func (n *notifier) pass(ctx context.Context, mainPid int) (err error) {
	if n.from == nil {
		return nil
	}
	defer func() { err = errors.Join(err, n.close()) }()
	ready, err := n.from.Ready(ctx)
	if err != nil || !ready {
		return err
	}
	name, err := sdnotify.Socket()
	if err != nil {
		return err
	}
	if mainPid == 0 {
		mainPid = n.from.Pid()
	}
	if err := notify(ctx, name, mainPid); err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return nil
}

// close is for what has not come to pass.
func (n *notifier) close() error { return n.from.Close() }

// barrierTime is how long the service manager has to read what it was told. Before
// version 246, systemd does not know what it is asked for.
const barrierTime = 30 * time.Second

// notify sends the one message, and waits until it has been read (sd_notify_barrier(3)):
// if this program ended before that, systemd could not tell any more whose it is.
func notify(ctx context.Context, name string, mainPid int) (err error) {
	to, err := sys.DialDatagram(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := to.WriteString("READY=1\nMAINPID=" + strconv.Itoa(mainPid)); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = read.Close() }()
	if err := errors.Join(sys.SendDatagram(to, []byte("BARRIER=1"), write), write.Close()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, barrierTime)
	defer cancel()
	if err := sys.WaitHangup(ctx, read); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
