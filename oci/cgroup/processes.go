package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/internal/sys"
)

// Pids lists the processes of the cgroup and, if recursive, of its descendants,
// sorted. None if the cgroup is gone. A process outside this one's PID
// namespace has no number here and is left out.
func (c *Cgroup) Pids(recursive bool) ([]int, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	pids, err := pidsOf(c.dir(c.processes()), recursive)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: list processes: %w", c.path, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// pidsAnywhere are those that are in any hierarchy. A new process of v1 joins one after the
// other, and stays in some only if whoever made it is killed meanwhile.
func (c *Cgroup) pidsAnywhere() ([]int, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.processes().v2 { // in which it is born
		return c.Pids(true)
	}
	var pids []int
	for _, h := range c.all {
		more, err := pidsOf(c.dir(h), true)
		if err != nil {
			return nil, fmt.Errorf("cgroup %s: list processes: %w", c.path, err)
		}
		pids = append(pids, more...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func pidsOf(dir string, recursive bool) (pids []int, err error) {
	if !recursive {
		return pidsIn(abi.AtFDCWD, dir+"/cgroup.procs", dir)
	}
	err = walk(dir, func(at int) error {
		more, err := pidsIn(at, "cgroup.procs", dir)
		pids = append(pids, more...)
		return err
	}, nil)
	return pids, err
}

// pidsIn reads the list of processes that name leads to from a directory; it is dir's or
// that of one below.
func pidsIn(at int, name, dir string) ([]int, error) {
	text, err := readAt(at, name)
	switch {
	case isErrno(err, syscall.ENOENT, syscall.ENODEV):
		return nil, nil // gone
	case isErrno(err, syscall.EOPNOTSUPP):
		return nil, nil // threaded: its processes are listed in the domain above it
	case err != nil:
		return nil, pathError("read cgroup.procs of", dir, err)
	}
	var pids []int
	for line := range strings.Lines(text) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("%s/cgroup.procs: %w", dir, err)
		}
		if pid > 0 { // 0 is a process of a foreign PID namespace, and to kill(2) our own group
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killFreeze bounds how long Kill holds a cgroup still: a task that the disk
// keeps in the kernel cannot freeze, and must not keep the others alive.
const killFreeze = 2 * time.Second

// killRounds is how often Kill looks for processes that were forked while it
// signalled their parents.
const killRounds = 8

// Kill sends a signal to every process of the cgroup and its descendants, those
// that they fork meanwhile too. A caller that is killed at it leaves nothing
// frozen: only where the kernel cannot kill a cgroup, and only against processes
// that fork faster than they can be killed, is it held still for a SIGKILL. A
// frozen v1 cgroup, whose processes could not die otherwise, is let go by one. A
// cgroup that is gone has none to kill.
func (c *Cgroup) Kill(sig syscall.Signal) error {
	if err := c.check(); err != nil {
		return err
	}
	h := c.processes()
	if h.v2 && sig == syscall.SIGKILL {
		err := writeFile(c.dir(h)+"/cgroup.kill", "1")
		if isErrno(err, syscall.ENOENT, syscall.ENODEV) && !exists(c.dir(h)) {
			return nil
		}
		if err == nil {
			err = c.thawV1()
		}
		if err != nil {
			return fmt.Errorf("cgroup %s: kill: %w", c.path, err)
		}
		return nil
	}
	if err := c.killOneByOne(sig); err != nil {
		return fmt.Errorf("cgroup %s: kill with %v: %w", c.path, sig, err)
	}
	return nil
}

// thawV1 lets go what somebody else has frozen through the v1 freezer of a hybrid
// host, where not even SIGKILL ends a frozen process.
func (c *Cgroup) thawV1() error {
	h, ok := c.find("freezer")
	if !ok || h.v2 {
		return nil
	}
	err := writeFile(c.dir(h)+"/freezer.state", "THAWED")
	if isErrno(err, syscall.ENOENT, syscall.ENODEV) {
		return nil
	}
	return err
}

func (c *Cgroup) killOneByOne(sig syscall.Signal) (err error) {
	if !c.Exists() {
		return nil
	}
	if sig == syscall.SIGKILL { // whoever is frozen, or is being frozen, cannot die
		defer func() { err = errors.Join(err, ignoreGone(c.setFrozen(false))) }() // a freezer's may not be there yet
	}
	done := map[int]bool{}
	for round := range 2 * killRounds {
		more, err := c.signalOthers(sig, done)
		if err != nil || !more {
			return err
		}
		if round == killRounds && sig == syscall.SIGKILL {
			ctx, cancel := context.WithTimeout(context.Background(), killFreeze)
			_ = c.Freeze(ctx) // without it a fork may escape; not killing would be worse
			cancel()
		}
	}
	return nil
}

// signalOthers signals the processes that are not in done, and puts them there.
// It reports whether there were any, those too that were gone before they could
// be signalled: they may have left children. Each is held by a pidfd before it is
// seen in the cgroup once more, so that a number which changes hands hits nobody
// else.
func (c *Cgroup) signalOthers(sig syscall.Signal, done map[int]bool) (found bool, err error) {
	held := map[int]*os.File{}
	defer func() {
		for _, f := range held {
			_ = f.Close()
		}
	}()
	pids, err := c.pidsAnywhere()
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		if done[pid] {
			continue
		}
		found = true
		f, err := sys.OpenPidFD(pid)
		if isErrno(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return false, err
		}
		held[pid] = f
	}
	if !found {
		return false, nil
	}
	if pids, err = c.pidsAnywhere(); err != nil {
		return false, err
	}
	for _, pid := range pids {
		f := held[pid]
		if f == nil {
			continue
		}
		done[pid] = true
		if e := sys.KillPidFD(sys.Fd(f), sig); e != nil {
			err = errors.Join(err, fmt.Errorf("pid %d: %w", pid, e))
		}
	}
	return true, err
}

// Empty reports that certainly no process is in the cgroup and its descendants. Of
// v1 alone that is not certain: it shows no process of another PID namespace.
func (c *Cgroup) Empty() bool {
	if c.none() {
		return true
	}
	h := c.processes()
	if !h.v2 {
		return false
	}
	e, err := readEvents(c.dir(h))
	return err == nil && !e.populated
}

// WaitEmpty waits until no process is left in the cgroup and its descendants, or
// the cgroup is gone.
func (c *Cgroup) WaitEmpty(ctx context.Context) error {
	if c.none() {
		return nil
	}
	if err := c.waitEmpty(ctx); err != nil {
		return fmt.Errorf("cgroup %s: wait for its processes: %w", c.path, err)
	}
	return nil
}

func (c *Cgroup) waitEmpty(ctx context.Context) error {
	h := c.processes()
	if h.v2 {
		err := waitEvents(ctx, c.dir(h), func(e events) bool { return !e.populated })
		if isErrno(err, syscall.ENOENT, syscall.ENODEV) {
			return nil
		}
		return err
	}
	// v1 tells nobody, but each process does.
	for {
		pids, err := c.pidsAnywhere()
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := waitExit(ctx, pids[0]); err != nil {
			return err
		}
	}
}

// waitExit waits for the end of a process that need not be a child of ours.
func waitExit(ctx context.Context, pid int) error {
	f, err := sys.OpenPidFD(pid)
	if isErrno(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return sys.WaitReadable(ctx, f)
}
