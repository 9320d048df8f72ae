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

	"github.com/strake-containers/strake/internal/sys"
)

// Freeze stops every process of the cgroup and its descendants and waits until
// they have stopped. If that fails or ctx ends first, they run again.
func (c *Cgroup) Freeze(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cgroup %s: freeze: %w", c.path, errors.Join(err, c.setFrozen(false)))
		}
	}()
	if err := c.setFrozen(true); err != nil {
		return err
	}
	h := c.processes()
	if h.v2 {
		return waitEvents(ctx, c.dir(h), func(e events) bool { return e.frozen })
	}
	return c.waitFrozenV1(ctx)
}

// waitFrozenV1 asks until a v1 freezer says FROZEN. It tells nobody when it gets
// there: a task freezes on its next way out of the kernel, and the state is
// worked out when somebody reads it. So the state is read again, at growing
// intervals, and the command repeated, which reaches tasks forked meanwhile.
func (c *Cgroup) waitFrozenV1(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		frozen, err := c.Frozen()
		if err != nil || frozen {
			return err
		}
		if err := c.setFrozen(true); err != nil {
			return err
		}
		timer.Reset(wait)
	}
}

// Thaw lets the processes of a frozen cgroup run again.
func (c *Cgroup) Thaw() error {
	if err := c.setFrozen(false); err != nil {
		return fmt.Errorf("cgroup %s: thaw: %w", c.path, err)
	}
	return nil
}

func (c *Cgroup) setFrozen(frozen bool) error {
	if err := c.check(); err != nil {
		return err
	}
	h := c.processes()
	switch {
	case h.v2 && frozen:
		return writeFile(c.dir(h)+"/cgroup.freeze", "1")
	case h.v2:
		return writeFile(c.dir(h)+"/cgroup.freeze", "0")
	case !slices.Contains(h.controllers, "freezer"):
		return fmt.Errorf("no freezer controller: %w", ErrUnsupported)
	case frozen:
		return writeFile(c.dir(h)+"/freezer.state", "FROZEN")
	}
	return writeFile(c.dir(h)+"/freezer.state", "THAWED")
}

// ThawProcess lets a process go that has been sent SIGKILL, from whichever cgroups
// of the v1 freezer it and its threads are in: there a frozen process does not
// even die, and whoever may write to cgroups can have put it into another one
// than its container's. Pidfd is the process's own, so that its number is not
// taken for another's. ErrBusy if a cgroup above holds it: that one is of more
// than this process.
func ThawProcess(pid int, pidfd *os.File) error {
	host, err := DetectHost()
	if err != nil {
		return err
	}
	mount, ok := host.V1Mounts["freezer"]
	if !ok {
		return nil
	}
	// 1. Where its threads are.
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := os.ReadDir(tasks)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("thaw process %d: %w", pid, err)
	}
	var in []string
	for _, thread := range threads {
		text, err := readFile(tasks + "/" + thread.Name() + "/cgroup")
		if isErrno(err, syscall.ENOENT, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("thaw process %d: %w", pid, err)
		}
		if p := freezerPath(text); p != "" && !slices.Contains(in, p) {
			in = append(in, p)
		}
	}
	// 2. That was of this process if it has not ended.
	if _, _, ended := sys.PidFDExit(sys.Fd(pidfd)); ended {
		return nil
	}
	// 3. Thaw them.
	for _, p := range in {
		file := mount + p + "/freezer.state"
		if err := writeFile(file, "THAWED"); err != nil {
			if isErrno(err, syscall.ENOENT, syscall.ENODEV) {
				continue
			}
			return fmt.Errorf("thaw process %d: %w", pid, err)
		}
		state, err := readFile(file)
		if err == nil && strings.TrimSpace(state) != "THAWED" {
			return fmt.Errorf("thaw process %d: %s stays %s: %w: thaw the cgroup above it that is frozen", pid, file, strings.TrimSpace(state), ErrBusy)
		}
	}
	return nil
}

// LeaveFreezer lets a child of this process go that has been sent SIGKILL, and only
// that: it is moved to the root of the v1 freezer, which cannot freeze, and what
// froze it stays as it is. Where it cannot be moved, it dies when it is thawed.
func LeaveFreezer(pid int) {
	host, err := DetectHost()
	if err != nil {
		return // then it is in no cgroup of ours
	}
	mount, ok := host.V1Mounts["freezer"]
	if !ok {
		return // of v2, frozen processes die
	}
	// Twice: it may have been on its way in, which the kernel lets nobody do at the
	// same time as this.
	for range 2 {
		_ = writeFile(mount+"/cgroup.procs", strconv.Itoa(pid)) // it has ended, or see above
	}
}

// freezerPath is the v1 freezer's path in the text of a /proc/PID/cgroup; "" if it
// is the root, which cannot freeze, or out of this cgroup namespace.
func freezerPath(text string) string {
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, p, _ := strings.Cut(rest, ":")
		if !slices.Contains(strings.Split(controllers, ","), "freezer") {
			continue
		}
		if p == "/" || !strings.HasPrefix(p, "/") || slices.Contains(strings.Split(p, "/"), "..") {
			return ""
		}
		return p
	}
	return ""
}

// Frozen reports whether every process of the cgroup is stopped by Freeze, of
// this cgroup or of one above it.
func (c *Cgroup) Frozen() (bool, error) {
	if err := c.check(); err != nil {
		return false, err
	}
	h := c.processes()
	if h.v2 {
		e, err := readEvents(c.dir(h))
		if err != nil {
			return false, fmt.Errorf("cgroup %s: %w", c.path, err)
		}
		return e.frozen, nil
	}
	state, err := readFile(c.dir(h) + "/freezer.state")
	if err != nil {
		return false, fmt.Errorf("cgroup %s: %w", c.path, err)
	}
	return strings.TrimSpace(state) == "FROZEN", nil
}

// Freezing reports whether the processes are stopped or, a Freeze not being through
// yet or its caller killed, about to be.
func (c *Cgroup) Freezing() (bool, error) {
	if frozen, err := c.Frozen(); err != nil || frozen {
		return frozen, err
	}
	h := c.processes()
	file, thawed := c.dir(h)+"/cgroup.freeze", "0"
	if !h.v2 {
		file, thawed = c.dir(h)+"/freezer.state", "THAWED"
	}
	state, err := readFile(file)
	if err != nil {
		return false, fmt.Errorf("cgroup %s: %w", c.path, err)
	}
	return strings.TrimSpace(state) != thawed, nil
}
