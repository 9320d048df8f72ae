package plan

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// mountOptions are fstab options taken apart.
type mountOptions struct {
	set, clear       uint64 // attributes of the mount itself, as the options say
	setRec, clearRec uint64 // of all mounts below too ("rro")
	propagation      []propagation
	bind, recursive  bool
	flags            []string // for the file system
	values           [][2]string
	idmap, ridmap    bool
	ids              string // "uids=…;gids=…" of idmap=
	copyUp           bool
	modeOf           Reg // of a new tmpfs: the directory whose permissions it gets, if there is one
}

type propagation struct {
	kind      uint64
	recursive bool
}

type attribute struct{ set, clear uint64 }

// named is an entry of the tables below, which are searched from their start:
// they are short, and a map would be built anew by every process.
type named[T any] struct {
	name  string
	value T
}

func find[T any](table []named[T], name string) (value T, ok bool) {
	for i := range table {
		if table[i].name == name {
			return table[i].value, true
		}
	}
	return value, false
}

// attributes are the options that are attributes of a mount. With an "r" before
// it, each but "ro" and "rw" (rro, rrw) is for all mounts below as well.
var attributes = []named[attribute]{
	{"ro", attribute{abi.MountAttrRdonly, 0}},
	{"rw", attribute{0, abi.MountAttrRdonly}},
	{"nosuid", attribute{abi.MountAttrNosuid, 0}},
	{"suid", attribute{0, abi.MountAttrNosuid}},
	{"nodev", attribute{abi.MountAttrNodev, 0}},
	{"dev", attribute{0, abi.MountAttrNodev}},
	{"noexec", attribute{abi.MountAttrNoexec, 0}},
	{"exec", attribute{0, abi.MountAttrNoexec}},
	{"nosymfollow", attribute{abi.MountAttrNosymfollow, 0}},
	{"symfollow", attribute{0, abi.MountAttrNosymfollow}},
	{"noatime", attribute{abi.MountAttrNoatime, relatime | abi.MountAttrStrictatime}},
	{"atime", attribute{0, abi.MountAttrNoatime}},
	{"relatime", attribute{relatime, abi.MountAttrNoatime | abi.MountAttrStrictatime}},
	{"norelatime", attribute{0, relatime}},
	{"strictatime", attribute{abi.MountAttrStrictatime, relatime | abi.MountAttrNoatime}},
	{"nostrictatime", attribute{0, abi.MountAttrStrictatime}},
	{"nodiratime", attribute{abi.MountAttrNodiratime, 0}},
	{"diratime", attribute{0, abi.MountAttrNodiratime}},
}

// relatime is MOUNT_ATTR_RELATIME, which is 0, for as long as options are looked at.
const relatime = 1 << 63

// The attributes that a user namespace may not take from a mount that came from
// another one, and those about access times, of which a mount has one set.
const (
	lockable   = abi.MountAttrRdonly | abi.MountAttrNosuid | abi.MountAttrNodev | abi.MountAttrNoexec
	accessTime = relatime | abi.MountAttrNoatime | abi.MountAttrStrictatime | abi.MountAttrNodiratime
)

// kernel is set and clear in the form of mount_setattr(2). What says something of
// access times says all of them; an option that only takes one away says nothing
// (mount(8): the mount keeps what it has).
func kernel(set, clear uint64) (uint64, uint64) {
	clear &^= accessTime
	if set&accessTime != 0 {
		clear |= abi.MountAttrAtime | abi.MountAttrNodiratime
	}
	return set &^ relatime, clear
}

// kernelBelow is the same for all mounts of a tree, where an option that takes
// something away means that: relatime is what is left.
func kernelBelow(set, clear uint64) (uint64, uint64) {
	if (set|clear)&(accessTime&^abi.MountAttrNodiratime) != 0 {
		clear |= abi.MountAttrAtime
	}
	return set &^ relatime, clear &^ relatime
}

var propagations = []named[propagation]{
	{"private", propagation{abi.MSPrivate, false}}, {"rprivate", propagation{abi.MSPrivate, true}},
	{"slave", propagation{abi.MSSlave, false}}, {"rslave", propagation{abi.MSSlave, true}},
	{"shared", propagation{abi.MSShared, false}}, {"rshared", propagation{abi.MSShared, true}},
	{"unbindable", propagation{abi.MSUnbindable, false}}, {"runbindable", propagation{abi.MSUnbindable, true}},
}

// superFlags are flags of the file system rather than of the mount.
var superFlags = []string{"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"}

// noOptions have nothing to do for a new mount.
var noOptions = []string{"", "defaults", "remount", "silent", "loud", "iversion", "noiversion", "nofail"}

// parseOptions takes fstab options apart.
func (b *builder) parseOptions(options []string, bind bool) (mountOptions, error) {
	o := mountOptions{bind: bind}
	for _, opt := range options {
		a, isAttr := find(attributes, opt)
		ra, isRec := find(attributes, strings.TrimPrefix(opt, "r"))
		isRec = isRec && strings.HasPrefix(opt, "r") && !isAttr
		p, isProp := find(propagations, opt)
		switch {
		case isAttr:
			o.set, o.clear = o.set&^a.clear|a.set, o.clear&^a.set|a.clear
		case isRec:
			o.setRec, o.clearRec = o.setRec&^ra.clear|ra.set, o.clearRec&^ra.set|ra.clear
		case isProp:
			o.propagation = append(o.propagation, p)
		case opt == "bind":
			o.bind = true
		case opt == "rbind":
			o.bind, o.recursive = true, true
		case opt == "idmap":
			o.idmap = true
		case opt == "ridmap":
			o.idmap, o.ridmap = true, true
		case opt == "tmpcopyup":
			o.copyUp = true
		case slices.Contains(noOptions, opt):
		case slices.Contains(superFlags, opt):
			o.flags = append(o.flags, opt)
		default:
			k, v, isValue := strings.Cut(opt, "=")
			switch {
			case isValue && (k == "idmap" || k == "ridmap"): // as crun has it
				o.idmap, o.ridmap, o.ids = true, k == "ridmap", v
			case isValue:
				o.values = append(o.values, [2]string{k, v})
			default:
				o.flags = append(o.flags, opt)
			}
		}
	}
	return o, o.check(b)
}

// check refuses options that would be without effect.
func (o *mountOptions) check(b *builder) error {
	if !o.bind {
		return nil
	}
	for _, f := range o.flags {
		if !slices.Contains(superFlags, f) { // as mount(8), whose remount ignores these
			return b.errorf("option %q is not one of a bind mount", f)
		}
	}
	if len(o.values) > 0 {
		return b.errorf("option %q is not one of a bind mount", o.values[0][0])
	}
	return nil
}

func (o *mountOptions) has(key string) bool {
	return slices.ContainsFunc(o.values, func(kv [2]string) bool { return kv[0] == key })
}

// clone appends the copy of a mount tree of the host.
func (b *builder) clone(source string, recursive bool) Reg {
	flags := uint64(abi.OpenTreeClone)
	if recursive {
		flags |= abi.AtRecursive
	}
	m := b.reg()
	b.op(Op{Do: OpOpenTree, Out: m, Path: source, A: flags})
	return m
}

// newFS appends the making of a file system's mount that is attached nowhere yet.
func (b *builder) newFS(fstype, source string, o mountOptions) Reg {
	fs, m := b.reg(), b.reg()
	b.makeFS(fs, m, fstype, source, o)
	return m
}

// makeFS is newFS into register m; fs is free again then.
func (b *builder) makeFS(fs, m Reg, fstype, source string, o mountOptions) {
	b.op(Op{Do: OpFsopen, Out: fs, Path: fstype})
	if source != "" {
		b.op(Op{Do: OpFsset, Dir: fs, Path: "source", Data: source})
	}
	for _, f := range o.flags {
		b.op(Op{Do: OpFsset, Dir: fs, Path: f, A: 1})
	}
	for _, kv := range o.values {
		b.op(Op{Do: OpFsset, Dir: fs, Path: kv[0], Data: kv[1]})
	}
	if o.modeOf != 0 {
		_ = b.ifOpen(o.modeOf, func() error { b.op(Op{Do: OpFsmode, Dir: fs, On: o.modeOf}); return nil })
	}
	set, _ := kernel(o.set, 0)
	b.op(Op{Do: OpFsmount, Out: m, Dir: fs, A: set})
	b.free = append(b.free, fs) // OpFsmount has closed it
}

// finish applies what options ask of a mount that is made as they ask, but for what
// is for all below it.
func (b *builder) finish(m Reg, o mountOptions) {
	set, clear := kernelBelow(o.setRec, o.clearRec)
	b.setattr(m, set, clear, 0, true)
	for _, p := range o.propagation {
		b.setattr(m, 0, 0, p.kind, p.recursive)
	}
}

// bound applies what options ask of the copy of a mount. One that says nothing of its
// attributes keeps them all. Of one that says something the others are taken away, as
// by mount(8)'s --bind with options; where that is not allowed, in a user namespace
// that got the mount from another, only those that the options take away.
func (b *builder) bound(m Reg, o mountOptions) {
	if o.set|o.clear != 0 {
		set, clear := kernel(o.set, o.clear)
		clear |= abi.MountAttrNosymfollow &^ set // no user namespace keeps that
		all := clear | lockable&^set
		switch {
		case b.inUser || all == clear:
			b.setattr(m, set, clear, 0, false)
		default:
			b.op(Op{Do: OpSetattr, Dir: m, A: set, B: all, D: abi.AtEmptyPath, Nums: []uint64{set, clear}})
		}
	}
	b.finish(m, o)
}

// mountIDs is the id mapping that a mount is to have, nil for none: its own, or
// that of the container's user namespace.
func (b *builder) mountIDs(mount *specs.Mount, o mountOptions) (*MountIDs, error) {
	if len(mount.UIDMappings) == 0 && len(mount.GIDMappings) == 0 && !o.idmap {
		return nil, nil
	}
	if (len(mount.UIDMappings) == 0) != (len(mount.GIDMappings) == 0) {
		return nil, b.errorf("uidMappings and gidMappings must come together")
	}
	lx := b.spec.Linux
	ids := &MountIDs{Recursive: o.ridmap}
	switch user := b.ns[specs.UserNamespace]; {
	case o.ids != "":
		return ids, b.optionIDs(ids, o.ids)
	case len(mount.UIDMappings) > 0 && user.path != "" && slices.Equal(mount.UIDMappings, lx.UIDMappings) && slices.Equal(mount.GIDMappings, lx.GIDMappings):
		ids.UserNS = user.path // what it has is known: no other has to be made
	case len(mount.UIDMappings) > 0:
		ids.UID, ids.GID = IDMap(mount.UIDMappings), IDMap(mount.GIDMappings)
	case user.path != "":
		ids.UserNS = user.path
	case len(lx.UIDMappings) > 0:
		ids.UID, ids.GID = IDMap(lx.UIDMappings), IDMap(lx.GIDMappings)
	default:
		return nil, b.errorf("idmap without mappings of the mount's own or of the container's user namespace")
	}
	return ids, nil
}

// optionIDs takes the mappings of an option idmap=uids=F-H-S#F-H-S;gids=F-H-S
// apart: from id F of the file system on, S ids are H and the following on the
// host or, with @ before F, in the container's user namespace.
func (b *builder) optionIDs(ids *MountIDs, text string) error {
	for part := range strings.SplitSeq(text, ";") {
		kind, list, _ := strings.Cut(part, "=")
		own := b.spec.Linux.UIDMappings
		to := &ids.UID
		switch kind {
		case "uids":
		case "gids":
			own, to = b.spec.Linux.GIDMappings, &ids.GID
		default:
			return b.errorf("option idmap: %q is not uids= or gids=", part)
		}
		var maps []specs.LinuxIDMapping
		for entry := range strings.SplitSeq(list, "#") {
			if entry == "" {
				continue
			}
			m, err := mappingOf(entry, own)
			if err != nil {
				return b.errorf("option idmap: %w", err)
			}
			maps = append(maps, m)
		}
		*to = IDMap(maps)
	}
	if ids.UID == "" || ids.GID == "" {
		return b.errorf("option idmap: uids and gids must come together")
	}
	return nil
}

// mappingOf is one entry; own is the user namespace that it may be relative to.
func mappingOf(entry string, own []specs.LinuxIDMapping) (m specs.LinuxIDMapping, err error) {
	triple, relative := strings.CutPrefix(entry, "@")
	fields := strings.Split(triple, "-")
	if len(fields) != 3 {
		return m, fmt.Errorf("%q is not three numbers such as 0-1000-10", entry)
	}
	for i, to := range []*uint32{&m.ContainerID, &m.HostID, &m.Size} {
		n, err := strconv.ParseUint(fields[i], 10, 32)
		if err != nil {
			return m, fmt.Errorf("%q is not three numbers such as 0-1000-10", entry)
		}
		*to = uint32(n)
	}
	if !relative {
		return m, nil
	}
	for _, o := range own {
		if in := m.HostID - o.ContainerID; m.HostID >= o.ContainerID && in < o.Size {
			m.HostID = o.HostID + in
			return m, nil
		}
	}
	return m, fmt.Errorf("%q: the container's user namespace does not have %d", entry, m.HostID)
}

// source is the copy of a bind mount's source. It is the parent's to make where
// the child could not: in a user namespace it may lack the way to it and may not
// map its ids, in a mount namespace that it joined the path is another's. A
// parent that may make no mounts, an ordinary user, leaves to the child what the
// child can. What is below the rootfs, to which it has the way, it copies itself, as
// earlier mounts have made it.
func (b *builder) source(mount *specs.Mount, o mountOptions) (Reg, error) {
	source := mount.Source
	if !path.IsAbs(source) {
		source = path.Join(b.cfg.Bundle, source)
	}
	ids, err := b.mountIDs(mount, o)
	if err != nil {
		return 0, err
	}
	below := strings.HasPrefix(path.Clean(source), b.rootDir()+"/")
	byParent := b.ns[specs.MountNamespace].path != "" || !below && (ids != nil || b.inUser && !b.host.NoMounts)
	if byParent {
		src := b.input(Input{Kind: InMount, Path: source, Recursive: o.recursive, IDMap: ids})
		b.setattr(src, 0, 0, b.cutOff.kind, true)
		return src, nil
	}
	src := b.clone(source, o.recursive)
	if !b.ownNS {
		b.setattr(src, 0, 0, b.cutOff.kind, true) // the others' namespace as a whole was
	}
	if ids != nil {
		b.mapCopy(src, ids)
	}
	return src, nil
}

// mapCopy maps the ids of a copy that the child has made. In a user namespace that is
// up to the parent, who is privileged over the file system.
func (b *builder) mapCopy(src Reg, ids *MountIDs) {
	if b.inUser {
		b.IDMaps = append(b.IDMaps, *ids)
		b.op(Op{Do: OpSendFD, Dir: src, A: uint64(len(b.IDMaps))})
		b.op(Op{Do: OpSync, A: SyncIDMap})
		return
	}
	ns := b.input(Input{Kind: InIDMapNS, IDMap: ids})
	flags := uint64(abi.AtEmptyPath)
	if ids.Recursive {
		flags |= abi.AtRecursive
	}
	b.op(Op{Do: OpSetattr, Dir: src, A: abi.MountAttrIdmap, On: ns, D: flags})
	b.close(ns)
}

// mapIDs applies an id mapping to a file system that was mounted anew.
func (b *builder) mapIDs(m Reg, mount *specs.Mount, o mountOptions) error {
	ids, err := b.mountIDs(mount, o)
	if ids == nil || err != nil {
		return err
	}
	if mount.Type == "tmpfs" {
		if err := b.needs(6, 3); err != nil {
			return err
		}
	}
	ns := b.input(Input{Kind: InIDMapNS, IDMap: ids})
	b.op(Op{Do: OpSetattr, Dir: m, A: abi.MountAttrIdmap, On: ns, D: abi.AtEmptyPath})
	b.close(ns)
	return nil
}
