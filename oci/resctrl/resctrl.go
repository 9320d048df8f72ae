// Package resctrl puts processes into groups of the resctrl file system: classes
// of service of caches and memory bandwidth, and monitoring groups
// (runtime-spec config-linux.md, "IntelRdt"; the kernel's filesystems/resctrl.rst).
//
// It keeps no state: what Create makes is known beforehand (Missing), for the
// caller to have it on record, and is what Remove removes. It never touches a
// group that was there already but for the schemata that the config has written.
package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// ErrUnsupported is a host without a mounted resctrl file system.
var ErrUnsupported = errors.New("no resctrl file system is mounted")

// Group is the group of one container.
type Group struct {
	root string
	dir  string // the class of service
	mon  string // the monitoring group, "" for none
	cfg  *specs.LinuxIntelRdt
	own  bool // the class is named after the container
}

// maxFile bounds what is read of a file there.
const maxFile = 64 << 10

// mkdir and rmdir are the kernel's, whose directories come with files in them.
var (
	mkdir = func(dir string) error { return os.Mkdir(dir, 0o755) }
	rmdir = func(dir string) error {
		if err := syscall.Rmdir(dir); err != nil {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		return nil
	}
)

// New names a container's group; nothing is created.
func New(id string, cfg *specs.LinuxIntelRdt) (*Group, error) {
	const limit = 16 << 20
	mounts, err := sys.ReadFile("/proc/self/mountinfo", limit)
	if err != nil {
		return nil, err
	}
	root := mountPoint(string(mounts))
	if root == "" {
		return nil, fmt.Errorf("linux.intelRdt: %w: mount it on /sys/fs/resctrl, if this machine has it", ErrUnsupported)
	}
	return newOn(root, id, cfg), nil
}

func newOn(root, id string, cfg *specs.LinuxIntelRdt) *Group {
	g := &Group{root: root, dir: filepath.Join(root, cfg.ClosID), cfg: cfg} // "/" is the root itself
	if cfg.ClosID == "" {
		g.own, g.dir = true, filepath.Join(root, id)
	}
	if cfg.EnableMonitoring {
		g.mon = filepath.Join(g.dir, "mon_groups", id)
	}
	return g
}

// mountPoint finds the file system in the text of /proc/self/mountinfo.
func mountPoint(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(line, " - ")
		f := strings.Fields(left)
		if kind, _, _ := strings.Cut(right, " "); kind == "resctrl" && len(f) > 4 {
			return f[4]
		}
	}
	return ""
}

// Missing are the directories that Create will make and that go with the
// container, in the order in which Remove removes them.
func (g *Group) Missing() []string {
	var dirs []string
	if g.mon != "" && !exists(g.mon) {
		dirs = append(dirs, g.mon)
	}
	if g.own && !exists(g.dir) {
		dirs = append(dirs, g.dir)
	}
	return dirs
}

func exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

// Create makes the group and sets its schemata.
func (g *Group) Create() error {
	c := g.cfg
	bare := c.L3CacheSchema == "" && c.MemBwSchema == "" && len(c.Schemata) == 0
	there := exists(g.dir)
	switch {
	case !there && bare && !g.own:
		return fmt.Errorf("linux.intelRdt.closID: %s does not exist: create it, or give it schemata", g.dir)
	case !there:
		if err := mkdir(g.dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return g.failed("linux.intelRdt.closID", err)
		}
	}
	if there && !g.own {
		if err := g.compare("l3CacheSchema", c.L3CacheSchema); err != nil {
			return err
		}
		if err := g.compare("memBwSchema", c.MemBwSchema); err != nil {
			return err
		}
	} else {
		if err := g.write("l3CacheSchema", c.L3CacheSchema); err != nil {
			return err
		}
		if err := g.write("memBwSchema", c.MemBwSchema); err != nil {
			return err
		}
	}
	if err := g.write("schemata", strings.Join(c.Schemata, "\n")); err != nil {
		return err
	}
	if g.mon != "" {
		if err := mkdir(g.mon); err != nil && !errors.Is(err, fs.ErrExist) {
			return g.failed("linux.intelRdt.enableMonitoring", err)
		}
	}
	return nil
}

// Set changes the schemata of a group that is there; "" leaves one as it is. The config's
// own are not looked at.
func (g *Group) Set(l3Cache, memBw string) error {
	if err := g.write("l3CacheSchema", l3Cache); err != nil {
		return err
	}
	return g.write("memBwSchema", memBw)
}

// Dirs are the directories of the group: the class and, if there is one, the
// monitoring group in it.
func (g *Group) Dirs() []string {
	if g.mon == "" {
		return []string{g.dir}
	}
	return []string{g.dir, g.mon}
}

// Join puts a process of one thread into the directories of a group.
func Join(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := writeFile(filepath.Join(dir, "tasks"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return nil
}

// Remove removes directories that Missing has named.
func Remove(dirs []string) error {
	for _, dir := range dirs {
		if err := rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return nil
}

// write writes lines to the schemata, in one call, as the kernel wants them.
func (g *Group) write(field, lines string) error {
	if lines == "" {
		return nil
	}
	if err := writeFile(filepath.Join(g.dir, "schemata"), lines+"\n"); err != nil {
		return g.failed("linux.intelRdt."+field, err)
	}
	return nil
}

func writeFile(path, text string) error {
	f, err := sys.Open(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// failed adds the kernel's own words to an error.
func (g *Group) failed(field string, err error) error {
	status, readErr := sys.ReadFile(filepath.Join(g.root, "info/last_cmd_status"), maxFile)
	if text := strings.TrimSpace(string(status)); readErr == nil && text != "" && text != "ok" {
		return fmt.Errorf("%s: %w (%s)", field, err, text)
	}
	return fmt.Errorf("%s: %w", field, err)
}

// compare checks that a class that was there has the schema that a config wants.
func (g *Group) compare(field, want string) error {
	if want == "" {
		return nil
	}
	text, err := sys.ReadFile(filepath.Join(g.dir, "schemata"), maxFile)
	if err != nil {
		return g.failed("linux.intelRdt."+field, err)
	}
	kind, values := schema(want)
	for line := range strings.Lines(string(text)) {
		has, have := schema(line)
		if has != kind {
			continue
		}
		missing := func(v string) bool { return !slices.Contains(have, v) }
		if !slices.ContainsFunc(values, missing) {
			return nil
		}
	}
	return fmt.Errorf("linux.intelRdt.%s: %s has not %q: its schemata are %q", field, g.dir, want, strings.TrimSpace(string(text)))
}

// schema takes a line such as "L3:0=00ff;1=f" apart: "L3" and "0=ff", "1=f".
func schema(line string) (kind string, values []string) {
	kind, list, _ := strings.Cut(strings.TrimSpace(line), ":")
	for v := range strings.SplitSeq(list, ";") {
		id, value, _ := strings.Cut(v, "=")
		value = strings.TrimLeft(strings.ToLower(strings.TrimSpace(value)), "0")
		values = append(values, strings.TrimSpace(id)+"="+value)
	}
	return kind, values
}
