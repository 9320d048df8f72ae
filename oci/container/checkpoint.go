package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/criu"
)

// Images says where a checkpoint is and how CRIU treats what it cannot know. It
// is the same for Checkpoint and Restore.
type Images struct {
	Path    string // directory of CRIU's images
	Work    string // directory of its logs and statistics; "" is Path
	Program string // of CRIU; "" looks for criu in $PATH

	TCPEstablished bool // connections are kept, not refused
	ExtUnixSockets bool // so are connections to unix sockets outside
	ShellJob       bool // so is a session or terminal from outside
	FileLocks      bool // so are file locks, which others could take meanwhile
	LazyPages      bool // memory follows when it is used (userfaultfd)
	AutoDedup      bool // pages that a parent image has twice are dropped

	CgroupsMode string   // soft, full, strict or ignore; "" is CRIU's default
	EmptyNS     []string // namespaces that come without their contents: network
}

// CheckpointOptions says what Checkpoint is to save.
type CheckpointOptions struct {
	Images
	Parent          string   // an earlier PreDump's Path, relative to this one's
	PreDump         bool     // only memory; the container goes on
	LeaveRunning    bool     // the container goes on
	TCPSkipInFlight bool     // leave out connections that are being made
	LinkRemap       bool     // give open files without a name one for the time
	PageServer      string   // ADDRESS:PORT that memory is sent to
	Status          *os.File // gets a zero byte once lazy pages can be asked for
}

// Names in the images' directory, as runc has them, but for CRIU's own.
const (
	descriptorsFile = "descriptors.json"
	dumpLog         = "dump.log"
	restoreLog      = "restore.log"
)

// CRIUConfigAnnotation is the annotation that gives the configuration file that
// CRIU reads beside its own or, empty, none. Without it that is runc's.
const CRIUConfigAnnotation = "org.criu.config"

const criuConfig = "/etc/criu/runc.conf"

// criuLogLevel makes CRIU's log say why.
const criuLogLevel = 4

// Checkpoint saves the container's processes as CRIU images, of the form that runc
// reads too. They end with it, unless the container is to go on; the container is
// then stopped, and the caller deletes it. CRIU is not stopped half-way when ctx
// ends.
func (c *Container) Checkpoint(ctx context.Context, o CheckpointOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("checkpoint container %s: %w", c.id, err)
		}
	}()

	// 1. What is to be saved.
	r, err := c.load()
	if err != nil {
		return err
	}
	status, err := c.status(r)
	if err != nil {
		return err
	}
	if status != specs.StateRunning && status != StatePaused {
		return fmt.Errorf("%w: it is %s", ErrNotRunning, status)
	}
	s, err := c.Spec()
	if err != nil {
		return err
	}
	if err := canCheckpoint(s); err != nil {
		return err
	}
	cg, err := c.cgroupOf(r)
	if err != nil {
		return err
	}

	// 2. Where to.
	if err := o.CheckParent(); err != nil {
		return fmt.Errorf("parent path: %w", err)
	}
	dirs, err := o.open(nil)
	if err != nil {
		return err
	}
	defer dirs.close()

	// 3. CRIU, with what it needs to know.
	service, err := criu.Start(context.WithoutCancel(ctx), criu.Config{Program: o.Program})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	if o.PreDump || o.LazyPages {
		if err := service.Require(criu.Features{MemTrack: o.PreDump, LazyPages: o.LazyPages}); err != nil {
			return err
		}
	}
	request, err := o.dumpOptions(dirs, r, s, cg)
	if err != nil {
		return err
	}

	// 4. The rest of the images.
	what := criu.PreDump
	if !o.PreDump {
		what = criu.Dump
		if err := describeMounts(request, r, s, cg); err != nil {
			return err
		}
		names, err := describeStreams(request, r.Pid)
		if err != nil {
			return err
		}
		if err := writeDescriptors(filepath.Join(o.Path, descriptorsFile), names); err != nil {
			return err
		}
	}

	// 5. The images.
	_, err = service.Do(what, request, func(n criu.Notification) error {
		if n.File != nil {
			_ = n.File.Close() // none is expected
		}
		if n.Script == "status-ready" && o.Status != nil {
			_, err := o.Status.Write([]byte{0})
			return err
		}
		return nil
	})
	return o.explain(dumpLog, err)
}

// canCheckpoint refuses namespaces that CRIU cannot give back.
func canCheckpoint(s *specs.Spec) error {
	mounts := false
	for i, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.MountNamespace:
			mounts = n.Path == ""
		case specs.CgroupNamespace, specs.TimeNamespace:
			if n.Path != "" {
				return fmt.Errorf("linux.namespaces[%d].path: CRIU cannot join a %s namespace", i, n.Type)
			}
		}
	}
	if !mounts {
		return errors.New("linux.namespaces: CRIU needs the container to have a mount namespace of its own")
	}
	return nil
}

// imageDirs are the open directories of a checkpoint.
type imageDirs struct{ images, work *os.File }

func (d *imageDirs) close() {
	_ = closeFile(d.images) // read-only
	_ = closeFile(d.work)
}

// open opens the directories: those of a dump, which it makes, or, with the mount
// namespace that CRIU will run in, those of a restore. CRIU mounts in its work
// directory, so that has to be of its namespace.
func (o *Images) open(ns *os.File) (*imageDirs, error) {
	if o.Path == "" {
		return nil, errors.New("no directory for the images given")
	}
	var d imageDirs
	open := func() (err error) {
		if ns == nil {
			err = os.MkdirAll(o.Path, 0o700)
		}
		if err == nil {
			d.images, err = os.Open(o.Path)
		}
		if err == nil && o.Work != "" {
			if err = os.MkdirAll(o.Work, 0o700); err == nil {
				d.work, err = os.Open(o.Work)
			}
		}
		return err
	}
	var err error
	if ns != nil {
		err = sys.InMountNS(ns, open)
	} else {
		err = open()
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return &d, nil
}

// CheckParent makes sure that Parent is a directory beside Path.
func (o *CheckpointOptions) CheckParent() error {
	if o.Parent == "" {
		return nil
	}
	if filepath.IsAbs(o.Parent) {
		return fmt.Errorf("%s: it must be relative to the image path", o.Parent)
	}
	st, err := os.Stat(filepath.Join(o.Path, o.Parent))
	if err == nil && !st.IsDir() {
		err = syscall.ENOTDIR
	}
	return err
}

// explain adds what CRIU's log says to an error.
func (o *Images) explain(name string, err error) error {
	if err == nil {
		return nil
	}
	dir := o.Work
	if dir == "" {
		dir = o.Path
	}
	path := filepath.Join(dir, name)
	log, openErr := os.Open(path)
	if openErr != nil {
		return err // CRIU had no time for a log, or has it elsewhere by its configuration
	}
	defer func() { _ = log.Close() }() // read-only
	if quote := criu.Quote(log); quote != "" {
		return fmt.Errorf("%w: %s (from %s)", err, quote, path)
	}
	return fmt.Errorf("%w: see %s", err, path)
}

var cgroupModes = map[string]criu.CgroupMode{
	"": criu.CgroupDefault, "soft": criu.CgroupSoft, "full": criu.CgroupFull, "strict": criu.CgroupStrict,
	"ignore": criu.CgroupIgnore,
}

// cloneNewNet is CLONE_NEWNET, the only namespace that can be left empty.
const cloneNewNet = 0x40000000

// options are those that a dump and a restore have in common.
func (o *Images) options(dirs *imageDirs, log string, annotations map[string]string) (*criu.Options, error) {
	mode, ok := cgroupModes[o.CgroupsMode]
	if !ok {
		return nil, fmt.Errorf("manage-cgroups-mode %q: it is soft, full, strict or ignore", o.CgroupsMode)
	}
	for _, ns := range o.EmptyNS {
		if ns != string(specs.NetworkNamespace) {
			return nil, fmt.Errorf("empty-ns %q: only the network namespace can be left empty", ns)
		}
	}
	number := int32(mode)
	opts := &criu.Options{
		ImagesDirFD: int32(sys.Fd(dirs.images)),
		LogLevel:    criuLogLevel, LogFile: log,
		NotifyScripts: true, ManageCgroups: true, ManageCgroupsMode: &number,
		TCPEstablished: o.TCPEstablished, ExtUnixSk: o.ExtUnixSockets, ShellJob: o.ShellJob, FileLocks: o.FileLocks,
		LazyPages: o.LazyPages, AutoDedup: o.AutoDedup,
		// Devices and addresses of a network are its maker's business, not ours.
		EmptyNS:         cloneNewNet,
		OrphanPtsMaster: true,
		ConfigFile:      criuConfig,
	}
	if dirs.work != nil {
		opts.WorkDirFD = int32(sys.Fd(dirs.work))
	}
	if file, ok := annotations[CRIUConfigAnnotation]; ok {
		opts.ConfigFile = file
	}
	return opts, nil
}

func (o *CheckpointOptions) dumpOptions(dirs *imageDirs, r *record, s *specs.Spec, cg *cgroup.Cgroup) (*criu.Options, error) {
	opts, err := o.options(dirs, dumpLog, r.Annotations)
	if err != nil {
		return nil, err
	}
	opts.Pid, opts.Root = int32(r.Pid), r.Rootfs
	opts.LeaveRunning, opts.TCPSkipInFlight, opts.LinkRemap = o.LeaveRunning, o.TCPSkipInFlight, o.LinkRemap
	if o.Parent != "" {
		opts.ParentImage, opts.TrackMem = o.Parent, true
	}
	if o.PageServer != "" {
		if opts.PageServer, err = parsePageServer(o.PageServer); err != nil {
			return nil, err
		}
	}
	dirsByController := cg.Dirs()
	if opts.FreezeCgroup = dirsByController["freezer"]; cg.Mode() == cgroup.Unified {
		opts.FreezeCgroup = dirsByController[""]
	}
	// A network or PID namespace that the config gives stays where it is.
	for _, n := range s.Linux.Namespaces {
		key, ok := externalNamespaces[n.Type]
		if !ok || n.Path == "" {
			continue
		}
		st, err := os.Stat(n.Path)
		if err != nil {
			return nil, fmt.Errorf("linux.namespaces: %s: %w", n.Type, err)
		}
		inode := st.Sys().(*syscall.Stat_t).Ino
		opts.External = append(opts.External, fmt.Sprintf("%s[%d]:%s", nsFile[n.Type], inode, key))
	}
	return opts, nil
}

// externalNamespaces are the keys by which images name namespaces that are not in
// them; runc's.
var externalNamespaces = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "extRootNetNS",
	specs.PIDNamespace:     "extRootPidNS",
}

func parsePageServer(text string) (*criu.PageServer, error) {
	i := strings.LastIndexByte(text, ':')
	if i <= 0 {
		return nil, fmt.Errorf("page server %q: give ADDRESS:PORT", text)
	}
	port, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("page server %q: the port is a number from 1 to 65535", text)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(text[:i], "["), "]") // as IPv6 addresses are written before a port
	return &criu.PageServer{Address: host, Port: int32(port)}, nil
}

// describeMounts tells CRIU of the container's mounts that come from outside, by
// their places: the images refer to them by these names.
func describeMounts(o *criu.Options, r *record, s *specs.Spec, cg *cgroup.Cgroup) error {
	root, err := sys.Open("/proc/"+strconv.Itoa(r.Pid)+"/root", sys.OPath)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	outside, err := outsideMounts(root, r.Bundle, s, cg)
	if err != nil {
		return err
	}
	for _, m := range outside {
		o.ExternalMounts = append(o.ExternalMounts, &criu.ExternalMount{Key: m.place, Value: m.place})
	}
	for i, path := range s.Linux.MaskedPaths {
		place, isDir, err := sys.ResolveInRoot(root, path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && isDir {
			continue
		}
		if err != nil {
			return fmt.Errorf("linux.maskedPaths[%d]: %w", i, err)
		}
		o.ExternalMounts = append(o.ExternalMounts, &criu.ExternalMount{Key: place, Value: nullDevice})
	}
	return nil
}

const nullDevice = "/dev/null"

// describeStreams returns the names of what init's standard streams are, for
// Restore to replace them by others. Files from outside are named to CRIU, which
// would otherwise look for them in the container; so is the host's /dev/null,
// which is one of a process that was given nothing else, as the fourth name.
func describeStreams(o *criu.Options, pid int) ([]string, error) {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	inside, err := mountIDs(proc + "mountinfo")
	if err != nil {
		return nil, err
	}
	names := make([]string, 3, 4)
	for i := range names {
		number := strconv.Itoa(i)
		target, err := os.Readlink(proc + "fd/" + number)
		if errors.Is(err, os.ErrNotExist) {
			continue // it has closed it
		}
		if err != nil {
			return nil, err
		}
		names[i] = target
		if !strings.HasPrefix(target, "/") {
			continue
		}
		file, mount, err := fileName(proc+"fd/"+number, proc+"fdinfo/"+number)
		if err != nil {
			return nil, err
		}
		if mount != "" && !inside[mount] && !strings.HasPrefix(target, "/dev/pts/") {
			names[i] = file
			o.External = append(o.External, file)
		}
	}
	null, err := os.Open(nullDevice)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	file, _, err := fileName(nullDevice, "/proc/self/fdinfo/"+strconv.Itoa(sys.Fd(null)))
	if err != nil {
		return nil, err
	}
	for _, known := range o.External {
		if known == file {
			return names, nil
		}
	}
	o.External = append(o.External, file)
	return append(names, file), nil
}

// fileName is how CRIU names an open file from outside: by mount and inode.
func fileName(path, fdinfo string) (name, mount string, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", "", err
	}
	info, err := sys.ReadFile(fdinfo, maxFdinfo)
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			mount = strings.TrimSpace(value)
		}
	}
	id, err := strconv.ParseUint(mount, 10, 32)
	if err != nil {
		return "", "", fmt.Errorf("%s: no mnt_id", fdinfo)
	}
	return fmt.Sprintf("file[%x:%x]", id, st.Sys().(*syscall.Stat_t).Ino), mount, nil
}

const (
	maxFdinfo    = 64 << 10
	maxMountinfo = 64 << 20
)

// mountIDs are those of a mountinfo file.
func mountIDs(path string) (map[string]bool, error) {
	data, err := sys.ReadFile(path, maxMountinfo)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		id, _, _ := strings.Cut(line, " ")
		ids[id] = true
	}
	return ids, nil
}

func writeDescriptors(path string, names []string) error {
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
