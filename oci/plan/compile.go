package plan

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/spec"
)

// nsFlags are the namespaces in the order of joining: the user namespace first,
// since it owns the others.
var nsFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
}{
	{specs.UserNamespace, abi.CloneNewUser},
	{specs.IPCNamespace, abi.CloneNewIPC},
	{specs.UTSNamespace, abi.CloneNewUTS},
	{specs.NetworkNamespace, abi.CloneNewNet},
	{specs.PIDNamespace, abi.CloneNewPID},
	{specs.CgroupNamespace, abi.CloneNewCgroup},
	{specs.TimeNamespace, abi.CloneNewTime},
	{specs.MountNamespace, abi.CloneNewNS},
}

// Create compiles the program of a container's first process. The spec has been
// through oci/spec's Validate.
func Create(s *specs.Spec, host Host, cfg Config) (*Program, error) {
	b := newBuilder(s, &host, &cfg, roomOfRootfs(s))
	steps := []func() error{
		b.joinCgroup,
		b.allCPUs,
		b.readNamespaces,
		func() error { b.sealFromWatchers(); return nil },
		b.makeNamespaces,
		b.cgroupNamespace,
		b.session,
		b.netDevices,
		b.identity,
		b.rootfs,
		b.sysctls,
		b.hooksBeforePivot,
		b.enterRoot,
		b.process,
		b.startAndExec,
	}
	if err := b.run(steps); err != nil {
		return nil, err
	}
	return &b.Program, nil
}

// run takes the steps in their order up to the first error.
func (b *builder) run(steps []func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
		if b.err != nil {
			return b.err
		}
	}
	return nil
}

// roomOfRootfs is room for the program of most configs that has a rootfs to mount.
func roomOfRootfs(s *specs.Spec) int {
	room := 256 + 8*len(s.Mounts)
	if s.Linux != nil {
		room += 8 * (len(s.Linux.MaskedPaths) + len(s.Linux.ReadonlyPaths))
	}
	return room
}

// newBuilder begins a program with room for so many operations: an array that grows is
// copied, and memory used for the first time is what compiling costs most; but a process
// that compiles many programs has to clear and to collect what it did not use, too.
func newBuilder(s *specs.Spec, host *Host, cfg *Config, room int) *builder {
	b := &builder{spec: s, host: host, cfg: cfg, ns: make(map[specs.LinuxNamespaceType]namespace)}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	b.Ops = make([]Op, 0, room)
	b.at("linux", "")
	b.named(InSync)
	b.named(InProc)
	return b
}

// fail keeps the first error of a step that returns none.
func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// readNamespaces takes the list of the config apart.
func (b *builder) readNamespaces() error {
	for i, n := range b.spec.Linux.Namespaces {
		b.atf("linux.namespaces[%d].path", i)
		b.ns[n.Type] = namespace{n.Path, b.field}
	}
	_, b.inUser = b.ns[specs.UserNamespace]
	mnt, ok := b.ns[specs.MountNamespace]
	b.ownNS = ok && mnt.path == ""
	return nil
}

// joined is a namespace to join: by its descriptor.
type joined struct {
	namespace
	flag uint64
	fd   Reg
}

// makeNamespaces compiles their joining and making.
func (b *builder) makeNamespaces() error {
	var user *joined
	var others []joined
	var newNS uint64
	for _, f := range nsFlags {
		n, ok := b.ns[f.kind]
		if !ok {
			continue
		}
		if n.path == "" {
			if f.kind != specs.CgroupNamespace && f.kind != specs.TimeNamespace { // those are unshared later
				newNS |= f.flag
			}
			continue
		}
		b.at(n.field, n.path)
		j := joined{n, f.flag, b.input(Input{Kind: InNS, Type: string(f.kind), Path: n.path})}
		switch f.kind {
		case specs.UserNamespace:
			user = &j
		case specs.PIDNamespace:
			b.PidNS = j.fd // entered by the fork itself
		default:
			others = append(others, j)
		}
	}
	b.joinNamespaces(user, others)
	b.at("linux.namespaces", "")
	// New namespaces must belong to the user namespace, so they are made after
	// one was joined; and what is to be joined may belong to the host, so a new
	// user namespace comes after that. Then they are made by a clone of a
	// sibling, since a PID namespace holds only processes born later.
	if newNS != 0 && (user != nil || newNS&abi.CloneNewUser != 0 && len(others) > 0) {
		b.op(Op{Do: OpFork, A: newNS})
	} else {
		b.CloneFlags = newNS
	}
	return nil
}

// joinNamespaces compiles the joining. Where a user namespace is joined too, the
// others may belong to it or to the host: what this process may not join yet, it
// joins as a member of the user namespace.
func (b *builder) joinNamespaces(user *joined, others []joined) {
	join := func(j joined, allow ...int) {
		b.at(j.field, j.path)
		b.op(Op{Do: OpSetns, Dir: j.fd, A: j.flag, Allow: allow})
	}
	defer func() {
		for _, j := range others {
			b.free = append(b.free, j.fd)
		}
	}()
	if user == nil {
		for _, j := range others {
			join(j)
		}
		return
	}
	for _, j := range others {
		join(j, abi.EPERM)
	}
	join(*user)
	b.free = append(b.free, user.fd)
	for _, j := range others {
		b.at(j.field, j.path)
		_ = b.ifOpen(j.fd, func() error { join(j); return nil })
	}
}

// becomeUserRoot compiles the way to root of the user namespace: the parent
// writes the maps of a new one, and what takes the host's privilege.
func (b *builder) becomeUserRoot() {
	b.at("linux.uidMappings", "")
	if b.ns[specs.UserNamespace].path == "" {
		b.UIDMap, b.GIDMap = IDMap(b.spec.Linux.UIDMappings), IDMap(b.spec.Linux.GIDMappings)
	}
	if b.UIDMap != "" || b.OOM != nil || b.TimeOffsets != "" {
		// An undumpable process's files in /proc are the host's root's, so that an
		// ordinary user could not write the maps. Whoever looks into a member of
		// this new user namespace meanwhile needs to be privileged in it.
		seen := b.UIDMap != "" && !b.host.has(abi.CapSetgid)
		b.MapHelpers = seen && !(ownID(b.spec.Linux.UIDMappings) && ownID(b.spec.Linux.GIDMappings))
		b.DenySetgroups = seen && !b.MapHelpers
		if seen {
			b.op(Op{Do: OpPrctl, A: abi.PrSetDumpable, B: 1})
		}
		b.op(Op{Do: OpSync, A: SyncUserNS})
		if seen {
			b.op(Op{Do: OpPrctl, A: abi.PrSetDumpable, B: 0})
		}
	}
	b.at("linux.uidMappings", "root of the user namespace")
	if !b.keepsGroups() {
		b.op(Op{Do: OpGroups, Allow: []int{abi.EPERM}})
	}
	b.op(Op{Do: OpSetgid})
	b.op(Op{Do: OpSetuid})
}

// ownID says whether a map is one that an ordinary user may write: one id, his own.
func ownID(m []specs.LinuxIDMapping) bool { return len(m) == 1 && m[0].Size == 1 }

// session compiles what the process is before it has a root.
func (b *builder) session() error {
	b.newTime()
	if b.inUser {
		b.OOM = b.spec.Process.OOMScoreAdj
		if b.ownNS {
			b.openRootDir(abi.EACCES) // to which root of the user namespace may lack the way
		}
		b.becomeUserRoot()
	} else {
		b.oomScore()
	}
	b.enterTime()
	if n, ok := b.ns[specs.NetworkNamespace]; ok && n.path == "" {
		b.at("linux.namespaces", "network")
		b.op(Op{Do: OpLoopback})
	}
	b.at("process", "session")
	b.op(Op{Do: OpSetsid})
	b.op(Op{Do: OpUmask, A: 0})
	b.sessionKeyring()
	return nil
}

// newTime makes the time namespace. Root of a user namespace does not own the file
// for the offsets, so the parent writes it then.
func (b *builder) newTime() {
	if n, ok := b.ns[specs.TimeNamespace]; !ok || n.path != "" {
		return
	}
	b.at("linux.timeOffsets", "")
	b.op(Op{Do: OpUnshare, A: abi.CloneNewTime})
	v := timeOffsets(b.spec.Linux.TimeOffsets)
	if b.inUser {
		b.TimeOffsets = v
	} else if v != "" {
		b.writeProc("self/timens_offsets", v)
	}
}

// enterTime enters the new time namespace, which has its offsets by now: until
// Linux 6.2 execve does not, and only the process's children would be in it.
func (b *builder) enterTime() {
	if n, ok := b.ns[specs.TimeNamespace]; !ok || n.path != "" || b.host.AtLeast(6, 2) {
		return
	}
	b.at("linux.timeOffsets", "")
	fd := b.reg()
	b.op(Op{Do: OpOpen, Out: fd, Dir: b.named(InProc), Path: "self/ns/time_for_children"})
	b.op(Op{Do: OpSetns, Dir: fd, A: abi.CloneNewTime})
	b.free = append(b.free, fd) // OpSetns has closed it
}

// sessionKeyring gives the container a keyring of its own, by name, so that
// later processes find it.
func (b *builder) sessionKeyring() {
	if b.cfg.NoNewKeyring {
		return
	}
	b.at("process", "session keyring")
	keyring := Op{Do: OpKeyring, Data: "_ses." + b.cfg.ID, Allow: []int{abi.ENOSYS}}
	label := b.spec.Process.SelinuxLabel
	if label == "" || !b.host.SELinux {
		b.op(keyring)
		return
	}
	// The process's label on the keyring too: else it may not use it.
	b.writeKeycreate(label)
	b.op(keyring)
	b.writeKeycreate("\n") // the default again
}

func (b *builder) writeKeycreate(label string) {
	b.op(Op{Do: OpWrite, Dir: b.named(InProc), Path: "self/attr/keycreate", Data: label, C: abi.ResolveInRoot})
}

// oomScore compiles oom_score_adj, which takes privilege to lower.
func (b *builder) oomScore() {
	adj := b.spec.Process.OOMScoreAdj
	if adj == nil {
		return
	}
	b.at("process.oomScoreAdj", itoa(*adj))
	o := Op{Do: OpWrite, Dir: b.named(InProc), Path: "self/oom_score_adj", Data: itoa(*adj), C: abi.ResolveInRoot}
	if !b.host.has(abi.CapSysResource) && *adj < 0 {
		o.Allow, o.Warn = []int{abi.EACCES, abi.EPERM}, true
	}
	b.op(o)
}

// netDevices are moved by the parent, which is where they are.
func (b *builder) netDevices() error {
	if len(b.spec.Linux.NetDevices) > 0 {
		b.at("linux.netDevices", "")
		b.op(Op{Do: OpSync, A: SyncNet})
	}
	return nil
}

// identity compiles the names of the UTS namespace.
func (b *builder) identity() error {
	if b.spec.Hostname != "" {
		b.at("hostname", b.spec.Hostname)
		b.op(Op{Do: OpHostname, Data: b.spec.Hostname})
	}
	if b.spec.Domainname != "" {
		b.at("domainname", b.spec.Domainname)
		b.op(Op{Do: OpDomain, Data: b.spec.Domainname})
	}
	return nil
}

// sysctls are written through the host's procfs, where they mean the namespaces
// of the process that writes.
func (b *builder) sysctls() error {
	for _, key := range sortedKeys(b.spec.Linux.Sysctl) {
		b.at("linux.sysctl["+key+"]", b.spec.Linux.Sysctl[key])
		b.writeProc("sys/"+spec.SysctlPath(key), b.spec.Linux.Sysctl[key])
	}
	return nil
}

// joinCgroup compiles the joins that the clone has not made: version 1's, by
// writing "0" from the one thread that there is, which the kernel need not stop
// the world for.
func (b *builder) joinCgroup() error {
	for _, file := range b.cfg.CgroupJoin {
		b.at("linux.cgroupsPath", file)
		r := b.input(Input{Kind: InCgroup, Path: file})
		b.op(Op{Do: OpWrite, Dir: r, Data: "0"})
		b.close(r)
	}
	return nil
}

// cgroupNamespace compiles the new cgroup namespace, rooted where the process is
// now.
func (b *builder) cgroupNamespace() error {
	if n, ok := b.ns[specs.CgroupNamespace]; ok && n.path == "" {
		b.at("linux.namespaces", "cgroup")
		b.op(Op{Do: OpUnshare, A: abi.CloneNewCgroup})
	}
	return nil
}

// hooksBeforePivot: prestart and createRuntime run in the parent, createContainer
// in the container's namespaces but before pivot_root.
func (b *builder) hooksBeforePivot() error {
	h := b.spec.Hooks
	if h == nil {
		return nil
	}
	if len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer) > 0 { //nolint:staticcheck // deprecated, but configs have it
		b.at("hooks", "prestart, createRuntime")
		b.op(Op{Do: OpSync, A: SyncHooks})
	}
	if len(h.CreateContainer) > 0 {
		b.op(Op{Do: OpFchdir, Dir: b.root}) // as with runc, they start in the rootfs
	}
	b.hooks("createContainer", h.CreateContainer, InHook, false)
	return nil
}

// hooks appends hooks to run, with an input of that kind as their standard input.
// Without an environment of its own a hook may have the process's (ofProcess), else
// it has none.
func (b *builder) hooks(name string, hooks []specs.Hook, state string, ofProcess bool) {
	for i, h := range hooks {
		b.at("hooks."+name+"["+itoa(i)+"]", h.Path)
		o := Op{Do: OpHook, Dir: b.named(state), Path: h.Path, Args: h.Args, Env: h.Env,
			Data: "error running " + name + " hook #" + itoa(i)}
		if ofProcess && h.Env == nil {
			o.Env, o.B = b.env, 1
		}
		if !ofProcess { // which has no standard descriptors yet
			o.On = b.named(InHookOut)
		}
		if len(o.Args) == 0 {
			o.Args = []string{h.Path}
		}
		if h.Timeout != nil {
			o.A = uint64(max(*h.Timeout, 0))
		}
		b.op(o)
	}
}

// enterRoot makes the rootfs the root.
func (b *builder) enterRoot() error {
	b.hide()
	b.readonly()
	prop, shared, err := b.rootPropagation()
	if err != nil {
		return err
	}
	b.at("root.path", b.spec.Root.Path)
	if b.spec.Root.Readonly {
		b.at("root.readonly", "")
		b.setattr(b.root, abi.MountAttrRdonly, 0, 0, false)
	}
	b.at("root.path", "pivot_root")
	b.op(Op{Do: OpFchdir, Dir: b.root})
	switch {
	case !b.ownNS: // others live in it: its root stays
		b.op(Op{Do: OpChroot})
	case b.cfg.NoPivot:
		b.unreveal()
		slash := b.reg()
		b.op(Op{Do: OpOpen, Out: slash, Path: "/", A: abi.OPath | FlagDirectory})
		b.op(Op{Do: OpMove, Dir: b.root, On: slash})
		b.close(slash)
		b.op(Op{Do: OpChroot})
	default:
		var old Reg
		if shared {
			old = b.reg()
			b.op(Op{Do: OpOpen, Out: old, Path: "/", A: abi.OPath | FlagDirectory})
		}
		b.op(Op{Do: OpPivot})
		if shared {
			// So that unmounting the old root does not reach the host.
			b.setattr(old, 0, 0, abi.MSSlave, true)
			b.close(old)
		}
		b.op(Op{Do: OpUmount, Path: ".", A: abi.MntDetach})
	}
	b.op(Op{Do: OpChdir, Path: "/"})
	if prop.kind != 0 {
		b.at("linux.rootfsPropagation", b.spec.Linux.RootfsPropagation)
		b.setattrPath("/", prop)
	}
	b.close(b.root)
	return nil
}

// unreveal detaches the host's procfs and sysfs. Mounts that came with a copy into
// a user namespace are locked, and covered.
func (b *builder) unreveal() {
	for _, p := range slices.Backward(b.cfg.Revealing) {
		b.at("root.path", "--no-pivot: "+p)
		// What is done to it is not to reach the host.
		b.op(Op{Do: OpSetattr, Path: p, C: abi.MSSlave, D: abi.AtRecursive, Allow: []int{abi.ENOENT, abi.EINVAL}})
		if !b.inUser {
			b.op(Op{Do: OpUmount, Path: p, A: abi.MntDetach, Allow: []int{abi.ENOENT, abi.EINVAL}})
			continue
		}
		on := b.reg()
		b.op(Op{Do: OpOpen, Out: on, Path: p, A: abi.OPath | FlagDirectory, Allow: []int{abi.ENOENT}})
		_ = b.ifOpen(on, func() error {
			empty := b.emptyDir()
			b.op(Op{Do: OpMove, Dir: empty, On: on})
			b.close(empty)
			return nil
		})
		b.close(on)
	}
	b.at("root.path", "--no-pivot")
}

// IDMap is a mapping in the form of /proc/PID/uid_map.
func IDMap(m []specs.LinuxIDMapping) string {
	var s strings.Builder
	for _, e := range m {
		s.WriteString(utoa(e.ContainerID) + " " + utoa(e.HostID) + " " + utoa(e.Size) + "\n")
	}
	return s.String()
}

func timeOffsets(m map[string]specs.LinuxTimeOffset) string {
	var s strings.Builder
	for _, clock := range sortedKeys(m) {
		s.WriteString(clock + " " + i64toa(m[clock].Secs) + " " + utoa(m[clock].Nanosecs) + "\n")
	}
	return s.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
