package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
)

// Create makes the cgroup in every hierarchy, with the parents that it lacks,
// and writes all limits, before any process is in it. On an error everything
// that it made is gone again.
//
// A directory that is there already is used if no process is in it and it is not
// frozen (ErrBusy otherwise): it is what a runtime that was killed in between has
// left.
//
// Devices are limited if r.Devices is not nil: first nothing is allowed, then the
// rules count in their order, then what every container may use is allowed. A
// container's caller gives at least an empty slice, a pod's gives nil.
func (c *Cgroup) Create(r *specs.LinuxResources) (err error) {
	defer func() {
		if err != nil {
			err = c.failed("create", err)
		}
	}()
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. Decide everything that can be decided without touching the host.
	groups, err := c.compile(r)
	if err != nil {
		return err
	}
	filter, filtered, err := deviceFilterOf(r)
	if err != nil {
		return err
	}

	// 2. The directories.
	undo.Push("remove cgroup "+c.path, c.removeMade)
	reused := false
	for _, h := range c.all {
		fresh, err := c.makeDir(h, c.wanted(h, groups))
		if err != nil {
			return err
		}
		reused = reused || !fresh
	}
	if reused {
		pids, err := c.Pids(true)
		if err != nil {
			return err
		}
		if len(pids) > 0 {
			return fmt.Errorf("container's cgroup is not empty: %d processes are in it: %w: give linux.cgroupsPath another path", len(pids), ErrBusy)
		}
		if err := c.checkThawed(); err != nil {
			return err
		}
	}

	// 3. The limits.
	for _, g := range groups {
		if err := g.apply(); err != nil {
			return err
		}
	}
	if filtered {
		if err := c.setDevices(filter, !reused); err != nil {
			return err
		}
	}
	undo.Release()
	c.top = c.madeEverywhere()
	return nil
}

// checkThawed refuses a cgroup in which the first process would stop before it
// has done anything, for good.
func (c *Cgroup) checkThawed() error {
	for _, h := range c.all {
		file, thawed := c.dir(h)+"/cgroup.freeze", "0"
		if !h.v2 {
			file, thawed = c.dir(h)+"/freezer.state", "THAWED"
			if !contains(h.controllers, "freezer") {
				continue
			}
		}
		state, err := readFile(file)
		if err != nil {
			return err
		}
		if state = strings.TrimSpace(state); state != thawed {
			return fmt.Errorf("container's cgroup unexpectedly frozen: %s is %s: %w: thaw it, or give linux.cgroupsPath another path", file, state, ErrBusy)
		}
	}
	return nil
}

// Set changes the limits that r gives and leaves the others as they are. The
// kernel takes them one by one: on an error the earlier ones are in force.
func (c *Cgroup) Set(r *specs.LinuxResources) error {
	groups, err := c.compile(r)
	if err != nil {
		return c.failed("update", err)
	}
	filter, filtered, err := deviceFilterOf(r)
	if err != nil {
		return c.failed("update", err)
	}
	if err := c.checkBeforeUpdate(r); err != nil {
		return c.failed("update", err)
	}
	for _, g := range groups {
		if err := g.apply(); err != nil {
			return c.failed("update", err)
		}
	}
	if filtered {
		if err := c.setDevices(filter, false); err != nil {
			return c.failed("update", err)
		}
	}
	return nil
}

// failed names the cgroup, unless it is a field of the config that is wrong.
func (c *Cgroup) failed(verb string, err error) error {
	var field *fieldError
	if errors.As(err, &field) {
		return err
	}
	return fmt.Errorf("cgroup %s: %s: %w", c.path, verb, err)
}

// checkBeforeUpdate refuses a memory limit below what is in use, where the
// config asks for that check: v2 would kill processes to get there, v1 refuses
// by itself.
func (c *Cgroup) checkBeforeUpdate(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil || r.Memory.CheckBeforeUpdate == nil || !*r.Memory.CheckBeforeUpdate ||
		r.Memory.Limit == nil || *r.Memory.Limit <= 0 {
		return nil
	}
	h, ok := c.find("memory")
	if !ok || !h.v2 {
		return nil
	}
	used, err := readUint(c.dir(h) + "/memory.current")
	if err != nil {
		return err
	}
	if used > uint64(*r.Memory.Limit) {
		return fmt.Errorf("linux.resources.memory.limit: %d is less than the %d bytes in use", *r.Memory.Limit, used)
	}
	return nil
}

func deviceFilterOf(r *specs.LinuxResources) (deviceFilter, bool, error) {
	if r == nil || r.Devices == nil {
		return deviceFilter{}, false, nil
	}
	f, err := newDeviceFilter(r.Devices)
	return f, true, err
}

func (c *Cgroup) setDevices(f deviceFilter, fresh bool) error {
	if h, ok := c.find("devices"); ok {
		if err := writeDevicesV1(c.dir(h), f, fresh); err != nil {
			return fmt.Errorf("linux.resources.devices: %w", err)
		}
		return nil
	}
	// Only where v2 is the host's whole cgroup system are its device programs
	// the host's way; on v1 without a devices controller there is none.
	h, ok := c.v2()
	if !ok || c.mode != Unified {
		if f.allowsAll() {
			return nil
		}
		return fmt.Errorf("linux.resources.devices: this host has no devices controller (cgroup %v): %w", c.mode, ErrUnsupported)
	}
	if err := attachDevices(c.dir(h), f, fresh); err != nil {
		return fmt.Errorf("linux.resources.devices: %w", err)
	}
	return nil
}

// wanted are the controllers to turn on above the cgroup: all that v2 has, so
// that everything is counted; but on a hybrid host, whose controllers are v1's,
// only those of v2 that a limit needs. Other runtimes (crun) refuse a hybrid host
// on which v2 has any controller turned on.
func (c *Cgroup) wanted(h hierarchy, groups []group) []string {
	if c.mode == Unified {
		return h.controllers
	}
	var names []string
	for _, g := range groups {
		if g.controller != "" && h.v2 {
			names = append(names, g.controller)
		}
	}
	return names
}

// makeDir makes the cgroup's directory in one hierarchy, with the wanted v2
// controllers, and reports whether it was not there. It notes in c.made what it
// made.
func (c *Cgroup) makeDir(h hierarchy, wanted []string) (fresh bool, err error) {
	if len(wanted) > 0 {
		if err := c.makePath(h, path.Dir(c.path)); err != nil {
			return false, err
		}
		if err := c.delegate(h, wanted); err != nil {
			return false, err
		}
	}
	for range mkdirAttempts {
		err = mkdir(c.dir(h))
		switch {
		case err == nil:
			c.made = append(c.made, c.dir(h))
			return true, c.fillCpuset(h, c.path)
		case errors.Is(err, syscall.EEXIST):
			return false, c.fillCpuset(h, c.path)
		case !errors.Is(err, syscall.ENOENT):
			return false, explainMkdir(err)
		}
		if err := c.makePath(h, path.Dir(c.path)); err != nil {
			return false, err
		}
	}
	return false, err
}

// mkdirAttempts bounds how often Create makes a parent again that somebody who
// found it empty has just removed.
const mkdirAttempts = 8

// makePath makes a parent of the cgroup and its parents.
func (c *Cgroup) makePath(h hierarchy, p string) error {
	if p == "/" {
		return nil
	}
	for range mkdirAttempts {
		err := mkdir(h.mount + p)
		switch {
		case err == nil:
			c.made = append(c.made, h.mount+p)
			return c.fillCpuset(h, p)
		case errors.Is(err, syscall.EEXIST):
			return nil
		case !errors.Is(err, syscall.ENOENT):
			return explainMkdir(err)
		}
		if err := c.makePath(h, path.Dir(p)); err != nil {
			return err
		}
	}
	return fmt.Errorf("mkdir %s: its parents keep disappearing", h.mount+p)
}

func explainMkdir(err error) error {
	if isErrno(err, syscall.EAGAIN) {
		return fmt.Errorf("%w: the parent's cgroup.max.descendants or max.depth is reached", err)
	}
	if isErrno(err, syscall.EROFS, syscall.EACCES, syscall.EPERM) {
		return fmt.Errorf("%w: cgroups must be writable here", err)
	}
	return err
}

// fillCpuset gives a v1 cpuset directory its parent's CPUs and memory nodes if
// it has none of its own: v1 makes them empty, and lets no process into such.
func (c *Cgroup) fillCpuset(h hierarchy, p string) error {
	if h.v2 || p == "/" || !contains(h.controllers, "cpuset") {
		return nil
	}
	for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		have, err := readFile(h.mount + p + file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(have) != "" {
			continue
		}
		above := path.Dir(p)
		value, err := readFile(h.mount + strings.TrimSuffix(above, "/") + file)
		if err != nil {
			return err
		}
		if value = strings.TrimSpace(value); value == "" {
			// Somebody else made the parent and left it so.
			if err := c.fillCpuset(h, above); err != nil {
				return err
			}
			if value, err = readFile(h.mount + above + file); err != nil {
				return err
			}
			value = strings.TrimSpace(value)
		}
		if err := writeFile(h.mount+p+file, value); err != nil {
			return err
		}
	}
	return nil
}

// delegate turns the wanted controllers on for the children of every directory above
// the cgroup. A controller that cannot be is left out; a limit that needs it
// then fails by name.
func (c *Cgroup) delegate(h hierarchy, wanted []string) error {
	dir := h.mount
	for _, name := range append([]string{""}, strings.Split(strings.TrimPrefix(path.Dir(c.path), "/"), "/")...) {
		if name != "" {
			dir += "/" + name
		} else if dir != h.mount {
			break // the cgroup is directly below the root
		}
		if err := enableControllers(dir, wanted); err != nil {
			return err
		}
	}
	return nil
}

func enableControllers(dir string, wanted []string) error {
	file := dir + "/cgroup.subtree_control"
	text, err := readFile(file)
	if err != nil {
		return err
	}
	on := strings.Fields(text)
	var missing []string
	for _, name := range wanted {
		if !contains(on, name) {
			missing = append(missing, "+"+name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if writeFile(file, strings.Join(missing, " ")) == nil {
		return nil
	}
	// One that is refused refuses all: a threaded domain, a real-time task in
	// the way of cpu, or a controller that an ancestor does not hand down.
	for _, name := range missing {
		_ = writeFile(file, name) // what a limit needs is missed, by name, when the limit is written
	}
	return nil
}

// Top is the highest directory above or at the cgroup's path that Create made, in
// every hierarchy; "" before Create. Keep it if another process is to Delete.
func (c *Cgroup) Top() string { return c.top }

// Missing is what Top will be if Create is called now and nobody else is at work:
// the highest directory that no hierarchy has yet; "" if the cgroup is there in
// one. Keep it before Create, if a Create that is killed is to be undone.
func (c *Cgroup) Missing() string {
	top := ""
	for p := c.path; p != "/"; p = path.Dir(p) {
		for _, h := range c.all {
			if exists(h.mount + p) {
				return top
			}
		}
		top = p
	}
	return top
}

// Adopt tells a Cgroup what Top another one of the same path returned.
func (c *Cgroup) Adopt(top string) { c.top = top }

// Delete removes the cgroup with its descendants in every hierarchy, and the
// parents up to Top, if nobody else uses them. One that is gone is fine. With
// processes left it fails with ErrBusy, after giving those that were just killed
// a moment to go.
func (c *Cgroup) Delete() error {
	if err := c.removeTrees(); err != nil {
		return fmt.Errorf("cgroup %s: delete: %w", c.path, err)
	}
	for p := path.Dir(c.path); c.top != "" && len(p) >= len(c.top) && p != "/"; p = path.Dir(p) {
		for _, h := range c.all {
			if err := removeEmpty(h.mount + p); err != nil {
				return fmt.Errorf("cgroup %s: delete: %w", c.path, err)
			}
		}
	}
	return nil
}

// removeMade is Create's undo: what it made goes, children first.
func (c *Cgroup) removeMade() error {
	for _, dir := range slices.Backward(c.made) {
		if err := removeEmpty(dir); err != nil {
			return err
		}
	}
	c.made, c.top = nil, ""
	return nil
}

// removeEmpty removes a directory unless somebody uses it.
func removeEmpty(dir string) error {
	if err := rmdir(dir); err != nil && !isErrno(err, syscall.EBUSY, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// madeEverywhere is the highest path that was made in every hierarchy.
func (c *Cgroup) madeEverywhere() string {
	top := ""
	for p := c.path; p != "/"; p = path.Dir(p) {
		for _, h := range c.all {
			if !slices.Contains(c.made, h.mount+p) {
				return top
			}
		}
		top = p
	}
	return top
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}
