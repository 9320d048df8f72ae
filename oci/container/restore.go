package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/criu"
	"github.com/strake-containers/strake/oci/plan"
)

// RestoreOptions says which container Restore is to make of a checkpoint. Of
// CreateOptions, ExtraFiles, NoPivot, NoNewKeyring and Run do not apply: what the
// process is like is in the images.
type RestoreOptions struct {
	CreateOptions
	Images
	LSMProfile      string // TYPE:NAME, instead of the one in the images
	LSMMountContext string // SELinux context for mounts, instead of the one in the images
}

// Restore makes a container of a checkpoint's images and of the config that it was
// made from; its processes go on where they were. Init is a child of the caller,
// who collects its exit. On an error, and when ctx ends, nothing is left.
func Restore(ctx context.Context, o RestoreOptions) (_ *Container, _ *Process, err error) {
	var own ownDir
	defer own.close() // once it has been undone
	var undo cleanup.Stack
	defer undo.Run(&err)

	// 1. The config, and what the images need from outside.
	if err := checkID(o.ID); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore container %s: %w", o.ID, err)
		}
	}()
	s, raw, err := loadSpec(&o.CreateOptions)
	if err != nil {
		return nil, nil, err
	}
	if err := checkConsole(o.ConsoleSocket, s.Process); err != nil {
		return nil, nil, err
	}
	if err := o.check(s); err != nil {
		return nil, nil, err
	}
	streams, err := readDescriptors(filepath.Join(o.Path, descriptorsFile))
	if err != nil {
		return nil, nil, err
	}

	// 2. The id, with the state directory; the cgroup, with all limits.
	cg, err := newCgroup(&o.CreateOptions, s)
	if err != nil {
		return nil, nil, err
	}
	c, r, err := claim(ctx, &undo, &own, &o.CreateOptions, s, raw, cg, true)
	if err != nil {
		return nil, nil, err
	}

	// 3. The rootfs: places to mount on, as Create makes them, then a mount
	// namespace that has it where CRIU wants it, at a mount of its own.
	outside, err := o.makePlaces(s, cg)
	if err != nil {
		return nil, nil, err
	}
	ns, err := o.mountRootfs(s, cg)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = ns.Close() }()

	// 4. CRIU, with what it needs to know.
	dirs, err := o.open(ns)
	if err != nil {
		return nil, nil, err
	}
	defer dirs.close()
	request, err := o.restoreOptions(dirs, r, s, outside)
	if err != nil {
		return nil, nil, err
	}
	files, err := o.inherit(request, s, streams)
	defer func() {
		for _, f := range files.owned {
			_ = f.Close() // read-only, or nothing to flush
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	config := criu.Config{Program: o.Program, Files: files.list, MountNS: ns}
	if o.ShellJob {
		config.Stdin = o.Stdin
	}
	service, err := criu.Start(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	if err := errors.Join(cg.Apply(service.Pid()), cg.Settle()); err != nil {
		return nil, nil, err
	}
	if request.CgroupRoots, err = cgroupRoots(service.Pid()); err != nil {
		return nil, nil, err
	}

	// 5. The processes. Init is on record, and known to who is to know it, before
	// it goes on.
	proc := &Process{}
	undo.Push("close console", func() error { return closeFile(proc.Console) })
	undo.Push("kill init", func() error { return killRestored(proc) })
	_, err = service.Do(criu.Restore, request, func(n criu.Notification) error {
		switch n.Script {
		case "orphan-pts-master":
			if n.File == nil {
				return errors.New("CRIU sends no terminal")
			}
			proc.Console = console(n.File, o.ConsoleSocket)
			if o.ConsoleSocket != "" {
				return sendConsole(o.ConsoleSocket, proc)
			}
		case "setup-namespaces":
			hooks := hookRunner{ctx: ctx, spec: s, id: o.ID, bundle: o.Bundle}
			if s.Hooks != nil {
				return hooks.beforePivot(n.Pid)
			}
		case "post-restore":
			if err := hideAgain(n.Pid, s); err != nil {
				return err
			}
			return c.restored(r, s, proc, n.Pid, o.PidFile)
		}
		return nil
	})
	if err != nil {
		return nil, nil, o.explain(restoreLog, err)
	}
	if proc.PidFD == nil {
		return nil, nil, errors.New("CRIU did not say which process it has restored")
	}
	undo.Release()
	c.made = r
	return c, proc, nil
}

// check refuses what cannot be restored.
func (o *RestoreOptions) check(s *specs.Spec) error {
	for i, m := range o.RootfsMounts {
		if m.Target != "" {
			return fmt.Errorf("rootfs mounts[%d]: a mount at %q inside of the rootfs cannot be restored: put it into the config's mounts", i, m.Target)
		}
	}
	return canCheckpoint(s)
}

// restored puts a restored init, which still waits, on record.
func (c *Container) restored(r *record, s *specs.Spec, proc *Process, pid int, pidFile string) (err error) {
	if proc.PidFD, err = sys.OpenPidFD(pid); err != nil {
		return err
	}
	proc.Pid = pid
	// CRIU makes a time namespace, so that the clocks go on too: whoever joins the
	// container has to join that.
	ours, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return err
	}
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/time")
	if err != nil {
		return err
	}
	has := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace })
	if ours != theirs && !has {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		raw, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.dir, configFile), raw, 0o600); err != nil {
			return err
		}
	}
	place, err := c.stage(r, pid)
	if err == nil {
		err = place()
	}
	if err != nil {
		return err
	}
	return writePidFile(pidFile, pid)
}

// hideAgain makes the covers of masked files read-only, which CRIU does for the
// first of them only: the owner and mode of the host's null device, which they
// are, are not the container's to change.
func hideAgain(pid int, s *specs.Spec) error {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	root, err := sys.Open(proc+"root", sys.OPath)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	ns, err := os.Open(proc + "ns/mnt")
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	// Looked up here: the other namespace's /proc is not ours.
	var files []string
	for i, masked := range s.Linux.MaskedPaths {
		file, isDir, err := sys.ResolveInRoot(root, masked)
		switch {
		case err == nil && !isDir:
			files = append(files, file)
		case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return fmt.Errorf("linux.maskedPaths[%d]: %w", i, err)
		}
	}
	return sys.InMountNS(ns, func() error {
		for _, file := range files {
			err := sys.LockMount(root, file)
			if err != nil && !errors.Is(err, syscall.EINVAL) { // not covered: it has come since
				return fmt.Errorf("linux.maskedPaths: %w", err)
			}
		}
		return nil
	})
}

// killRestored ends an init that is not to be, and collects it.
func killRestored(proc *Process) error {
	if proc.PidFD == nil {
		return nil
	}
	err := sys.KillPidFD(sys.Fd(proc.PidFD), syscall.SIGKILL)
	_, _, waitErr := sys.WaitPid(proc.Pid)
	if errors.Is(waitErr, syscall.ECHILD) {
		waitErr = nil // a reaper in this process was faster, or CRIU did not get as far
	}
	return errors.Join(err, waitErr, proc.PidFD.Close())
}

// outsideMount is a mount of the container that is of a file system from outside.
type outsideMount struct {
	place  string // where it is in the container, all links followed
	source string // what it is of, on the host
}

// outsideMounts are the bind mounts of the config, version 1 cgroups that are
// mounted like such, and device nodes, which can be bind mounts. The root holds
// the container's mounts.
func outsideMounts(root *os.File, bundle string, s *specs.Spec, cg *cgroup.Cgroup) ([]outsideMount, error) {
	var list []outsideMount
	add := func(field, at, source string) error {
		place, _, err := sys.ResolveInRoot(root, at)
		if errors.Is(err, os.ErrNotExist) {
			place, err = path.Clean("/"+at), nil // unmounted by the container
		}
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		list = append(list, outsideMount{place, source})
		return nil
	}
	for i, m := range s.Mounts {
		field := "mounts[" + strconv.Itoa(i) + "]"
		var err error
		switch {
		case m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"):
			source := m.Source
			if !path.IsAbs(source) {
				source = path.Join(bundle, source)
			}
			err = add(field, m.Destination, source)
		case m.Type == "cgroup" && !ownCgroupNamespace(s):
			h, e := hostFacts()
			err = e
			for _, v1 := range h.CgroupV1 {
				if err == nil {
					err = add(field, path.Join(m.Destination, path.Base(v1.Mountpoint)), v1.Mountpoint+cg.Path())
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	for _, device := range plan.DevicePaths(s) {
		if err := add("linux.devices", device, device); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func ownCgroupNamespace(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
}

// rootfsHelper runs look while there is a process whose mount namespace has the
// rootfs at its directory and, with mounts, everything that Create would mount.
func (o *RestoreOptions) rootfsHelper(s *specs.Spec, cg *cgroup.Cgroup, mounts bool, look func(pid int) error) error {
	h, err := hostFacts()
	if err != nil {
		return err
	}
	cfg := plan.Config{ID: o.ID, Bundle: o.Bundle, CgroupPath: cg.Path()}
	for _, m := range o.RootfsMounts {
		if mounts { // to be mounted once more: of a volatile overlay the kernel refuses that
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "volatile" })
		}
		cfg.RootfsMounts = append(cfg.RootfsMounts, plan.Mount(m))
	}
	prog, err := plan.Rootfs(s, h, cfg, mounts)
	if err != nil {
		return err
	}
	return runHelper(prog, nil, look)
}

// makePlaces has Create's own program make all places to mount on, and says where
// they are.
func (o *RestoreOptions) makePlaces(s *specs.Spec, cg *cgroup.Cgroup) (outside []outsideMount, err error) {
	err = o.rootfsHelper(s, cg, true, func(pid int) error {
		root, err := sys.Open("/proc/"+strconv.Itoa(pid)+"/root"+rootfsPath(o.Bundle, s), sys.OPath)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		outside, err = outsideMounts(root, o.Bundle, s, cg)
		return err
	})
	return outside, err
}

// mountRootfs returns a mount namespace that has nothing but the rootfs beside
// what the host's has. It goes when it is closed and CRIU has ended.
func (o *RestoreOptions) mountRootfs(s *specs.Spec, cg *cgroup.Cgroup) (ns *os.File, err error) {
	err = o.rootfsHelper(s, cg, false, func(pid int) (err error) {
		ns, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
		return err
	})
	return ns, err
}

func (o *RestoreOptions) restoreOptions(dirs *imageDirs, r *record, s *specs.Spec, outside []outsideMount) (*criu.Options, error) {
	opts, err := o.options(dirs, restoreLog, r.Annotations)
	if err != nil {
		return nil, err
	}
	opts.EvasiveDevices, opts.RestoreSibling = true, true
	if opts.Root, err = filepath.EvalSymlinks(r.Rootfs); err != nil {
		return nil, fmt.Errorf("root.path: %w", err)
	}
	opts.LSMProfile, opts.LSMMountContext = o.LSMProfile, o.LSMMountContext
	for _, m := range outside {
		opts.ExternalMounts = append(opts.ExternalMounts, &criu.ExternalMount{Key: m.place, Value: m.source})
	}
	if len(s.Linux.MaskedPaths) > 0 {
		opts.ExternalMounts = append(opts.ExternalMounts, &criu.ExternalMount{Key: nullDevice, Value: nullDevice})
	}
	for _, n := range s.Linux.Namespaces {
		if _, external := externalNamespaces[n.Type]; n.Path != "" && !external {
			opts.JoinNS = append(opts.JoinNS, &criu.JoinedNamespace{NS: nsFile[n.Type], File: n.Path})
		}
	}
	return opts, nil
}

// inherited are the descriptors that CRIU gets.
type inherited struct {
	list  []*os.File
	owned []*os.File // of list, those that are ours to close
}

// inherit hands CRIU what is to take the place of things from outside that the
// images name: namespaces and standard streams.
func (o *RestoreOptions) inherit(opts *criu.Options, s *specs.Spec, streams []string) (files inherited, err error) {
	add := func(key string, f *os.File) {
		opts.InheritFDs = append(opts.InheritFDs, &criu.InheritFD{Key: key, FD: int32(criu.FirstFile + len(files.list))})
		files.list = append(files.list, f)
	}
	for i, n := range s.Linux.Namespaces {
		key, external := externalNamespaces[n.Type]
		if !external || n.Path == "" {
			continue
		}
		f, err := sys.OpenNamespace(n.Path, string(n.Type))
		if err != nil {
			return files, fmt.Errorf("linux.namespaces[%d].path: %w", i, err)
		}
		files.owned = append(files.owned, f)
		add(key, f)
	}
	var null *os.File
	for i, name := range streams {
		if !strings.HasPrefix(name, "pipe:") && !strings.HasPrefix(name, "file[") {
			continue
		}
		f := (*os.File)(nil)
		if i < 3 {
			f = [3]*os.File{o.Stdin, o.Stdout, o.Stderr}[i]
		}
		if f == nil {
			if null == nil {
				if null, err = os.OpenFile(nullDevice, os.O_RDWR, 0); err != nil {
					return files, err
				}
				files.owned = append(files.owned, null)
			}
			f = null
		}
		add(name, f)
	}
	return files, nil
}

// maxDescriptors bounds descriptors.json.
const maxDescriptors = 64 << 10

func readDescriptors(path string) ([]string, error) {
	data, err := sys.ReadFile(path, maxDescriptors)
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return names, nil
}

// cgroupRoots are the cgroups of a process, which those that are restored are to
// be in.
func cgroupRoots(pid int) ([]*criu.CgroupRoot, error) {
	file := "/proc/" + strconv.Itoa(pid) + "/cgroup"
	data, err := sys.ReadFile(file, maxFdinfo)
	if err != nil {
		return nil, err
	}
	var roots []*criu.CgroupRoot
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: %q is not understood", file, line)
		}
		// Version 2 has no controllers here: CRIU takes that for all that are not
		// named.
		for controller := range strings.SplitSeq(f[1], ",") {
			roots = append(roots, &criu.CgroupRoot{Controller: controller, Path: f[2]})
		}
	}
	return roots, nil
}
