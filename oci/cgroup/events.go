package cgroup

import (
	"context"
	"path/filepath"

	"github.com/strake-containers/strake/internal/sys"
)

// events is a v2 cgroup.events file.
type events struct{ populated, frozen bool }

func readEvents(dir string) (events, error) {
	text, err := readFile(dir + "/cgroup.events")
	if err != nil {
		return events{}, err
	}
	var e events
	flatKeyed([]byte(text), func(key []byte, value uint64) {
		switch string(key) {
		case "populated":
			e.populated = value != 0
		case "frozen":
			e.frozen = value != 0
		}
	})
	return e, nil
}

// waitEvents waits until done says yes of dir's cgroup.events, which the kernel
// reports through inotify at each change. It asks first, and asks again once
// it watches, so a change in between is not lost. A removal ends it with ENOENT or
// ENODEV: the file itself does not tell of that, nor of a change that the kernel
// was still holding back (it reports one in 10 ms), but the directory above does.
func waitEvents(ctx context.Context, dir string, done func(events) bool) error {
	e, err := readEvents(dir)
	if err != nil || done(e) {
		return err
	}
	watch, err := sys.NewInotify()
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }()
	if err := watch.Add(dir+"/cgroup.events", sys.InModify); err != nil {
		return err
	}
	if err := watch.Add(filepath.Dir(dir), sys.InDelete); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = watch.Close() })
	defer stop()
	for {
		e, err := readEvents(dir)
		if err != nil || done(e) {
			return err
		}
		if err := watch.Wait(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}
