package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

// orphanTime is how long a plugin may go on whose daemon was killed. It is let end
// by itself: what it does next, a DEL beside it would not find.
const orphanTime = 10 * time.Second

// gcLock is the lock of GC, which is no pod's id.
const gcLock = "_gc"

type lockKey struct{}

// alone makes sure that no plugin runs for key, a pod's id or gcLock, but those of
// the context that it returns. Within the daemon that is the caller's business. A
// plugin that an earlier daemon was killed over may still be at work: each one
// inherits the lock of a file, CACHE/locks/KEY, which is there only meanwhile, and
// whoever has it open is waited for, and killed in the end.
func (c *CNI) alone(ctx context.Context, key string) (_ context.Context, release func(), err error) {
	if key != gcLock {
		// It also keeps the name inside the directory.
		if e := utils.ValidateContainerID(key); e != nil {
			return nil, nil, fmt.Errorf("pod id %q: %w", key, e)
		}
	}
	path := filepath.Join(c.config.CacheDir, "locks", key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	taken, err := sys.TryLock(f)
	if err == nil && !taken {
		if err = endOrphans(ctx, path); err == nil {
			taken, err = sys.TryLock(f)
		}
	}
	if err == nil && !taken {
		err = errors.New("plugins of a daemon that is gone are still at work and cannot be ended")
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, nil, fmt.Errorf("CNI lock %s: %w", path, err)
	}
	return context.WithValue(ctx, lockKey{}, f), func() {
		// Not by closing it: what a plugin leaves running on purpose has it, too.
		_, _ = os.Remove(path), sys.Unlock(f) // of a file that we have
		_ = f.Close()                         // nothing was written
	}, nil
}

// removeLeftovers removes the locks that a killed daemon had of pods that are not
// live, and what it was writing of their records: before that no plugin runs. A lock
// that somebody still has is the next GC's.
func (c *CNI) removeLeftovers(live []string) error {
	dir := filepath.Join(c.config.CacheDir, "locks")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == gcLock || slices.Contains(live, e.Name()) {
			continue
		}
		err = errors.Join(err, removeLock(filepath.Join(dir, e.Name())))
	}
	if e := atomicfile.RemoveLeftovers(filepath.Join(c.config.CacheDir, "pods")); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

func removeLock(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written
	if taken, err := sys.TryLock(f); err != nil || !taken {
		return err
	}
	return errors.Join(os.Remove(path), sys.Unlock(f))
}

// endOrphans waits until nobody has path open, and kills who has it for too long.
func endOrphans(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*orphanTime)
	defer cancel()
	patient, cancelPatient := context.WithTimeout(ctx, orphanTime)
	defer cancelPatient()
	for {
		holders, err := whoHas(path)
		if err != nil || len(holders) == 0 {
			return err
		}
		for _, pid := range holders {
			if err := endOrphan(ctx, patient, pid); err != nil {
				return fmt.Errorf("plugin process %d: %w", pid, err)
			}
		}
	}
}

func endOrphan(ctx, patient context.Context, pid int) error {
	p, err := sys.OpenPidFD(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // only opened
	if sys.WaitReadable(patient, p) == nil {
		return nil
	}
	if err := sys.SignalPidFD(int(p.Fd()), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return sys.WaitReadable(ctx, p)
}

// whoHas lists the other processes that have a file open.
func whoHas(path string) (pids []int, err error) {
	file, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || filepath.Base(to) != filepath.Base(path) {
			continue // another's, or it has ended
		}
		if st, err := os.Stat(fd); err != nil || !os.SameFile(file, st) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(fd))))
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
