package plan

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// defaultDevices are those that every container has, by the runtime-spec.
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// DevicePaths are the paths of the devices that a container has.
func DevicePaths(s *specs.Spec) []string {
	var paths []string
	for _, d := range defaultDevices {
		paths = append(paths, d.Path)
	}
	for _, d := range s.Linux.Devices {
		if p := path.Clean(d.Path); !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

var devLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
}

// wantsDev says whether /dev is to be filled: not where the config binds the
// host's there.
func (b *builder) wantsDev() bool {
	for _, m := range b.spec.Mounts {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if path.Clean(m.Destination) == "/dev" && bind {
			return false
		}
	}
	return true
}

// devices makes the device nodes and links in /dev.
func (b *builder) devices() {
	b.at("linux.devices", "/dev")
	dev := b.reg()
	b.op(Op{Do: OpMkpath, Out: dev, Dir: b.root, Path: "/dev", A: KindDir, B: 0o755})
	for _, d := range defaultDevices {
		overridden := slices.ContainsFunc(b.spec.Linux.Devices, func(o specs.LinuxDevice) bool { return path.Clean(o.Path) == d.Path })
		if !overridden {
			b.at("linux.devices", "default "+d.Path)
			b.device(dev, &d)
		}
	}
	for i := range b.spec.Linux.Devices {
		d := &b.spec.Linux.Devices[i]
		b.at("linux.devices["+strconv.Itoa(i)+"]", d.Path)
		b.device(dev, d)
	}
	b.at("linux.devices", "/dev")
	for _, l := range devLinks {
		b.op(Op{Do: OpSymlink, Dir: dev, Path: l[0], Data: l[1], Allow: []int{abi.EEXIST}})
	}
	if b.host.Kcore {
		b.op(Op{Do: OpSymlink, Dir: dev, Path: "core", Data: "/proc/kcore", Allow: []int{abi.EEXIST}})
	}
	b.op(Op{Do: OpUnlink, Dir: dev, Path: "ptmx", Allow: []int{abi.ENOENT}})
	b.op(Op{Do: OpSymlink, Dir: dev, Path: "ptmx", Data: "pts/ptmx"})
	b.close(dev)
}

// device makes one node. In a user namespace the kernel forbids mknod, and a node of
// the host's is bound instead.
func (b *builder) device(dev Reg, d *specs.LinuxDevice) {
	var mode, perm uint64
	number := abi.Mkdev(uint32(d.Major), uint32(d.Minor))
	switch d.Type {
	case "c", "u":
		mode = abi.SIFCHR
	case "b":
		mode = abi.SIFBLK
	case "p":
		mode, number = abi.SIFIFO, 0 // it has none
	default:
		b.fail(b.errorf("unknown device type %q", d.Type))
		return
	}
	perm = 0o666
	if d.FileMode != nil {
		perm = uint64(*d.FileMode) & 0o7777
	}
	at, name := dev, strings.TrimPrefix(path.Clean(d.Path), "/dev/")
	if strings.Contains(name, "/") {
		at = b.reg()
		b.op(Op{Do: OpMkpath, Out: at, Dir: b.root, Path: path.Dir(path.Clean(d.Path)), A: KindDir, B: 0o755})
		name = path.Base(d.Path)
	}
	if (b.inUser || b.host.UserNS) && mode != abi.SIFIFO {
		on := b.reg()
		src := b.hostDevice(d, mode|perm, number)
		b.op(Op{Do: OpCheckDev, Dir: src, A: mode, B: number})
		b.op(Op{Do: OpMkpath, Out: on, Dir: at, Path: name, A: KindFile, B: 0o666, C: abi.ResolveNoSymlinks})
		b.attach(src, on)
		b.close(src)
	} else {
		node := b.reg()
		b.op(Op{Do: OpMknod, Dir: at, Path: name, A: mode | perm, B: number, Allow: []int{abi.EEXIST}})
		b.op(Op{Do: OpOpen, Out: node, Dir: at, Path: name, A: abi.OPath | FlagNofollow, C: abi.ResolveBeneath})
		b.op(Op{Do: OpCheckDev, Dir: node, A: mode, B: number})
		b.close(node)
		if d.UID != nil || d.GID != nil {
			b.op(Op{Do: OpChown, Dir: at, Path: name, A: owner(d.UID), B: owner(d.GID)})
		}
	}
	if at != dev {
		b.close(at)
	}
}

// hostDevice is a node for a user namespace: one that the parent makes as the config
// has it where it can (a mount of a detached tmpfs takes Linux 6.15), else the
// host's of that name.
func (b *builder) hostDevice(d *specs.LinuxDevice, mode, number uint64) Reg {
	const major, minor = 6, 15
	lx := b.spec.Linux
	uid, mapped := hostID(lx.UIDMappings, uint32(owner(d.UID)))
	gid, both := hostID(lx.GIDMappings, uint32(owner(d.GID)))
	if d.FileMode == nil && d.UID == nil && d.GID == nil || !mapped || !both || b.host.NoMounts {
		return b.clone(path.Clean(d.Path), false)
	}
	if !b.host.AtLeast(major, minor) { // the host may have none of that name
		note := b.note
		b.note += ", the host's: to make one in a user namespace takes Linux " + version(major, minor) + ", and this is " + b.host.version()
		src := b.clone(path.Clean(d.Path), false)
		b.note = note
		return src
	}
	return b.input(Input{Kind: InDevice, Device: &Device{Mode: mode, Number: number, UID: uid, GID: gid}})
}

// hostID is what an id of a user namespace is on the host.
func hostID(maps []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return 0, false
}

func owner(id *uint32) uint64 {
	if id == nil {
		return 0
	}
	return uint64(*id)
}

// finishDev does what had to wait until /dev was filled.
func (b *builder) finishDev() {
	if b.spec.Process.Terminal {
		b.terminal()
	}
}

// readonly makes tmpfs mounts read-only that had to wait for what is in them.
func (b *builder) readonly() {
	b.at("mounts", "ro")
	for _, r := range b.lateRO {
		b.setattr(r, abi.MountAttrRdonly, 0, 0, false)
		b.close(r)
	}
}

// terminal allocates the terminal from the container's own devpts and binds it
// to /dev/console. Both ends come from descriptors: nothing that the image or
// another process puts under /dev/pts is opened by name (CVE-2025-52565).
func (b *builder) terminal() {
	b.at("process.terminal", "")
	if b.devpts == 0 { // it may have come with a bind mount of /dev
		b.openDevpts()
	}
	b.pty()
	if b.wantsDev() {
		b.at("process.terminal", "/dev/console")
		on, c := b.reg(), b.reg()
		b.op(Op{Do: OpMkpath, Out: on, Dir: b.root, Path: "/dev/console", A: KindFile, B: 0o666, C: abi.ResolveNoSymlinks})
		b.op(Op{Do: OpOpenTree, Out: c, Dir: b.console, A: abi.OpenTreeClone | abi.AtEmptyPath})
		b.attach(c, on)
		b.close(c)
	}
}

// openDevpts takes the devpts that the container has at /dev/pts, once it is
// certain that it is one.
func (b *builder) openDevpts() {
	b.at("process.terminal", "/dev/pts")
	b.devpts = b.reg()
	b.op(Op{Do: OpOpen, Out: b.devpts, Dir: b.root, Path: "dev/pts", A: abi.OPath | FlagDirectory, C: abi.ResolveBeneath | abi.ResolveNoSymlinks})
	b.op(Op{Do: OpCheckFS, Dir: b.devpts, A: abi.DevptsMagic})
}

// pty allocates a terminal from b.devpts and sends its master to the parent.
func (b *builder) pty() {
	master := b.reg()
	b.console = b.reg()
	var h, w uint64
	if s := b.spec.Process.ConsoleSize; s != nil {
		h, w = uint64(s.Height), uint64(s.Width)
	}
	b.op(Op{Do: OpPty, Out: master, On: b.console, Dir: b.devpts, A: h, B: w})
	b.op(Op{Do: OpSendFD, Dir: master})
	b.Terminal = true
	b.close(master, b.devpts)
}

// hide covers the masked paths and makes the read-only ones so.
func (b *builder) hide() {
	lx := b.spec.Linux
	// One empty directory covers all masked ones. The kernel copies a mount that is
	// attached nowhere since 6.15; before, the first that is covered has the mount of
	// which the others have copies.
	detached := b.host.AtLeast(6, 15)
	var empty Reg
	seen := make(map[string]bool, len(lx.MaskedPaths))
	for i, p := range lx.MaskedPaths {
		if seen[p] {
			continue
		}
		seen[p] = true
		b.at("linux.maskedPaths["+strconv.Itoa(i)+"]", p)
		switch {
		case empty != 0:
		case detached:
			empty = b.emptyDir()
		default:
			empty = b.reg()
		}
		t := b.inRoot(p, 0, abi.ENOENT, abi.ENOTDIR)
		b.cover(t, empty, detached)
		b.close(t)
	}
	if empty != 0 {
		b.close(empty)
	}
	clear(seen)
	for i, p := range lx.ReadonlyPaths {
		if seen[p] {
			continue
		}
		seen[p] = true
		b.at("linux.readonlyPaths["+strconv.Itoa(i)+"]", p)
		t := b.inRoot(p, 0, abi.ENOENT, abi.ENOTDIR)
		_ = b.ifOpen(t, func() error {
			m := b.reg()
			b.op(Op{Do: OpOpenTree, Out: m, Dir: t, A: abi.OpenTreeClone | abi.AtEmptyPath | abi.AtRecursive})
			b.setattr(m, abi.MountAttrRdonly, 0, 0, false)
			b.op(Op{Do: OpMove, Dir: m, On: t})
			b.close(m)
			return nil
		})
		b.close(t)
	}
}

// cover covers t, if it is there: a directory by an empty one, a copy of the mount
// in register empty (which it fills, if that is to be attached), a file by the
// host's null device. The device comes from a descriptor that the parent has
// checked: what the image calls /dev/null is never bound (CVE-2025-31133). It
// is read-only so that its owner and mode stay the host's.
func (b *builder) cover(t, empty Reg, detached bool) {
	_ = b.ifOpen(t, func() error {
		m := b.reg()
		_ = b.guarded(Op{Do: OpIsDir, Dir: t}, func() error {
			made := -1 // the operation that skips the making of the one that is shared
			share := func() error {
				b.op(Op{Do: OpOpenTree, Out: m, Dir: empty, A: abi.OpenTreeClone | abi.AtEmptyPath})
				b.op(Op{Do: OpMove, Dir: m, On: t})
				return nil
			}
			if detached {
				_ = share()
			} else {
				_ = b.ifOpen(empty, func() error {
					_ = share()
					made = len(b.Ops)
					b.op(Op{Do: OpSkip})
					return nil
				})
				b.makeEmptyDir(b.reg(), empty)
				b.op(Op{Do: OpMove, Dir: empty, On: t})
			}
			b.op(Op{Do: OpSkip, A: 4}) // the four for a file
			if made >= 0 {
				b.Ops[made].A = uint64(len(b.Ops) - made - 2)
			}
			return nil
		})
		b.op(Op{Do: OpOpenTree, Out: m, Path: "/dev/null", A: abi.OpenTreeClone})
		b.op(Op{Do: OpCheckDev, Dir: m, A: abi.SIFCHR, B: abi.Mkdev(1, 3)})
		b.op(Op{Do: OpSetattr, Dir: m, A: abi.MountAttrRdonly | abi.MountAttrNosuid | abi.MountAttrNoexec, D: abi.AtEmptyPath})
		b.op(Op{Do: OpMove, Dir: m, On: t})
		b.close(m)
		return nil
	})
}

// emptyDir makes a directory that is empty and stays so.
func (b *builder) emptyDir() Reg {
	fs, m := b.reg(), b.reg()
	b.makeEmptyDir(fs, m)
	return m
}

func (b *builder) makeEmptyDir(fs, m Reg) {
	b.makeFS(fs, m, "tmpfs", "tmpfs", mountOptions{set: abi.MountAttrRdonly, values: b.labelled([2]string{"size", "0"}, [2]string{"nr_inodes", "2"})})
}
