package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/host"
	"github.com/strake-containers/strake/oci/launch"
	"github.com/strake-containers/strake/oci/plan"
)

// hostFacts is what the compiler has to know, cgroups included.
func hostFacts() (plan.Host, error) {
	h, err := host.Facts()
	if err != nil {
		return h, err
	}
	cg, err := cgroup.DetectHost()
	if err != nil {
		return h, err
	}
	h.CgroupV2 = cg.Mode == cgroup.Unified
	byMount := map[string][]string{}
	for controller, mount := range cg.V1Mounts {
		byMount[mount] = append(byMount[mount], controller)
	}
	for mount, controllers := range byMount {
		slices.Sort(controllers)
		v1 := plan.CgroupV1{Mountpoint: mount, Controllers: controllers}
		if name, ok := strings.CutPrefix(controllers[0], "name="); ok {
			v1.Name, v1.Controllers = name, nil
		}
		h.CgroupV1 = append(h.CgroupV1, v1)
	}
	slices.SortFunc(h.CgroupV1, func(a, b plan.CgroupV1) int { return strings.Compare(a.Mountpoint, b.Mountpoint) })
	return h, nil
}

// Rootless says whether this process may lack the permission to make cgroups: it
// is not root, or root of a user namespace that does not map every id.
func Rootless() (bool, error) {
	if os.Geteuid() != 0 {
		return true, nil
	}
	idMap, err := sys.ReadFile("/proc/self/uid_map", maxIDMap)
	if err != nil {
		return false, err
	}
	return !slices.Equal(strings.Fields(string(idMap)), []string{"0", "0", "4294967295"}), nil
}

// maxIDMap bounds an id map, which has 340 lines at most.
const maxIDMap = 1 << 14

// answers are this process's part of a program.
type answers struct {
	prog  *plan.Program
	hooks *hookRunner
	sent  *os.File      // the mount that the process sent last
	ids   plan.MountIDs // and the mapping that it is to have
}

// file takes what the process sends, unless it is the master of a terminal.
func (a *answers) file(n int, f *os.File) (terminal bool) {
	if n == 0 {
		return true
	}
	a.close()
	a.sent, a.ids = f, a.prog.IDMaps[n-1] // launch takes no other message than the program says
	return false
}

func (a *answers) close() {
	if a.sent != nil {
		_ = a.sent.Close() // nothing to flush
		a.sent = nil
	}
}

// mapSent maps the ids of the mount that was sent.
func (a *answers) mapSent() error {
	defer a.close()
	ns, err := idmapNamespace(&a.ids)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return idmapMount(a.sent, ns, &a.ids)
}

// sync does what the process waits for this one to do.
func (a *answers) sync(step, pid int) error {
	p := a.prog
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	switch step {
	case plan.SyncUserNS:
		if err := writeMaps(proc, p); err != nil {
			return err
		}
		if p.TimeOffsets != "" {
			if err := os.WriteFile(proc+"timens_offsets", []byte(p.TimeOffsets), 0); err != nil {
				return fmt.Errorf("linux.timeOffsets: %w", err)
			}
		}
		if p.OOM != nil {
			err := os.WriteFile(proc+"oom_score_adj", []byte(strconv.Itoa(*p.OOM)), 0)
			if err != nil && !(*p.OOM < 0 && errors.Is(err, os.ErrPermission)) {
				return fmt.Errorf("process.oomScoreAdj: %w", err)
			}
		}
	case plan.SyncLimits:
		for _, l := range p.Limits {
			if err := sys.SetLimit(pid, l.Resource, l.Soft, l.Hard); err != nil {
				return fmt.Errorf("%s: setrlimit: %w", l.Field, err)
			}
		}
	case plan.SyncHooks:
		return a.hooks.beforePivot(pid)
	case plan.SyncIDMap:
		return a.mapSent()
	}
	return nil
}

func writeMaps(proc string, p *plan.Program) error {
	if p.UIDMap == "" {
		return nil
	}
	if p.MapHelpers {
		pid := filepath.Base(proc)
		return errors.Join(mapBy("newuidmap", "linux.uidMappings", pid, p.UIDMap), mapBy("newgidmap", "linux.gidMappings", pid, p.GIDMap))
	}
	if err := os.WriteFile(proc+"uid_map", []byte(p.UIDMap), 0); err != nil {
		return fmt.Errorf("linux.uidMappings: %w", err)
	}
	if p.DenySetgroups {
		if err := os.WriteFile(proc+"setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("linux.gidMappings: %w", err)
		}
	}
	if err := os.WriteFile(proc+"gid_map", []byte(p.GIDMap), 0); err != nil {
		return fmt.Errorf("linux.gidMappings: %w", err)
	}
	return nil
}

// mapBy has a program of the system, which is privileged, write a map.
func mapBy(program, field, pid, idMap string) error {
	out, err := exec.Command(program, append([]string{pid}, strings.Fields(idMap)...)...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s: more than the caller's own id, which takes %s: it is not installed (package uidmap)", field, program)
	case err != nil:
		return fmt.Errorf("%s: %s: %w: %s: does /etc/sub%s grant these ids?", field, program, err, bytes.TrimSpace(out), program[3:6])
	}
	return nil
}

// errPinned ends a process that has served its purpose.
var errPinned = errors.New("pinned")

// PinNamespaces makes the namespaces that the spec asks for without a path, sets
// the host name and the sysctls in them, and returns them open. No process is
// left in them. Those with a path are joined for the sysctls and not returned.
// A PID namespace cannot live without a process and is left out. The sysctls are set by
// way of proc, a procfs; nil is the host's.
func PinNamespaces(s *specs.Spec, proc *os.File) (_ Namespaces, err error) {
	h, err := hostFacts()
	if err != nil {
		return nil, err
	}
	own := *s
	lx := specs.Linux{}
	if s.Linux != nil {
		lx = *s.Linux
	}
	own.Linux = &lx
	if err := checkNetSysctls(&own); err != nil {
		return nil, err
	}
	lx.Namespaces = slices.DeleteFunc(slices.Clone(lx.Namespaces), func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace || n.Type == specs.MountNamespace
	})
	prog, err := plan.Pin(&own, h)
	if err != nil {
		return nil, err
	}
	pinned := Namespaces{}
	err = runHelper(prog, proc, func(pid int) error {
		for _, n := range lx.Namespaces {
			if n.Path != "" {
				continue
			}
			f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/" + nsFile[n.Type])
			if err != nil {
				return fmt.Errorf("linux.namespaces: %w", err)
			}
			pinned[n.Type] = f
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, pinned.Close())
	}
	return pinned, nil
}

var nsFile = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.UserNamespace: "user",
	specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time_for_children",
}

// runHelper runs a program that only waits for look to be done with it; proc is as in
// PinNamespaces.
func runHelper(prog *plan.Program, proc *os.File, look func(pid int) error) error {
	in := newInputs(nil, nil, nil, nil)
	in.given[plan.InProc] = proc
	defer in.close()
	if err := in.open(prog); err != nil {
		return err
	}
	pinned := slices.ContainsFunc(prog.Ops, func(o plan.Op) bool { return o.Do == plan.OpSync && o.A == plan.SyncPin })
	a := answers{prog: prog}
	defer a.close()
	take := func(n int, f *os.File) { a.file(n, f) }
	_, err := launch.Run(context.Background(), launch.Request{Program: prog, Files: in.fds, CgroupFD: -1, File: take, Sync: func(step, pid int) error {
		if err := a.sync(step, pid); err != nil {
			return err
		}
		if step == plan.SyncIDMap || step == plan.SyncUserNS && pinned {
			return nil // there is more to do than the mapping
		}
		if err := look(pid); err != nil {
			return err
		}
		return errPinned
	}})
	if errors.Is(err, errPinned) {
		return nil
	}
	if err == nil {
		err = errors.New("namespace helper ended early")
	}
	return err
}

// hold is a cgroup.Hold.
func hold() (pid int, release func(), err error) {
	born, done, ended := make(chan int, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- runHelper(plan.Holder(), nil, func(pid int) error {
			born <- pid
			<-done
			return nil
		})
	}()
	select {
	case pid := <-born:
		return pid, func() {
			close(done)
			<-ended //nolint:errcheck // it says that it was killed
		}, nil
	case err := <-ended:
		return 0, nil, err
	}
}

// console prepares a terminal's master: one that stays in this process is made
// non-blocking, so that Go's poller can wait for it and deadlines work.
func console(f *os.File, socket string) *os.File {
	if socket != "" {
		return f
	}
	pollable, err := sys.DupPollable(f)
	if err != nil {
		return f
	}
	_ = f.Close() // the duplicate stays
	return pollable
}

// checkConsole refuses a console socket that nobody would send anything to.
func checkConsole(socket string, p *specs.Process) error {
	if socket != "" && (p == nil || !p.Terminal) {
		return fmt.Errorf("console socket %s: the process has no terminal (process.terminal)", socket)
	}
	return nil
}

// sendConsole hands a terminal's master to the socket of whoever wants it and
// closes ours.
func sendConsole(socket string, p *Process) error {
	if err := sys.SendFile(socket, []byte("/dev/ptmx"), p.Console); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	err := p.Console.Close()
	p.Console = nil
	return err
}

// maxMountInfo bounds the table of the host's mounts: a line each, of which there
// may be 100 000 (fs.mount-max).
const maxMountInfo = 64 << 20

// revealing are the mount points of procfs and sysfs outside of the rootfs.
func revealing(rootfs string) (points []string, err error) {
	data, err := sys.ReadFile("/proc/self/mountinfo", maxMountInfo)
	if err != nil {
		return nil, err
	}
	escapes := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		left, right, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(left), strings.Fields(right)
		if len(f) < 5 || len(fs) == 0 || fs[0] != "proc" && fs[0] != "sysfs" {
			continue
		}
		if p := escapes.Replace(f[4]); p != rootfs && !strings.HasPrefix(p, rootfs+"/") {
			points = append(points, p)
		}
	}
	return points, nil
}

// sharesMounts says whether mounts of the container may reach the host.
func sharesMounts(s *specs.Spec) bool {
	return strings.HasSuffix(s.Linux.RootfsPropagation, "shared")
}

func mountPointOf(path string) (string, error) { return sys.MountPoint(path) }
