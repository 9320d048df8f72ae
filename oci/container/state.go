package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/spec"
)

// Files in a container's state directory.
const (
	stateFile  = "state.json"
	configFile = "config.json" // the config as it was at create
	gateSocket = "start.sock"
)

const (
	recordVersion = 1
	maxRecord     = spec.MaxSize // annotations are most of it, at worst
)

// maxID is the longest id: a directory's name, with room for what is made of it.
const maxID = 200

func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= maxID
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if !ok {
		return fmt.Errorf("%w %.220q: use letters, digits and _ + - . (at most %d)", ErrInvalidID, id, maxID)
	}
	return nil
}

func loadSpec(o *CreateOptions) (*specs.Spec, []byte, error) {
	if o.Spec != nil {
		raw, err := json.Marshal(o.Spec)
		if err != nil {
			return nil, nil, fmt.Errorf("config: %w", err)
		}
		// The compiler works on a copy: the caller keeps its own.
		return decodeSpec(o, raw)
	}
	name := o.Config
	if name == "" {
		name = configFile
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(o.Bundle, name)
	}
	raw, err := sys.ReadFile(name, spec.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	return decodeSpec(o, raw)
}

// decodeSpec returns the config with what the options add to it, and its text without
// what they add to the environment: an exec has that of the config.
func decodeSpec(o *CreateOptions, raw []byte) (*specs.Spec, []byte, error) {
	s, err := spec.Decode(raw)
	if err != nil {
		return nil, nil, err
	}
	if o.Notify {
		if raw, err = addNotify(o, s, raw); err != nil {
			return nil, nil, err
		}
	}
	if s.Process != nil {
		s.Process.Env = append(s.Process.Env, o.Env...)
	}
	return s, raw, nil
}

func (c *Container) makeDir(root string) error {
	err := os.Mkdir(c.dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(root, 0o700); err != nil {
			return err
		}
		err = os.Mkdir(c.dir, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: delete it first, or choose another id", ErrExists)
	}
	return err
}

// removeDir removes the state directory, and nothing of another that has its name meanwhile. The
// record goes last: without one the container would be taken for one that is being made, if this
// fails or is killed.
func (c *Container) removeDir(own *ownDir) error {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, os.ErrNotExist) || !own.there() {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == stateFile {
			continue
		}
		err := own.unlink(e.Name())
		if errors.Is(err, syscall.EISDIR) {
			err = os.RemoveAll(filepath.Join(c.dir, e.Name()))
		}
		if err != nil {
			return err
		}
	}
	_ = own.unlink(stateFile) // if it stays, the next says why
	if syscall.Rmdir(c.dir) == nil || !own.there() {
		return nil
	}
	return os.RemoveAll(c.dir) // with what has come meanwhile
}

func (c *Container) save(r *record) error {
	return atomicfile.WriteVolatile(filepath.Join(c.dir, stateFile), r.encode(), 0o600)
}

// load reads state.json. Without one the container is being made, or its creator
// was killed.
func (c *Container) load() (*record, error) {
	data, err := sys.ReadFile(filepath.Join(c.dir, stateFile), maxRecord)
	if errors.Is(err, os.ErrNotExist) {
		return c.halfMade()
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return nil, fmt.Errorf("container %s: %s: %w: %w", c.id, stateFile, errNoRecord, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("container %s: %s has version %d, this program knows %d: delete it with the runtime that made it",
			c.id, stateFile, r.Version, recordVersion)
	}
	return r, nil
}

// errNoRecord is a state.json that is no record of any version's, nor another runtime's.
var errNoRecord = errors.New("not a record")

// halfMade is what is known of a container without a state.json: what its config
// says. A creator that was killed while it wrote that has made nothing else.
func (c *Container) halfMade() (*record, error) {
	made, err := c.halfMadeFiles()
	if err == nil && !made {
		err = ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	r := &record{Version: recordVersion, ID: c.id}
	s, err := c.Spec()
	if err != nil {
		return r, nil //nolint:nilerr // see above
	}
	// A scope of systemd's, or what a rootless caller makes, is on record before
	// it is made.
	cg, err := newCgroup(&CreateOptions{ID: c.id}, s)
	if err == nil {
		r.Cgroup = cg.Path()
	}
	r.Annotations, r.Hooks = s.Annotations, s.Hooks != nil
	return r, nil
}

// halfMadeFiles says whether a directory without a state.json is that of a container which is being
// made: a creator begins with the config. Without, it is nothing but what a removal has left, which
// ends with the record. The error is ErrNotExist for one with what no creator makes: somebody
// else's, below a root that is not for containers alone.
func (c *Container) halfMadeFiles() (made bool, err error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, ErrNotExist
	}
	kept := launch.KeptNames()
	for _, e := range entries {
		switch name := e.Name(); {
		case name == configFile, name == stateFile:
			made = true
		case name == gateSocket, name == notifyDir, slices.Contains(kept[:], name), atomicfile.IsTemp(name):
		default:
			return false, fmt.Errorf("%w: %s is not a container's: it has %s", ErrNotExist, c.dir, name)
		}
	}
	return made, err
}

// Load finds a container. The error is ErrNotExist if there is none.
func Load(stateRoot, id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &Container{id: id, dir: filepath.Join(stateRoot, id)}
	if _, err := os.Stat(c.dir); err != nil {
		return nil, fmt.Errorf("container %s: %w", id, ErrNotExist)
	}
	return c, nil
}

// List returns the states of all containers below stateRoot, by id. One that
// cannot be read is left out and its error joined to the one returned.
func List(stateRoot string) ([]State, error) {
	entries, err := os.ReadDir(stateRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []State
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		c := &Container{id: e.Name(), dir: filepath.Join(stateRoot, e.Name())}
		s, err := c.State()
		if errors.Is(err, ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, s)
	}
	return list, errors.Join(errs...)
}

// State is the container's present state.
func (c *Container) State() (State, error) {
	r, err := c.load()
	if err != nil {
		return State{}, err
	}
	s := State{State: specs.State{Version: specs.Version, ID: c.id, Bundle: r.Bundle, Annotations: r.Annotations},
		Rootfs: r.Rootfs, Created: r.Created}
	if s.Owner, err = c.owner(); err != nil {
		return State{}, err
	}
	if s.Status, err = c.status(r); err != nil {
		return State{}, err
	}
	if s.Status != specs.StateStopped {
		s.Pid = r.Pid
	}
	return s, nil
}

// Status is the container's present status alone, which takes less than State.
func (c *Container) Status() (specs.ContainerState, error) {
	r, err := c.load()
	if err != nil {
		return "", err
	}
	return c.status(r)
}

// StatePaused is crun's and runc's name for a frozen container.
const StatePaused specs.ContainerState = "paused"

func (c *Container) status(r *record) (specs.ContainerState, error) {
	if r.Pid == 0 {
		return specs.StateCreating, nil
	}
	st, alive := readStat(r.Pid)
	switch {
	case !alive || st.start != r.StartTime || st.state == 'Z' || st.state == 'X':
		return specs.StateStopped, nil
	case st.flags&flagForkNoExec != 0 && !r.Restored:
		return specs.StateCreated, nil
	}
	if cg, err := c.cgroupOf(r); err == nil {
		if freezing, err := cg.Freezing(); err == nil && freezing {
			return StatePaused, nil
		}
	}
	return specs.StateRunning, nil
}

func (c *Container) cgroupOf(r *record) (*cgroup.Cgroup, error) {
	return cgroup.Open(cgroup.Saved{Path: r.Cgroup, Top: r.CgroupTop, Unit: r.CgroupUnit, User: r.CgroupUser})
}

// keepCgroup notes in the record where the cgroup is.
func (r *record) keepCgroup(cg *cgroup.Cgroup) {
	s := cg.Saved()
	r.Cgroup, r.CgroupTop, r.CgroupUnit, r.CgroupUser = s.Path, s.Top, s.Unit, s.User
}

// procStat is what we want of /proc/PID/stat.
type procStat struct {
	state byte
	flags uint64 // PF_*
	start uint64 // in clock ticks since boot
}

// flagForkNoExec is PF_FORKNOEXEC: the process has been forked and has not
// executed anything yet. An init that waits at its gate is just that, since we
// never execute ourselves in between, so the kernel tells created from running.
const flagForkNoExec = 0x40

const maxStat = 1023

// readStat reads /proc/PID/stat.
func readStat(pid int) (procStat, bool) {
	data, err := sys.ReadFile("/proc/"+strconv.Itoa(pid)+"/stat", maxStat)
	if err != nil {
		return procStat{}, false
	}
	// The second field is the command in parentheses, which may contain both.
	text := string(data)
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return procStat{}, false
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 20 {
		return procStat{}, false
	}
	var st procStat
	st.state = f[0][0]
	st.flags, _ = strconv.ParseUint(f[6], 10, 64)
	st.start, err = strconv.ParseUint(f[19], 10, 64)
	return st, err == nil
}

func startTime(pid int) (uint64, error) {
	st, ok := readStat(pid)
	if !ok {
		return 0, fmt.Errorf("process %d: %w", pid, ErrNotRunning)
	}
	return st.start, nil
}
