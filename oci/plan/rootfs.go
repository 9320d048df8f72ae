package plan

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// rootfs compiles everything up to the moment when the rootfs is complete but
// not yet the root.
func (b *builder) rootfs() error {
	lx := b.spec.Linux
	b.at("linux.rootfsPropagation", lx.RootfsPropagation)
	rootProp, shared, err := b.rootPropagation()
	if err != nil {
		return err
	}
	// Nothing that is mounted from here on may reach the host, so all mounts of
	// the copied namespace become slaves of the host's; where the config wants
	// the container's mounts to reach the host, only the mount that holds the
	// rootfs is cut off.
	if !shared {
		b.cutOff = rootProp
		if rootProp.kind == 0 {
			b.cutOff = propagation{abi.MSSlave, true}
		}
		if rootProp.kind == abi.MSUnbindable { // of which there could be no copy yet
			b.cutOff = propagation{abi.MSPrivate, true}
		}
		// Of mounts below, too, when the config speaks of the root alone: the unmounting
		// of the old root would reach the host through those that stay shared.
		b.cutOff.recursive = true
	}
	switch {
	case !b.ownNS: // and those of the namespace's other processes stay as they are
	case !shared:
		b.setattrPath("/", b.cutOff)
	case b.cfg.RootfsParent != "":
		b.setattrPath(b.cfg.RootfsParent, propagation{abi.MSPrivate, false})
		b.setattrPath("/", propagation{abi.MSPrivate, false})
	}
	if err := b.mountRoot(); err != nil {
		return err
	}
	for i, m := range b.cfg.RootfsMounts {
		if m.Target == "" {
			continue
		}
		b.at("rootfs mounts["+strconv.Itoa(i)+"]", strconv.Quote(m.Type)+" on "+strconv.Quote(m.Target))
		err := b.mount(-1, &specs.Mount{Type: m.Type, Source: m.Source, Options: m.Options, Destination: m.Target})
		if err != nil {
			return err
		}
	}
	b.mounts()
	if b.err != nil {
		return b.err
	}
	if b.wantsDev() {
		b.devices()
	}
	if b.err != nil {
		return b.err
	}
	b.finishDev()
	b.at("process.cwd", b.spec.Process.Cwd)
	if b.spec.Process.Cwd != "/" {
		r := b.reg()
		b.op(Op{Do: OpMkpath, Out: r, Dir: b.root, Path: path.Clean(b.spec.Process.Cwd), A: KindDir, B: 0o755})
		b.close(r)
	}
	return nil
}

// rootPropagation is linux.rootfsPropagation as flags, and whether mounts of the
// container can reach the host by it.
func (b *builder) rootPropagation() (p propagation, shared bool, err error) {
	name := b.spec.Linux.RootfsPropagation
	if name == "" {
		return propagation{}, false, nil
	}
	p, ok := find(propagations, name)
	if !ok {
		return p, false, b.errorf("unknown propagation")
	}
	return p, p.kind == abi.MSShared, nil
}

func (b *builder) setattrPath(mountpoint string, p propagation) {
	var flags uint64
	if p.recursive {
		flags = abi.AtRecursive
	}
	b.op(Op{Do: OpSetattr, Path: mountpoint, C: p.kind, D: flags})
}

// mountRoot makes the rootfs a mount of its own at its directory: pivot_root
// wants that, and its attributes can then be changed.
func (b *builder) mountRoot() error {
	dir := b.rootDir()
	b.at("root.path", strconv.Quote(dir))
	if b.rootOn == 0 {
		b.openRootDir()
	} else { // the way to it may be open to its root alone
		b.op(Op{Do: OpIfOpen, Dir: b.rootOn, A: 1})
		b.op(Op{Do: OpSkip, A: 1})
		b.op(Op{Do: OpOpen, Out: b.rootOn, Path: dir, A: abi.OPath | FlagDirectory})
	}
	mounted := false
	for i, m := range b.cfg.RootfsMounts {
		if m.Target != "" {
			continue
		}
		if mounted {
			return b.errorf("rootfs mounts[%d]: a second mount of the rootfs", i)
		}
		mounted = true
		b.at("rootfs mounts["+strconv.Itoa(i)+"]", strconv.Quote(m.Type)+" on the rootfs")
		if err := b.mountRootFrom(m); err != nil {
			return err
		}
	}
	switch {
	case mounted:
	case b.inUser && b.ownNS && !b.host.NoMounts && b.cutOff.kind != abi.MSShared:
		b.root = b.input(Input{Kind: InMount, Path: dir, Recursive: true})
		b.setattr(b.root, 0, 0, b.cutOff.kind, true)
	default:
		b.root = b.clone(dir, true)
	}
	if !b.ownNS {
		// What is mounted inside must not reach what it is a copy of; and all of
		// it goes with this one mount.
		b.setattr(b.root, 0, 0, abi.MSPrivate, true)
		b.Stays = dir
	}
	b.attach(b.root, b.rootOn)
	return nil
}

// openRootDir opens what the rootfs is mounted on; allow are errors that leave that to
// a later attempt.
func (b *builder) openRootDir(allow ...int) {
	b.at("root.path", strconv.Quote(b.rootDir()))
	b.rootOn = b.reg()
	b.op(Op{Do: OpOpen, Out: b.rootOn, Path: b.rootDir(), A: abi.OPath | FlagDirectory, Allow: allow})
}

func (b *builder) mountRootFrom(m Mount) error {
	options, ids, err := b.layerIDs(m.Options)
	if err != nil {
		return err
	}
	o, err := b.parseOptions(options, m.Type == "bind" || m.Type == "rbind")
	if err != nil {
		return err
	}
	switch {
	case ids != nil && o.bind:
		b.root = b.input(Input{Kind: InMount, Path: m.Source, Recursive: o.recursive || m.Type == "rbind", IDMap: ids})
		b.bound(b.root, o)
	case ids != nil && m.Type == "overlay":
		b.root, err = b.mappedOverlay(o, ids)
		return err
	case ids != nil:
		return b.errorf("uidmap and gidmap are for a bind mount and for an overlay's layers")
	case o.bind:
		b.root = b.clone(m.Source, o.recursive || m.Type == "rbind")
		b.bound(b.root, o)
	case m.Type == "overlay" && !b.host.AtLeast(6, 8):
		return b.pageOverlay(o)
	case m.Type == "overlay":
		b.overlay(o)
	default:
		b.root = b.newFS(m.Type, m.Source, o)
		b.finish(b.root, o)
	}
	return nil
}

// layerIDs takes the options uidmap=C:H:S and gidmap=C:H:S out, by which a caller
// asks for idmapped layers, as containerd has them: id C of a layer is H on the host.
// What an overlay's upper directory has is the host's ids.
func (b *builder) layerIDs(options []string) (rest []string, ids *MountIDs, err error) {
	var uids, gids []specs.LinuxIDMapping
	for _, opt := range options {
		key, value, _ := strings.Cut(opt, "=")
		to := &uids
		switch key {
		case "uidmap":
		case "gidmap":
			to = &gids
		default:
			rest = append(rest, opt)
			continue
		}
		m, err := mappingOf(strings.ReplaceAll(value, ":", "-"), nil)
		if err != nil {
			return nil, nil, b.errorf("option %s: %w", key, err)
		}
		*to = append(*to, m)
	}
	if len(uids)+len(gids) == 0 {
		return rest, nil, nil
	}
	if len(uids) == 0 || len(gids) == 0 {
		return nil, nil, b.errorf("uidmap and gidmap must come together")
	}
	ids, err = b.mountIDs(&specs.Mount{UIDMappings: uids, GIDMappings: gids}, mountOptions{})
	return rest, ids, err
}

// mappedOverlay is an overlay whose layers are idmapped. A child in a user namespace
// cannot make it, nor can an overlay as a whole be mapped: it is the parent's.
func (b *builder) mappedOverlay(o mountOptions, ids *MountIDs) (Reg, error) {
	if err := b.needs(6, 8); err != nil {
		return 0, err
	}
	var args []string
	for _, kv := range o.values {
		if kv[0] != "lowerdir" {
			args = append(args, kv[0]+"="+kv[1])
			continue
		}
		for _, layer := range splitLayers(kv[1]) {
			args = append(args, "lowerdir+="+layer)
		}
	}
	m := b.input(Input{Kind: InOverlay, Args: append(args, o.flags...), IDMap: ids})
	b.bound(m, o)
	b.setattr(m, 0, 0, b.cutOff.kind, true)
	return m, nil
}

// overlay mounts an overlay. Layers go in one by one: an fsconfig string holds
// 256 bytes, and a path with a colon needs no escape.
func (b *builder) overlay(o mountOptions) {
	var values [][2]string
	for _, kv := range o.values {
		if kv[0] != "lowerdir" {
			values = append(values, kv)
			continue
		}
		for _, layer := range splitLayers(kv[1]) {
			values = append(values, [2]string{"lowerdir+", layer})
		}
	}
	o.values = values
	b.root = b.newFS("overlay", "overlay", o)
	b.finish(b.root, o)
}

// mountPage is what mount(2) takes of options: a page, its last byte a NUL.
const mountPage = 4096 - 1

// pageOverlay mounts an overlay in the only way that kernels before 6.8 know, with a
// page of options. If the layers' paths do not fit, they are named from the directory
// that they share: the working directory is nothing else's until the rootfs is it.
func (b *builder) pageOverlay(o mountOptions) error {
	options := o.page()
	long := len(options)
	if long > mountPage {
		for i, kv := range o.values {
			if kv[0] != "lowerdir" {
				continue
			}
			if dir, rel := relativeLayers(splitLayers(kv[1])); dir != "" {
				b.op(Op{Do: OpChdir, Path: dir})
				o.values = slices.Clone(o.values)
				o.values[i][1] = rel
			}
			break
		}
		options = o.page()
	}
	if len(options) > mountPage {
		return b.errorf("%d bytes of options, of which mount(2) takes %d: before Linux 6.8, and this is %s, it takes fewer layers or shorter paths: %w",
			long, mountPage, b.host.version(), ErrUnsupported)
	}
	dir := b.rootDir()
	b.op(Op{Do: OpMount, Data: "overlay", Path: dir, Args: []string{"overlay", options}})
	b.root = b.clone(dir, false)
	b.op(Op{Do: OpUmount, Path: dir, A: abi.MntDetach})
	b.bound(b.root, o)
	return nil
}

// page is the file system's options as mount(2) takes them.
func (o *mountOptions) page() string {
	var list []string
	for _, kv := range o.values {
		v := kv[1]
		if strings.HasSuffix(kv[0], "context") && strings.Contains(v, ",") {
			v = `"` + v + `"` // so that SELinux takes the commas between categories for its own
		}
		list = append(list, kv[0]+"="+v)
	}
	return strings.Join(append(list, o.flags...), ",")
}

// layerEscape is what lowerdir's value wants of a path on kernels before 6.8.
var layerEscape = strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)

// relativeLayers is lowerdir's value for layers whose paths are relative to dir, the
// deepest directory that all are below; dir is "" if there is none.
func relativeLayers(layers []string) (dir, lowerdir string) {
	dir = path.Dir(layers[0])
	for _, l := range layers {
		if !path.IsAbs(l) {
			return "", ""
		}
		for l = path.Dir(l); l != dir && !strings.HasPrefix(l, strings.TrimSuffix(dir, "/")+"/"); {
			dir = path.Dir(dir)
		}
	}
	for i, l := range layers {
		if l = strings.TrimPrefix(strings.TrimPrefix(path.Clean(l), dir), "/"); l == "" {
			l = "."
		}
		if i > 0 {
			lowerdir += ":"
		}
		lowerdir += layerEscape.Replace(l)
	}
	return dir, lowerdir
}

// splitLayers splits lowerdir's value at colons that no backslash escapes.
func splitLayers(s string) []string {
	var layers []string
	var cur strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			cur.WriteByte(s[i])
		case s[i] == ':':
			layers = append(layers, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(s[i])
		}
	}
	return append(layers, cur.String())
}

func (b *builder) mounts() {
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		b.at("mounts["+strconv.Itoa(i)+"]", strconv.Quote(m.Type)+" on "+strconv.Quote(m.Destination))
		if b.err = b.mount(i, m); b.err != nil {
			return
		}
	}
}

// procFiles are what may be mounted over inside of /proc.
var procFiles = []string{"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
	"/proc/uptime", "/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid",
	"/proc/sys/crypto/fips_enabled"}

// mount compiles one mount of the config.
func (b *builder) mount(i int, m *specs.Mount) error {
	dest := b.destination(m)
	o, err := b.parseOptions(m.Options, m.Type == "bind" || m.Type == "rbind")
	if err != nil {
		return err
	}
	if m.Type == "rbind" {
		o.recursive = true
	}
	if o.copyUp && (o.bind || m.Type != "tmpfs") {
		return b.errorf("option tmpcopyup is for a tmpfs")
	}
	if !o.bind && (m.Type == "cgroup" || m.Type == "cgroup2") {
		return b.cgroupMount(m, dest, o)
	}
	overProc := false
	if strings.HasPrefix(dest, "/proc/") && m.Type != "proc" {
		overProc = true
		allowed := false
		for _, f := range procFiles {
			allowed = allowed || dest == f
		}
		if !allowed {
			return b.errorf("cannot be mounted because it is inside /proc")
		}
	}
	var src Reg
	kind := uint64(KindDir)
	if o.bind {
		if src, err = b.source(m, o); err != nil {
			return err
		}
		b.bound(src, o)
		kind = KindLike
	} else if src, err = b.fileSystem(m, dest, &o); err != nil {
		return err
	}
	if dest == "/" {
		// On top of what was the root, which it is from now on.
		b.attach(src, b.root)
		b.root = src
		return nil
	}
	tmpfs := m.Type == "tmpfs" && !o.bind
	target := b.reg()
	// A rootfs in which /proc or /sys is a link would have them mounted
	// elsewhere, and what is later read below /proc would be the image's.
	var noLinks uint64
	if m.Type == "proc" || m.Type == "sysfs" {
		noLinks = abi.ResolveNoSymlinks
	}
	b.op(Op{Do: OpMkpath, Out: target, Dir: b.root, Path: dest, A: kind, B: 0o755, C: noLinks, On: srcFor(kind, src)})
	if !overProc && m.Type != "proc" && dest != "/proc" {
		b.op(Op{Do: OpCheckFS, Dir: target, A: abi.ProcMagic, B: 1})
	}
	if o.copyUp {
		b.op(Op{Do: OpCopyUp, Dir: src, On: target})
	}
	b.attach(src, target)
	switch {
	case dest == "/dev/pts" && m.Type == "devpts":
		b.devpts = src
	case tmpfs && o.set&abi.MountAttrRdonly != 0:
		b.lateRO = append(b.lateRO, src) // what else is mounted or made in it comes first
	default:
		b.close(src)
	}
	return nil
}

// unlabelled are file systems that take no SELinux context.
var unlabelled = []string{"proc", "sysfs", "mqueue"}

// fileSystem compiles the mount of a file system that is not attached yet.
func (b *builder) fileSystem(m *specs.Mount, dest string, o *mountOptions) (Reg, error) {
	label := b.spec.Linux.MountLabel
	if slices.Contains(unlabelled, m.Type) || m.Type == "devpts" {
		o.values = dropValue(o.values, "context")
	}
	if !slices.Contains(unlabelled, m.Type) && !o.has("context") {
		o.values = b.labelled(o.values...)
	}
	own := *o
	if m.Type == "tmpfs" {
		own.set &^= abi.MountAttrRdonly // until all is in it
		if !o.has("mode") {             // that of the directory that it covers
			own.modeOf = b.inRoot(dest, FlagDirectory, abi.ENOENT, abi.ENOTDIR)
			defer b.close(own.modeOf)
		}
	}
	if m.Type == "overlay" {
		if ids, err := b.mountIDs(m, own); ids != nil || err != nil {
			if err != nil {
				return 0, err
			}
			return b.mappedOverlay(own, ids)
		}
	}
	source := m.Source
	if source == "" {
		source = m.Type
	}
	fs := b.newFS(m.Type, source, own)
	if label != "" && m.Type == "mqueue" {
		b.op(Op{Do: OpLabel, Dir: fs, Data: label})
	}
	if err := b.mapIDs(fs, m, own); err != nil {
		return 0, err
	}
	b.finish(fs, own)
	return fs, nil
}

// labelled adds to the options of a file system the SELinux context that what is in it
// is to have. The hierarchies of cgroups get none: the kernel refuses another one than
// they have been mounted with before.
func (b *builder) labelled(values ...[2]string) [][2]string {
	if label := b.spec.Linux.MountLabel; label != "" {
		values = append(values, [2]string{"context", label})
	}
	return values
}

func srcFor(kind uint64, src Reg) Reg {
	if kind == KindLike {
		return src
	}
	return 0
}

func dropValue(values [][2]string, key string) [][2]string {
	var out [][2]string
	for _, kv := range values {
		if kv[0] != key {
			out = append(out, kv)
		}
	}
	return out
}

// destination is a mount's target inside the rootfs. One that names the rootfs on
// the host is meant inside it, as runc takes it.
func (b *builder) destination(m *specs.Mount) string {
	dest := path.Clean("/" + m.Destination)
	root := b.rootDir()
	if root == "/" {
		return dest
	}
	if inside, ok := strings.CutPrefix(dest, root+"/"); ok {
		return "/" + inside
	}
	return dest
}

// rootDir is the rootfs's directory on the host.
func (b *builder) rootDir() string {
	if path.IsAbs(b.spec.Root.Path) {
		return path.Clean(b.spec.Root.Path)
	}
	return path.Join(b.cfg.Bundle, b.spec.Root.Path)
}

// cgroupMount compiles a mount of type cgroup: on version 2 the hierarchy, on
// version 1 a directory with each of the host's hierarchies.
func (b *builder) cgroupMount(m *specs.Mount, dest string, o mountOptions) error {
	target := b.reg()
	_, private := b.ns[specs.CgroupNamespace]
	if b.host.CgroupV2 && b.inUser && !private {
		// The host's cgroup namespace is not the user namespace's: it may not mount
		// what that shows, and gets what the host has mounted.
		o.recursive = true
		src, err := b.source(&specs.Mount{Source: "/sys/fs/cgroup"}, o)
		if err != nil {
			return err
		}
		b.bound(src, o)
		b.op(Op{Do: OpMkpath, Out: target, Dir: b.root, Path: dest, A: KindDir, B: 0o755, C: abi.ResolveNoSymlinks})
		b.attach(src, target)
		b.close(src)
		return nil
	}
	if b.host.CgroupV2 {
		src := b.newFS("cgroup2", "cgroup", o)
		b.finish(src, o)
		b.op(Op{Do: OpMkpath, Out: target, Dir: b.root, Path: dest, A: KindDir, B: 0o755, C: abi.ResolveNoSymlinks})
		b.attach(src, target)
		b.close(src)
		return nil
	}
	tmp := b.newFS("tmpfs", "tmpfs", mountOptions{set: o.set &^ abi.MountAttrRdonly, values: b.labelled([2]string{"mode", "755"})})
	b.op(Op{Do: OpMkpath, Out: target, Dir: b.root, Path: dest, A: KindDir, B: 0o755, C: abi.ResolveNoSymlinks})
	b.attach(tmp, target)
	for _, h := range b.host.CgroupV1 {
		base := path.Base(h.Mountpoint)
		var src Reg
		if private {
			fo := mountOptions{set: o.set, flags: h.Controllers}
			if h.Name != "" {
				fo.flags, fo.values = []string{"none"}, [][2]string{{"name", h.Name}}
			}
			src = b.newFS("cgroup", "cgroup", fo)
		} else {
			src = b.clone(h.Mountpoint+b.cfg.CgroupPath, true)
			set, clear := kernel(o.set, o.clear)
			b.setattr(src, set, clear, 0, false)
		}
		b.op(Op{Do: OpMkdir, Dir: tmp, Path: base, A: 0o755})
		on := b.reg()
		b.op(Op{Do: OpOpen, Out: on, Dir: tmp, Path: base, A: abi.OPath | FlagDirectory | FlagNofollow, C: abi.ResolveBeneath})
		b.attach(src, on)
		b.close(src)
		for _, c := range h.Controllers {
			if c != base {
				b.op(Op{Do: OpSymlink, Dir: tmp, Path: c, Data: base, Allow: []int{abi.EEXIST}})
			}
		}
	}
	b.setattr(tmp, o.set&abi.MountAttrRdonly, 0, 0, false)
	b.finish(tmp, mountOptions{propagation: o.propagation, setRec: o.setRec, clearRec: o.clearRec})
	b.close(tmp)
	return nil
}
