package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/plan"
)

// inputs opens the descriptors that a program starts with.
type inputs struct {
	fds   map[plan.Reg]int
	given map[string]*os.File // by kind
	extra []*os.File
	owned []*os.File
}

func newInputs(stdin, stdout, stderr *os.File, extra []*os.File) *inputs {
	return &inputs{
		fds:   make(map[plan.Reg]int),
		given: map[string]*os.File{plan.InStdin: stdin, plan.InStdout: stdout, plan.InStderr: stderr},
		extra: extra,
	}
}

// own adds a descriptor that is closed with the others.
func (in *inputs) own(kind string, f *os.File) {
	in.given[kind] = f
	in.owned = append(in.owned, f)
}

func (in *inputs) close() {
	for _, f := range in.owned {
		_ = f.Close() // read-only, or with nothing to flush
	}
}

// open opens what the program asks for.
func (in *inputs) open(p *plan.Program) error {
	for _, i := range p.Inputs {
		f, err := in.find(i)
		if err != nil {
			return fmt.Errorf("%s: %w", i.Field, err)
		}
		if f != nil {
			in.fds[i.Reg] = sys.Fd(f)
		}
	}
	return nil
}

// find returns the file of one input; nil is one that launch makes itself.
func (in *inputs) find(i plan.Input) (*os.File, error) {
	if f := in.given[i.Kind]; f != nil {
		return f, nil
	}
	var f *os.File
	var err error
	switch i.Kind {
	case plan.InSync:
		return nil, nil
	case plan.InStdin, plan.InStdout, plan.InStderr:
		f, err = in.null()
		return f, err
	case plan.InExtra:
		return in.extra[i.Index], nil
	case plan.InProc:
		f, err = sys.OpenProc()
	case plan.InNS:
		f, err = sys.OpenNamespace(i.Path, i.Type)
	case plan.InCgroup:
		f, err = sys.Open(i.Path, os.O_WRONLY)
	case plan.InHook, plan.InCreated:
		f, err = sys.NewMemFile("hook-state")
	case plan.InHookOut:
		f, err = sys.NewMemFile("hook-output")
	case plan.InIDMapNS:
		f, err = idmapNamespace(i.IDMap)
	case plan.InMount:
		f, err = mountCopy(&i)
	case plan.InOverlay:
		f, err = overlay(&i)
	case plan.InDevice:
		f, err = sys.NewDevice(uint32(i.Device.Mode), i.Device.Number, int(i.Device.UID), int(i.Device.GID))
	default:
		return nil, fmt.Errorf("program wants unknown input %q", i.Kind)
	}
	if err != nil {
		return nil, err
	}
	switch i.Kind {
	case plan.InMount, plan.InOverlay, plan.InIDMapNS, plan.InDevice:
		in.owned = append(in.owned, f) // each is another's
	default:
		in.own(i.Kind+i.Path, f)
	}
	return f, nil
}

// null is one /dev/null for all standard descriptors that are not given.
func (in *inputs) null() (*os.File, error) {
	if f := in.given[plan.InNull]; f != nil {
		return f, nil
	}
	f, err := sys.Open("/dev/null", os.O_RDWR)
	if err != nil {
		return nil, err
	}
	in.own(plan.InNull, f)
	return f, nil
}

// cgroupFD is the v2 directory that the process is born in, or -1 where v2 is
// not mounted.
func (in *inputs) cgroupFD(cg *cgroup.Cgroup) (int, error) {
	f, err := cg.OpenV2()
	if err != nil || f == nil {
		return -1, err
	}
	in.owned = append(in.owned, f)
	return sys.Fd(f), nil
}

// born has a process born in a container's cgroup. Where the container has made
// cgroups below its own, with controllers, it may have left this one for init's,
// or none may be in it: the process goes where init is, unless the caller said
// where to.
func (in *inputs) born(cg *cgroup.Cgroup, init int, strict bool, run func(cgroupFD int) (*launch.Process, error)) (*launch.Process, error) {
	fd, err := in.cgroupFD(cg)
	if err == nil {
		var p *launch.Process
		if p, err = run(fd); err == nil || !errors.Is(err, launch.ErrCgroup) {
			return p, err
		}
	}
	if !strict {
		if of, e := cg.OfProcess(init); e == nil && of.Path() != cg.Path() {
			if fd, err = in.cgroupFD(of); err == nil {
				return run(fd)
			}
		}
	}
	return nil, fmt.Errorf("adding pid of the new process to cgroups: %w", err)
}

// idmapNamespace makes a user namespace that stands for a mount's id mapping.
func idmapNamespace(m *plan.MountIDs) (ns *os.File, err error) {
	if m.UserNS != "" {
		return sys.OpenNamespace(m.UserNS, string(specs.UserNamespace))
	}
	err = runHelper(plan.IDMapHolder(m.UID, m.GID), nil, func(pid int) (err error) {
		ns, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		return err
	})
	return ns, err
}

// mountCopy makes the copy of a mount tree.
func mountCopy(i *plan.Input) (_ *os.File, err error) {
	f, err := sys.CloneMount(i.Path, i.Recursive)
	if err != nil || i.IDMap == nil {
		return f, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	ns, err := idmapNamespace(i.IDMap)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	return f, idmapMount(f, ns, i.IDMap)
}

func idmapMount(f, ns *os.File, ids *plan.MountIDs) error {
	if err := sys.IDMapMount(f, ns, ids.Recursive); err != nil {
		return fmt.Errorf("idmap: %w (does the source's file system take id mappings?)", err)
	}
	return nil
}

// overlay makes an overlay with idmapped layers.
func overlay(i *plan.Input) (*os.File, error) {
	ns, err := idmapNamespace(i.IDMap)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }() // the mounts have it
	return sys.NewMappedOverlay(i.Args, ns)
}

// ownStdio says which of the standard files are to belong to the process's user.
func ownStdio(files ...*os.File) (own [3]bool) {
	for i, f := range files {
		if f == nil {
			continue
		}
		st, err := f.Stat()
		own[i] = err == nil && st.Mode()&os.ModeDevice == 0 && st.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
	}
	return own
}
