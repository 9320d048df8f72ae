package cgroup

import (
	"context"
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
	if c.unit != nil {
		r = forUnit(r)
	}
	groups, err := c.compile(r)
	if err != nil {
		return err
	}
	filter, filtered, err := deviceFilterOf(r)
	if err != nil {
		return err
	}
	if c.none() {
		return nil // without limits, which compile has seen to; and its owner makes no device
	}

	// 2. The scope.
	if c.unit != nil {
		if err := c.checkThawed(); err != nil { // before systemd puts a process there
			return err
		}
		if err := c.startUnit(r, filter, filtered); err != nil {
			return err
		}
		undo.Push("stop "+c.unit.name, c.stopUnit)
		if c.settle != nil { // the files, too, leave room for the process that holds it
			groups, err = c.compile(withPids(r, *c.settle.Pids.Limit+1))
			if err != nil {
				return err
			}
		}
	}

	// 3. The directories.
	undo.Push("remove cgroup "+c.path, c.removeMade)
	reused := false
	for _, h := range c.all {
		fresh, err := c.makeDir(h, c.wanted(h, groups))
		if err != nil && c.optional && isErrno(err, syscall.EACCES, syscall.EPERM, syscall.EROFS) {
			return c.doWithout(groups, err)
		}
		if err != nil {
			return err
		}
		reused = reused || !fresh
	}
	if reused && c.unit == nil {
		if err := c.checkUnused(); err != nil {
			return err
		}
	}

	// 4. The limits.
	for _, g := range groups {
		if err := g.apply(); err != nil {
			return err
		}
	}
	if filtered {
		err := c.setDevices(filter, !reused)
		// Without privileges no filter can be set, and no device be made that it
		// would have to forbid.
		if err != nil && (!c.rootless || !isErrno(err, syscall.EPERM, syscall.EACCES)) {
			return err
		}
	}
	if c.owner != nil {
		if err := c.giveAway(*c.owner); err != nil {
			return err
		}
	}
	undo.Release()
	c.top = c.madeEverywhere()
	return nil
}

// checkUnused refuses a cgroup that was there already and is somebody's.
func (c *Cgroup) checkUnused() error {
	pids, err := c.Pids(true)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d processes are in it: %w: give linux.cgroupsPath another path", len(pids), ErrBusy)
	}
	return c.checkThawed()
}

// checkThawed refuses a cgroup in which the first process would stop before it
// has done anything, for good. A directory that is not there yet is not frozen.
func (c *Cgroup) checkThawed() error {
	for _, h := range c.all {
		if !exists(c.dir(h)) {
			continue
		}
		file, thawed := c.dir(h)+"/cgroup.freeze", "0"
		if !h.v2 {
			file, thawed = c.dir(h)+"/freezer.state", "THAWED"
			if !slices.Contains(h.controllers, "freezer") {
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

// doWithout gives up a cgroup that its owner may not make. Nothing may have been
// asked of it but the devices, which an owner without privileges cannot make.
func (c *Cgroup) doWithout(groups []group, cause error) error {
	if len(groups) > 0 {
		return fmt.Errorf("rootless needs no limits, as there is no permission for cgroups, but linux.resources.%s is given: %w", groups[0].settings[0].field, cause)
	}
	if err := c.removeMade(); err != nil {
		return err
	}
	c.all, c.path = nil, ""
	return nil
}

// startUnit starts the scope with all that systemd can know of its limits.
func (c *Cgroup) startUnit(r *specs.LinuxResources, f deviceFilter, filtered bool) error {
	first, err := oomPolicy(r, c.unit.version)
	if err != nil {
		return err
	}
	starting := r
	if r != nil && r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit >= 0 && *r.Pids.Limit < fewPids {
		limit := max(1, *r.Pids.Limit)
		c.settle = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		starting = withPids(r, limit+1)
	}
	properties, err := c.propertiesOf(starting, f, filtered)
	if err != nil {
		return err
	}
	pid, release, err := c.hold()
	if err != nil {
		return fmt.Errorf("process to start %s with: %w", c.unit.name, err)
	}
	if err := c.unit.start(pid, slices.Concat(first, properties)); err != nil {
		release()
		return err
	}
	c.release = release
	return nil
}

// stopUnit stops the scope without the process that holds it, for which systemd
// would be patient.
func (c *Cgroup) stopUnit() error {
	c.letGo()
	return c.unit.stop()
}

func (c *Cgroup) letGo() {
	if c.release != nil {
		c.release()
		c.release = nil
	}
}

// fewPids is a limit of tasks at which one more is felt.
const fewPids = 8

func withPids(r *specs.LinuxResources, limit int64) *specs.LinuxResources {
	with := *r
	with.Pids = &specs.LinuxPids{Limit: &limit}
	return &with
}

// propertiesOf are those of the scope for the resources.
func (c *Cgroup) propertiesOf(r *specs.LinuxResources, f deviceFilter, filtered bool) ([]property, error) {
	properties, err := unitProperties(r, c.mode == Unified, c.unit.version)
	if err != nil || !filtered || c.unit.user {
		return properties, err
	}
	devices, err := readFile("/proc/devices")
	if err != nil {
		return nil, err
	}
	return append(properties, deviceProperties(f, devices)...), nil
}

// Settle is called once the container's first process is in the cgroup: the one
// that held a scope goes, and a tight limit of tasks, which left room for it, is
// put in force.
func (c *Cgroup) Settle() error {
	c.letGo()
	if c.settle == nil {
		return nil
	}
	return c.Set(c.settle)
}

// Set changes the limits that r gives and leaves the others as they are. The
// kernel takes them one by one: on an error the earlier ones are in force.
func (c *Cgroup) Set(r *specs.LinuxResources) error {
	if err := c.set(r); err != nil {
		return c.failed("update", err)
	}
	return nil
}

func (c *Cgroup) set(r *specs.LinuxResources) error {
	// 1. What is to be written, in the light of what is there.
	if err := c.check(); err != nil {
		return err
	}
	r, err := c.complete(r)
	if err != nil {
		return err
	}
	if c.unit != nil {
		r = forUnit(r)
	}
	groups, err := c.compile(r)
	if err != nil {
		return err
	}
	filter, filtered, err := deviceFilterOf(r)
	if err != nil {
		return err
	}
	if err := c.checkBeforeUpdate(r); err != nil {
		return err
	}

	// 2. To systemd first, which would undo it.
	if c.unit != nil {
		if err := c.setUnit(r, filter, filtered); err != nil {
			return err
		}
	}

	// 3. To the kernel.
	for _, g := range groups {
		if err := g.apply(); err != nil {
			return err
		}
	}
	if filtered {
		return c.setDevices(filter, false)
	}
	return nil
}

// setUnit changes the scope's properties. On v1 systemd empties the list of
// devices before it fills it again; that is hidden from the processes.
func (c *Cgroup) setUnit(r *specs.LinuxResources, f deviceFilter, filtered bool) (err error) {
	properties, err := c.propertiesOf(r, f, filtered)
	if err != nil {
		return err
	}
	if filtered && c.mode != Unified {
		frozen, err := c.Frozen()
		if err != nil {
			return err
		}
		if !frozen {
			ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
			defer cancel()
			if err := c.Freeze(ctx); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Thaw()) }()
		}
	}
	return c.unit.set(properties)
}

// complete adds to an update what is in force already and means something only
// together with what is new: a quota and its period, memory and its sum with swap.
func (c *Cgroup) complete(r *specs.LinuxResources) (*specs.LinuxResources, error) {
	if r == nil {
		return nil, nil
	}
	full := *r
	var err error
	if full.CPU, err = c.completeCPU(r.CPU); err != nil {
		return nil, err
	}
	if full.Memory, err = c.completeMemory(r.Memory); err != nil {
		return nil, err
	}
	return &full, nil
}

// failed names the cgroup, unless it is a field of the config that is wrong.
func (c *Cgroup) failed(verb string, err error) error {
	var field *fieldError
	if errors.As(err, &field) {
		return err
	}
	return fmt.Errorf("cgroup %s: %s: %w", c.path, verb, err)
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
		if !slices.Contains(on, name) {
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

// Missing is what Saved.Top will be if Create is called now and nobody else is at work:
// the highest directory that no hierarchy has yet; "" if the cgroup is there in
// one. Keep it before Create, if a Create that is killed is to be undone.
func (c *Cgroup) Missing() string {
	top := ""
	for p := c.path; p != "/" && p != ""; p = path.Dir(p) { // "" is no cgroup
		for _, h := range c.all {
			if exists(h.mount + p) {
				return top
			}
		}
		top = p
	}
	return top
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
