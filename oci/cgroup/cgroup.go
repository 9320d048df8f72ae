// Package cgroup makes, fills, watches and removes the control groups of a
// container or a pod: through the cgroup file system alone, or as a scope of
// systemd's (systemd.go).
//
// A Cgroup is one path that exists in every hierarchy of the host: one on a
// cgroup v2 host, one per controller on v1, and both on a hybrid host, where the
// controllers are v1's but the v2 hierarchy still counts, freezes and kills
// processes, which it does better. That is used wherever it is mounted.
//
// The package holds no state but the highest directory that a Cgroup made, takes
// no lock and starts no goroutine that outlives a call. Two processes may work on
// the same cgroup; the kernel is the judge. It never touches the root cgroup and
// never removes a directory with processes in it.
//
// How processes get in: see JoinFiles and OpenV2. There is a file for each
// controller: which resource goes to which of the kernel's files, and what is
// counted. The OCI fields are those of the runtime specification's
// config-linux.md, "Control groups", the files those of the kernel's
// admin-guide/cgroup-v1 and cgroup-v2.rst.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The classes of errors, for errors.Is. A missing cgroup is fs.ErrNotExist.
var (
	// ErrBusy is a cgroup that still has processes.
	ErrBusy = errors.New("cgroup is busy")
	// ErrUnsupported is a resource that this host's cgroups cannot limit or show.
	ErrUnsupported = errors.New("not supported by this host's cgroups")
	// ErrNone is what needs a cgroup where a container has none.
	ErrNone = errors.New("the container has no cgroup of its own: its owner may not make one, or did not want to")
)

// Mode is how the host mounts cgroups.
type Mode int

const (
	Unified Mode = iota + 1 // v2 only
	Hybrid                  // v1 controllers, and a v2 hierarchy beside them
	Legacy                  // v1 only
)

func (m Mode) String() string {
	switch m {
	case Unified:
		return "v2"
	case Hybrid:
		return "hybrid"
	case Legacy:
		return "v1"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	mount       string   // absolute, no slash at the end
	v2          bool     //
	controllers []string // v1: those mounted here; v2: those available at its root
	below       string   // see Sub
}

// Cgroup is a path in all hierarchies. It is not safe for concurrent use, but for
// reading its counters.
type Cgroup struct {
	path string // clean, absolute, below the root of each hierarchy
	mode Mode
	all  []hierarchy // v2 last
	made []string    // directories that Create made, parents first, for its undo
	top  string      // see Top

	unit     *unit                 // the systemd manager's; nil for the cgroup file system alone
	hold     Hold                  // see Config
	release  func()                // ends the process that holds the scope, if there is one
	owner    *int                  // see Config
	rootless bool                  // see Config
	optional bool                  // without permission, do without
	settle   *specs.LinuxResources // see Settle
}

// Config says what cgroup a container is to have.
type Config struct {
	Path string // linux.cgroupsPath
	ID   string // names the cgroup where Path is empty

	// Systemd has it be a scope of systemd's. Path is slice:prefix:name then,
	// and Annotations are the config's, which can set properties of the scope.
	Systemd     bool
	Annotations map[string]string
	// Hold is called by Create for a scope: systemd starts no empty one.
	Hold Hold

	// Owner is the host's user that a v2 cgroup is to belong to, if not to us.
	Owner *int

	// Rootless is a caller who may not be allowed to make cgroups. He asks the
	// systemd instance of the user. A cgroup that he gave no path and no limits
	// is done without if it cannot be made.
	Rootless bool
}

// Hold starts a process that does nothing until release, which waits for its end.
type Hold func() (pid int, release func(), err error)

// Name names a container's cgroup; nothing is created.
func Name(cfg Config) (*Cgroup, error) {
	host, err := DetectHost()
	if err != nil {
		return nil, err
	}
	if cfg.Systemd {
		return newScope(host, cfg)
	}
	p := cfg.Path
	if p == "" {
		p = "/" + cfg.ID
		if cfg.Rootless && host.Mode == Unified {
			// Beside the caller's own cgroup, where it may be his to make one; in
			// it there are processes, and so no controllers for children.
			own, err := ownV2()
			if err != nil {
				return nil, err
			}
			p = path.Join(path.Dir(own), cfg.ID)
		}
	}
	c, err := newOn(host, p, host.Mode)
	if err != nil {
		return nil, err
	}
	c.owner, c.rootless, c.optional = cfg.Owner, cfg.Rootless, cfg.Rootless && cfg.Path == ""
	if c.optional && host.Mode != Unified && !canMake(c.all) {
		return &Cgroup{mode: host.Mode}, nil
	}
	return c, nil
}

func newScope(host *Host, cfg Config) (*Cgroup, error) {
	if cfg.Rootless && host.Mode != Unified {
		return nil, fmt.Errorf("cgroup path %q: a user's systemd makes no cgroups on v1: leave --systemd-cgroup out: %w", cfg.Path, ErrUnsupported)
	}
	u, err := newUnit(cfg.Path, cfg.ID, cfg.Rootless)
	if err != nil {
		return nil, err
	}
	if u.properties, err = annotatedProperties(cfg.Annotations); err != nil {
		return nil, err
	}
	p, err := u.path()
	if err != nil {
		return nil, err
	}
	c, err := newOn(host, p, host.Mode)
	if err != nil {
		return nil, err
	}
	c.unit, c.hold, c.owner, c.rootless = u, cfg.Hold, cfg.Owner, cfg.Rootless
	return c, nil
}

// canMake says whether this process may make a cgroup at the root of all of these.
func canMake(all []hierarchy) bool {
	return !slices.ContainsFunc(all, func(h hierarchy) bool { return syscall.Access(h.mount, accessWriteDir) != nil })
}

const accessWriteDir = 2 | 1 // W_OK | X_OK

// ownV2 is this process's path in the v2 hierarchy.
func ownV2() (string, error) {
	text, err := readFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok && !strings.HasPrefix(p, "..") {
			return "/" + p, nil
		}
	}
	return "", fmt.Errorf("/proc/self/cgroup names no cgroup v2 below %s", root)
}

// Saved is what another process has to know to work on a Cgroup.
type Saved struct {
	Path string // "" for none
	Top  string // the highest directory at or above Path that Create made everywhere
	Unit string // of systemd's
	User bool   // the unit is of the user's instance
}

// Saved describes the cgroup to Open; keep it once Create has returned.
func (c *Cgroup) Saved() Saved {
	s := Saved{Path: c.path, Top: c.top}
	if c.unit != nil {
		s.Unit, s.User = c.unit.name, c.unit.user
	}
	return s
}

// Open returns the cgroup that another process made. Of one without a path there
// are no processes, and most verbs fail with ErrNone.
func Open(s Saved) (*Cgroup, error) {
	host, err := DetectHost()
	if err != nil {
		return nil, err
	}
	if s.Path == "" {
		return &Cgroup{mode: host.Mode}, nil
	}
	c, err := newOn(host, s.Path, host.Mode)
	if err != nil {
		return nil, err
	}
	c.top = s.Top
	if s.Unit != "" {
		c.unit = &unit{name: s.Unit, user: s.User}
	}
	return c, nil
}

// none says that there is no cgroup after all.
func (c *Cgroup) none() bool { return len(c.all) == 0 }

// check fails where there is no cgroup to do it with.
func (c *Cgroup) check() error {
	if c.none() {
		return ErrNone
	}
	return nil
}

// New names a cgroup that systemd has no part in; nothing is created. "/a/b" is
// below each hierarchy's root, and so is "a/b". Mode is Detect's; on a
// Hybrid host Legacy is allowed too and leaves the v2 hierarchy alone.
func New(cgroupPath string, mode Mode) (*Cgroup, error) {
	host, err := DetectHost()
	if err != nil {
		return nil, err
	}
	return newOn(host, cgroupPath, mode)
}

func newOn(host *Host, cgroupPath string, mode Mode) (*Cgroup, error) {
	if len(cgroupPath) > maxPath || strings.ContainsAny(cgroupPath, "\x00\n") {
		return nil, fmt.Errorf("cgroup path %.60q: too long or with a control character", cgroupPath)
	}
	if slices.Contains(strings.Split(cgroupPath, "/"), "..") {
		return nil, fmt.Errorf("cgroup path %q: must not contain \"..\"", cgroupPath)
	}
	if IsScope(cgroupPath) {
		return nil, fmt.Errorf("cgroup path %q: slice:prefix:name is for the systemd manager: use --systemd-cgroup, or give a path such as /pods/name", cgroupPath)
	}
	clean := path.Clean("/" + cgroupPath)
	if clean == "/" {
		return nil, fmt.Errorf("cgroup path %q: the root cgroup is the host's; a container needs its own", cgroupPath)
	}
	c := &Cgroup{path: clean, mode: mode, all: host.hierarchies}
	switch {
	case mode == host.Mode:
	case mode == Legacy && host.Mode == Hybrid:
		c.all = slices.DeleteFunc(slices.Clone(c.all), func(h hierarchy) bool { return h.v2 })
	default:
		return nil, fmt.Errorf("cgroup path %q: mode %v asked, but the host's cgroups are %v", cgroupPath, mode, host.Mode)
	}
	return c, nil
}

// maxPath is the longest cgroup path taken: PATH_MAX less room for the mount and
// a file.
const maxPath = 3800

// Path is the cgroup's path below the root of each hierarchy.
func (c *Cgroup) Path() string { return c.path }

// Mode is how the cgroup sees the host.
func (c *Cgroup) Mode() Mode { return c.mode }

// Dirs maps each controller of the host to this cgroup's directory for it; the
// key "" is the v2 directory. It is what a state file or an OCI hook shows.
func (c *Cgroup) Dirs() map[string]string {
	dirs := make(map[string]string, len(c.all)+2)
	for _, h := range c.all {
		if h.v2 {
			dirs[""] = c.dir(h)
			if c.mode == Hybrid {
				continue // its few controllers are not what a caller looks for
			}
		}
		for _, name := range h.controllers {
			dirs[name] = c.dir(h)
		}
	}
	return dirs
}

// JoinFiles lists the v1 files to which a process writes "0" to put itself into
// this cgroup; it is empty on v2.
//
// They are the "tasks" files on purpose. A thread that moves itself ("0", into
// "tasks") is the one case in which the kernel need not stop the world's forks
// and execs, so it costs 10 µs a hierarchy; through cgroup.procs, or from any
// other process, the first join after a quiet moment waits for an RCU grace
// period: 7 ms and more. The writer must be single-threaded, or its other
// threads stay where they are: the freshly cloned child is the right place.
func (c *Cgroup) JoinFiles() []string {
	files := make([]string, 0, len(c.all))
	for _, h := range c.all {
		if !h.v2 {
			files = append(files, c.dir(h)+"/tasks")
		}
	}
	return files
}

// DirV2 is the v2 directory, or "" where no v2 hierarchy is mounted.
func (c *Cgroup) DirV2() string {
	h, ok := c.v2()
	if !ok {
		return ""
	}
	return c.dir(h)
}

// OpenV2 opens the v2 directory for clone3's CLONE_INTO_CGROUP, which joins
// without any wait. Together with JoinFiles it covers every hierarchy. The
// caller closes the file. It is nil, without an error, where no v2 hierarchy is
// mounted.
func (c *Cgroup) OpenV2() (*os.File, error) {
	h, ok := c.v2()
	if !ok {
		return nil, nil
	}
	fd, err := openDir(c.dir(h))
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", c.path, err)
	}
	return os.NewFile(uintptr(fd), c.dir(h)), nil
}

// Apply moves a process with all its threads into the cgroup, in every
// hierarchy. It is for a process that exists already and can be slow on v1 (see
// JoinFiles).
func (c *Cgroup) Apply(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("cgroup %s: join: pid %d is not a process", c.path, pid)
	}
	for _, h := range c.all {
		if err := writeFile(c.dir(h)+"/cgroup.procs", fmt.Sprint(pid)); err != nil {
			return fmt.Errorf("cgroup %s: join pid %d: %w", c.path, pid, err)
		}
	}
	return nil
}

// Exists reports whether the cgroup is there in any hierarchy.
func (c *Cgroup) Exists() bool {
	for _, h := range c.all {
		if exists(c.dir(h)) {
			return true
		}
	}
	return false
}

// Existing is a cgroup that another program has made, perhaps not in all hierarchies:
// those that have it. It is fs.ErrNotExist if none has.
func (c *Cgroup) Existing() (*Cgroup, error) {
	e := *c
	e.all = nil
	for _, h := range c.all {
		if exists(c.dir(h)) {
			e.all = append(e.all, h)
		}
	}
	if len(e.all) == 0 {
		return nil, &fs.PathError{Op: "find cgroup", Path: c.path, Err: syscall.ENOENT}
	}
	return &e, nil
}

func (c *Cgroup) dir(h hierarchy) string { return h.mount + c.path + h.below }

func (c *Cgroup) v2() (hierarchy, bool) {
	for _, h := range c.all {
		if h.v2 {
			return h, true
		}
	}
	return hierarchy{}, false
}

// find returns the hierarchy that has a controller.
func (c *Cgroup) find(controller string) (hierarchy, bool) {
	for _, h := range c.all {
		if slices.Contains(h.controllers, controller) {
			return h, true
		}
	}
	return hierarchy{}, false
}

// processes returns the hierarchy that lists and freezes the processes: v2's
// where there is one, else the freezer's or, failing that, any.
func (c *Cgroup) processes() hierarchy {
	if h, ok := c.v2(); ok {
		return h
	}
	if h, ok := c.find("freezer"); ok {
		return h
	}
	return c.all[0]
}

func isErrno(err error, errnos ...syscall.Errno) bool {
	return slices.ContainsFunc(errnos, func(e syscall.Errno) bool { return errors.Is(err, e) })
}
