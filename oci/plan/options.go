package plan

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// mountOptions are fstab options taken apart.
type mountOptions struct {
	set, clear       uint64 // attributes of the mount itself
	setRec, clearRec uint64 // of all mounts below too ("rro")
	propagation      []propagation
	bind, recursive  bool
	flags            []string // for the file system
	values           [][2]string
	idmap, ridmap    bool
	copyUp           bool
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
	{"noatime", attribute{abi.MountAttrNoatime, abi.MountAttrAtime}},
	{"atime", attribute{abi.MountAttrRelatime, abi.MountAttrAtime}},
	{"relatime", attribute{abi.MountAttrRelatime, abi.MountAttrAtime}},
	{"norelatime", attribute{abi.MountAttrStrictatime, abi.MountAttrAtime}},
	{"strictatime", attribute{abi.MountAttrStrictatime, abi.MountAttrAtime}},
	{"nostrictatime", attribute{abi.MountAttrRelatime, abi.MountAttrAtime}},
	{"nodiratime", attribute{abi.MountAttrNodiratime, 0}},
	{"diratime", attribute{0, abi.MountAttrNodiratime}},
	{"nosymfollow", attribute{abi.MountAttrNosymfollow, 0}},
	{"symfollow", attribute{0, abi.MountAttrNosymfollow}},
}

var propagations = []named[propagation]{
	{"private", propagation{abi.MSPrivate, false}}, {"rprivate", propagation{abi.MSPrivate, true}},
	{"slave", propagation{abi.MSSlave, false}}, {"rslave", propagation{abi.MSSlave, true}},
	{"shared", propagation{abi.MSShared, false}}, {"rshared", propagation{abi.MSShared, true}},
	{"unbindable", propagation{abi.MSUnbindable, false}}, {"runbindable", propagation{abi.MSUnbindable, true}},
}

// superFlags are flags of the file system rather than of the mount.
var superFlags = []string{"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"}

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
		case opt == "defaults" || opt == "" || opt == "remount" || opt == "silent" || opt == "loud" || opt == "iversion" || opt == "noiversion" || opt == "nofail":
			// Nothing to do for a new mount.
		case slices.Contains(superFlags, opt):
			o.flags = append(o.flags, opt)
		default:
			if k, v, ok := strings.Cut(opt, "="); ok {
				o.values = append(o.values, [2]string{k, v})
			} else if !o.bind {
				o.flags = append(o.flags, opt)
			} else {
				return o, b.errorf("option %q is not one of a bind mount", opt)
			}
		}
	}
	return o, nil
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
	b.op(Op{Do: OpFsmount, Out: m, Dir: fs, A: o.set})
	b.free = append(b.free, fs) // OpFsmount has closed it
	return m
}

// finish applies what options ask of a mount beyond what it was made with.
func (b *builder) finish(m Reg, o mountOptions, set, clear uint64) {
	b.setattr(m, set, clear, 0, false)
	b.setattr(m, o.setRec, o.clearRec, 0, true)
	for _, p := range o.propagation {
		b.setattr(m, 0, 0, p.kind, p.recursive)
	}
}

// idmapped applies a mount's id mapping: the parent has made a user namespace
// that stands for it.
func (b *builder) idmapped(m Reg, i int, mount *specs.Mount, o mountOptions) error {
	if len(mount.UIDMappings) == 0 && len(mount.GIDMappings) == 0 && !o.idmap {
		return nil
	}
	if (len(mount.UIDMappings) == 0) != (len(mount.GIDMappings) == 0) {
		return b.errorf("uidMappings and gidMappings must come together")
	}
	if len(mount.UIDMappings) == 0 && len(b.spec.Linux.UIDMappings) == 0 {
		return b.errorf("idmap without mappings of the mount's own or of the container's user namespace")
	}
	ns := b.input(Input{Kind: InIDMapNS, Index: i})
	flags := uint64(abi.AtEmptyPath)
	if o.ridmap {
		flags |= abi.AtRecursive
	}
	b.op(Op{Do: OpSetattr, Dir: m, A: abi.MountAttrIdmap, On: ns, D: flags})
	return nil
}
