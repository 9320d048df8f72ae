package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/container"
)

func bindRun(a *app, f *flags) func(context.Context, []string) error {
	var c createFlags
	var detach, keep, noSubreaper bool
	c.bind(f)
	f.flag(&detach, "detach,d", "return once the program runs")
	f.flag(&keep, "keep", "do not remove the container after its end")
	f.flag(&noSubreaper, "no-subreaper", "leave orphans of the container to the parent")
	return func(ctx context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		if detach {
			return a.runDetached(ctx, &c, id)
		}
		if !noSubreaper {
			if err := sys.SetSubreaper(); err != nil {
				return fmt.Errorf("become a subreaper: %w", err)
			}
		}
		return a.runForeground(ctx, &c, id, keep)
	}
}

func (a *app) runDetached(ctx context.Context, c *createFlags, id string) error {
	var ready notifier
	box, p, err := a.create(ctx, c, id, func(p *container.Process) error {
		if p.Console != nil {
			return errors.New("a detached container with a terminal needs --console-socket")
		}
		return a.listen(&ready, id)
	})
	if err != nil {
		return errors.Join(err, ready.close())
	}
	if err := ready.pass(ctx, 0); err != nil {
		return errors.Join(err, p.PidFD.Close(), a.remove(context.WithoutCancel(ctx), box, true))
	}
	return p.PidFD.Close()
}

// listen has ready listen to a container that is being made.
func (a *app) listen(ready *notifier, id string) error {
	box, err := container.Load(a.root, id)
	if err != nil {
		return err
	}
	return ready.listen(box)
}

// runForeground waits for the container's end, lends it the terminal and passes
// signals on.
func (a *app) runForeground(ctx context.Context, c *createFlags, id string, keep bool) error {
	// 1. Signals from now on are the container's; one that comes before it
	// exists waits for it.
	signals, err := catchSignals()
	if err != nil {
		return err
	}

	// 2. The container, with the terminal ready before its program runs.
	var tty *tty
	var ready notifier
	box, p, err := a.create(ctx, c, id, func(p *container.Process) (err error) {
		tty, err = openTTY(p.Console)
		p.Console = nil
		return errors.Join(err, a.listen(&ready, id))
	})
	if err != nil {
		return errors.Join(err, tty.close(), ready.close())
	}

	// 3. That it is ready, meanwhile; this process stays the service's main one.
	passing, stop := context.WithCancel(ctx)
	defer stop()
	var passed sync.WaitGroup
	passed.Go(func() {
		if err := ready.pass(passing, os.Getpid()); err != nil {
			a.log.warn(err.Error()) // the container runs, and its service manager sees that it was not told
		}
	})

	// 4. Its end.
	code, err := wait(p, signals, tty)
	if err != nil {
		stop() // it may still run
	}
	passed.Wait()
	err = errors.Join(err, tty.close())
	if !keep {
		err = errors.Join(err, a.remove(context.WithoutCancel(ctx), box, true))
	}
	if err != nil {
		return err
	}
	return exitStatus{code: code}
}
