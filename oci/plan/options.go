package plan

import (
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

// attributes are the options that are attributes of a mount. With an "r" before
// it, each but "ro" and "rw" (rro, rrw) is for all mounts below as well.
var attributes = map[string]attribute{
	"ro":            {abi.MountAttrRdonly, 0},
	"rw":            {0, abi.MountAttrRdonly},
	"nosuid":        {abi.MountAttrNosuid, 0},
	"suid":          {0, abi.MountAttrNosuid},
	"nodev":         {abi.MountAttrNodev, 0},
	"dev":           {0, abi.MountAttrNodev},
	"noexec":        {abi.MountAttrNoexec, 0},
	"exec":          {0, abi.MountAttrNoexec},
	"noatime":       {abi.MountAttrNoatime, abi.MountAttrAtime},
	"atime":         {abi.MountAttrRelatime, abi.MountAttrAtime},
	"relatime":      {abi.MountAttrRelatime, abi.MountAttrAtime},
	"norelatime":    {abi.MountAttrStrictatime, abi.MountAttrAtime},
	"strictatime":   {abi.MountAttrStrictatime, abi.MountAttrAtime},
	"nostrictatime": {abi.MountAttrRelatime, abi.MountAttrAtime},
	"nodiratime":    {abi.MountAttrNodiratime, 0},
	"diratime":      {0, abi.MountAttrNodiratime},
	"nosymfollow":   {abi.MountAttrNosymfollow, 0},
	"symfollow":     {0, abi.MountAttrNosymfollow},
}

var propagations = map[string]propagation{
	"private": {abi.MSPrivate, false}, "rprivate": {abi.MSPrivate, true},
	"slave": {abi.MSSlave, false}, "rslave": {abi.MSSlave, true},
	"shared": {abi.MSShared, false}, "rshared": {abi.MSShared, true},
	"unbindable": {abi.MSUnbindable, false}, "runbindable": {abi.MSUnbindable, true},
}

// superFlags are flags of the file system rather than of the mount.
var superFlags = map[string]string{
	"sync": "sync", "async": "async", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "nolazytime",
	"mand": "mand", "nomand": "nomand",
}

// parseOptions takes fstab options apart.
func (b *builder) parseOptions(options []string, bind bool) (mountOptions, error) {
	o := mountOptions{bind: bind}
	for _, opt := range options {
		a, isAttr := attributes[opt]
		ra, isRec := attributes[strings.TrimPrefix(opt, "r")]
		isRec = isRec && strings.HasPrefix(opt, "r") && !isAttr
		p, isProp := propagations[opt]
		flag, isFlag := superFlags[opt]
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
		case isFlag:
			o.flags = append(o.flags, flag)
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
